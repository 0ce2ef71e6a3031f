"""A batch that is shared out over processes, as one: for losses that look at all samples together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def num_processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def own_rows(drawn: Tensor, num_rows: int, dim: int = 0) -> Tensor:
    """This process's `num_rows` of what was drawn for the whole batch along `dim`; all of it with one process."""
    rank = dist.get_rank() if num_processes() > 1 else 0
    return drawn.narrow(dim, rank * num_rows, num_rows)


def gather(rows: Tensor) -> Tensor:
    """Every process's `rows` [b, ...] one after the other, [b * processes, ...], on each; itself with one process.

    Each process is expected to compute the same loss of the whole: its gradient for `rows` is then as many times the
    right one as there are processes, which averaging the parameters' gradients over them makes right.
    """
    return rows if num_processes() == 1 else _Gather.apply(rows)


def averaged(value: Tensor) -> Tensor:
    """The mean of every process's `value`, without gradient; itself with one process."""
    if num_processes() == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return own_rows(total, len(total) // dist.get_world_size())
