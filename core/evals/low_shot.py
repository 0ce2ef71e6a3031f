"""Low-shot: a linear head that is given the labels of a few samples a class.

What the papers' ablation tables report (1 % of ImageNet's labels): it tells representations apart that a head with
every label makes look alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from statistics import mean
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from core.evals.frozen.pooling import PooledEvaluation, check_pool
from core.evals.frozen.samples import (
    Samples,
    check_classes,
    check_layers,
    draw_per_class,
    placed,
    test_samples,
    top1,
    top1_names,
    train_samples,
)
from core.evals.ridge import RidgeHead, Standardiser, fit_ridge, standardiser
from core.types import DataSpec, Encoder, Features, Pooling, generator_for


class HeadKind(Enum):
    ridge = "ridge"
    logistic = "logistic"


class LogisticHead(NamedTuple):
    """Logits of each class from raw features."""

    standardise: Standardiser
    weight: Tensor  # [D, K] float64
    bias: Tensor  # [K]

    def __call__(self, features: Tensor) -> Tensor:
        return self.standardise(features) @ self.weight + self.bias


def fit_logistic(standardise: Standardiser, samples: Samples, num_classes: int, alpha: float) -> LogisticHead:
    """Minimise the summed cross-entropy plus alpha / 2 times the squared weights, by L-BFGS from zero.

    The bias is not penalised. The same objective as scikit-learn's LogisticRegression with C = 1 / alpha.
    """
    x = F.pad(standardise(samples.features), (0, 1), value=1.0)  # [N, D + 1]: the last feature carries the bias
    truth = F.one_hot(samples.labels, num_classes).double()
    penalty = x.new_full((x.shape[1], 1), alpha)
    penalty[-1] = 0
    weight = x.new_zeros(x.shape[1], num_classes)
    solver = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        log_probability = (x @ weight).log_softmax(dim=1)
        weight.grad = x.T @ (log_probability.exp() - truth) + penalty * weight
        return (penalty * weight.square()).sum() / 2 - (truth * log_probability).sum()

    solver.step(closure)  # type: ignore[no-untyped-call]
    return LogisticHead(standardise, weight[:-1], weight[-1])


@dataclass
class LowShot(PooledEvaluation):
    """Top-1 of a head fitted to `share` of each class's labels, mean over `num_draws` draws of them.

    The penalty is given, not chosen: a handful of labels has none to spare for choosing. Features are standardised by
    all train samples, whose labels that does not need.

    Source: the 1 % protocol of I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 9 and appendix C, with a head
    in closed form and several draws, because one draw of a small data set is mostly noise.
    """

    needs_labels: ClassVar[bool] = True

    share: float = 0.01  # fraction of each class's train samples whose label is given
    min_per_class: int = 1
    num_draws: int = 5
    head: HeadKind = HeadKind.ridge
    alpha: float = 100.0  # penalty on squared weights
    num_layers: int = 1  # features of the last n blocks, concatenated
    pool: Pooling = Pooling.mean  # features are the means of these parts of a clip, concatenated, or its class token

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"evals.low_shot.share must be in (0, 1], got {self.share}")
        if self.alpha <= 0:
            raise ValueError(f"evals.low_shot.alpha must be above 0, got {self.alpha}")
        for name in ("min_per_class", "num_draws", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"evals.low_shot.{name} must be at least 1, got {getattr(self, name)}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.low_shot.num_layers", self.num_layers, encoder)
        check_pool("evals.low_shot.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        for label, known in check_classes(train, test, spec).items():
            self._num_drawn(known, label, spec.classes[label])

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names("low_shot", spec)

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label, num_classes in features.spec.classes.items():
            train = train_samples(features, label, self.num_layers, self.pool)
            test = test_samples(features, label, self.num_layers, self.pool)
            num_drawn, labels = self._num_drawn(train.labels, label, num_classes), train.labels
            train = placed(train, features.device)
            test, standardise = test.to(train.features.device), standardiser(train.features)
            draws = []
            for draw in range(self.num_draws):
                given, _ = draw_per_class(labels, num_drawn, generator_for(seed, "low_shot", label, draw))
                few = Samples(train.features[given], train.labels[given])
                draws.append(top1(self._fit(standardise, few, num_classes)(test.features), test.labels))
            results[f"low_shot/{label}_top1"] = mean(draws)
        return results

    def _num_drawn(self, labels: Tensor, label: str, num_classes: int) -> Tensor:
        counts = labels.bincount(minlength=num_classes)
        small = ((counts > 0) & (counts < self.min_per_class)).nonzero().flatten().tolist()
        if small:
            raise ValueError(
                f"evals.low_shot.min_per_class must be at most the train samples of every class, got "
                f"{self.min_per_class}; label {label!r} has fewer in classes {small}"
            )
        return (counts * self.share).round().long().clamp(min=self.min_per_class)

    def _fit(self, standardise: Standardiser, few: Samples, num_classes: int) -> RidgeHead | LogisticHead:
        if self.head is HeadKind.ridge:
            return fit_ridge(standardise, few, num_classes, [self.alpha])[0]
        return fit_logistic(standardise, few, num_classes, self.alpha)
