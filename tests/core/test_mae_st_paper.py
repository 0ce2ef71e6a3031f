"""MAE-ST at scale paper against what the paper prints, on tensors that have shapes only."""

import contextlib

import pytest
import torch

from core.configuring.config import load, spec_of
from core.measuring.cost import count_flops
from core.running.building import build_learner
from core.types import View

CLIPS = ["data=moving_digits", "data.size=224", "data.frames=16"]  # as large as the videos that the preset asks for


def of_depth(depth, *words):
    """1e9 multiply-adds of the forward pass of one clip, and the encoder's part."""
    run = load(["method=mae_st", "scale=paper", *CLIPS, f"encoder.depth={depth}", *words])
    learner = build_learner(run, spec_of(run)).to("meta")
    learner.target.to("meta")
    view = View(*(torch.zeros(1, count, dtype=torch.int64, device="meta") for count in (157, 1411)))
    clip = torch.zeros(1, 3, 16, 224, 224, device="meta")
    flops = count_flops(learner, clip, {}, [view], contextlib.nullcontext())
    return flops.forward / 2e9, flops.encoder / 2e9


def gmac(*words):
    """As `of_depth` at depth 24; a block costs what the second one does."""
    return [one + 23 * (two - one) for one, two in zip(of_depth(1, *words), of_depth(2, *words), strict=True)]


def test_operations_are_those_of_table_1():
    sparse, encoder = gmac()
    dense, dense_encoder = gmac("predictor.dense_encoder=true")
    assert sparse == pytest.approx(81.0, rel=0.03)
    assert dense == pytest.approx(627.5, rel=0.03)
    # Above the printed 7.7: our last decoder block, norm and head run on the hidden patches only.
    assert 7.7 < dense / sparse < 8.0
    assert dense_encoder / encoder > 10


def test_the_recipe_is_that_of_table_5():
    run = load(["method=mae_st", "scale=paper", *CLIPS])
    optim = run.optim
    assert (optim.beta1, optim.beta2, optim.weight_decay, optim.clip) == (0.9, 0.95, 0.05, 0.02)
    assert (optim.batch_size, optim.lr_peak, run.augment.repeats) == (512, 1.6e-3, 4)
    assert optim.steps * optim.batch_size == 800 * 240_000
    assert optim.warmup_share * 800 == 120
    assert (run.augment.scale_min, run.augment.flip) == (0.5, True)
    assert (run.encoder.width, run.encoder.depth, run.encoder.patch, run.encoder.tubelet) == (1024, 24, 16, 2)
    assert (run.predictor.width, run.predictor.depth) == (512, 4)
    assert (run.mask.ratio, run.encoder.class_token, run.target.frames.name) == (0.9, True, "mae_st")
    assert run.encoder.position.name == run.predictor.position.name == "learned"
