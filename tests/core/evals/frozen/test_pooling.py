from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from core.configuring.config import ConfigError, check, load
from core.data.augment import normalise
from core.evals.frozen.clips import encode
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.pooling import means, num_parts
from core.evals.knn import Knn
from core.evals.linear import Linear
from core.evals.low_shot import LowShot
from core.evals.ridge import Quadrants, Ridge
from core.evals.vissl import Vissl
from core.models.vit import ViT
from core.running.judging import changed, pools_of
from core.types import DataSpec, Grid, Look, Optimizer, Pooling, Sampling, generator_for
from tests.core.evals.frozen.test_features import Stripes, TinyEncoder, frozen


def maps(t: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(3, t, h, w, 5, generator=generator_for(1, "maps"))


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 6, 8), (3, 5, 7), (2, 1, 3)])
@pytest.mark.parametrize("pool", [pool for pool in Pooling if pool is not Pooling.cls])
def test_parts_are_those_of_adaptive_average_pooling(shape, pool):
    in_time, in_space = {"mean": (1, 1), "quadrants": (1, 2), "halves": (2, 1), "octants": (2, 2)}[pool.name]
    values = maps(*shape)
    expected = F.adaptive_avg_pool3d(values.movedim(-1, 1), (in_time, in_space, in_space)).movedim(1, -1).flatten(1)
    found = means(values.flatten(1, 3), Grid(*shape), pool)
    assert found.shape[1] == 5 * num_parts(pool)
    assert torch.allclose(found, expected, atol=1e-6)


def test_an_image_encoder_s_frames_are_the_slices_of_time():
    values = maps(4, 2, 2)
    found = means(values.flatten(1, 3), Grid(1, 2, 2), Pooling.halves)
    assert torch.allclose(found[:, :5], values[:, :2].mean(dim=(1, 2, 3)), atol=1e-6)


def test_bfloat16_tokens_are_averaged_in_float32():
    tokens = maps(2, 4, 4).flatten(1, 3).to(torch.bfloat16)
    assert torch.allclose(
        means(tokens, Grid(2, 4, 4), Pooling.octants), means(tokens.float(), Grid(2, 4, 4), Pooling.octants), atol=1e-6
    )


def test_every_pool_that_is_announced_comes_from_one_encoding():
    features = frozen(pools=[Pooling.mean, Pooling.quadrants])
    mean, quadrants = features.pooled("test"), features.pooled("test", pool=Pooling.quadrants)
    assert features.used.clips == 10
    assert torch.allclose(quadrants.unflatten(1, (4, -1)).mean(1), mean, atol=1e-6)


def test_an_announced_pool_comes_with_the_tokens():
    features = frozen(pools=[Pooling.mean, Pooling.quadrants])
    tokens = features.tokens("test").values[:, 0]
    quadrants = features.pooled("test", pool=Pooling.quadrants)
    assert features.used.clips == 10
    assert torch.allclose(quadrants, tokens.float().flatten(1), atol=1e-2)  # four patches: each quadrant is one


def test_a_pool_that_nobody_announced_is_encoded_when_it_is_asked_for():
    features = frozen()
    features.pooled("test")
    assert torch.equal(
        features.pooled("test", pool=Pooling.quadrants),
        frozen(pools=[Pooling.quadrants]).pooled("test", pool=Pooling.quadrants),
    )
    assert features.used.clips == 20


def test_the_mean_does_not_depend_on_other_pools():
    assert torch.equal(frozen().pooled("train"), frozen(pools=list(Pooling)[:2]).pooled("train"))


def test_fewer_layers_of_parts_are_the_last_ones_of_more():
    features = frozen(pools=[Pooling.quadrants])
    features.pooled("test", 2, Pooling.quadrants)
    last = features.pooled("test", 1, Pooling.quadrants)
    assert features.used.clips == 10
    assert torch.equal(last, frozen().pooled("test", 1, Pooling.quadrants))


class Where(TinyEncoder):
    """Each patch's token is its brightness: an average over the frame does not know where it is bright."""

    def intermediate(self, clips, num_layers, keep=None):
        return [
            clips.unfold(3, 4, 4).unfold(4, 4, 4).reshape(len(clips), 4, 16).mean(2, keepdim=True).expand(-1, -1, 6)
        ]


class Corners(Stripes):
    """The label is which quarter of the frame is bright."""

    def fetch(self, indices):
        batch = super().fetch(indices)
        clips = torch.zeros(len(indices), 1, 1, 8, 8, dtype=torch.uint8)
        for row, index in enumerate(indices.tolist()):
            top, left = 4 * (index % 4 // 2), 4 * (index % 2)
            clips[row, ..., top : top + 4, left : left + 4] = 100
        return batch._replace(clips=clips)


def test_quadrants_know_where_something_is_and_the_mean_does_not():
    features = FrozenFeatures(Where(), Corners(40), Corners(20), prepare=normalise, device="cpu", batch_size=8)
    assert Quadrants().run(features, seed=0) == {"quadrants/column_top1": 100.0}
    assert Ridge().run(features, seed=0)["ridge/column_top1"] < 50


def test_the_run_s_evaluations_announce_their_pools():
    assert pools_of(load(["method=mae", "scale=smoke", "evals=[collapse]"])) == {Pooling.mean}
    both = load(["method=mae_st", "scale=smoke", "evals=[ridge,quadrants]", "evals.quadrants.pool=octants"])
    assert pools_of(both) == {Pooling.mean, Pooling.octants}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=mae", "evals=[ridge]", "evals.ridge.pool=halves"],
            "evals.ridge.pool=halves halves the time of a clip",
        ),
        (
            ["method=mae", "evals=[quadrants]", "evals.quadrants.pool=octants"],
            "evals.quadrants.pool=octants halves the t",
        ),
        (
            ["method=supervised", "evals=[quadrants]", "encoder.patch=32"],
            "evals.quadrants.pool=quadrants halves height and wi",
        ),
        (
            ["method=mae", "evals=[quadrants]", "evals.quadrants.pool=mean"],
            r"evals.quadrants.pool=mean: .* expected one of \[quadrants, octants\]",
        ),
    ],
)
def test_a_pool_that_has_nothing_to_halve_is_refused_before_training(words, message):
    with pytest.raises(ConfigError, match=message):
        check(load(["scale=smoke", *words]))


