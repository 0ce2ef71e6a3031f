"""Distances between a predicted and a true vector, averaged over the target places of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from core.types import Loss


class Distance(Loss):
    """A distance for each place, averaged over the valid ones. `each` is what a variant defines."""

    def __call__(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        prediction, target = prediction.float(), target.float()
        if valid is None:
            return {"loss": self.mean(prediction, target)}
        return {"loss": (self.each(prediction, target) * valid).sum() / valid.sum().clamp_min(1)}

    def mean(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The mean over all places; a variant may know a kernel that makes it in one pass."""
        return self.each(prediction, target).mean()

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        """[B, Nt, D] and [B, Nt, D] -> [B, Nt], both float32."""
        raise NotImplementedError


@dataclass
class MSE(Distance):
    """Squared difference, mean over the features. Source: MAE (arXiv:2111.06377), section 3."""

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().mean(-1)

    def mean(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target)


@dataclass
class L2(Distance):
    """Squared difference, *summed* over the features: D times `mse`.

    Source: I-JEPA (arXiv:2301.08243), section 3, the paper's "average L2 distance", whose formula squares the norm.
    Its released code uses `smooth_l1`. AdamW does not see the factor D; gradient clipping does.
    """

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).square().sum(-1)


@dataclass
class L1(Distance):
    """Absolute difference, mean over the features. Source: V-JEPA (arXiv:2404.08471), equation 1."""

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (prediction - target).abs().mean(-1)

    def mean(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(prediction, target)


@dataclass
class SmoothL1(Distance):
    """Quadratic below `beta`, linear above, mean over the features. Source: released I-JEPA (beta 1)."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"loss.beta must be positive, got {self.beta}: for 0 use loss=l1")

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta).mean(-1)

    def mean(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(prediction, target, beta=self.beta)


@dataclass
class Cosine(Distance):
    """1 - cosine similarity of the two vectors, in [0, 2]."""

    def each(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(prediction, target, dim=-1)
