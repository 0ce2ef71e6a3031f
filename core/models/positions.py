"""Where a patch is, told to the encoder: an embedding added to it, or a rotation of its queries and keys."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Generator, Tensor, nn

from core.types import Grid, truncated_normal_


class Position(Enum):
    """sincos, learned: by row, column and frame. sequence: sin-cos of the index alone. rope: rotated attention."""

    sincos = "sincos"
    learned = "learned"
    sequence = "sequence"
    rope = "rope"


Rotation = tuple[Tensor, Tensor]  # cosine and sine, [N, d] or [B, 1, N, d]


def stream_type(x: Tensor) -> torch.dtype:
    """What positions and residuals are added to `x` in: float32 on a GPU whatever autocast makes of the products, as in
    the released code of MAE, I-JEPA and V-JEPA; on a CPU the type of `x`, whose kernels keep to one."""
    return torch.float32 if x.device.type == "cuda" else x.dtype


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


def sequence(grid: Grid, width: int) -> Tensor:
    """Fixed sin-cos positions of the patch index, whatever the grid's shape, [N, width] float32.

    Sines and cosines take turns, one frequency a pair.

    Source: VideoMAE (Tong et al., 2022, arXiv:2203.12602), whose released models have it.
    """
    index = torch.arange(grid.num_patches, dtype=torch.float64)
    sin, cos = _waves(index, width).chunk(2, dim=1)
    return torch.stack([sin, cos], dim=2).flatten(1).float()


def rotation(grid: Grid, head_width: int) -> Rotation:
    """Cosine and sine by which every patch's queries and keys are rotated, [N, head_width] float32 each.

    A third of a head's features, rounded down to an even number, for frame, row and column each; what is left over is
    not rotated. Neighbouring features are rotated as a pair, while the list of frequencies is laid over each third
    twice, so that a pair's two features have different angles: not a rotation in the strict sense, but what the
    released models were trained with.

    Source: V-JEPA 2 (Assran et al., 2025, arXiv:2506.09985), section 2.1; the order is that of its released models.
    """
    third = 2 * (head_width // 3 // 2)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    waves = [_waves(axis.flatten(), third).chunk(2, dim=1) for axis in axes]
    sin = torch.cat([sin.repeat(1, 2) for sin, _ in waves], dim=1)
    cos = torch.cat([cos.repeat(1, 2) for _, cos in waves], dim=1)
    rest = (0, head_width - 3 * third)
    return nn.functional.pad(cos, rest, value=1.0).float(), nn.functional.pad(sin, rest).float()


class Positions(nn.Module):
    """Positions of patches by index; the class token's is learned with the learned kind and zero otherwise.

    Source of the learned kind: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), section 4: one embedding for
    space and one for time, added; a third for the class token.
    """

    table: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(self, kind: Position, grid: Grid, width: int, num_prefix: int, heads: int = 1) -> None:
        super().__init__()
        self.kind, self.area, self.num_prefix = kind, grid.h * grid.w, num_prefix
        if kind in (Position.sincos, Position.sequence):
            made = sincos(grid, width) if kind is Position.sincos else sequence(grid, width)
            self.register_buffer("table", made, persistent=False)
        elif kind is Position.rope:
            cos, sin = rotation(grid, width // heads)
            self.register_buffer("cos", cos, persistent=False)
            self.register_buffer("sin", sin, persistent=False)
        else:
            self.space = nn.Parameter(torch.empty(self.area, width))
            self.time = nn.Parameter(torch.empty(grid.t, width))
            self.prefix = nn.Parameter(torch.empty(num_prefix, width)) if num_prefix else None

    def initialise(self, generator: Generator) -> None:
        for parameter in self.parameters():
            truncated_normal_(parameter, 0.02, generator)

    def forward(self, index: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Positions of the patches at `index` ([B, n] -> [B, n, D]), or of all of them ([N, D]) when None."""
        if self.kind is Position.rope:
            return self.cos.new_zeros((), dtype=dtype)
        if self.kind is not Position.learned:
            table = self.table.to(dtype)
            return table if index is None else table[index]
        space, time = self.space.to(dtype), self.time.to(dtype)
        if index is None:
            return (time[:, None] + space).flatten(0, 1)
        return rows_of(space, index % self.area) + rows_of(time, index // self.area)

    def of_prefix(self, prefix: Tensor) -> Tensor:
        """`prefix` [..., P, D] plus its position."""
        if self.kind is not Position.learned or self.prefix is None:
            return prefix
        return prefix + self.prefix.to(prefix.dtype)

    def rotation(self, index: Tensor | None) -> Rotation | None:
        """How attention rotates class tokens (not at all) and the patches at `index`; None for the other kinds."""
        if self.kind is not Position.rope:
            return None
        cos, sin = (self.cos, self.sin) if index is None else (self.cos[index][:, None], self.sin[index][:, None])
        unmoved = (0, 0, self.num_prefix, 0)
        return nn.functional.pad(cos, unmoved, value=1.0), nn.functional.pad(sin, unmoved)


def rows_of(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]`, [B, n] of [N, D] -> [B, n, D].

    On a GPU indexing adds the gradients of a row's many uses one after the other, a third of MAE-ST's step on an H100;
    an embedding's gradient adds them in parts, and in the same order each time.
    """
    return nn.functional.embedding(index, table) if table.device.type == "cuda" else table[index]
