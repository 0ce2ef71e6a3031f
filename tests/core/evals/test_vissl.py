from __future__ import annotations

import dataclasses

import pytest
import torch

from core.configuring.config import load
from core.evals.vissl import Choice, Vissl
from core.types import Optimizer, Pooling, generator_for
from tests.core.evals.known import TensorFeatures, clusters, known

QUICK = {"optimizer": Optimizer.sgd, "lrs": [1.0, 1e-6], "weight_decays": [0.0], "epochs": 10, "batch_size": 32}


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


class Layered(TensorFeatures):
    """Only the concatenation of four layers knows the class; the last one is noise."""

    def pooled(self, split, num_layers=1, pool=Pooling.mean):
        values = super().pooled(split)
        return values if num_layers == 4 else torch.randn(values.shape, generator=generator_for(3, split))


def layered(noisy):
    return Layered(noisy.spec, noisy.train, noisy.test, noisy.train_labels, noisy.test_labels)


def test_the_representation_that_knows_the_class_is_chosen(noisy):
    assert Vissl(**QUICK).choose(layered(noisy), "kind", seed=0).num_layers == 4
    assert Vissl(**QUICK).run(layered(noisy), seed=0)["vissl/kind_top1"] > 50


def test_the_better_of_linear_and_batch_norm_is_chosen(noisy):
    # A thousand times larger: without batch norm every step overshoots.
    large = dataclasses.replace(noisy, train=1000 * noisy.train, test=1000 * noisy.test)
    assert Vissl(**QUICK).choose(large, "kind", seed=0).batch_norm is True
    assert Vissl(**{**QUICK, "batch_norm": [False]}).choose(large, "kind", seed=0).batch_norm is False


def test_the_chosen_head_is_fitted_again_on_every_given_sample(noisy):
    """A class whose samples are all held out but one would be lost otherwise; here: the grid of one is its choice."""
    one = Vissl(**{**QUICK, "layers": [1], "batch_norm": [True], "lrs": [1.0], "heldout": 0.5})
    other = Vissl(**{**QUICK, "layers": [1], "batch_norm": [True], "lrs": [1.0], "heldout": 0.1})
    assert one.run(noisy, seed=0) == other.run(noisy, seed=0)


def test_selection_never_sees_the_test_labels(noisy):
    """The test labels are set to the answers of a head that held-out samples do not choose: it must not win."""
    evaluation = Vissl(**QUICK, best_on_test=True)
    chosen = evaluation.choose(noisy, "kind", seed=0)
    bad = next(
        head
        for choices, grid in evaluation._grids(noisy, "kind", torch.arange(200), 0, None)
        for choice, head in zip(choices, grid, strict=True)
        if choice == Choice(1, False, 1e-6, 0.0)
    )
    poisoned = dataclasses.replace(noisy, test_labels={"kind": bad(noisy.test).argmax(dim=1)})

    assert chosen.lr == 1.0
    assert evaluation.choose(poisoned, "kind", seed=0) == chosen
    results = evaluation.run(poisoned, seed=0)
    assert results["vissl/kind_top1"] < 90
    assert results["vissl/kind_top1_best_on_test"] == 100  # the published convention does see them


def test_the_published_convention_changes_nothing_of_the_honest_number(noisy):
    honest, both = Vissl(**QUICK).run(noisy, seed=0), Vissl(**QUICK, best_on_test=True).run(noisy, seed=0)
    assert honest["vissl/kind_top1"] == both["vissl/kind_top1"]
    assert both["vissl/kind_top1_best_on_test"] >= both["vissl/kind_top1"]


def test_shares_and_shots_are_metrics_of_their_own(noisy):
    evaluation = Vissl(**QUICK, shares=[1.0, 0.1, 0.025], shots=[5], num_draws=2)
    names = ["vissl/kind_top1", "vissl/kind_10pct_top1", "vissl/kind_2.5pct_top1", "vissl/kind_5shot_top1"]
    assert evaluation.metrics(noisy.spec) == names
    assert [len(evaluation._given(noisy, "kind", amount, 0, 0)) for amount in evaluation.amounts] == [200, 20, 4, 20]


def test_a_low_shot_head_is_trained_on_the_given_samples_alone(noisy):
    """Whatever the labels of the other samples are."""
    evaluation = Vissl(**QUICK, shares=[], shots=[5], num_draws=1)
    given = evaluation._given(noisy, "kind", evaluation.amounts[0], 0, 0)
    rest = torch.ones(200, dtype=torch.bool).index_fill(0, given, False)
    order = given.sort().values
    few = known(noisy.train[order], {"kind": noisy.train_labels["kind"][order]}, noisy.test, noisy.test_labels, kind=4)
    every = Vissl(**{**QUICK, "lrs": [1.0], "layers": [1], "batch_norm": [False]}, shares=[], shots=[5])
    spoilt = dataclasses.replace(noisy, train=noisy.train.masked_fill(rest[:, None], 1e6))
    assert every.run(spoilt, seed=0) == every.run(noisy, seed=0)
    assert len(few.train) == 20


