from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from core.config import ConfigError, check, load
from core.data.augment import normalise
from core.evals.features import FrozenFeatures
from core.evals.pooling import means, num_parts
from core.evals.ridge import Quadrants, Ridge
from core.judging import pools_of
from core.types import Grid, Pooling, generator_for
from tests.core.evals.test_features import Stripes, TinyEncoder, frozen


def maps(t: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(3, t, h, w, 5, generator=generator_for(1, "maps"))


@pytest.mark.parametrize("shape", [(1, 2, 2), (4, 6, 8), (3, 5, 7), (2, 1, 3)])
@pytest.mark.parametrize("pool", list(Pooling))
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
            "evals.quadrants.pool must be quadrants or o",
        ),
    ],
)
def test_a_pool_that_has_nothing_to_halve_is_refused_before_training(words, message):
    with pytest.raises(ConfigError, match=message):
        check(load(["scale=smoke", *words]))
