"""What a run costs, counted and timed."""

import pytest
import torch

from core.configuring.config import load, metric_names, spec_of
from core.measuring.cost import COST_METRICS, count_flops, judging_names
from core.models.fast import cpu_block
from core.running.building import build_learner
from core.running.stepping import autocast
from core.types import generator_for
from tests.core.running.test_trainer import run_it

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def count(*overrides, batch_size=2, dtype=None):
    run = load(["scale=smoke", *overrides])
    spec = spec_of(run)
    learner = build_learner(run, spec)
    clips = torch.randn(batch_size, spec.channels, spec.frames, spec.height, spec.width, generator=generator_for(0))
    labels = {name: torch.zeros(batch_size, dtype=torch.int64) for name in spec.classes}
    views = run.mask.sample(learner.encoder.grid, batch_size, generator_for(0)) if run.mask else []
    return count_flops(learner, clips, labels, views, autocast(CPU, dtype)), learner


def matmul_flops(tokens, width, depth):
    """Forward, by hand: qkv, projection and a MLP of ratio 4 are 24 N D^2, attention 4 N^2 D, a block."""
    return depth * (24 * tokens * width**2 + 4 * tokens**2 * width)


def test_forward_operations_equal_the_formula():
    flops, _ = count(
        "method=mae", "encoder.width=48", "encoder.depth=3", "encoder.heads=2", "encoder.patch=8",
        "predictor.width=32", "predictor.depth=1", "predictor.heads=2", "mask.ratio=0.75", batch_size=1,
    )  # fmt: skip
    patch = 3 * 8 * 8  # 16 patches, of which 4 are seen
    assert flops.encoder == 2 * 4 * patch * 48 + matmul_flops(4, 48, 3)
    # The decoder's one block reads 16 tokens and goes on with the 12 hidden ones, which alone the head sees.
    block = 2 * 16 * 32 * 96 + 4 * 12 * 16 * 32 + 2 * 12 * 32**2 + 16 * 12 * 32**2
    assert flops.forward - flops.encoder == 2 * 4 * 48 * 32 + block + 2 * 12 * 32 * patch
    assert 2.5 < flops.total / flops.forward < 3.0


@pytest.mark.skipif(not cpu_block.has_kernels(), reason="the written-out block needs oneDNN's for bfloat16")
@pytest.mark.parametrize("method", ["mae", "mae_st", "ijepa", "vjepa"])
def test_the_written_out_block_counts_as_much_as_the_generic_one(method, monkeypatch):
    written, _ = count(f"method={method}", dtype=torch.bfloat16)
    monkeypatch.setattr(cpu_block, "fits", lambda *_: False)
    generic, _ = count(f"method={method}", dtype=torch.bfloat16)
    assert written == generic
    assert 0 < written.encoder < written.forward


def test_counting_changes_neither_parameters_nor_gradients():
    _, learner = count("method=ijepa")
    _, untouched = count("method=ijepa")
    before = [p.detach().clone() for p in untouched.parameters()]
    assert all(p.grad is None for p in learner.parameters())
    assert all(torch.equal(a, b) for a, b in zip(learner.parameters(), before, strict=True))


def test_a_dense_encoder_costs_more_than_a_sparse_one():
    sparse, _ = count("method=mae_st")
    dense, _ = count("method=mae_st", "predictor.dense_encoder=true")
    assert dense.encoder > 5 * sparse.encoder
    assert dense.total > sparse.total


def test_a_run_records_every_cost_that_a_table_may_show(cache, tmp_path):
    record = run_it(cache, tmp_path)
    costs = record.costs
    assert sorted(costs) == sorted([*COST_METRICS, *judging_names(["ridge"])])
    assert set(COST_METRICS) <= set(metric_names(load(["scale=smoke"])))
    assert set(judging_names(["collapse", "knn", "ridge"])) <= set(metric_names(load(["scale=smoke"])))
    assert costs["cost/train_seconds"] == record.facts["train_seconds"]
    assert costs["cost/compute_seconds"] + costs["cost/data_seconds"] == pytest.approx(costs["cost/train_seconds"])
    assert costs["cost/ms_per_step"] == pytest.approx(1e3 * costs["cost/compute_seconds"] / 6)


def test_operations_and_epochs_are_the_same_for_a_resumed_run(cache, tmp_path):
    def lasting(record):
        passing = ("second", "ms_", "memory")
        return {name: value for name, value in record.costs.items() if not any(word in name for word in passing)}

    whole = run_it(cache, tmp_path / "whole")
    run_it(cache, tmp_path / "parts", stop_after=3)
    resumed = run_it(cache, tmp_path / "parts")
    assert lasting(resumed) == lasting(whole)
    assert len(lasting(whole)) == 9


def test_repeats_leave_the_effective_epochs_and_decode_fewer_samples(cache, tmp_path):
    once = run_it(cache, tmp_path / "1").costs
    thrice = run_it(cache, tmp_path / "4", "augment.repeats=4").costs
    assert once["cost/effective_epochs"] == thrice["cost/effective_epochs"]
    assert (once["cost/samples_decoded"], thrice["cost/samples_decoded"]) == (48, 12)


def test_a_run_without_steps_records_no_rates(cache, tmp_path):
    costs = run_it(cache, tmp_path, "optim.steps=0").costs
    assert costs["cost/train_seconds"] == costs["cost/samples_decoded"] == 0
    assert "cost/gflop_per_step" not in costs and "cost/samples_per_second" not in costs
