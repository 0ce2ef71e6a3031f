"""Convolutional encoders: their pyramids, their tokens, and what they refuse."""

import re

import pytest
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.resnet import BasicBlock
from timm.models.resnet import ResNet as TimmResNet

from core.configuring.config import ConfigError, load
from core.models import ENCODERS
from core.models.convnext import ConvNeXt
from core.models.resnet import ResNet
from core.types import DataSpec, Encoder, EncoderModule, generator_for

CLIP = DataSpec(channels=3, frames=2, height=16, width=24)
TINY: dict[str, dict] = {
    "convnext": {"widths": [8, 12], "depths": [1, 2], "levels": 4},
    "resnet": {"widths": [8, 12], "depths": [1, 2], "levels": 4, "bottleneck": False},
    "pwc": {"widths": [8, 10, 12], "levels": 4},
}
every_encoder = pytest.mark.parametrize("name", TINY)


def options(name: str, **changed: object) -> Encoder:
    return ENCODERS[name](**TINY[name] | changed)


def build(name: str, seed: int = 0, **changed: object) -> EncoderModule:
    return options(name, **changed).build(CLIP, generator_for(seed, "encoder")).eval()


def clips() -> torch.Tensor:
    return torch.randn(2, 3, 2, 16, 24, generator=generator_for(0, "clips"))


def test_every_encoder_with_a_pyramid_is_tested_here():
    assert set(TINY) == {name for name, variant in ENCODERS.items() if variant.has_pyramid}


@every_encoder
def test_a_pyramid_doubles_from_level_to_level_up_to_the_frame_itself(name):
    encoder = build(name)
    levels = encoder.pyramid(clips())
    assert [tuple(level.shape[2:]) for level in levels] == [(2, 3), (4, 6), (8, 12), (16, 24)]
    assert [level.shape[1] for level in levels] == options(name).level_widths(CLIP)
    assert [level.shape[0] for level in levels] == [4] * 4
    assert torch.equal(levels[-1][1], clips()[0, :, 1])  # frames of a clip follow one another


@every_encoder
def test_fewer_levels_are_the_lowest_resolutions_of_more(name):
    for few, many in zip(build(name, levels=2).pyramid(clips()), build(name).pyramid(clips()), strict=False):
        assert torch.equal(few, many)


@every_encoder
def test_tokens_are_those_of_each_frame_alone_one_after_the_other(name):
    encoder = build(name)
    tokens = encoder(clips())
    assert tokens.shape == (2, encoder.grid.num_patches, encoder.width) == (2, 2 * 2 * 3, 12)
    second = encoder(clips()[:, :, 1:])
    torch.testing.assert_close(tokens[:, 6:], second, atol=1e-5, rtol=1e-5)


@every_encoder
def test_the_last_intermediate_layer_is_the_output(name):
    encoder = build(name)
    number = options(name).num_blocks()
    layers = encoder.intermediate(clips(), number)
    assert len(layers) == number
    assert torch.equal(layers[-1], encoder(clips()))
    with pytest.raises(ValueError, match=f"the last {number + 1} layers"):
        encoder.intermediate(clips(), number + 1)


@every_encoder
def test_building_reads_the_given_generator_and_no_other(name):
    before = torch.get_rng_state()
    first, same, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[key], same[key]) and first[key].isfinite().all() for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@every_encoder
def test_some_patches_alone_are_refused(name):
    encoder, keep = build(name), torch.zeros(2, 1, dtype=torch.int64)
    for ask in (
        lambda: encoder(clips(), keep),
        lambda: encoder(clips(), hidden=keep),
        lambda: encoder.many(clips(), [keep]),
        lambda: encoder.intermediate(clips(), 1, keep),
    ):
        with pytest.raises(ValueError, match="sees whole frames"):
            ask()


@every_encoder
def test_levels_that_do_not_fit_the_image_size_are_refused_by_name(name):
    with pytest.raises(ValueError, match=r"encoder\.levels: frames of 20x24 px cannot be halved 3 times"):
        options(name).grid(DataSpec(channels=3, frames=1, height=20, width=24))
    with pytest.raises(ValueError, match=r"encoder\.levels must be in \[1, 4\] .* got 5"):
        options(name, levels=5)
    with pytest.raises(ValueError, match=r"encoder\.levels: frames of 12x24 px"):
        build(name).pyramid(clips()[..., :12, :])


