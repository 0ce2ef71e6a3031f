from __future__ import annotations

import math

import pytest
import torch

from core.evals.knn import Knn, knn_scores
from core.evals.samples import Samples
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
