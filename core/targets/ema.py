"""Features of a moving average of the encoder."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from core.types import DataSpec, EncoderModule, Target, TargetModule, View


class Shape(Enum):
    linear = "linear"
    cosine = "cosine"
    constant = "constant"


class FeatureNorm(Enum):
    layer = "layer"
    batch = "batch"
    none = "none"


class MaskedAt(Enum):
    output = "output"
    input = "input"


@dataclass
class EmaTarget(Target):
    """What a slowly moving average of the encoder says about the target patches.

    mask=output: it sees the whole clip and its output is cut to the target patches. mask=input: it sees the target
    patches only, once for each view (I-JEPA's ablation). norm=layer: each token normalised over its features
    (non-affine, eps 1e-5), after the encoder's own last norm; batch: each feature standardised over all tokens of the
    batch; none.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 3 and table 11; V-JEPA (arXiv:2404.08471),
    appendix C (`horizon` 1.25). norm=batch is ours, for small models.
    """

    decay_start: float = 0.996
    decay_end: float = 1.0
    shape: Shape = Shape.linear
    horizon: float = 1.0  # the schedule's length in units of the run's: 1.25 stops at 80 % of it
    norm: FeatureNorm = FeatureNorm.layer
    mask: MaskedAt = MaskedAt.output

    def __post_init__(self) -> None:
        for name in ("decay_start", "decay_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"target.{name} must be in [0, 1], got {getattr(self, name)}")
        if self.horizon < 1:
            raise ValueError(f"target.horizon must be at least 1, got {self.horizon}")

    @property
    def over_batch(self) -> str:
        return "norm=batch" if self.norm is FeatureNorm.batch else ""

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        return MovingAverage(self, encoder)


def ema_decay(options: EmaTarget, step: int, num_steps: int) -> float:
    """The decay of the update after optimiser step `step` (from 1) of `num_steps`; step 1 uses `decay_start`."""
    if options.shape is Shape.constant:
        return options.decay_start
    progress = min((step - 1) / (options.horizon * num_steps), 1.0)
    if options.shape is Shape.cosine:
        progress = (1 - math.cos(math.pi * progress)) / 2
    return options.decay_start + (options.decay_end - options.decay_start) * progress


class MovingAverage(TargetModule):
    encoder: EncoderModule

    def __init__(self, options: EmaTarget, encoder: EncoderModule) -> None:
        super().__init__()
        self.options = options
        # bf16 would lose updates below 2**-8 of a weight; the average stays in float32.
        self.encoder = copy.deepcopy(encoder).float().requires_grad_(False).eval()
        self.out_dim = encoder.width

    def train(self, mode: bool = True) -> MovingAverage:
        """The average is never in training mode: its drop path stays off."""
        return self

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        prefix = self.encoder.num_prefix
        if self.options.mask is MaskedAt.input:
            return [
                self._normalise(self.encoder(clips, view.target, view.target_valid)[:, prefix:], view.target_valid)
                for view in views
            ]
        features = self._normalise(self.encoder(clips)[:, prefix:])
        return [features.gather(1, view.target[..., None].expand(-1, -1, self.out_dim)) for view in views]

    def _normalise(self, features: Tensor, valid: Tensor | None = None) -> Tensor:
        """Features [B, n, D], normalised, in float32."""
        features = features.float()
        if self.options.norm is FeatureNorm.layer:
            return F.layer_norm(features, features.shape[-1:])
        if self.options.norm is FeatureNorm.none:
            return features
        counted = features.flatten(0, 1) if valid is None else features[valid]
        sums = torch.cat([counted.sum(0), counted.square().sum(0), counted.new_full((1,), len(counted))])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        mean, square = (sums[:-1] / sums[-1]).chunk(2)
        return (features - mean) * ((square - mean.square()).clamp_min(0) + 1e-5).rsqrt()

    @torch.no_grad()
    def update(self, encoder: EncoderModule, step: int, num_steps: int) -> dict[str, float]:
        decay = ema_decay(self.options, step, num_steps)
        source = dict(encoder.named_parameters())
        names, averages = zip(*self.encoder.named_parameters(), strict=True)
        torch._foreach_lerp_(averages, [source[name] for name in names], 1 - decay)
        return {"ema_decay": decay}
