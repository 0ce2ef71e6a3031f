from __future__ import annotations

import dataclasses

import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

from core.evals.frozen.samples import Samples
from core.evals.ridge import Ridge, fit_ridge, standardiser
from tests.core.evals.known import clusters


@pytest.mark.parametrize("alpha", [0.1, 10.0, 1000.0])
@pytest.mark.parametrize("num_train", [200, 12])  # 12 samples of 20 features: the other of the two systems
def test_scores_equal_scikit_learns_ridge_classifier(alpha, num_train):
    features = clusters(spread=0.8, num_train=num_train, dim=20)
    samples = Samples(features.train, features.train_labels["kind"])
    ours = fit_ridge(standardiser(samples.features), samples, 4, [alpha])[0](features.test)

    scaler = StandardScaler().fit(features.train.double().numpy())
    theirs = RidgeClassifier(alpha=alpha).fit(scaler.transform(features.train.double().numpy()), samples.labels.numpy())
    scores = theirs.decision_function(scaler.transform(features.test.double().numpy()))
    assert torch.allclose(ours, torch.from_numpy(scores), atol=1e-6)


def test_statistics_of_other_samples_leave_the_bias_unpenalised():
    features = clusters(spread=0.8)
    few = Samples(features.train[:15], features.train_labels["kind"][:15])
    standardise = standardiser(features.train)
    ours = fit_ridge(standardise, few, 4, [5.0])[0](features.test)
    theirs = RidgeClassifier(alpha=5.0).fit(standardise(few.features).numpy(), few.labels.numpy())
    assert torch.allclose(
        ours, torch.from_numpy(theirs.decision_function(standardise(features.test).numpy())), atol=1e-6
    )


def test_top1_equals_scikit_learns_at_the_same_alpha():
    features = clusters(spread=0.8)
    scaler = StandardScaler().fit(features.train.double().numpy())
    theirs = RidgeClassifier(alpha=10.0).fit(scaler.transform(features.train.double()), features.train_labels["kind"])
    expected = 100 * theirs.score(scaler.transform(features.test.double()), features.test_labels["kind"])
    assert Ridge(alphas=[10.0]).run(features, seed=0)["ridge/kind_top1"] == pytest.approx(expected)
    assert 30 < expected < 90


def test_a_grid_of_alphas_gives_each_the_head_it_has_alone():
    features = clusters(spread=0.8)
    samples = Samples(features.train, features.train_labels["kind"])
    standardise = standardiser(samples.features)
    for alpha, head in zip([1.0, 50.0], fit_ridge(standardise, samples, 4, [1.0, 50.0]), strict=True):
        assert torch.equal(head.weight, fit_ridge(standardise, samples, 4, [alpha])[0].weight)


def test_the_penalty_that_generalises_is_chosen_and_refitted_on_all_of_train():
    # 60 features, 2 informative, 80 samples: almost no penalty memorises the train split.
    features = clusters(spread=0.35, num_train=80, dim=60)
    chosen = Ridge(alphas=[1e-6, 300.0]).fit(features, "kind", seed=0)
    alone = Ridge(alphas=[300.0]).fit(features, "kind", seed=0)
    assert torch.equal(chosen.weight, alone.weight)


def test_poisoned_test_labels_do_not_move_the_head():
    features = clusters(spread=0.8)
    poisoned = dataclasses.replace(features, test_labels={"kind": 3 - features.test_labels["kind"]})
    evaluation = Ridge(alphas=[0.1, 10.0, 1000.0])
    assert torch.equal(evaluation.fit(features, "kind", 0).weight, evaluation.fit(poisoned, "kind", 0).weight)
    assert evaluation.run(poisoned, 0) != evaluation.run(features, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphas": []}, r"evals\.ridge\.alphas must be one or more numbers above 0, got \[\]"),
        ({"alphas": [1.0, 0.0]}, r"evals\.ridge\.alphas .* got \[1\.0, 0\.0\]"),
        ({"heldout": 1.0}, r"evals\.ridge\.heldout must be in \(0, 1\), got 1\.0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Ridge(**options)
