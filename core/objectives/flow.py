"""M-JEPA: self-supervised optical flow. `FlowTask` is what MC-JEPA shares with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from core.objectives import flow_losses
from core.objectives.flow_estimator import FlowEstimator, Shape
from core.objectives.gathered import num_processes
from core.objectives.warp import resize_flow, visible, warp
from core.types import (
    DataSpec,
    Encoder,
    EncoderModule,
    Learner,
    Objective,
    Pace,
    Parts,
    View,
    full_precision,
    generator_for,
)


class VarCov(Enum):
    """Which levels the variance and covariance of features are kept at."""

    none = "none"
    last = "last"  # the encoder's output, level 1
    all = "all"


class Levels(Enum):
    """Which levels' flows must reconstruct the image."""

    last = "last"
    all = "all"


@dataclass
class FlowOptions:
    """What an objective that learns flow can be told. Lists are of the pyramid's levels, lowest resolution first; one
    number is for all of them.

    Source: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), section 3.1, Tables 3, 6 and 8.
    """

    over_batch: ClassVar[str] = "variance, covariance and means of the pixels that are seen"

    flow_batch: int = 8  # pairs of frames a step, over all processes
    estimator_factor: float = 2.0  # C: filters of the estimator in units of PWC-Net's
    estimator_norm: bool = True  # LayerNorm after every convolution of the estimator but the last
    estimator_l2: bool = False  # features of unit length before the estimator's last convolution
    estimator_radius: int = 4  # of the correlation, pixels of a level
    estimator_dense: bool = True  # PWC-Net's dense connections
    estimator_context: bool = True  # PWC-Net's dilated convolutions on the finest flow
    estimator_match: bool = (
        False  # the network corrects the correlation's soft maximum, which few steps do not teach it
    )
    flow_clip: float = 256.0  # largest flow, pixels
    flow_coeffs: list[float] = field(default_factory=lambda: [1.0, 1.0, 1.0, 1.0, 0.1, 0.01])  # of regression and cycle
    regression_coeff: float = 1.0
    reconstruction_coeff: float = 1.0
    reconstruction_visible: bool = False  # of visible pixels only, as the two flows tell; false: of all, as printed
    reconstruction_levels: Levels = Levels.last  # last: the final flow alone, as printed; all: every level's as well
    l1_coeff: float = 0.15  # l1, l2 and SSIM: of the reconstruction, not printed; ARFlow's (arXiv:2003.13045)
    l2_coeff: float = 0.0
    ssim_coeff: float = 0.85
    smooth_coeff: float = 1.0
    smooth_edge: float = 75.0  # lambda: how much an edge of the image excuses one of the flow
    cycle_coeff: float = 0.1
    var_coeffs: list[float] = field(default_factory=lambda: [0.01, 0.01, 0.01, 0.01, 0.001, 0.0001])
    cov_coeffs: list[float] = field(default_factory=lambda: [0.04, 0.04, 0.001, 0.0, 0.0, 0.0])
    var_cov: VarCov = VarCov.all
    var_cov_warmup: float = 0.0  # share of the steps, from the first, that train variance and covariance alone
    flow_lr_scale: float = 1.0  # learning rate of the estimator, in units of the encoder's
    flow_weight_decay: float | None = None  # of the estimator; null: the encoder's

    def __post_init__(self) -> None:
        if self.flow_batch < 1:
            raise ValueError(f"objective.flow_batch must be at least 1, got {self.flow_batch}")
        for name in ("estimator_factor", "flow_clip", "flow_lr_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"objective.{name} must be above 0, got {getattr(self, name)}")
        if not 1 <= self.estimator_radius <= 16:
            raise ValueError(f"objective.estimator_radius must be in [1, 16], got {self.estimator_radius}")
        single = ("regression", "reconstruction", "l1", "l2", "ssim", "smooth", "cycle")
        for name in (*(f"{loss}_coeff" for loss in single), "smooth_edge", "flow_weight_decay"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"objective.{name} must be at least 0, got {value}")
        for name in ("flow_coeffs", "var_coeffs", "cov_coeffs"):
            values = getattr(self, name)
            if not values or min(values) < 0:
                raise ValueError(f"objective.{name} must be a list of numbers of at least 0, got {list(values)}")
        if not 0 <= self.var_cov_warmup < 1:
            raise ValueError(f"objective.var_cov_warmup must be in [0, 1), got {self.var_cov_warmup}")

    def check(self, encoder: Encoder, spec: DataSpec, pairs: DataSpec | None) -> None:
        if not encoder.has_pyramid:
            raise ValueError(
                "encoder: flow is estimated from a pyramid of features, which this one has none of: choose "
                "encoder=convnext, resnet or pwc"
            )
        num_levels = len(encoder.level_widths(pairs or spec))
        for name in ("flow_coeffs", "var_coeffs", "cov_coeffs"):
            per_level(name, getattr(self, name), num_levels)
        lowest = encoder.grid(pairs or spec)
        is_compared = self.reconstruction_coeff and self.ssim_coeff and self.reconstruction_levels is Levels.all
        if is_compared and min(lowest.h, lowest.w) < flow_losses.SSIM_WINDOW:
            raise ValueError(
                f"objective.reconstruction_levels=all compares windows of {flow_losses.SSIM_WINDOW} px a side (SSIM), "
                f"the lowest level is {lowest.h}x{lowest.w}: choose last, larger frames, or objective.ssim_coeff=0"
            )


def per_level(name: str, values: Sequence[float], num_levels: int) -> list[float]:
    """One number a level; ValueError unless there are so many, or one for all."""
    if len(values) not in (1, num_levels):
        raise ValueError(
            f"objective.{name} must have one number for each of the pyramid's {num_levels} levels (encoder.levels), or "
            f"one for all, got {len(values)}: {list(values)}"
        )
    return list(values) * (num_levels if len(values) == 1 else 1)


class Pyramid(Protocol):
    """What makes a pyramid of features: an encoder, or how one is looked at."""

    def pyramid(self, clips: Tensor) -> list[Tensor]: ...


class FlowTask(nn.Module):
    """The estimator and its losses. The encoder is given with every call, as it may serve another task too.

    `level_widths` are the channels of the encoder's pyramid, lowest resolution first; `spec` tells mean and std of the
    pixels that it is given.
    """

    def __init__(self, options: FlowOptions, level_widths: Sequence[int], spec: DataSpec, generator: Generator) -> None:
        super().__init__()
        self.options, num_levels = options, len(level_widths)
        shape = Shape(
            factor=options.estimator_factor,
            norm=options.estimator_norm,
            l2=options.estimator_l2,
            radius=options.estimator_radius,
            dense=options.estimator_dense,
            match=options.estimator_match,
            context=options.estimator_context,
            clip=options.flow_clip,
        )
        self.estimator = FlowEstimator(shape, level_widths, generator)
        self.flow_coeffs = per_level("flow_coeffs", options.flow_coeffs, num_levels)
        kept = {VarCov.none: 0, VarCov.last: 1, VarCov.all: num_levels}[options.var_cov]
        self.var_coeffs = per_level("var_coeffs", options.var_coeffs, num_levels)[:kept]
        self.cov_coeffs = per_level("cov_coeffs", options.cov_coeffs, num_levels)[:kept]
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, -1, 1, 1), persistent=False)

    def pace(self) -> Pace:
        """How the estimator learns, for `Learner.paces`."""
        return Pace(self.options.flow_lr_scale, self.options.flow_weight_decay)

    def is_warming_up(self, step: int, num_steps: int) -> bool:
        """Whether step `step` (from 1) trains variance and covariance alone."""
        return (step - 1) / max(num_steps, 1) < self.options.var_cov_warmup

    def losses(self, encoder: Pyramid, pairs: Tensor, *, with_flow: bool = True) -> dict[str, Tensor]:
        """What `pairs` [P, C, 2, H, W] cost, float and normalised: scalars in float32.

        "flow" is the weighted sum of Equations 2 to 5 and "var_cov" that of Equation 6; the other names are parts
        without their coefficients. Without `with_flow`, in the first steps, there is no "flow".
        """
        pyramid = encoder.pyramid(pairs)
        losses = self._var_cov(pyramid)
        return losses | self._flow(pyramid, pairs) if with_flow else losses

    def flow(self, encoder: EncoderModule, pairs: Tensor) -> Tensor:
        """Where each pixel of the first frame is in the second: [P, 2, H, W] float32 in pixels (right, down)."""
        first, second = split(encoder.pyramid(pairs))
        height, width = pairs.shape[-2:]
        flows = self.estimator(first, second, [height / level.shape[-2] for level in first])
        return resize_flow(flows[-1], height, width)

    def _var_cov(self, pyramid: Sequence[Tensor]) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        sums = []
        repeats = max(1, num_processes() // self.options.flow_batch)  # of each pair, where they are fewer
        for name, measure, coeffs in (
            ("variance", flow_losses.variance, self.var_coeffs),
            ("covariance", flow_losses.covariance, self.cov_coeffs),
        ):
            used = [
                (coeff, measure(level, repeats=repeats)) for coeff, level in zip(coeffs, pyramid, strict=False) if coeff
            ]
            if used:
                sums.append((1.0, flow_losses.weighted_sum(used, pyramid[0].device)))
                parts[name] = torch.stack([value for _, value in used]).mean().detach()
        return {"var_cov": flow_losses.weighted_sum(sums, pyramid[0].device)} | parts

    def terms(self, losses: Mapping[str, Tensor], balance: float = 1.0) -> list[tuple[float, Tensor]]:
        """What is minimised of `losses`, with its weights: nothing that is zero whatever the pyramid is like."""
        options = self.options
        terms = [(1.0, losses["var_cov"])] if any(self.var_coeffs) or any(self.cov_coeffs) else []
        single = (options.regression_coeff, options.reconstruction_coeff, options.smooth_coeff, options.cycle_coeff)
        if "flow" in losses and any(single):
            terms.append((balance, losses["flow"]))
        return terms

    def _flow(self, pyramid: Sequence[Tensor], pairs: Tensor) -> dict[str, Tensor]:
        options, (height, width) = self.options, pairs.shape[-2:]
        # Both directions at once: the second half of the batch has the frames exchanged.
        near = [level.view(-1, 2, *level.shape[1:]).transpose(0, 1).flatten(0, 1) for level in pyramid]
        far = [exchange(level) for level in near]
        scales = [height / level.shape[-2] for level in near]
        flows = self.estimator(near, far, scales)
        image = self._pixels(pairs.transpose(1, 2).transpose(0, 1).flatten(0, 1))
        terms: list[tuple[float, Tensor]] = []
        parts: dict[str, Tensor] = {}
        with full_precision(pairs):
            if options.regression_coeff:
                each = [
                    flow_losses.regression(x, warp(y, flow), visible(flow, exchange(flow)))
                    for x, y, flow in zip(near, far, flows, strict=True)
                ]
                parts["regression"] = self._weighted(each)
                terms.append((options.regression_coeff, parts["regression"]))
            final = resize_flow(flows[-1], height, width)
            if options.reconstruction_coeff:
                parts["reconstruction"] = self._reconstruction(image, final)
                if options.reconstruction_levels is Levels.all:
                    each = [
                        self._reconstruction(F.interpolate(image, flow.shape[-2:], mode="area"), flow) for flow in flows
                    ]
                    parts["reconstruction"] = parts["reconstruction"] + self._weighted(each)
                terms.append((options.reconstruction_coeff, parts["reconstruction"]))
            if options.smooth_coeff:
                parts["smoothness"] = flow_losses.smoothness(final, image, options.smooth_edge)
                terms.append((options.smooth_coeff, parts["smoothness"]))
            if options.cycle_coeff:
                each = [flow_losses.cycle(x, flow, exchange(flow)) for x, flow in zip(near, flows, strict=True)]
                parts["cycle"] = self._weighted(each)
                terms.append((options.cycle_coeff, parts["cycle"]))
            total = flow_losses.weighted_sum(terms, pairs.device)
        return {"flow": total} | {name: value.detach() for name, value in parts.items()}

    def _reconstruction(self, image: Tensor, flow: Tensor) -> Tensor:
        options = self.options
        return flow_losses.reconstruction(
            image,
            warp(exchange(image), flow),
            l1=options.l1_coeff,
            l2=options.l2_coeff,
            ssim=options.ssim_coeff,
            seen=visible(flow, exchange(flow)) if options.reconstruction_visible else None,
        )

    def _weighted(self, each: Sequence[Tensor]) -> Tensor:
        return torch.stack([c * value for c, value in zip(self.flow_coeffs, each, strict=True)]).sum()

    def _pixels(self, frames: Tensor) -> Tensor:
        """Normalised frames [M, C, H, W] in [0, 1] again, float32: what SSIM and lambda are made for."""
        return (frames.float() * self.std + self.mean).clamp(0, 1)


def split(pyramid: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The first and the second frames of pairs [P * 2, ...] at every level."""
    pairs = [level.view(-1, 2, *level.shape[1:]) for level in pyramid]
    return [level[:, 0] for level in pairs], [level[:, 1] for level in pairs]


def exchange(frames: Tensor) -> Tensor:
    """Of both directions of pairs, first frames then second ones along the batch: each one's other frame."""
    return frames.roll(len(frames) // 2, dims=0)


@dataclass
class Flow(FlowOptions, Objective):
    """M-JEPA: the features of one frame must be those of the other, moved by an estimated flow.

    Pairs are two consecutive frames of `flow_data`, or of `data` itself.

    Source: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), section 3.1.
    """

    gives: ClassVar[tuple[str, ...]] = ("flow",)

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        encoder = parts.encoder.build(spec, generator_for(seed, "encoder"))
        widths = parts.encoder.level_widths(spec)
        return FlowLearner(encoder, FlowTask(self, widths, spec, generator_for(seed, "estimator")))


class FlowLearner(Learner):
    """An encoder and the estimator on its pyramid."""

    loss_limit = 1e6  # estimators without norms explode (Table 3's crashed run)
    has_idle_parts = True  # the final norm of tokens; the estimator while variance and covariance warm up

    def __init__(self, encoder: EncoderModule, task: FlowTask) -> None:
        super().__init__()
        self.encoder, self.task = encoder, task
        self._is_warming_up = False  # not how far it is: torch.compile compiles anew for every number

    def paces(self) -> Mapping[str, Pace]:
        return {"task": self.task.pace()}

    def seed_step(self, draw: Callable[[str], Generator], step: int, num_steps: int, clips: Tensor) -> None:
        self._is_warming_up = self.task.is_warming_up(step, num_steps)

    def encoded(self, clips: Tensor, views: Sequence[View], pairs: Tensor | None) -> list[torch.Size]:
        return [] if pairs is None else [pairs.shape]

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert pairs is not None, "the trainer gives pairs to objectives that ask for them"
        losses = self.task.losses(self.encoder, pairs, with_flow=not self._is_warming_up)
        loss = flow_losses.weighted_sum(self.task.terms(losses), clips.device)
        return {"loss": loss} | {name: value.detach() for name, value in losses.items()}

    def flow(self, pairs: Tensor) -> Tensor:
        return self.task.flow(self.encoder, pairs)
