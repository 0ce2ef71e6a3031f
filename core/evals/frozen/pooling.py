"""Averages of tokens over parts of a clip: what is small, or moves, is lost in the average of all of them.

Or the class token, which has been made of all of them by attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from core.types import DataSpec, Encoder, Evaluation, Grid, Pooling

PARTS = {
    Pooling.mean: (1, 1, 1),
    Pooling.quadrants: (1, 2, 2),
    Pooling.halves: (2, 1, 1),
    Pooling.octants: (2, 2, 2),
    Pooling.cls: (1, 1, 1),
}


def num_parts(pool: Pooling) -> int:
    in_time, in_height, in_width = PARTS[pool]
    return in_time * in_height * in_width


def means(tokens: Tensor, grid: Grid, pool: Pooling) -> Tensor:
    """The mean token of each part of `pool`, [B, parts * D] float32, of tokens [B, n, D] in (t, h, w) raster order.

    There are as many slices of time as the tokens fill. The middle of an odd number of rows, columns or slices is in
    both halves, as in adaptive average pooling.
    """
    # Averaged in float32: a bfloat16 mean over many tokens keeps three digits.
    if pool is Pooling.mean:
        return tokens.mean(dim=1, dtype=torch.float32)
    maps = tokens.reshape(len(tokens), -1, grid.h, grid.w, tokens.shape[-1])
    cuts = [
        halves(size) if parts == 2 else [slice(None)] for size, parts in zip(maps.shape[1:4], PARTS[pool], strict=True)
    ]
    parts = [maps[:, t, h, w].mean(dim=(1, 2, 3), dtype=torch.float32) for t, h, w in itertools.product(*cuts)]
    return torch.cat(parts, dim=1)


def pooled(layers: list[Tensor], grid: Grid, pool: Pooling, num_prefix: int) -> Tensor:
    """The class token of each layer [B, P + n, D], or `means` of what is behind its `num_prefix` class tokens."""
    if pool is Pooling.cls:
        if num_prefix == 0:
            raise ValueError("pool=cls reads a class token, and this encoder has none")
        return torch.cat([tokens[:, 0].float() for tokens in layers], dim=1)
    return torch.cat([means(tokens[:, num_prefix:], grid, pool) for tokens in layers], dim=1)


def halves(size: int) -> list[slice]:
    return [slice(0, (size + 1) // 2), slice(size // 2, size)]


def check_pool(key: str, pool: Pooling, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
    """Raise ValueError naming the option `key` when tokens of data like `spec` cannot be halved, or have no class."""
    if pool is Pooling.cls and not encoder.has_class_token():
        raise ValueError(
            f"{key}=cls reads a class token, and this encoder has none: use mean, or for encoder=vit "
            "encoder.class_token=true"
        )
    grid = encoder.grid(built_for)
    slices = spec.frames if built_for.frames == 1 else grid.t
    in_time, in_height, _ = PARTS[pool]
    if in_time > 1 and slices < 2:
        raise ValueError(
            f"{key}={pool.name} halves the time of a clip, of which the encoder's tokens have one slice: use mean or "
            "quadrants, or data of more frames"
        )
    if in_height > 1 and min(grid.h, grid.w) < 2:
        raise ValueError(
            f"{key}={pool.name} halves height and width, and the encoder's grid is {grid.h}x{grid.w}: use mean, or "
            "smaller patches (encoder.patch)"
        )


class PooledEvaluation(Evaluation):
    """An evaluation of one feature a clip, which its option `pool` chooses."""

    pool: Pooling

    def pools(self) -> frozenset[Pooling]:
        return frozenset({self.pool})


def add(sums: dict[Pooling, Tensor], rows: slice, parts: Sequence[Tensor], num_clips: int) -> None:
    """To each pool's averages of samples what is averaged over one of their clips."""
    for values, part in zip(sums.values(), parts, strict=True):
        values[rows] += part / num_clips


def named(pool: Pooling) -> list[str]:
    """What tells a pool in the cache: the mean's name is that of caches from before there was another."""
    return [] if pool is Pooling.mean else [pool.name]
