"""Tubes: the same random positions in every frame."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator

from core.masks.blocks import tube
from core.masks.random import check_ratio, num_context, split
from core.types import Grid, Mask, View


@dataclass
class SpaceMask(Mask):
    """Hide the same random positions in every frame.

    A clip changes little between frames, so hiding random space-time patches lets a model copy from a neighbouring
    frame; a tube removes that shortcut. On an image it equals `random`.

    Source: VideoMAE (Tong et al., 2022, arXiv:2203.12602), section 3.2; MAE-ST (arXiv:2205.09113), Figure 4b.
    """

    ratio: float = 0.9  # fraction of the positions hidden

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def check(self, grid: Grid) -> None:
        num_context(self.ratio, grid.h * grid.w, grid, "positions")

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        area = grid.h * grid.w
        kept = num_context(self.ratio, area, grid, "positions")
        context, target = split(batch_size, area, kept, generator)
        return [View(tube(context, grid), tube(target, grid))]
