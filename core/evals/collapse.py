"""Has the encoder collapsed? Two numbers about the features that need no label.

A loss near zero may mean that all is well or that every sample has the same feature; accuracy tells late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from core.evals.samples import check_layers
from core.types import DataSpec, Encoder, Evaluation, Features


def rankme(features: Tensor, eps: float = 1e-7) -> float:
    """exp of the entropy of the singular values of [N, D] divided by their sum: a smooth rank, 1 to min(N, D).

    Features are not centred: that all samples share one large component is part of the collapse to be seen.

    Source: RankMe (Garrido et al., 2023, arXiv:2210.02885), equations 1 and 2; eps = 1e-7, for float32.
    """
    values = torch.linalg.svdvals(features.double())
    # Features that are all zero have no shares to speak of; with eps alone they give rank 1, the full collapse.
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + eps
    return math.exp(-(share * share.log()).sum().item())


@dataclass
class Collapse(Evaluation):
    """RankMe and the mean over features of their std over test samples.

    `collapse/rankme` near 1 or `collapse/feature_std` near 0 means collapse, dimensional or complete.
    """

    num_layers: int = 1  # features of the last n blocks, concatenated

    def __post_init__(self) -> None:
        if self.num_layers < 1:
            raise ValueError(f"evals.collapse.num_layers must be at least 1, got {self.num_layers}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.collapse.num_layers", self.num_layers, encoder)

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["collapse/rankme", "collapse/feature_std"]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        pooled = features.pooled("test", self.num_layers)
        return {
            "collapse/rankme": rankme(pooled),
            "collapse/feature_std": pooled.double().std(dim=0, correction=0).mean().item(),
        }