class Crowned(TinyEncoder):
    """Its class token is the sum of the patches, in every layer."""

    def all_tokens(self, clips):
        layers = [tokens[:, 1:] for tokens in super().all_tokens(clips)]
        return [torch.cat([tokens.sum(1, keepdim=True), tokens], dim=1) for tokens in layers]

    def with_prefix(self, clips, num_layers, keep=None):
        return self.all_tokens(clips)[-num_layers:]


def test_the_class_tokens_of_the_last_layers_come_from_one_encoding_with_the_average():
    features = frozen(Crowned(), pools=[Pooling.cls, Pooling.mean])
    assert torch.allclose(features.pooled("test", 2, Pooling.cls), 4 * features.pooled("test", 2), atol=1e-4)
    assert features.used.clips == 10
    assert torch.equal(features.pooled("test"), frozen().pooled("test"))


def test_class_tokens_come_with_the_patch_tokens_which_stay_as_they_are():
    features = frozen(Crowned(), pools=[Pooling.cls])
    assert torch.equal(features.tokens("test").values, frozen().tokens("test").values)
    assert torch.allclose(features.pooled("test", pool=Pooling.cls), 4 * frozen().pooled("test"), atol=1e-4)
    assert features.used.clips == 10


def test_a_look_s_class_tokens_are_those_of_its_pictures():
    features = frozen(Crowned(), change=changed)
    look = Look(1, crop_min=0.5, flip=True)
    assert torch.allclose(features.augmented(look, 2, Pooling.cls), 4 * features.augmented(look, 2), atol=1e-4)


def test_a_class_token_of_an_encoder_without_one_is_no_patch():
    encoder = TinyEncoder()
    encoder.num_prefix = 0
    with pytest.raises(ValueError, match="this encoder has none"):
        frozen(encoder, pools=[Pooling.cls]).pooled("test", pool=Pooling.cls)


def vit(**options):
    spec = DataSpec(1, frames=options.get("tubelet", 1), height=8, width=8)
    encoder = ViT(width=12, depth=2, heads=2, patch=4, class_token=True, **options).build(spec, generator_for(3))
    return encoder.eval(), spec


def test_class_tokens_of_a_transformer_stand_before_what_the_patches_were():
    encoder, _ = vit()
    clips = torch.randn(2, 1, 1, 8, 8, generator=generator_for(1))
    for whole, patches in zip(encoder.with_prefix(clips, 2), encoder.intermediate(clips, 2), strict=True):
        assert torch.equal(whole[:, 1:], patches)
    assert torch.equal(encoder.with_prefix(clips, 1)[0], encoder(clips))


def test_the_class_token_of_a_clip_is_the_mean_over_what_an_image_encoder_makes_of_its_frames():
    encoder, spec = vit()
    clips = torch.randn(2, 1, 3, 8, 8, generator=generator_for(1))
    (tokens,) = encode(encoder, clips, spec, Sampling(), 1, with_prefix=True)
    (patches,) = encode(encoder, clips, spec, Sampling(), 1)
    frames = torch.stack([encoder(clips[:, :, [frame]])[:, 0] for frame in range(3)])
    assert torch.allclose(tokens[:, 0], frames.mean(0), atol=1e-5)
    assert torch.equal(tokens[:, 1:], patches)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("evaluation", [Knn, Linear, LowShot, Ridge, Vissl])
def test_a_frozen_probe_reads_the_class_token_where_it_is_told_to(evaluation, pool):
    """Which alone knows the class: the patches are of one brightness."""

    class Knowing(TinyEncoder):
        def with_prefix(self, clips, num_layers, keep=None):
            column = clips.flatten(1).unflatten(1, (-1, 4)).mean(1)  # where the stripe is
            tokens = torch.zeros(len(clips), 5, 6)
            tokens[:, 0, :4] = column
            return [tokens] * num_layers

        def intermediate(self, clips, num_layers, keep=None):
            return [torch.zeros(len(clips), 4, 6)] * num_layers

    few = {LowShot: {"share": 0.5}, Knn: {"k": 3}, Vissl: {"layers": [1], "optimizer": Optimizer.sgd, "lrs": [1.0]}}
    features = FrozenFeatures(Knowing(), Stripes(40), Stripes(20), prepare=normalise, device="cpu", batch_size=8)
    probe = evaluation(pool=Pooling[pool], **few.get(evaluation, {}))
    (found,) = probe.run(features, seed=0).values()
    assert (found > 95) if pool == "cls" else (found < 60)
    assert probe.pools() == {Pooling[pool]}


@pytest.mark.parametrize("name", ["finetune", "knn", "linear", "low_shot", "ridge", "vissl"])
def test_an_encoder_without_a_class_token_refuses_to_be_judged_by_it_before_training(name):
    words = ["scale=smoke", f"evals=[{name}]", f"evals.{name}.pool=cls"]
    words += ["evals.vissl.layers=[1]"] if name == "vissl" else []
    for other in (["method=mae"], ["method=vicreg"]):
        with pytest.raises(ConfigError, match=rf"evals\.{name}\.pool=cls reads a class token, and this encoder has n"):
            check(load([*other, *words]))
    check(load(["method=mae", "encoder.class_token=true", *words]))
