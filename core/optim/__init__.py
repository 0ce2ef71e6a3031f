"""How parameters move: optimisers, by the name that `optim.name=` takes, their parameter groups and schedules."""

from collections.abc import Callable

import torch
from torch import nn

from core.optim.groups import layer_of, parameter_groups
from core.optim.optimizers import clip_gradients, make_adamw, make_lars, make_sgd, set_schedule
from core.optim.options import Optim
from core.optim.schedules import cosine, learning_rate, weight_decay
from core.types import Optimizer

OPTIMIZERS: dict[Optimizer, Callable[[nn.Module, Optim], torch.optim.Optimizer]] = {
    Optimizer.adamw: make_adamw,
    Optimizer.lars: make_lars,
}

__all__ = [
    "OPTIMIZERS",
    "Optim",
    "clip_gradients",
    "cosine",
    "layer_of",
    "learning_rate",
    "make_adamw",
    "make_lars",
    "make_optimizer",
    "make_sgd",
    "parameter_groups",
    "set_schedule",
    "weight_decay",
]


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.Optimizer:
    """The one that `optim.name` says."""
    return OPTIMIZERS[optim.name](model, optim)