def test_a_resnet_of_one_block_is_refused_by_name():
    with pytest.raises(ValueError, match=r"encoder\.depths must have at least two blocks together, got \[1\]"):
        ResNet(widths=[8], depths=[1], levels=2, bottleneck=False)


@pytest.mark.parametrize("name", ["convnext", "resnet"])
def test_drop_path_draws_from_the_generator_it_is_given(name):
    encoder = build(name, drop_path=0.5).train()
    for module in encoder.modules():  # what batch norm learns of its batch would differ from call to call
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()

    def encoded(seed: int) -> torch.Tensor:
        encoder.seed_drop_path(generator_for(seed, "drop_path"))
        return encoder(clips())

    assert torch.equal(encoded(0), encoded(0))
    assert not torch.equal(encoded(0), encoded(1))


@pytest.fixture
def global_rng_restored():
    with torch.random.fork_rng():
        yield


def test_stages_of_convnext_equal_timms(global_rng_restored):
    spec = DataSpec(channels=3, frames=1, height=32, width=64)
    ours = ConvNeXt(widths=[8, 12, 16, 24], depths=[1, 2, 1, 1], levels=5).build(spec, generator_for(0, "encoder"))
    theirs = TimmConvNeXt(depths=(1, 2, 1, 1), dims=(8, 12, 16, 24), ls_init_value=None, num_classes=0)
    state = {name: value for name, value in ours.state_dict().items() if name.startswith("stages.")}
    theirs.load_state_dict(state, strict=False)
    frames = torch.randn(2, 3, 1, 32, 64, generator=generator_for(0, "frames"))
    maps = ours.pyramid(frames)
    x = ours.stem_norms[1](ours.stem[1](torch.nn.functional.gelu(maps[4])))
    torch.testing.assert_close(theirs.stages(x), maps[0], atol=1e-5, rtol=1e-5)


def test_resnet_equals_timms(global_rng_restored):
    spec = DataSpec(channels=3, frames=1, height=64, width=32)
    # 64 channels first: timm's stem is that wide whatever its stages are.
    ours = ResNet(widths=[64, 8, 12, 16], depths=[1, 2, 1, 1], levels=5, bottleneck=False)
    encoder = ours.build(spec, generator_for(0, "encoder")).eval()
    theirs = TimmResNet(BasicBlock, (1, 2, 1, 1), channels=(64, 8, 12, 16), num_classes=0).eval()
    renamed = {}
    for name, value in encoder.state_dict().items():
        name = name.replace("stem_norm.", "bn1.").replace("stem.", "conv1.")
        renamed[re.sub(r"^stages\.(\d)", lambda found: f"layer{int(found[1]) + 1}", name)] = value
    theirs.load_state_dict(renamed)
    frames = torch.randn(2, 3, 1, 64, 32, generator=generator_for(0, "frames"))
    with torch.no_grad():
        expected = theirs.forward_features(frames[:, :, 0])
        torch.testing.assert_close(encoder.pyramid(frames)[0], expected, atol=1e-4, rtol=1e-4)


def test_the_defaults_have_the_printed_sizes():
    spec = DataSpec(channels=3, frames=1, height=224, width=224)
    millions = {
        name: sum(p.numel() for p in ENCODERS[name]().build(spec, generator_for(0)).parameters()) / 1e6
        for name in ("convnext", "resnet")
    }
    assert 27 < millions["convnext"] < 29  # ConvNeXt-T with no classifier is 27.8 M; MC-JEPA prints 21 and 23
    assert 23 < millions["resnet"] < 24


def test_masked_prediction_with_such_an_encoder_is_refused_before_training():
    settings = ["method=mae", "scale=smoke", "encoder=pwc", "encoder.widths=[8,8]", "encoder.levels=2"]
    with pytest.raises(ConfigError, match=r"^encoder: objective=masked shows .* choose encoder=vit$"):
        load(settings)
