"""One quadrant predicts the other three."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from core.masks.blocks import Size, offsets, tube
from core.types import Grid, Mask, View


@dataclass
class RasterizedMask(Mask):
    """Divide the frame in four quadrants; one, drawn for each sample, is the context of the other three.

    Three views share the context, so that each quadrant is predicted by itself, as I-JEPA's target blocks are. In a
    clip the quadrants go through all frames.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 9 and Table 6 (3 targets, context ratio 0.25).
    """

    def check(self, grid: Grid) -> None:
        if grid.h % 2 or grid.w % 2:
            raise ValueError(
                f"mask=rasterized needs an even number of rows and columns to cut four equal quadrants, "
                f"got grid {grid.t}x{grid.h}x{grid.w}"
            )

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        self.check(grid)
        size = Size(grid.h // 2, grid.w // 2)
        starts = torch.tensor([0, size.w, size.h * grid.w, size.h * grid.w + size.w])
        first = torch.randint(4, (batch_size, 1), generator=generator)
        quadrants = starts[(first + torch.arange(4)) % 4]  # [B, 4]: the context's, then the others in turn
        context, *targets = (tube(start[:, None] + offsets(grid, size), grid) for start in quadrants.unbind(1))
        return [View(context, target) for target in targets]
