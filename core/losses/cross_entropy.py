"""Cross-entropy of predicted classes, averaged over the target places of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from core.types import Loss


@dataclass
class CrossEntropy(Loss):
    """- log of the probability that the prediction, as logits [B, Nt, K], gives the target class [B, Nt] int64.

    Source: BEiT (Bao et al., 2021, arXiv:2106.08254), equation 3.
    """

    takes_classes: ClassVar[bool] = True

    def __call__(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        prediction = prediction.float()
        if valid is None:
            return {"loss": F.cross_entropy(prediction.flatten(0, 1), target.flatten())}
        each = F.cross_entropy(prediction.transpose(1, 2), target, reduction="none")
        return {"loss": (each * valid).sum() / valid.sum().clamp_min(1)}
