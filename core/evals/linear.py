"""The linear probe: softmax regression by SGD, a grid of heads trained at once.

All heads see the same batch, so a grid is one matrix product with more columns: twenty heads cost about as much as
one. The head is chosen on train samples held out for that, and only the chosen one meets the test split.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.evals.samples import Samples, hold_out, test_samples, top1, top1_names, train_samples
from core.types import DataSpec, Evaluation, Features, generator_for

MOMENTUM = 0.9


class Head(NamedTuple):
    """One linear head, with the setting that trained it."""

    lr: float
    weight_decay: float
    norm: nn.Module  # of the features, in evaluation mode; one object for all heads of a grid
    weight: Tensor  # [D + 1, K]; the last row is the bias

    def __call__(self, features: Tensor) -> Tensor:
        return _with_one(self.norm(features)) @ self.weight


def train_heads(
    samples: Samples,
    num_classes: int,
    *,
    settings: Sequence[tuple[float, float]],  # (peak learning rate, weight decay) of each head
    epochs: int,
    batch_size: int,
    batch_norm: bool,
    seed: int,
    purpose: str,
) -> list[Head]:
    """One head a setting: SGD with momentum .9 and a learning rate falling to 0 as half a cosine.

    A head depends on its own setting, not on its neighbours in the grid: all start at the same weights and see the
    same batches. `batch_size` is the least size of a batch: an epoch's samples are divided evenly, none is left out.
    """
    num_features = samples.features.shape[1]
    num_heads, num_batches = len(settings), max(1, len(samples.labels) // batch_size)
    # Columns go class by class, head by head: a softmax whose inner dimension is the heads is ten times faster.
    lr, weight_decay = (torch.tensor(column).repeat(num_classes) for column in zip(*settings, strict=True))  # [K * H]
    generator = generator_for(seed, "linear", purpose, "init")
    start = 0.01 * torch.randn(num_features, num_classes, generator=generator)  # std as in MAE's linear probe
    weight = F.pad(start, (0, 0, 0, 1)).repeat_interleave(num_heads, dim=1)  # [D + 1, K * H]
    velocity = torch.zeros_like(weight)
    # No scale and shift: the head has its own. eps as in MAE's linear probe.
    norm = nn.BatchNorm1d(num_features, eps=1e-6, affine=False) if batch_norm else nn.Identity()

    for epoch in range(epochs):
        order = torch.randperm(len(samples.labels), generator=generator_for(seed, "linear", purpose, epoch))
        for batch, index in enumerate(order.tensor_split(num_batches)):
            x = _with_one(norm(samples.features[index]))
            truth = F.one_hot(samples.labels[index], num_classes).float()
            # The gradient of the mean cross-entropy is known: (softmax - one-hot) / B. Autograd would cost more than
            # the arithmetic of a head this small.
            logits = (x @ weight).view(len(x), num_classes, num_heads)
            error = (logits.softmax(dim=1) - truth[:, :, None]).view(len(x), -1) / len(x)
            gradient = torch.addmm(weight_decay * weight, x.T, error)
            velocity.mul_(MOMENTUM).add_(gradient)
            progress = (epoch * num_batches + batch) / (epochs * num_batches)
            weight.addcmul_(velocity, lr * (0.5 * (1 + math.cos(math.pi * progress))), value=-1)

    norm.eval()
    columns = weight.view(num_features + 1, num_classes, num_heads).unbind(dim=2)
    return [Head(*setting, norm, column) for setting, column in zip(settings, columns, strict=True)]


def _with_one(features: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1]: a feature that is always 1 makes the bias a row of the weights."""
    return F.pad(features, (0, 1), value=1.0)


@dataclass
class Linear(Evaluation):
    """Top-1 of the best of a grid of linear heads, best on train samples held out for that.

    The learning rates multiply a mean cross-entropy. Ties go to the head with the lower cross-entropy; a head that
    diverged is never chosen.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), appendix A.2: three learning rates and two weight decays,
    50 epochs, with or without batch norm. Departures: SGD with a cosine instead of LARS with steps and a batch of
    16,384, for data sets of thousands; selection on held-out train samples instead of on the test split.
    """

    lrs: list[float] = field(default_factory=lambda: [0.003, 0.02, 0.1])
    weight_decays: list[float] = field(default_factory=lambda: [0.0, 0.0005])
    batch_norm: bool = True  # of the features, without scale and shift
    heldout: float = 0.1  # fraction of train the head is chosen by
    epochs: int = 50
    batch_size: int = 256
    num_layers: int = 1  # features of the last n blocks, concatenated

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

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names("linear", spec)

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label in features.spec.classes:
            head = self.choose(features, label, seed)
            test = test_samples(features, label, self.num_layers)
            results[f"linear/{label}_top1"] = top1(head(test.features), test.labels)
        return results

    def choose(self, features: Features, label: str, seed: int) -> Head:
        """The head for `label` that is best on held-out train samples; reads the train split only.

        Raises ValueError when every head diverged.
        """
        train = train_samples(features, label, self.num_layers)
        generator = generator_for(seed, "linear", label, "heldout")
        fit, heldout = hold_out(train.labels, self.heldout, generator, key="evals.linear.heldout")
        heads = train_heads(
            Samples(train.features[fit], train.labels[fit]),
            features.spec.classes[label],
            settings=list(itertools.product(self.lrs, self.weight_decays)),
            epochs=self.epochs,
            batch_size=self.batch_size,
            batch_norm=self.batch_norm,
            seed=seed,
            purpose=label,
        )
        unseen, truth = train.features[heldout], train.labels[heldout]
        heads = [head for head in heads if head(unseen).isfinite().all()]
        if not heads:
            raise ValueError(
                f"evals.linear.lrs: every head diverged for label {label!r}, got {self.lrs}; use smaller ones"
            )

        def quality(head: Head) -> tuple[float, float]:
            scores = head(unseen)
            return top1(scores, truth), -F.cross_entropy(scores, truth).item()

        return max(heads, key=quality)
