"""Weighted nearest neighbours: what the features' geometry says without training anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.evals.frozen.pooling import PooledEvaluation, check_pool
from core.evals.frozen.samples import (
    Samples,
    check_classes,
    check_layers,
    placed,
    test_samples,
    top1,
    top1_names,
    train_samples,
)
from core.types import DataSpec, Encoder, Features, Pooling

SMALLEST = 1e-6  # share of the largest component's variance: a float32 or bfloat16 encoder's rounding is below


def knn_scores(train: Samples, queries: Tensor, num_classes: int, *, k: int, temperature: float) -> Tensor:
    """Votes [N, K] of the `k` train samples nearest to each query [N, D] by cosine, each exp(cosine / temperature)."""
    keys = F.normalize(train.features, dim=1)
    # Shifted by the largest possible cosine, which scales all votes alike: exp(1 / .01) would overflow float32.
    parts = []
    for part in torch.split(F.normalize(queries, dim=1), 1024):  # bounds the memory of the similarities
        cosine, index = (part @ keys.T).topk(k, dim=1)  # [n, k]
        votes = part.new_zeros(len(part), num_classes)
        parts.append(votes.scatter_add_(1, train.labels[index], ((cosine - 1) / temperature).exp()))
    return torch.cat(parts)


class Whitening(NamedTuple):
    """Features with their mean taken away, in directions that are uncorrelated and of variance 1."""

    mean: Tensor  # [D] float64
    directions: Tensor  # [D, K]

    def __call__(self, features: Tensor) -> Tensor:
        return ((features.double() - self.mean) @ self.directions).to(features.dtype)


def whitening(features: Tensor) -> Whitening:
    """By the principal components of [N, D], but for those with next to none of the variance: they are rounding."""
    centred = features.double()
    mean = centred.mean(dim=0)
    centred = centred - mean
    variance, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    is_there = variance > SMALLEST * variance[-1].clamp(min=torch.finfo(torch.float64).tiny)
    return Whitening(mean, directions[:, is_there] / variance[is_there].sqrt())


@dataclass
class Knn(PooledEvaluation):
    """Top-1 of the `k` nearest train samples by cosine, weighted by exp(cosine / temperature).

    Source: Wu et al., 2018 (arXiv:1805.01978), section 3.4; k = 20 and temperature .07 as in DINO (Caron et al., 2021,
    arXiv:2104.14294).
    """

    needs_labels: ClassVar[bool] = True

    k: int = 20
    temperature: float = 0.07
    num_layers: int = 1  # features of the last n blocks, concatenated
    whiten: bool = False  # decorrelate the features first, by the train split: a cosine follows the few largest else
    pool: Pooling = Pooling.mean  # features are the means of these parts of a clip, concatenated, or its class token

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"evals.knn.k must be at least 1, got {self.k}")
        if self.temperature <= 0:
            raise ValueError(f"evals.knn.temperature must be above 0, got {self.temperature}")
        if self.num_layers < 1:
            raise ValueError(f"evals.knn.num_layers must be at least 1, got {self.num_layers}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.knn.num_layers", self.num_layers, encoder)
        check_pool("evals.knn.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        for label, known in check_classes(train, test, spec).items():
            self._check_k(len(known), label)

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names("knn", spec)

    def _check_k(self, num_train: int, label: str) -> None:
        if self.k > num_train:
            raise ValueError(
                f"evals.knn.k must be at most the number of train samples with label {label!r}, {num_train}, got "
                f"{self.k}"
            )

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label, num_classes in features.spec.classes.items():
            train = train_samples(features, label, self.num_layers, self.pool)
            self._check_k(len(train.labels), label)
            test = test_samples(features, label, self.num_layers, self.pool)
            train = placed(train, features.device)
            test = test.to(train.features.device)
            if self.whiten:
                change = whitening(train.features)
                train, test = (part._replace(features=change(part.features)) for part in (train, test))
            scores = knn_scores(train, test.features, num_classes, k=self.k, temperature=self.temperature)
            results[f"knn/{label}_top1"] = top1(scores, test.labels)
        return results
