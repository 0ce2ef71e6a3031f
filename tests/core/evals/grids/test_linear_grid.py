"""A grid of linear heads against torch's and timm's own training of one head."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from timm.optim import Lars
from torch import nn
from torch.nn import functional as F

from core.evals.frozen.samples import Samples
from core.evals.grids.linear_grid import cosine, scores_of, steps, train_heads
from core.types import Optimizer, generator_for
from tests.core.evals.known import clusters

SHORT = {"epochs": 4, "batch_size": 32, "seed": 0, "purpose": "kind"}


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


def heads_of(features, settings, *, batch_norm=True, **options):
    samples = Samples(features.train, features.train_labels["kind"])
    return train_heads(samples, 4, settings=settings, batch_norm=batch_norm, **SHORT | options)


@pytest.mark.parametrize("batch_size", [32, 101])  # 6 batches an epoch, and one
@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_head_equals_torchs_own_sgd(batch_norm, batch_size, noisy):
    """nn.BatchNorm1d, nn.Linear, cross-entropy, autograd, SGD and CosineAnnealingLR on the same batches."""
    lr, weight_decay = 0.3, 0.01
    head = heads_of(noisy, [(lr, weight_decay)], batch_norm=batch_norm, batch_size=batch_size)[0]

    norm = nn.BatchNorm1d(8, eps=1e-6, affine=False) if batch_norm else nn.Identity()
    linear = nn.Linear(8, 4)
    start = 0.01 * torch.randn(8, 4, generator=generator_for(0, "linear", "kind", "init"))
    with torch.no_grad():
        linear.weight.copy_(start.T)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    num_batches = 200 // batch_size
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
    assert not torch.allclose(head.weight[:-1], start, atol=0.03)


def test_an_epoch_that_is_one_batch_sees_each_look_behind_its_own_batch_norm(noisy):
    looks = [noisy.train, 3 * noisy.train.flip(1) + 1]
    head = heads_of(noisy, [(0.3, 0.01)], looks=looks, batch_size=101)[0]
    norm, weight, truth = nn.BatchNorm1d(8, eps=1e-6, affine=False), torch.zeros(9, 4), noisy.train_labels["kind"]
    weight[:-1] = 0.01 * torch.randn(8, 4, generator=generator_for(0, "linear", "kind", "init"))
    velocity = torch.zeros_like(weight)
    for epoch in range(4):
        x = F.pad(norm(looks[epoch % 2]), (0, 1), value=1.0)
        error = ((x @ weight).softmax(dim=1) - F.one_hot(truth, 4)) / len(x)
        velocity = 0.9 * velocity + x.T @ error + 0.01 * weight
        weight = weight - 0.3 * cosine(epoch, epoch / 4) * velocity
    assert torch.allclose(head.weight, weight, atol=1e-5)
    assert torch.allclose(head.norm.running_mean, norm.running_mean, atol=1e-5)
    assert torch.allclose(head.norm.running_var, norm.running_var, atol=1e-5)


def test_a_head_alone_equals_the_same_head_in_a_grid_of_six(noisy):
    settings = list(itertools.product([0.01, 0.1, 1.0], [0.0, 0.01]))
    grid = heads_of(noisy, settings)
    for setting, head in zip(settings, grid, strict=True):
        alone = heads_of(noisy, [setting])[0]
        assert (head.lr, head.weight_decay) == setting
        assert torch.allclose(head.weight, alone.weight, atol=1e-6)
    assert not torch.allclose(grid[0].weight, grid[-1].weight, atol=0.05)


def test_a_grids_scores_are_those_of_its_heads_one_by_one(noisy):
    grid = heads_of(noisy, [(0.1, 0.0), (1.0, 0.01)])
    for head, scores in zip(grid, scores_of(grid, noisy.test), strict=True):
        assert torch.allclose(scores, head.norm(noisy.test) @ head.weight[:-1] + head.weight[-1], atol=1e-5)
        assert torch.equal(scores, head(noisy.test))


def test_a_head_that_diverges_leaves_its_neighbours_alone(noisy):
    grid = heads_of(noisy, [(0.1, 0.0), (100.0, 100.0)])
    assert not grid[1].weight.isfinite().all()
    assert torch.allclose(grid[0].weight, heads_of(noisy, [(0.1, 0.0)])[0].weight, atol=1e-6)


def test_a_head_equals_timms_own_lars(noisy):
    """Weights with a trust ratio, whether they are decayed or not, and a bias without either."""
    for weight_decay in (0.0, 0.01):
        head = heads_of(noisy, [(30.0, weight_decay)], optimizer=Optimizer.lars, rate=steps(2))[0]

        norm, linear = nn.BatchNorm1d(8, eps=1e-6, affine=False), nn.Linear(8, 4)
        start = 0.01 * torch.randn(8, 4, generator=generator_for(0, "linear", "kind", "init"))
        with torch.no_grad():
            linear.weight.copy_(start.T)
            linear.bias.zero_()
        groups = [
            {"params": [linear.weight], "weight_decay": weight_decay, "always_adapt": True},
            {"params": [linear.bias], "weight_decay": 0.0},
        ]
        optimizer = Lars(groups, lr=30.0, momentum=0.9)
        for epoch in range(4):
            order = torch.randperm(200, generator=generator_for(0, "linear", "kind", epoch))
            for group in optimizer.param_groups:
                group["lr"] = 30.0 if epoch < 2 else 3.0
            for index in order.tensor_split(200 // 32):
                optimizer.zero_grad()
                F.cross_entropy(linear(norm(noisy.train[index])), noisy.train_labels["kind"][index]).backward()
                optimizer.step()

        norm.eval()
        assert torch.allclose(head(noisy.test), linear(norm(noisy.test)), rtol=1e-3, atol=1e-4)
        assert not torch.allclose(head.weight[:-1], start, atol=0.02)


def test_a_head_of_a_lars_grid_equals_the_same_head_alone(noisy):
    settings = list(itertools.product([1.0, 10.0, 100.0], [0.0, 0.01]))
    grid = heads_of(noisy, settings, optimizer=Optimizer.lars)
    for setting, head in zip(settings, grid, strict=True):
        alone = heads_of(noisy, [setting], optimizer=Optimizer.lars)[0]
        assert torch.allclose(head.weight, alone.weight, atol=1e-5)
    assert not torch.allclose(grid[0].weight, grid[-1].weight, atol=0.05)


def test_each_epoch_sees_the_next_look_of_the_samples(noisy):
    changed = noisy.train.flip(1)
    other = heads_of(dataclasses.replace(noisy, train=changed), [(0.3, 0.01)])[0]
    assert torch.equal(heads_of(noisy, [(0.3, 0.01)], looks=[changed])[0].weight, other.weight)
    both = heads_of(noisy, [(0.3, 0.01)], looks=[noisy.train, changed], batch_norm=False)[0]
    # Of four epochs the second and the fourth see the features backwards.
    weight = torch.zeros(9, 4)
    weight[:-1] = 0.01 * torch.randn(8, 4, generator=generator_for(0, "linear", "kind", "init"))
    velocity = torch.zeros_like(weight)
    truth = F.one_hot(noisy.train_labels["kind"], 4).float()
    for epoch in range(4):
        features = F.pad([noisy.train, changed][epoch % 2], (0, 1), value=1.0)
        order = torch.randperm(200, generator=generator_for(0, "linear", "kind", epoch))
        for batch, index in enumerate(order.tensor_split(6)):
            x = features[index]
            error = ((x @ weight).softmax(dim=1) - truth[index]) / len(x)
            velocity = 0.9 * velocity + x.T @ error + 0.01 * weight
            weight = weight - 0.3 * cosine(epoch, (6 * epoch + batch) / 24) * velocity
    assert torch.allclose(both.weight, weight, atol=1e-4)


def test_the_step_schedule_divides_by_ten_every_so_many_epochs():
    assert [steps(15)(epoch, 0.0) for epoch in (0, 14, 15, 30, 49)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    assert [cosine(0, progress) for progress in (0.0, 0.5)] == pytest.approx([1, 0.5])
