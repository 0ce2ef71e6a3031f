"""The linear probe: softmax regression by SGD, a grid of heads trained at once.

The head is chosen on train samples held out for that, and only the chosen one meets the test split.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

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
from core.evals.grids.linear_grid import Head, scores_of, train_heads
from core.types import DataSpec, Encoder, Features, Pooling, generator_for


@dataclass
class Linear(PooledEvaluation):
    """Top-1 of the best of a grid of linear heads, best on train samples held out for that.

    The learning rates multiply a mean cross-entropy. Ties go to the head with the lower cross-entropy; a head that
    diverged is never chosen.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), appendix A.2: three learning rates and two weight decays,
    50 epochs, with or without batch norm. Departures: SGD with a cosine instead of LARS with steps and a batch of
    16,384, for data sets of thousands; selection on held-out train samples instead of on the test split.
    """

    needs_labels: ClassVar[bool] = True

    lrs: list[float] = field(default_factory=lambda: [0.003, 0.02, 0.1])
    weight_decays: list[float] = field(default_factory=lambda: [0.0, 0.0005])
    batch_norm: bool = True  # of the features, without scale and shift
    heldout: float = 0.1  # fraction of train the head is chosen by
    epochs: int = 50
    batch_size: int = 256
    num_layers: int = 1  # features of the last n blocks, concatenated
    pool: Pooling = Pooling.mean  # features are the means of these parts of a clip, concatenated, or its class token

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"evals.linear.lrs must be one or more numbers above 0, got {self.lrs}")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise ValueError(
                f"evals.linear.weight_decays must be one or more numbers, none below 0, got {self.weight_decays}"
            )
        if not 0 < self.heldout < 1:
            raise ValueError(f"evals.linear.heldout must be in (0, 1), got {self.heldout}")
        if self.batch_size < 2:  # batch norm needs two
            raise ValueError(f"evals.linear.batch_size must be at least 2, got {self.batch_size}")
        for name in ("epochs", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"evals.linear.{name} must be at least 1, got {getattr(self, name)}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.linear.num_layers", self.num_layers, encoder)
        check_pool("evals.linear.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        check_classes(train, test, spec, heldout="evals.linear.heldout")

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names("linear", spec)

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label in features.spec.classes:
            head = self.choose(features, label, seed)
            test = test_samples(features, label, self.num_layers, self.pool).to(head.weight.device)
            results[f"linear/{label}_top1"] = top1(head(test.features), test.labels)
        return results

    def choose(self, features: Features, label: str, seed: int) -> Head:
        """The head for `label` that is best on held-out train samples; reads the train split only.

        Raises ValueError when every head diverged.
        """
        train = train_samples(features, label, self.num_layers, self.pool)
        generator = generator_for(seed, "linear", label, "heldout")
        fit, heldout = hold_out(train.labels, self.heldout, generator, key="evals.linear.heldout")
        given = placed(Samples(train.features[fit], train.labels[fit]), features.device)
        heads = train_heads(
            given,
            features.spec.classes[label],
            settings=list(itertools.product(self.lrs, self.weight_decays)),
            epochs=self.epochs,
            batch_size=self.batch_size,
            batch_norm=self.batch_norm,
            seed=seed,
            purpose=label,
        )
        unseen, truth = Samples(train.features[heldout], train.labels[heldout]).to(given.features.device)
        quality = dict[int, tuple[float, float]]()
        for index, scores in enumerate(scores_of(heads, unseen)):
            if scores.isfinite().all():
                quality[index] = (top1(scores, truth), -F.cross_entropy(scores, truth).item())
        if not quality:
            raise ValueError(
                f"evals.linear.lrs: every head diverged for label {label!r}, got {self.lrs}; use smaller ones"
            )
        return heads[max(quality, key=lambda index: quality[index])]
