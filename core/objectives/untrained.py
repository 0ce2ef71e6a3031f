"""No objective: the encoder as it was drawn or loaded, to be judged and never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from core.types import DataSpec, EncoderModule, Learner, Objective, Parts, View, generator_for


@dataclass
class Untrained(Objective):
    """An encoder alone, for runs of no steps: what the random initialisation of every method comes to."""

    learns: ClassVar[bool] = False

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        return UntrainedLearner(parts.encoder.build(spec, generator_for(seed, "encoder")))


class UntrainedLearner(Learner):
    """An encoder."""

    def __init__(self, encoder: EncoderModule) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        raise RuntimeError("objective=untrained has no loss; core.configuring.fitting lets it take no step")
