from __future__ import annotations

import math

import pytest
import torch
from sklearn.decomposition import PCA

from core.evals.frozen.samples import Samples
from core.evals.knn import Knn, knn_scores, whitening
from tests.core.evals.known import clusters


def plain_scores(train, labels, query, num_classes, k, temperature):
    """Scores of one query, neighbour by neighbour."""
    cosines = [torch.dot(query, key).item() / (query.norm() * key.norm()).item() for key in train.double()]
    nearest = sorted(range(len(cosines)), key=lambda index: -cosines[index])[:k]
    scores = [0.0] * num_classes
    for index in nearest:
        scores[labels[index]] += math.exp(cosines[index] / temperature)
    return scores


@pytest.mark.parametrize("k", [1, 20])
def test_votes_equal_a_plain_loop(k):
    features = clusters(spread=0.8, num_train=60, num_test=15)
    labels = features.train_labels["kind"]
    ours = knn_scores(Samples(features.train, labels), features.test, 4, k=k, temperature=0.07)
    plain = [plain_scores(features.train, labels.tolist(), query, 4, k, 0.07) for query in features.test.double()]
    # Votes are compared as shares: ours are all scaled by exp(-1 / temperature).
    expected = torch.tensor(plain)
    assert torch.allclose(ours / ours.sum(1, keepdim=True), expected / expected.sum(1, keepdim=True), atol=1e-5)


def test_queries_beyond_one_chunk_are_answered_in_order():
    features = clusters(spread=0.02, num_test=2500)
    assert Knn().run(features, seed=0) == {"knn/kind_top1": 100.0}


def test_a_tiny_temperature_does_not_overflow():
    features = clusters(spread=0.02)
    train = Samples(features.train, features.train_labels["kind"])
    scores = knn_scores(train, features.test, 4, k=20, temperature=0.005)  # exp(200) is beyond float32
    assert scores.isfinite().all()
    assert torch.equal(scores.argmax(dim=1), features.test_labels["kind"])


def test_more_neighbours_than_train_samples_are_refused():
    with pytest.raises(ValueError, match=r"evals\.knn\.k must be at most .* 'kind', 12, got 20"):
        Knn().run(clusters(spread=0.02, num_train=12), seed=0)


@pytest.mark.parametrize(("option", "bad"), [("k", 0), ("temperature", 0.0)])
def test_options_out_of_range_are_named(option, bad):
    with pytest.raises(ValueError, match=rf"evals\.knn\.{option} must be .*, got {bad}"):
        Knn(**{option: bad})


def test_whitened_features_are_uncorrelated_and_of_variance_1_as_scikit_learns():
    features = clusters(spread=0.8).train.double() @ torch.diag(torch.logspace(0, 2, 8).double())
    ours = whitening(features)(features)
    theirs = torch.from_numpy(PCA(whiten=True).fit_transform(features.numpy()))
    # Components come in another order and sign; cosines between samples are what the neighbours are found by.
    assert torch.allclose(ours @ ours.T, theirs @ theirs.T * 200 / 199, rtol=1e-6, atol=1e-8)


def test_a_feature_that_is_constant_does_not_become_noise():
    features = clusters(spread=0.8).train
    constant = torch.cat([features, torch.full((len(features), 3), 7.0)], dim=1)
    one, other = whitening(features)(features), whitening(constant)(constant)
    assert other.shape == one.shape
    assert torch.allclose(one @ one.T, other @ other.T, atol=1e-4)


def test_whitening_finds_neighbours_that_large_directions_hide():
    features, generator = clusters(spread=0.1), torch.Generator().manual_seed(0)
    features.train, features.test = (
        torch.cat([split, 30 * torch.randn(len(split), 2, generator=generator)], dim=1)
        for split in (features.train, features.test)
    )
    assert Knn().run(features, seed=0)["knn/kind_top1"] < 60
    assert Knn(whiten=True).run(features, seed=0)["knn/kind_top1"] > 90
