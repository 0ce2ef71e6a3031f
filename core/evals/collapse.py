"""Has the encoder collapsed? Two numbers about the features that need no label.

A loss near zero may mean that all is well or that every sample has the same feature; accuracy tells late.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.evals.frozen.samples import check_layers
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


class Spread(NamedTuple):
    """How far the features of samples [N, D] lie apart."""

    rankme: float
    std: float  # mean over features of their std over samples

    @classmethod
    def of(cls, features: Tensor) -> Spread:
        return cls(rankme(features), features.double().std(dim=0, correction=0).mean().item())


# Every encoder has a common part in all its features, an untrained one so large that its RankMe may be 1.7; so it is
# the same encoder before training that says what little is, and RankMe counts from 1, the rank of constant features.
# In the 313 committed runs whose untrained encoder is recorded, masked prediction keeps both shares above 1; a flow
# estimator alone, whose features no loss keeps apart, leaves 0.12 of the rank and 0.2 of the std, and of 126 runs that
# learn flow and content together three leave 0.17 to 0.25 of the rank, the others 0.3 and more. I-JEPA without a moving
# average leaves 0.2 and 0.35 after 40 steps (tests/core/running/test_trainer.py).
COLLAPSED_SHARE = 0.25  # of the untrained encoder's std, or of its RankMe above 1, below which features collapsed
SAME_SHARE = 0.05  # both shares this near to 1: training left no trace in what the features tell apart


def compared(trained: Spread, untrained: Spread) -> dict[str, Any]:
    """Facts of a trained encoder beside the same one before training, on the same clips.

    `state` is "collapsed", "untrained" (no different from it) or empty; `said` the sentence for it.
    """
    rank = _share(trained.rankme - 1, untrained.rankme - 1)
    std = _share(trained.std, untrained.std)
    state, what = "", ""
    if min(rank, std) < COLLAPSED_SHARE:
        state, what = "collapsed", "collapsed: features are nearly the same for every clip"
    elif max(abs(rank - 1), abs(std - 1)) < SAME_SHARE:
        state, what = "untrained", "no different from untrained: features are spread as before training"
    numbers = (
        f" (RankMe {trained.rankme:.3g}, untrained {untrained.rankme:.3g};"
        f" std {trained.std:.2g}, untrained {untrained.std:.2g})"
    )
    return {
        **trained._asdict(),
        **{f"{name}_untrained": value for name, value in untrained._asdict().items()},
        "state": state,
        "said": what + numbers if what else "",
    }


def _share(value: float, of: float) -> float:
    """1 where both are nothing: an encoder that was constant from the start has lost nothing."""
    return value / of if of > 0 else 1.0 if value <= 0 else math.inf


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
        spread = Spread.of(pooled)
        return {"collapse/rankme": spread.rankme, "collapse/feature_std": spread.std}
