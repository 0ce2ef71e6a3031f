from __future__ import annotations

import dataclasses

import pytest
import torch

from core.evals.frozen.samples import top1
from core.evals.linear import Linear
from tests.core.evals.known import clusters


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


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
