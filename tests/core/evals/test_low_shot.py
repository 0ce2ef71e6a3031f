from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from core.evals.frozen.samples import Samples, draw_per_class, top1
from core.evals.low_shot import HeadKind, LowShot, fit_logistic
from core.evals.ridge import Ridge, fit_ridge, standardiser
from core.types import generator_for
from tests.core.evals.known import clusters


@pytest.fixture
def noisy():
    return clusters(spread=0.8)


def test_logistic_scores_equal_scikit_learns(noisy):
    samples = Samples(noisy.train, noisy.train_labels["kind"])
    standardise = standardiser(samples.features)
    ours = fit_logistic(standardise, samples, 4, alpha=2.0)(noisy.test).softmax(dim=1)
    theirs = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000)
    theirs.fit(standardise(noisy.train).numpy(), samples.labels.numpy())
    expected = torch.from_numpy(theirs.predict_proba(standardise(noisy.test).numpy()))
    assert torch.allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize("head", HeadKind)
def test_separable_features_need_one_label_a_class(head):
    separable = clusters(spread=0.02, dim=4)  # no feature of noise alone, which standardising would blow up
    assert LowShot(share=0.001, head=head).run(separable, seed=0) == {"low_shot/kind_top1": 100.0}


def test_every_label_given_equals_ridge(noisy):
    few = LowShot(share=1.0, num_draws=2, alpha=10.0).run(noisy, seed=0)["low_shot/kind_top1"]
    assert few == pytest.approx(Ridge(alphas=[10.0]).run(noisy, seed=0)["ridge/kind_top1"])


def test_the_head_is_fitted_to_the_drawn_samples_alone(noisy):
    labels = noisy.train_labels["kind"]
    given, _ = draw_per_class(labels, torch.full((4,), 5), generator_for(0, "low_shot", "kind", 0))
    few = Samples(noisy.train[given], labels[given])
    head = fit_ridge(standardiser(noisy.train), few, 4, [3.0])[0]
    expected = top1(head(noisy.test), noisy.test_labels["kind"])
    assert LowShot(share=0.1, num_draws=1, alpha=3.0).run(noisy, seed=0)["low_shot/kind_top1"] == expected


def test_more_labels_help(noisy):
    one, many = (LowShot(share=share, num_draws=10).run(noisy, seed=0)["low_shot/kind_top1"] for share in (0.02, 1.0))
    assert many > one + 5


def test_the_result_is_the_mean_over_draws_that_differ(noisy):
    single = {seed: LowShot(share=0.02, num_draws=1).run(noisy, seed)["low_shot/kind_top1"] for seed in range(8)}
    assert len(set(single.values())) > 2
    averaged = [LowShot(share=0.02, num_draws=16).run(noisy, seed)["low_shot/kind_top1"] for seed in range(8)]
    assert torch.tensor(averaged).std() < torch.tensor(list(single.values())).std()


def test_share_and_minimum_are_counted_class_by_class(noisy):
    labels = torch.cat([torch.zeros(150), torch.ones(40), torch.full((10,), 2)]).long()
    assert LowShot(share=0.1, min_per_class=2)._num_drawn(labels, "kind", 3).tolist() == [15, 4, 2]


def test_a_class_smaller_than_the_minimum_is_named(noisy):
    with pytest.raises(ValueError, match=r"evals\.low_shot\.min_per_class .* got 51; label 'kind' .* \[0, 1, 2, 3\]"):
        LowShot(min_per_class=51).run(noisy, seed=0)


@pytest.mark.parametrize(
    ("option", "bad"), [("share", 0.0), ("share", 1.5), ("alpha", 0.0), ("min_per_class", 0), ("num_draws", 0)]
)
def test_options_out_of_range_are_named(option, bad):
    with pytest.raises(ValueError, match=rf"evals\.low_shot\.{option} must be .*, got {bad}"):
        LowShot(**{option: bad})
