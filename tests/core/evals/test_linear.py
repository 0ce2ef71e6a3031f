from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core.evals.linear import Linear, train_heads
from core.evals.samples import Samples, top1
from core.types import generator_for
from tests.core.evals.known import clusters

SHORT = {"epochs": 4, "batch_size": 32, "seed": 0, "purpose": "kind"}


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


def heads_of(features, settings, *, batch_norm=True):
    samples = Samples(features.train, features.train_labels["kind"])
    return train_heads(samples, 4, settings=settings, batch_norm=batch_norm, **SHORT)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_head_equals_torchs_own_sgd(batch_norm, noisy):
    """nn.BatchNorm1d, nn.Linear, cross-entropy, autograd, SGD and CosineAnnealingLR on the same batches."""
    lr, weight_decay = 0.3, 0.01
    head = heads_of(noisy, [(lr, weight_decay)], batch_norm=batch_norm)[0]

    norm = nn.BatchNorm1d(8, eps=1e-6, affine=False) if batch_norm else nn.Identity()
    linear = nn.Linear(8, 4)
    start = 0.01 * torch.randn(8, 4, generator=generator_for(0, "linear", "kind", "init"))
    with torch.no_grad():
        linear.weight.copy_(start.T)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    num_batches = 200 // 32
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4 * num_batches)
    for epoch in range(4):
        order = torch.randperm(200, generator=generator_for(0, "linear", "kind", epoch))
        for index in order.tensor_split(num_batches):
            optimizer.zero_grad()
            F.cross_entropy(linear(norm(noisy.train[index])), noisy.train_labels["kind"][index]).backward()
            optimizer.step()
            schedule.step()

    norm.eval()
    assert torch.allclose(head(noisy.test), linear(norm(noisy.test)), atol=1e-5)
    assert not torch.allclose(head.weight[:-1], start, atol=0.05)


def test_a_head_alone_equals_the_same_head_in_a_grid_of_six(noisy):
    settings = list(itertools.product([0.01, 0.1, 1.0], [0.0, 0.01]))
    grid = heads_of(noisy, settings)
    for setting, head in zip(settings, grid, strict=True):
        alone = heads_of(noisy, [setting])[0]
        assert (head.lr, head.weight_decay) == setting
        assert torch.allclose(head.weight, alone.weight, atol=1e-6)
    assert not torch.allclose(grid[0].weight, grid[-1].weight, atol=0.05)


def test_a_head_that_diverges_leaves_its_neighbours_alone(noisy):
    grid = heads_of(noisy, [(0.1, 0.0), (100.0, 100.0)])
    assert not grid[1].weight.isfinite().all()
    assert torch.allclose(grid[0].weight, heads_of(noisy, [(0.1, 0.0)])[0].weight, atol=1e-6)


def test_a_diverged_head_is_never_chosen(noisy):
    # Weights are multiplied by 1 - lr x weight decay a step: -9,999 or .9.
    evaluation = Linear(lrs=[100.0, 0.001], weight_decays=[100.0], epochs=20)
    assert evaluation.choose(noisy, "kind", seed=0).lr == 0.001


def test_a_grid_that_all_diverged_is_an_error(noisy):
    with pytest.raises(ValueError, match=r"evals\.linear\.lrs: every head diverged for label 'kind'"):
        Linear(lrs=[100.0], weight_decays=[100.0], epochs=20).run(noisy, seed=0)


def test_the_better_setting_is_chosen(noisy):
    assert Linear(lrs=[1e-8, 0.05], weight_decays=[0.0], epochs=10).choose(noisy, "kind", seed=0).lr == 0.05


def test_selection_never_sees_the_test_labels(noisy):
    """The test labels are set to the answers of a head that held-out samples do not choose: it must not win."""
    evaluation = Linear(lrs=[0.05, 1e-8], weight_decays=[0.0], epochs=10)
    chosen = evaluation.choose(noisy, "kind", seed=0)
    bad = Linear(lrs=[1e-8], weight_decays=[0.0], epochs=10).choose(noisy, "kind", seed=0)
    poison = bad(noisy.test).argmax(dim=1)
    poisoned = dataclasses.replace(noisy, test_labels={"kind": poison})

    assert torch.equal(evaluation.choose(poisoned, "kind", seed=0).weight, chosen.weight)
    number = evaluation.run(poisoned, seed=0)["linear/kind_top1"]
    assert number == top1(chosen(noisy.test), poison)
    assert number < 90 < top1(bad(noisy.test), poison) == 100


def test_batch_norm_makes_the_scale_of_the_features_irrelevant(noisy):
    scaled = dataclasses.replace(noisy, train=1000 * noisy.train, test=1000 * noisy.test)
    assert Linear(epochs=5).run(scaled, seed=0) == Linear(epochs=5).run(noisy, seed=0)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("lrs", []),
        ("lrs", [0.1, -1.0]),
        ("weight_decays", [-0.1]),
        ("heldout", 0.0),
        ("batch_size", 1),
        ("epochs", 0),
    ],
)
def test_options_out_of_range_are_named(option, bad):
    with pytest.raises(ValueError, match=rf"evals\.linear\.{option} must be .*, got "):
        Linear(**{option: bad})
