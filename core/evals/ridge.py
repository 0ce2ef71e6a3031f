"""Ridge regression onto the classes: the cheapest linear probe, in closed form.

No learning rate, no epochs, no order of samples: two runs differ by their features only, which is what a small
ablation wants to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from core.evals.frozen.pooling import PooledEvaluation, check_pool
from core.evals.frozen.samples import (
    Samples,
    check_classes,
    check_layers,
    hold_out,
    placed,
    test_samples,
    top1,
    top1_names,
    train_samples,
)
from core.types import DataSpec, Encoder, Features, Pooling, generator_for, refuse_others, takes


class Standardiser(NamedTuple):
    """Each feature minus its mean, over its std; both [D] float64."""

    mean: Tensor
    std: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return (features.double() - self.mean) / self.std


class RidgeHead(NamedTuple):
    """Scores of each class from raw features."""

    standardise: Standardiser
    weight: Tensor  # [D, K] float64
    bias: Tensor  # [K]

    def __call__(self, features: Tensor) -> Tensor:
        return self.standardise(features) @ self.weight + self.bias


def standardiser(features: Tensor) -> Standardiser:
    """Mean and (biased) std of [N, D]; a constant feature is only centred."""
    variance, mean = torch.var_mean(features.double(), dim=0, correction=0)
    std = variance.sqrt()
    # Rounding leaves a constant feature with a std of about 1e-17, and dividing by that would make noise of it.
    is_constant = std <= 1e-12 * mean.abs()
    return Standardiser(mean, std.masked_fill(is_constant, 1.0))


def fit_ridge(
    standardise: Standardiser, samples: Samples, num_classes: int, alphas: Sequence[float]
) -> list[RidgeHead]:
    """One head an alpha: least squares onto +1 for the class and -1 for the rest, plus alpha times the squared weights.

    The bias is not penalised. The same objective as scikit-learn's RidgeClassifier, whose alpha this is.
    """
    x = standardise(samples.features)
    y = 2.0 * torch.nn.functional.one_hot(samples.labels, num_classes).double() - 1
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)  # x_mean is not 0 where the statistics are of other samples
    x, y = x - x_mean, y - y_mean
    # (X'X + aI)^-1 X'Y = X'(XX' + aI)^-1 Y: the smaller of the two systems is solved.
    is_tall = x.shape[0] >= x.shape[1]
    gram, right = (x.T @ x, x.T @ y) if is_tall else (x @ x.T, y)
    heads = []
    for alpha in alphas:
        factor = torch.linalg.cholesky(gram + alpha * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        solution = torch.cholesky_solve(right, factor)
        weight = solution if is_tall else x.T @ solution
        heads.append(RidgeHead(standardise, weight, y_mean - x_mean @ weight))
    return heads


@dataclass
class Ridge(PooledEvaluation):
    """Top-1 of a ridge classifier on standardised features.

    The penalty is the one of `alphas` that is most often right on train samples held out for that (ties: the smaller
    squared error); the head is then refitted on all of train. Needs under a second for 5,000 x 192 features.

    Source: ours; the protocol of `linear` without its noise.
    """

    needs_labels: ClassVar[bool] = True

    alphas: list[float] = field(default_factory=lambda: [1.0, 10.0, 100.0, 1000.0, 10000.0])
    heldout: float = 0.2  # fraction of train the penalty is chosen by
    num_layers: int = 1  # features of the last n blocks, concatenated
    pool: Pooling = Pooling.mean  # features are the means of these parts of a clip, concatenated, or its class token

    name: ClassVar[str] = "ridge"  # of its metrics, and in keys

    def __post_init__(self) -> None:
        if not self.alphas or min(self.alphas) <= 0:
            raise ValueError(f"evals.{self.name}.alphas must be one or more numbers above 0, got {self.alphas}")
        if not 0 < self.heldout < 1:
            raise ValueError(f"evals.{self.name}.heldout must be in (0, 1), got {self.heldout}")
        if self.num_layers < 1:
            raise ValueError(f"evals.{self.name}.num_layers must be at least 1, got {self.num_layers}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers(f"evals.{self.name}.num_layers", self.num_layers, encoder)
        check_pool(f"evals.{self.name}.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        check_classes(train, test, spec, heldout=f"evals.{self.name}.heldout")

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names(self.name, spec)

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label in features.spec.classes:
            head = self.fit(features, label, seed)
            test = test_samples(features, label, self.num_layers, self.pool).to(head.weight.device)
            results[f"{self.name}/{label}_top1"] = top1(head(test.features), test.labels)
        return results

    def fit(self, features: Features, label: str, seed: int) -> RidgeHead:
        """The head for `label`; reads the train split only."""
        train, num_classes = train_samples(features, label, self.num_layers, self.pool), features.spec.classes[label]
        alpha = self._choose(train, num_classes, label, seed, features.device)
        train = placed(train, features.device)
        return fit_ridge(standardiser(train.features), train, num_classes, [alpha])[0]

    def _choose(self, train: Samples, num_classes: int, label: str, seed: int, device: torch.device) -> float:
        if len(self.alphas) == 1:
            return self.alphas[0]
        generator = generator_for(seed, "ridge", label)
        fit, heldout = hold_out(train.labels, self.heldout, generator, key=f"evals.{self.name}.heldout")
        part = placed(Samples(train.features[fit], train.labels[fit]), device)
        heads = fit_ridge(standardiser(part.features), part, num_classes, self.alphas)
        unseen, truth = Samples(train.features[heldout], train.labels[heldout]).to(part.features.device)
        signs = 2.0 * torch.nn.functional.one_hot(truth, num_classes) - 1

        def quality(index: int) -> tuple[float, float]:
            scores = heads[index](unseen)
            return top1(scores, truth), -(scores - signs).square().mean().item()

        return self.alphas[max(range(len(heads)), key=quality)]


@dataclass
class Quadrants(Ridge):
    """`ridge` on the means of the four quarters of the frame: what the average of all tokens loses, it keeps.

    A class that a small or moving thing decides is a matter of a few tokens, and of where they are. An evaluation of
    its own, so that a table can have it beside `ridge`; both read one encoding. `pool=octants` tells the halves of time
    apart as well.

    Source: ours.
    """

    alphas: list[float] = field(default_factory=lambda: [0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0])
    pool: Pooling = field(default=Pooling.quadrants, metadata=takes(Pooling.quadrants, Pooling.octants))

    name: ClassVar[str] = "quadrants"

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_others(self, "evals.quadrants")
