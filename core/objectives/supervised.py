"""Supervised training from scratch: the comparison that every pretraining table owes its reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.types import DataSpec, EncoderModule, Learner, Objective, Parts, View, generator_for, truncated_normal_


@dataclass
class Supervised(Objective):
    """Cross-entropy of a linear head on average-pooled patch tokens, everything trained."""

    reads_labels: ClassVar[bool] = True

    label: str | None = None  # which label of the data set; null takes its first
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"objective.smoothing must be in [0, 1), got {self.smoothing}")

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        label = self.label or next(iter(spec.classes), None)
        if label not in spec.classes:
            raise ValueError(
                f"objective.label={label}: this data set has the labels {', '.join(spec.classes) or 'none'}"
            )
        encoder = parts.encoder.build(spec, generator_for(seed, "encoder"))
        head = nn.Linear(encoder.width, spec.classes[label], device="meta").to_empty(device=torch.get_default_device())
        truncated_normal_(head.weight, 0.02, generator_for(seed, "head"))
        nn.init.zeros_(head.bias)
        return SupervisedLearner(encoder, head, label, self.smoothing)


class SupervisedLearner(Learner):
    """An encoder and its classifier."""

    def __init__(self, encoder: EncoderModule, head: nn.Linear, label: str, smoothing: float) -> None:
        super().__init__()
        self.encoder, self.head, self.label, self.smoothing = encoder, head, label, smoothing
        self.labels_read = (label,)

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        pooled = self.encoder(clips)[:, self.encoder.num_prefix :].mean(1)
        logits, truth = self.head(pooled).float(), labels[self.label]
        loss = F.cross_entropy(logits, truth, label_smoothing=self.smoothing, ignore_index=-1)
        with torch.no_grad():
            accuracy = (logits.argmax(1) == truth).float().mean() * 100
        return {"loss": loss, "train_top1": accuracy}
