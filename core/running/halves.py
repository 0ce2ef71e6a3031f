"""The weights of encoders and transformer blocks in half precision, all cast at once.

Autocast casts every weight and every gradient of one by a kernel of its own: a quarter of the launches of a step of
MAE, which on a fast GPU is as long as its launches take.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core.models.blocks import Blocks
from core.types import EncoderModule


class Halves:
    """A learner as autocast in `dtype` would run it, with the same numbers: on a GPU, eagerly, in one process.

    Several processes exchange gradients while others are still made, which casting all at the end would prevent.
    """

    def __init__(self, learner: nn.Module, dtype: torch.dtype) -> None:
        self._learner, self._dtype = learner, dtype
        weights: dict[str, nn.Parameter] = {}
        for name, module in learner.named_modules():
            if isinstance(module, Blocks | EncoderModule):  # what never leaves autocast
                layers = ((at, each) for at, each in module.named_modules() if isinstance(each, nn.Linear | nn.Conv2d))
                weights |= {f"{name}.{at}.{own}": p for at, each in layers for own, p in each.named_parameters()}
        self._trained = {name: p for name, p in weights.items() if p.requires_grad}
        self._frozen = {name: p for name, p in weights.items() if not p.requires_grad}

    def __call__(self, *inputs: Any) -> Any:
        halves: dict[str, Tensor] = {}
        if self._trained:
            halves |= zip(self._trained, _Cast.apply(self._dtype, *self._trained.values()), strict=True)
        if self._frozen:
            halves |= zip(self._frozen, cast([p.detach() for p in self._frozen.values()], self._dtype), strict=True)
        return torch.func.functional_call(self._learner, halves, inputs, tie_weights=False)


def cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Copies of `tensors` in `dtype`, made together."""
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(made, list(tensors))
    return made


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(cast(weights, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [gradient for gradient in gradients if gradient is not None]
        full = iter(cast(known, torch.float32))
        return None, *(None if gradient is None else next(full) for gradient in gradients)
