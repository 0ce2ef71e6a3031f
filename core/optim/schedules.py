"""Learning rate and weight decay as pure functions of the step.

Steps count from 1. A schedule of `num_steps` may be laid over a longer horizon (`horizon=1.25`: V-JEPA computes every
schedule for 1.25 times the real length, so that training stops at 80 % of the cosine).
"""

from __future__ import annotations

import math

from core.optim.options import Optim


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
