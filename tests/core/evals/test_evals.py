"""What every evaluation promises, entry by entry of EVALS."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.evals import EVALS
from core.types import Optimizer, Tuning, generator_for
from tests.core.evals.known import clusters, known

# One that trains the encoder is given no features: see test_finetune.py.
# vos follows videos and says how long that takes: see test_vos.py.
FROZEN = [name for name, variant in EVALS.items() if not issubclass(variant, Tuning) and name != "vos"]
LAYERED = sorted(set(FROZEN) - {"flow", "seg"})
CLASSIFIERS = sorted(set(LAYERED) - {"collapse", "detect"})
# Short, and for low_shot five labels a class instead of one.
OPTIONS = {
    "linear": {"epochs": 5},
    "low_shot": {"share": 0.1},
    "vissl": {"optimizer": Optimizer.sgd, "lrs": [1.0], "epochs": 5, "batch_size": 32},
    "detect": {"epochs": 4, "warmup_epochs": 1},
    "seg": {"epochs": 2},
    "attentive": {"epochs": 10, "heads": 1, "lrs": [0.03], "batch_size": 32},
}


def quick(name):
    return EVALS[name](**OPTIONS.get(name, {}))


@pytest.fixture
def separable():
    return clusters(spread=0.02)


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


@pytest.mark.parametrize("name", FROZEN)
def test_the_names_are_known_before_the_run(name, noisy):
    assert list(quick(name).run(noisy, seed=0)) == quick(name).metrics(noisy.spec)


@pytest.mark.parametrize("name", FROZEN)
def test_the_same_seed_gives_the_same_numbers(name, noisy):
    assert quick(name).run(noisy, seed=3) == quick(name).run(noisy, seed=3)


@pytest.mark.parametrize("name", FROZEN)
def test_the_global_rng_is_neither_read_nor_moved(name, noisy):
    before = torch.get_rng_state()
    first = quick(name).run(noisy, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    try:
        torch.manual_seed(12345)
        assert quick(name).run(noisy, seed=0) == first
    finally:
        torch.set_rng_state(before)


@pytest.mark.parametrize("name", FROZEN)
def test_features_are_left_as_they_were(name, noisy):
    train, test = noisy.train.clone(), noisy.test.clone()
    quick(name).run(noisy, seed=0)
    assert torch.equal(noisy.train, train) and torch.equal(noisy.test, test)


@pytest.mark.parametrize("name", FROZEN)
def test_it_runs_under_inference_mode_with_equal_numbers(name, noisy):
    with torch.inference_mode():
        inside = quick(name).run(noisy, seed=0)
    assert inside == quick(name).run(noisy, seed=0)


@pytest.mark.parametrize("name", LAYERED)
def test_zero_layers_are_refused(name):
    option, value = ("layers", [0]) if name == "vissl" else ("num_layers", 0)
    with pytest.raises(ValueError, match=rf"evals\.{name}\.{option} must be .*at least 1, got"):
        EVALS[name](**{option: value})


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_separable_features_give_100_percent(name, separable):
    assert quick(name).run(separable, seed=0) == {f"{name}/kind_top1": 100.0}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_shuffled_train_labels_give_chance(name):
    separable = clusters(spread=0.02, num_train=400, num_test=800)
    order = torch.randperm(400, generator=generator_for(0, "shuffle"))
    shuffled = dataclasses.replace(separable, train_labels={"kind": separable.train_labels["kind"][order]})
    # A head answers each of the four clouds as a whole, so one seed lands on a multiple of 25 %: the mean is chance.
    results = [quick(name).run(_reshuffled(shuffled, seed), seed=seed)[f"{name}/kind_top1"] for seed in range(20)]
    assert 10 < sum(results) / len(results) < 40


def _reshuffled(features, seed):
    labels = features.train_labels["kind"]
    return dataclasses.replace(
        features, train_labels={"kind": labels[torch.randperm(len(labels), generator=generator_for(seed, "again"))]}
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_unlabelled_samples_are_ignored(name, noisy):
    junk = torch.full((30, 8), 99.0)
    unlabelled = torch.full((30,), -1)
    with_junk = known(
        torch.cat([noisy.train, junk]),
        {"kind": torch.cat([noisy.train_labels["kind"], unlabelled])},
        torch.cat([junk, noisy.test]),
        {"kind": torch.cat([unlabelled, noisy.test_labels["kind"]])},
        kind=4,
    )
    assert quick(name).run(with_junk, seed=0) == quick(name).run(noisy, seed=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_label_is_judged_by_itself(name, separable):
    unrelated = {split: torch.arange(size) // 50 % 2 for split, size in (("train", 200), ("test", 120))}
    both = known(
        separable.train,
        {"kind": separable.train_labels["kind"], "half": unrelated["train"]},
        separable.test,
        {"kind": separable.test_labels["kind"], "half": unrelated["test"]},
        kind=4,
        half=2,
    )
    results = quick(name).run(both, seed=0)
    assert results[f"{name}/kind_top1"] == 100.0
    assert results[f"{name}/half_top1"] < 80


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_class_without_train_samples_is_named(name, separable):
    separable.spec.classes["kind"] = 6
    with pytest.raises(ValueError, match=r"label 'kind': classes \[4, 5\] of 6 have no train sample"):
        quick(name).run(separable, seed=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_constant_label_is_always_right(name, separable):
    constant = dataclasses.replace(
        separable, train_labels={"kind": torch.full((200,), 2)}, test_labels={"kind": torch.full((120,), 2)}
    )
    assert quick(name).run(constant, seed=0) == {f"{name}/kind_top1": 100.0}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_test_class_that_a_constant_train_label_lacks_is_named(name, separable):
    constant = dataclasses.replace(separable, train_labels={"kind": torch.full((200,), 2)})
    with pytest.raises(ValueError, match=r"label 'kind': classes \[0, 1, 3\] of the test split have no train sample"):
        quick(name).run(constant, seed=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_test_split_without_the_label_is_refused(name, separable):
    empty = dataclasses.replace(separable, test_labels={"kind": torch.full((120,), -1)})
    with pytest.raises(ValueError, match="label 'kind': no test sample has it"):
        quick(name).run(empty, seed=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("bad", [4, -2])
def test_a_label_outside_its_range_is_named(name, bad, separable):
    separable.train_labels["kind"][5] = bad
    with pytest.raises(ValueError, match=rf"label 'kind': train values must be in 0 \.\. 3.*got \[{bad}\]"):
        quick(name).run(separable, seed=0)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_constant_feature_does_no_harm(name, separable):
    padded = dataclasses.replace(
        separable,
        train=torch.cat([separable.train, torch.full((200, 1), 0.1)], dim=1),
        test=torch.cat([separable.test, torch.full((120, 1), 0.1)], dim=1),
    )
    assert quick(name).run(padded, seed=0) == {f"{name}/kind_top1": 100.0}
