"""Draws of initial values that torch's versions make differently."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


@torch.no_grad()
def truncated_normal_(values: Tensor, std: float, generator: Generator, limit: float = 2.0) -> Tensor:
    """Fill `values` from a normal distribution; what is beyond +- `limit` is drawn again.

    nn.init.trunc_normal_ drew other numbers in torch 2.11 than in 2.15 (the inverse of the distribution, then this);
    what a seed stands for must not depend on that.
    """
    if values.is_meta:  # it has no content
        return values
    values.normal_(0, std, generator=generator)
    while (beyond := values.abs() > limit).any():
        values.copy_(torch.where(beyond, torch.empty_like(values).normal_(0, std, generator=generator), values))
    return values