def test_heads_are_trained_on_looks_and_chosen_by_pictures_as_they_are(noisy):
    one = Vissl(**{**QUICK, "layers": [1], "batch_norm": [False]})
    # The first look of these features is the features themselves, the second is one more in each.
    assert dataclasses.replace(one, looks=1).run(noisy, seed=0) == one.run(noisy, seed=0)
    given = torch.arange(0, 200, 3)
    looks = dataclasses.replace(one, looks=2)._looks(noisy, "kind", 1, given)
    assert torch.equal(looks[0], noisy.train[given]) and torch.equal(looks[1], noisy.train[given] + 1)


def test_fewer_layers_of_a_look_are_the_last_ones(noisy):
    looks = Vissl(**QUICK, looks=1)
    assert [looks._looks(noisy, "kind", n, torch.arange(5))[0].shape for n in (1, 4)] == [(5, 8), (5, 32)]


def test_more_labels_help(noisy):
    results = Vissl(**QUICK, shares=[1.0], shots=[2], num_draws=5).run(noisy, seed=0)
    assert results["vissl/kind_top1"] > results["vissl/kind_2shot_top1"] + 5


def test_few_samples_are_gone_over_until_the_least_number_of_steps():
    separable = clusters(spread=0.02, num_train=8)
    evaluation = Vissl(**{**QUICK, "epochs": 1, "lrs": [0.3], "batch_norm": [False], "layers": [1], "heldout": 0.5})
    longer = dataclasses.replace(evaluation, min_steps=300)
    assert evaluation.run(separable, 0)["vissl/kind_top1"] < 100 == longer.run(separable, 0)["vissl/kind_top1"]


def test_a_diverged_head_is_never_chosen(noisy):
    # Weights are multiplied by 1 - lr x 36 / 256 x weight decay a step: about -1e9 or -.4.
    evaluation = Vissl(**{**QUICK, "lrs": [1e6, 0.001], "weight_decays": [1e4]})
    assert evaluation.choose(noisy, "kind", seed=0).lr == 0.001


def test_a_grid_that_all_diverged_is_an_error(noisy):
    with pytest.raises(ValueError, match=r"evals\.vissl\.lrs: every head diverged for label 'kind'"):
        Vissl(**{**QUICK, "lrs": [1e6], "weight_decays": [1e4]}).run(noisy, seed=0)


def test_one_label_a_class_leaves_nothing_to_choose_by(noisy):
    with pytest.raises(ValueError, match=r"evals\.vissl\.heldout: nothing can be held out"):
        Vissl(**QUICK, shares=[], shots=[1]).run(noisy, seed=0)


def test_more_shots_than_samples_are_refused(noisy):
    with pytest.raises(
        ValueError, match=r"evals\.vissl\.shots must be at most .* got 51; label 'kind' .*\[0, 1, 2, 3\]"
    ):
        Vissl(**QUICK, shots=[51]).run(noisy, seed=0)


def test_a_layer_that_the_encoder_lacks_is_refused_before_training():
    with pytest.raises(ValueError, match=r"evals\.vissl\.layers must be at most the encoder's 2 layers .*, got 4"):
        load(["scale=smoke", "evals=[vissl]", "evals.vissl.layers=[1,4]"])
    with pytest.raises(ValueError, match=r"evals\.ridge\.num_layers must be at most the encoder's 2 layers"):
        load(["scale=smoke", "evals=[ridge]", "evals.ridge.num_layers=3"])


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("layers", []),
        ("layers", [1, 1]),
        ("batch_norm", []),
        ("lrs", []),
        ("lrs", [0.1, -1.0]),
        ("weight_decays", [-0.1]),
        ("heldout", 1.0),
        ("shares", [0.0]),
        ("shares", []),
        ("shots", [0]),
        ("batch_size", 1),
        ("epochs", 0),
        ("decay_every", 0),
        ("num_draws", 0),
        ("min_steps", -1),
        ("looks", -1),
        ("crop_min", 0.0),
    ],
)
def test_options_out_of_range_are_named(option, bad):
    with pytest.raises(ValueError, match=rf"evals\.vissl\.{option} must be .*, got "):
        Vissl(**{option: bad})
