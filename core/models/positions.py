"""Position embeddings of a patch grid: fixed sin-cos, or learned and separable over space and time."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Generator, Tensor, nn

from core.types import Grid


class Position(Enum):
    sincos = "sincos"
    learned = "learned"


def sincos(grid: Grid, width: int) -> Tensor:
    """Fixed sin-cos positions of every patch, [N, width] float32.

    One frame: the first half of the features encodes the column, the second half the row, as in MAE and I-JEPA.
    Several frames: a third each for frame, row and column, rounded up to an even number and cut at `width`.

    Source: MAE (He et al., 2021, arXiv:2111.06377); V-JEPA (Bardes et al., 2024, arXiv:2404.08471), the
    "uniform_power" layout of its released configurations.
    """
    frame, row, column = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    if grid.t == 1:
        parts = [_waves(column.flatten(), width // 2), _waves(row.flatten(), width // 2)]
    else:
        third = 2 * -(-width // 6)
        parts = [_waves(axis.flatten(), third) for axis in (frame, row, column)]
    return torch.cat(parts, dim=1)[:, :width].float()


def _waves(position: Tensor, width: int) -> Tensor:
    frequency = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width / 2))
    angle = position[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Positions(nn.Module):
    """Positions of patches by index; the class token's is zero for sin-cos and learned otherwise.

    Source of the learned kind: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), section 4: one embedding for
    space and one for time, added; a third for the class token.
    """

    table: Tensor

    def __init__(self, kind: Position, grid: Grid, width: int, num_prefix: int) -> None:
        super().__init__()
        self.kind, self.area = kind, grid.h * grid.w
        if kind is Position.sincos:
            self.register_buffer("table", sincos(grid, width), persistent=False)
        else:
            self.space = nn.Parameter(torch.empty(self.area, width))
            self.time = nn.Parameter(torch.empty(grid.t, width))
            self.prefix = nn.Parameter(torch.empty(num_prefix, width)) if num_prefix else None

    def initialise(self, generator: Generator) -> None:
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=0.02, a=-2.0, b=2.0, generator=generator)

    def forward(self, index: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Positions of the patches at `index` ([B, n] -> [B, n, D]), or of all of them ([N, D]) when None."""
        if self.kind is Position.sincos:
            table = self.table.to(dtype)
            return table if index is None else table[index]
        space, time = self.space.to(dtype), self.time.to(dtype)
        if index is None:
            return (time[:, None] + space).flatten(0, 1)
        return space[index % self.area] + time[index // self.area]

    def of_prefix(self, prefix: Tensor) -> Tensor:
        """`prefix` [..., P, D] plus its position."""
        if self.kind is Position.sincos or self.prefix is None:
            return prefix
        return prefix + self.prefix.to(prefix.dtype)
