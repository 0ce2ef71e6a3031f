"""Optical flow: how far the objective's own estimate of motion is from the truth. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from core.types import DataSpec, Encoder, Evaluation, Features, FlowTruth

METRICS = ("epe", "epe_noc", "epe_occ", "f1", "epe_zero")
OF_OCCLUSION = ("epe_noc", "epe_occ")
OUTLIER_PX, OUTLIER_SHARE = 3.0, 0.05


@dataclass
class Flow(Evaluation):
    """End-point error of the estimated flow on the test split, in pixels, and the share of outliers.

    `epe` is the mean distance over all pixels whose flow is known, every pixel of every pair counting alike, as Sintel
    has it; `epe_noc` and `epe_occ` are over those that are seen in the next frame too, and those that are not. `f1` is
    the percentage of pixels with an error above 3 px and above 5 % of the true length (KITTI's Fl, also over pixels).
    `epe_zero` is `epe` of no motion at all, which a table can show beside it. Data that does not know what is occluded
    (`DataSpec.has_occlusion`) announces no `epe_noc` and `epe_occ`; data that does and has no such pixels gives none.

    Source: Sintel (Butler et al., 2012), section 4; KITTI 2015 (Menze and Geiger, 2015), section 5; MC-JEPA (Bardes et
    al., 2023, arXiv:2307.12698), Tables 1 and 9.
    """

    needs: ClassVar[tuple[str, ...]] = ("flow",)
    sees_whole_frames: ClassVar[bool] = True

    max_samples: int | None = None  # a random subset of the test clips, the same for every run; null = all
    batch_size: int = 64  # pairs of frames
    height: int | None = None  # px that frames are resized to for the estimator, its flow scaled back; null: as they
    width: int | None = None  # are, with their edges repeated up to a multiple of the pyramid's stride

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"evals.flow.batch_size must be at least 1, got {self.batch_size}")
        for name in ("max_samples", "height", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evals.flow.{name} must be at least 1, or null, got {value}")
        if (self.height is None) != (self.width is None):
            raise ValueError(
                f"evals.flow.height and evals.flow.width must both be given or both be null, got {self.height} and "
                f"{self.width}"
            )

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        if not spec.has_flow:
            raise ValueError(
                "evals.flow needs data whose motion is known, and this data's is not; choose eval_data=moving_digits "
                "with eval_data.frames of at least 2, or sintel, kitti_flow, flying_chairs, flying_things or hd1k"
            )
        if spec.channels != built_for.channels:
            raise ValueError(
                f"evals.flow: the data has {spec.channels} channels, the encoder takes {built_for.channels}: choose "
                "other eval_data"
            )

    def metrics(self, spec: DataSpec) -> list[str]:
        return [f"flow/{name}" for name in METRICS if spec.has_occlusion or name not in OF_OCCLUSION]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        size = None if self.height is None or self.width is None else (self.height, self.width)
        total = Total()
        for flow, truth in features.flows("test", max_samples=self.max_samples, batch_size=self.batch_size, size=size):
            total.add(flow, truth)
        return {f"flow/{name}": value for name, value in total.means().items()}


class Total:
    """Errors summed over pixels, batch by batch."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(METRICS, 0.0)
        self.counts = dict.fromkeys(METRICS, 0)

    def add(self, flow: Tensor, truth: FlowTruth) -> None:
        """Of `flow` [B, T - 1, 2, H, W]. Raises FloatingPointError where it is not finite."""
        if not flow.isfinite().all():
            raise FloatingPointError("the estimated flow of the test split is not finite")
        valid = truth.valid
        error = (flow - truth.flow).norm(dim=2)[valid].double()  # what is not valid may be anything, NaN too
        length = truth.flow.norm(dim=2)[valid].double()
        self._count("epe", error)
        self._count("epe_zero", length)
        self._count("f1", 100.0 * ((error > OUTLIER_PX) & (error > OUTLIER_SHARE * length)).double())
        if truth.occluded is not None:
            occluded = truth.occluded[valid]
            self._count("epe_noc", error[~occluded])
            self._count("epe_occ", error[occluded])

    def _count(self, name: str, values: Tensor) -> None:
        self.sums[name] += float(torch.sum(values))
        self.counts[name] += values.numel()

    def means(self) -> dict[str, float]:
        """Raises ValueError when no pixel's flow is known."""
        if not self.counts["epe"]:
            raise ValueError("evals.flow: the flow of no test pixel is known, so there is nothing to be judged on")
        return {name: self.sums[name] / self.counts[name] for name in METRICS if self.counts[name]}
