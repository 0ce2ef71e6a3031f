"""The optimisers and their parameter groups, and the schedules as pure functions of the step.

Steps count from 1. A schedule of `num_steps` may be laid over a longer horizon (`horizon=1.25`: V-JEPA computes every
schedule for 1.25 times the real length, so that training stops at 80 % of the cosine).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from core.types import Learner, Pace


class Optimizer(Enum):
    """`adamw`, or `lars`: SGD with momentum on gradients scaled to the size of the weights that they change."""

    adamw = "adamw"
    lars = "lars"


TRUST = 0.001  # of LARS: the length of a step in units of the weights', at a learning rate of 1


@dataclass
class Optim:
    """How the parameters move.

    Source: I-JEPA (arXiv:2301.08243) A.1 and MAE (arXiv:2111.06377) A.1 use AdamW, a linear warm-up and a half cosine;
    I-JEPA adds a weight decay that grows from .04 to .4 along a cosine. VICReg (arXiv:2105.04906) section 4.2 uses LARS
    (You et al., 2017, arXiv:1708.03888).
    """

    name: Optimizer = Optimizer.adamw
    steps: int = 800  # 0 trains nothing: the randomly initialised encoder is evaluated
    batch_size: int = 64  # over all processes
    lr_peak: float = 1e-3
    lr_start: float = 0.0  # at the first warm-up step
    lr_end: float = 1e-6
    warmup_share: float = 0.1  # of `steps`
    weight_decay: float = 0.05
    weight_decay_end: float | None = None  # null: constant
    beta1: float = 0.9  # of AdamW; the momentum of LARS
    beta2: float = 0.95  # of AdamW, as is eps
    eps: float = 1e-8
    clip: float = 0.0  # largest gradient norm; 0 leaves gradients alone
    clip_after_warmup: bool = False  # as V-JEPA's released code: then only, encoder and predictor each by itself
    horizon: float = 1.0  # of the learning-rate and weight-decay schedules, in units of `steps`

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"optim.steps must be at least 0, got {self.steps}")
        if self.batch_size < 1:
            raise ValueError(f"optim.batch_size must be at least 1, got {self.batch_size}")
        if self.lr_peak <= 0:
            raise ValueError(f"optim.lr_peak must be above 0, got {self.lr_peak}")
        for name in ("lr_start", "lr_end", "weight_decay", "clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"optim.{name} must be at least 0, got {getattr(self, name)}")
        if self.weight_decay_end is not None and self.weight_decay_end < 0:
            raise ValueError(f"optim.weight_decay_end must be at least 0 or null, got {self.weight_decay_end}")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"optim.warmup_share must be in [0, 1), got {self.warmup_share}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name} must be in [0, 1), got {getattr(self, name)}")
        if self.eps <= 0:
            raise ValueError(f"optim.eps must be above 0, got {self.eps}")
        if self.horizon < 1:
            raise ValueError(f"optim.horizon must be at least 1, got {self.horizon}")

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup_share * self.steps)


def cosine(start: float, end: float, progress: float) -> float:
    """From `start` at progress 0 to `end` at progress 1 along a half cosine; held at `end` beyond."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def learning_rate(optim: Optim, step: int) -> float:
    """The rate used by optimiser step `step` (from 1): linear warm-up to `lr_peak`, then a half cosine to `lr_end`."""
    if step <= optim.warmup_steps:
        return optim.lr_start + (optim.lr_peak - optim.lr_start) * step / optim.warmup_steps
    length = optim.horizon * optim.steps - optim.warmup_steps
    return cosine(optim.lr_peak, optim.lr_end, (step - optim.warmup_steps) / max(length, 1))


