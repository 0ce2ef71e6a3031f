"""The encoder against timm and transformers with the same weights, and what it promises."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from transformers import IJepaConfig, IJepaModel

from core.models import ViT
from core.models.blocks import apply_block
from core.models.positions import Position, sincos
from core.models.sizes import SIZES
from core.models.vit import VisionTransformer
from core.types import DataSpec, EncoderModule, Grid, generator_for

IMAGE = DataSpec(channels=3, frames=1, height=16, width=16)
CLIP = DataSpec(channels=3, frames=4, height=16, width=24)


def build(spec: DataSpec = IMAGE, **options: object) -> VisionTransformer:
    numbers: dict = {"width": 24, "depth": 2, "heads": 2, "patch": 4} | options
    encoder = ViT(**numbers).build(spec, generator_for(0, "init"))
    assert isinstance(encoder, VisionTransformer)
    return encoder


def clips_of(spec: DataSpec, batch: int = 2) -> Tensor:
    shape = (batch, spec.channels, spec.frames, spec.height, spec.width)
    return torch.randn(shape, generator=generator_for(0, "clips"))


def some_patches(grid: Grid, count: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, grid.num_patches, generator=generator_for(0, "keep")).argsort(1)[:, :count]


def shake(module: nn.Module) -> None:
    """Move every parameter, so that biases and norms at 0 and 1 cannot hide a mistake."""
    generator = generator_for(0, "shake")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("skip", [0, 3])
@pytest.mark.parametrize("tokens", [7, 70])
def test_a_block_equals_timms_and_has_its_gradients(skip, tokens):
    ours = build().blocks[0]
    shake(ours)
    theirs = Block(24, 2, qkv_bias=True, norm_layer=lambda dim, **_: nn.LayerNorm(dim, eps=1e-6))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, tokens, 24, generator=generator_for(0, "x"))
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    a, b = apply_block(ours, x1, None, skip), theirs(x2)[:, skip:]
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(x1.grad, x2.grad, atol=1e-4, rtol=1e-4)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, atol=1e-3, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def copy_into_ijepa(encoder: VisionTransformer) -> IJepaModel:
    config = IJepaConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=16,
        patch_size=4,
        layer_norm_eps=1e-6,
    )
    theirs = IJepaModel(config).eval()
    with torch.no_grad():
        projection = theirs.embeddings.patch_embeddings.projection
        projection.weight.copy_(encoder.embed.weight.view(projection.weight.shape))
        projection.bias.copy_(encoder.embed.bias)
        theirs.embeddings.position_embeddings.copy_(sincos(encoder.grid, 24)[None])
        for ours, layer in zip(encoder.blocks, theirs.layers, strict=True):
            heads = (layer.attention.q_proj, layer.attention.k_proj, layer.attention.v_proj)
            for part, weight, bias in zip(
                heads, ours.attn.qkv.weight.chunk(3), ours.attn.qkv.bias.chunk(3), strict=True
            ):
                part.weight.copy_(weight)
                part.bias.copy_(bias)
            layer.attention.o_proj.load_state_dict(ours.attn.proj.state_dict())
            layer.mlp.fc1.load_state_dict(ours.mlp.fc1.state_dict())
            layer.mlp.fc2.load_state_dict(ours.mlp.fc2.state_dict())
            layer.layernorm_before.load_state_dict(ours.norm1.state_dict())
            layer.layernorm_after.load_state_dict(ours.norm2.state_dict())
        theirs.layernorm.load_state_dict(encoder.norm.state_dict())
    return theirs


@pytest.fixture
def global_rng_restored():
    with torch.random.fork_rng():
        yield


def test_an_image_encoder_equals_transformers_ijepa(global_rng_restored):
    encoder = build()
    shake(encoder)
    clips = clips_of(IMAGE)
    with torch.no_grad():
        theirs = copy_into_ijepa(encoder)(clips[:, :, 0]).last_hidden_state
        torch.testing.assert_close(encoder(clips), theirs, atol=1e-5, rtol=1e-5)


def test_kept_patches_equal_transformers_ijepa_run_on_their_embeddings(global_rng_restored):
    encoder = build()
    shake(encoder)
    clips, keep = clips_of(IMAGE), some_patches(encoder.grid, 5)
    theirs = copy_into_ijepa(encoder)
    with torch.no_grad():
        x = theirs.embeddings(clips[:, :, 0])  # its forward takes no mask: gather as the released code does
        x = x.gather(1, keep[..., None].expand(-1, -1, 24))
        for layer in theirs.layers:
            x = layer(x)
        torch.testing.assert_close(encoder(clips, keep), theirs.layernorm(x), atol=1e-5, rtol=1e-5)


def test_a_tubelet_embedding_is_a_strided_convolution():
    encoder = build(CLIP, tubelet=2)
    clips = clips_of(CLIP)
    weight = encoder.embed.weight.view(24, 3, 2, 4, 4)
    expected = nn.functional.conv3d(clips, weight, encoder.embed.bias, stride=(2, 4, 4)).flatten(2).transpose(1, 2)
    encoder.blocks = nn.Identity()  # leaves embedding and positions
    encoder.blocks.forward = lambda x, *_: x - encoder.positions(None, x.dtype)
    encoder.norm = nn.Identity()
    torch.testing.assert_close(encoder(clips), expected, atol=1e-5, rtol=1e-5)


def test_positions_of_one_frame_put_the_column_first():
    table = sincos(Grid(1, 3, 5), 8)
    angle = torch.tensor([4.0, 4.0 / 100])  # row 1, column 4: index 9
    torch.testing.assert_close(table[9, :4], torch.cat([angle.sin(), angle.cos()]))
    angle = torch.tensor([1.0, 1.0 / 100])
    torch.testing.assert_close(table[9, 4:], torch.cat([angle.sin(), angle.cos()]))


def test_positions_of_a_clip_differ_for_every_patch():
    table = sincos(Grid(4, 3, 5), 24)
    assert table.shape == (60, 24)
    assert torch.cdist(table, table).add(torch.eye(60) * 9).min() > 0.1


@pytest.mark.parametrize("position", Position)
@pytest.mark.parametrize("class_token", [False, True])
def test_keeping_every_patch_in_another_order_gives_the_same_tokens(position, class_token):
    encoder = build(CLIP, tubelet=2, position=position, class_token=class_token)
    shake(encoder)
    clips, order = clips_of(CLIP), some_patches(encoder.grid, encoder.grid.num_patches)
    full, kept = encoder(clips), encoder(clips, order)
    p = encoder.num_prefix
    expected = full[:, p:].gather(1, order[..., None].expand(-1, -1, 24))
    torch.testing.assert_close(kept[:, p:], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kept[:, :p], full[:, :p], atol=1e-5, rtol=1e-5)


def test_places_that_are_not_valid_change_nothing():
    encoder = build(class_token=True)
    shake(encoder)
    clips, keep = clips_of(IMAGE), some_patches(encoder.grid, 6)
    padded = torch.cat([keep, keep[:, :1].expand(-1, 3)], dim=1)
    valid = torch.arange(9).expand(2, -1) < 6
    torch.testing.assert_close(encoder(clips, padded, valid)[:, :7], encoder(clips, keep), atol=1e-5, rtol=1e-5)


def test_hidden_patches_do_not_reach_the_dense_encoder():
    encoder = build()
    encoder.add_mask_token(generator_for(0, "mask token"))
    clips, hidden = clips_of(IMAGE), torch.tensor([[0, 1], [0, 1]])
    changed = clips.clone()
    changed[..., :4, :8] += 1  # patches 0 and 1
    assert encoder(clips, hidden=hidden).shape == (2, 16, 24)
    assert torch.equal(encoder(clips, hidden=hidden), encoder(changed, hidden=hidden))
    assert not torch.equal(encoder(clips), encoder(changed))


def test_the_last_intermediate_layer_is_the_output_without_the_class_token():
    encoder = build(class_token=True)
    layers = encoder.intermediate(clips_of(IMAGE), 2)
    assert len(layers) == 2
    assert torch.equal(layers[-1], encoder(clips_of(IMAGE))[:, 1:])
    assert not torch.equal(layers[0], layers[1])


def test_building_reads_the_given_generator_and_no_other():
    before = torch.get_rng_state()
    states = [ViT(width=24, depth=2, heads=2, patch=4).build(IMAGE, generator_for(s)) for s in (0, 0, 1)]
    assert torch.equal(before, torch.get_rng_state())
    first, same, other = (dict(module.named_parameters()) for module in states)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("scheme", ["jepa", "mae"])
def test_weights_have_the_spread_of_their_scheme(scheme):
    encoder = ViT(width=96, depth=1, heads=2, patch=4, init=scheme_of(scheme)).build(IMAGE, generator_for(0))
    weight = encoder.blocks[0].mlp.fc1.weight
    expected = 0.02 if scheme == "jepa" else (2 / (96 + 384)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.02)
    assert encoder.blocks[0].mlp.fc1.bias.abs().max() == 0


def scheme_of(name: str):
    return type(ViT().init)[name]


def test_drop_path_draws_from_its_generator_alone():
    encoder = build(depth=3, drop_path=0.5)
    clips, before = clips_of(IMAGE, batch=8), torch.get_rng_state()
    outputs = []
    for seed in (0, 0, 1):
        encoder.seed_drop_path(generator_for(seed, "drop path"))
        outputs.append(encoder(clips))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(encoder.eval()(clips), encoder(clips))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 5}, r"encoder.patch 5 does not divide data size 16x24: choose a divisor of both"),
        ({"tubelet": 3}, r"encoder.tubelet 3 does not divide data frames 4: choose a divisor \(1 for images\)"),
    ],
)
def test_a_patch_that_does_not_divide_the_data_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(CLIP, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 25}, "encoder.width must be a multiple of encoder.heads, got 25 and 3"),
        ({"width": 6}, "encoder.width must be a multiple of 4"),
        ({"depth": 0}, "encoder.depth must be at least 1, got 0"),
        ({"drop_path": 1.0}, r"encoder.drop_path must be in \[0, 1\), got 1.0"),
        ({"mlp_ratio": 0.0}, "encoder.mlp_ratio must be positive, got 0.0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ViT(**options)


def test_every_named_size_is_a_valid_encoder():
    for size in SIZES.values():
        ViT(**size._asdict())


def test_tiny_has_the_parameters_of_a_vit_tiny():
    size = SIZES["tiny"]
    encoder: EncoderModule = ViT(**size._asdict(), patch=16).build(DataSpec(3, 1, 224, 224), generator_for(0))
    # DeiT-Ti: 5,717,416 with a 1000-way head (193,000), 197 learned positions and a class token (38,016)
    assert sum(p.numel() for p in encoder.parameters()) == 5_717_416 - 193_000 - 38_016
