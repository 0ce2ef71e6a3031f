"""One hidden rectangle, or one hidden box of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from core.masks.blocks import Shape, Size, corners, offsets, tube
from core.masks.ragged import columns_of
from core.types import Grid, Mask, View


@dataclass
class BlockMask(Mask):
    """Hide one block, anywhere in the frame; its complement is the context. In a clip the block spans all frames.

    Sides are rounded to whole patches, so 0.6 hides 121 of 196 on 14x14 and 36 of 64 on 8x8; the realised share is
    recorded with every run.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 9 and Table 6: Block(0.6), context ratio 0.4.
    """

    scale: float = 0.6  # fraction of the frame hidden
    aspect: float = 1.0  # height / width

    def __post_init__(self) -> None:
        check_block("mask.scale", self.scale, self.aspect)

    def check(self, grid: Grid) -> None:
        size = self.size(grid)
        if size.area == grid.h * grid.w:
            raise ValueError(
                f"mask.scale={self.scale} hides all of grid {grid.t}x{grid.h}x{grid.w} "
                f"(its block is {size.h}x{size.w}): make it smaller"
            )

    def size(self, grid: Grid) -> Size:
        return Shape(self.scale, self.scale, self.aspect, self.aspect).size(grid, 0, 0)

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        self.check(grid)
        size = self.size(grid)
        tops_left = corners(grid, size, exclusive=False)
        start = tops_left[torch.randint(len(tops_left), (batch_size, 1), generator=generator)]
        target = start + offsets(grid, size)
        visible = np.ones((batch_size, grid.h * grid.w), dtype=bool)
        np.put_along_axis(visible, target.numpy(), False, axis=1)
        return [View(tube(columns_of(visible), grid), tube(target, grid))]


@dataclass
class CubeMask(Mask):
    """Hide one box of a clip, anywhere in space and time; its complement is the context.

    Defaults hide about three quarters of a clip, the ratio of MAE-ST's block-wise row. That row follows BEiT in adding
    up boxes until the ratio is reached; here it is one box, so that all samples have the same lengths.

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), section 3.2, Figure 4d and Table 2a.
    """

    spatial_scale: float = 0.85  # fraction of each frame that the box covers
    temporal_scale: float = 0.875  # fraction of the time slices that it covers
    aspect: float = 1.0  # height / width

    def __post_init__(self) -> None:
        check_block("mask.spatial_scale", self.spatial_scale, self.aspect)
        if not 0 < self.temporal_scale <= 1:
            raise ValueError(f"mask.temporal_scale must be in (0, 1], got {self.temporal_scale}")

    def check(self, grid: Grid) -> None:
        depth, size = self.size(grid)
        if depth * size.area == grid.num_patches:
            raise ValueError(
                f"mask.spatial_scale={self.spatial_scale} and mask.temporal_scale={self.temporal_scale} hide all of "
                f"grid {grid.t}x{grid.h}x{grid.w} (the box is {depth}x{size.h}x{size.w}): make one smaller"
            )

    def size(self, grid: Grid) -> tuple[int, Size]:
        """The box's depth in time slices and its height and width."""
        scale, aspect = self.spatial_scale, self.aspect
        depth = max(1, math.floor(grid.t * self.temporal_scale + 1e-9))
        return depth, Shape(scale, scale, aspect, aspect).size(grid, 0, 0)

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        self.check(grid)
        depth, size = self.size(grid)
        tops_left = corners(grid, size, exclusive=False)
        start = tops_left[torch.randint(len(tops_left), (batch_size, 1), generator=generator)]
        first = torch.randint(grid.t - depth + 1, (batch_size, 1), generator=generator)
        area = grid.h * grid.w
        box = tube(offsets(grid, size)[None], grid._replace(t=depth))  # [1, depth * h * w]
        target = start + first * area + box
        visible = np.ones((batch_size, grid.num_patches), dtype=bool)
        np.put_along_axis(visible, target.numpy(), False, axis=1)
        return [View(columns_of(visible), target)]


def check_block(name: str, scale: float, aspect: float) -> None:
    if not 0 < scale < 1 and not (name == "mask.spatial_scale" and scale == 1):
        allowed = "(0, 1]" if name == "mask.spatial_scale" else "(0, 1)"
        raise ValueError(f"{name} must be in {allowed}, got {scale}")
    if not 0 < aspect < math.inf:
        raise ValueError(f"mask.aspect must be positive, got {aspect}")
