"""Whole frames."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from core.masks.random import check_ratio, num_context, split
from core.types import Grid, Mask, View


@dataclass
class TimeMask(Mask):
    """Hide whole time slices of a clip (a slice is one tubelet deep).

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), section 3.2, Figure 4c and Table 2a (75 %, 87.5 %).
    """

    ratio: float = 0.75  # fraction of the time slices hidden

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def check(self, grid: Grid) -> None:
        if grid.t < 2:
            raise ValueError(
                f"mask=time needs at least 2 time slices, and grid {grid.t}x{grid.h}x{grid.w} has {grid.t}: "
                "use clips, a smaller tubelet, or mask=random"
            )
        num_context(self.ratio, grid.t, grid, "time slices")

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        self.check(grid)
        kept = num_context(self.ratio, grid.t, grid, "time slices")
        context, target = split(batch_size, grid.t, kept, generator)
        return [View(slices(context, grid), slices(target, grid))]


def slices(frames: Tensor, grid: Grid) -> Tensor:
    """Every patch of the given time slices: [B, n] -> [B, n * H * W]."""
    area = grid.h * grid.w
    return (frames[:, :, None] * area + torch.arange(area)).flatten(1)