def weight_decay(optim: Optim, step: int) -> float:
    """The decay used by optimiser step `step` (from 1): a half cosine over the whole run, without warm-up."""
    if optim.weight_decay_end is None:
        return optim.weight_decay
    return cosine(optim.weight_decay, optim.weight_decay_end, step / max(optim.horizon * optim.steps, 1))


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The one that `optim.name` says."""
    return {Optimizer.adamw: make_adamw, Optimizer.lars: make_lars}[optim.name](model, optim)


def make_adamw(model: nn.Module, optim: Optim, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """AdamW in groups: biases and one-dimensional tensors are not decayed, early layers may learn more slowly.

    Class tokens and the mask tokens of `narrow`, one a kind of mask, have more dimensions, hence are decayed, as in the
    released code of I-JEPA. The one mask token of a `decoder`, or of a dense encoder, is a vector here and is not
    decayed; MAE's released code decays it.
    """
    return torch.optim.AdamW(
        parameter_groups(model, layer_decay),
        lr=optim.lr_peak,
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        fused=True,
    )


def make_lars(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """timm's LARS with momentum `beta1` in the same groups: what is not decayed is not scaled either."""
    # timm registers every model it has when imported, 6 s; runs that train with AdamW must not wait for it.
    from timm.optim.lars import Lars

    groups = parameter_groups(model)
    for group in groups:  # by itself timm scales what has a weight decay above 0, and nothing of a run without any
        group["always_adapt"] = group.get("weight_decay") != 0.0
    return Lars(groups, lr=optim.lr_peak, momentum=optim.beta1, weight_decay=optim.weight_decay, trust_coeff=TRUST)


def make_sgd(model: nn.Module, optim: Optim, layer_decay: float = 1.0) -> torch.optim.SGD:
    """SGD with momentum `beta1` in the same groups."""
    groups = parameter_groups(model, layer_decay)
    return torch.optim.SGD(groups, lr=optim.lr_peak, momentum=optim.beta1, weight_decay=optim.weight_decay)


def parameter_groups(model: nn.Module, layer_decay: float = 1.0) -> list[dict[str, Any]]:
    """The trained parameters by whether they are decayed and, with `layer_decay`, by layer.

    A layer's learning rate is `layer_decay` times the next one's; "lr_scale" is the product, 1 for the head. The patch
    embedding, positions and class token are layer 0, block i is layer i + 1, the final norm and the head are the last.
    A learner's parts that have a pace of their own (`Learner.paces`) are groups of their own.

    Source: BEiT (Bao et al., 2021, arXiv:2106.08254), appendix; MAE (He et al., 2021, arXiv:2111.06377), A.1.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [int(found[1]) for name, _ in named if (found := _BLOCK.search(name))]
    last = max(blocks, default=-1) + 2
    paces = model.paces() if isinstance(model, Learner) else {}
    groups: dict[tuple[int, str, bool], dict[str, Any]] = {}
    for decayed in (True, False):
        for name, p in named:
            if (p.ndim <= 1 or name.endswith("bias")) == decayed:
                continue
            layer = layer_of(name, last) if layer_decay != 1 else last
            part = name.split(".")[0] if name.split(".")[0] in paces else ""
            pace = paces.get(part, Pace())
            scale = layer_decay ** (last - layer) * pace.lr_scale
            new: dict[str, Any] = {"params": [], "decayed": decayed, "lr_scale": scale}
            if not decayed:
                new["weight_decay"] = 0.0
            elif pace.weight_decay is not None:
                new |= {"weight_decay": pace.weight_decay, "decayed": False}  # what the schedule leaves alone
            groups.setdefault((layer, part, decayed), new)["params"].append(p)
    return list(groups.values())


_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


def layer_of(name: str, last: int) -> int:
    """Which layer the parameter `name` of an encoder with a head belongs to."""
    if found := _BLOCK.search(name):
        return int(found[1]) + 1
    is_first = re.search(r"\b(embed|positions|class_token|mask_token)\b", name) is not None
    return 0 if is_first else last


def set_schedule(optimizer: torch.optim.Optimizer, optim: Optim, step: int) -> dict[str, float]:
    """Put step `step`'s learning rate and weight decay into the optimiser's groups; returns them for the log."""
    rate, decay = learning_rate(optim, step), weight_decay(optim, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)  # not in the checkpoints of earlier code
        if group["decayed"]:
            group["weight_decay"] = decay
    return {"lr": rate, "weight_decay": decay}


def clip_gradients(model: nn.Module, optim: Optim, step: int) -> None:
    """Scale the gradients down to norm `optim.clip`; with `clip_after_warmup` each part's, from then on."""
    if optim.clip <= 0 or (optim.clip_after_warmup and step <= optim.warmup_steps):
        return
    for part in model.children() if optim.clip_after_warmup else [model]:
        nn.utils.clip_grad_norm_(part.parameters(), optim.clip, foreach=True)
