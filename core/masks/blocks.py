"""Rectangles of patches: their sizes, where they can lie, and tubes of them through a clip."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from core.types import Grid


class Size(NamedTuple):
    """A rectangle's height and width in patches."""

    h: int
    w: int

    @property
    def area(self) -> int:
        return self.h * self.w


class Shape(NamedTuple):
    """Ranges that a rectangle's share of the frame (`scale`) and height / width (`aspect`) are drawn from.

    `margin` is 1 where a rectangle must stay smaller than the grid (the authors' code), else 0.
    """

    scale_min: float
    scale_max: float
    aspect_min: float
    aspect_max: float
    margin: int = 0

    def size(self, grid: Grid, scale_draw: float, aspect_draw: float) -> Size:
        """The rectangle for two draws in [0, 1]. floor(scale x H x W) patches, rounded to whole sides.

        Source: I-JEPA (arXiv:2301.08243), section 3, and the rounding of its authors' code.
        """
        scale = self.scale_min + scale_draw * (self.scale_max - self.scale_min)
        aspect = self.aspect_min + aspect_draw * (self.aspect_max - self.aspect_min)
        # 1e-9: 0.6 * 25 is 14.999999999999998, and 15 patches are meant.
        return self._rounded(grid, int(scale * grid.h * grid.w + 1e-9), aspect)

    def _rounded(self, grid: Grid, patches: int, aspect: float) -> Size:
        height, width = round(math.sqrt(patches * aspect)), round(math.sqrt(patches / aspect))
        return Size(
            max(1, min(height, grid.h - self.margin)),
            max(1, min(width, grid.w - self.margin)),
        )

    def sizes(self, grid: Grid, *, shared: bool = False) -> list[Size]:
        """Every size that can be drawn on `grid`, smallest area first; `shared`: with one draw for scale and aspect."""
        area = grid.h * grid.w
        found = set()
        for patches in range(int(self.scale_min * area + 1e-9), int(self.scale_max * area + 1e-9) + 1):
            low, high = self.aspect_min, self.aspect_max
            if shared and self.scale_max > self.scale_min:
                low, high = self._aspect_at(patches / area), self._aspect_at((patches + 1) / area)
            if patches:
                found |= {self._rounded(grid, patches, aspect) for aspect in one_of_each_rounding(patches, low, high)}
        return sorted(found or {Size(1, 1)}, key=lambda size: (size.area, size))

    def _aspect_at(self, scale: float) -> float:
        """The aspect that goes with a scale, or the nearest one, where both come from one draw."""
        draw = (scale - self.scale_min) / (self.scale_max - self.scale_min)
        return self.aspect_min + min(max(draw, 0), 1) * (self.aspect_max - self.aspect_min)


def one_of_each_rounding(patches: int, low: float, high: float) -> list[float]:
    """One aspect from each interval of [low, high] on which both rounded sides are constant, and the two ends."""
    halves = [(side + 0.5) ** 2 for side in range(patches + 1)]
    changes = {*(half / patches for half in halves), *(patches / half for half in halves)}
    edges = [low, *sorted(aspect for aspect in changes if low < aspect < high), high]
    return [low, high, *((left + right) / 2 for left, right in pairwise(edges))]


def check_range(name: str, low: float, high: float, *, limit: float) -> None:
    """ValueError unless 0 < low <= high <= limit; `name` is the option without its _min or _max."""
    if not 0 < low <= high <= limit:
        bound = f" <= {limit:g}" if math.isfinite(limit) else ""
        raise ValueError(f"{name}_min and {name}_max must satisfy 0 < min <= max{bound}, got {low} and {high}")


@lru_cache(maxsize=256)
def corners(grid: Grid, size: Size, exclusive: bool) -> Tensor:
    """Patch indices of the top-left corners that a rectangle of this size can have in a frame: [num].

    `exclusive` leaves out the last row and column of corners, and thereby of patches.
    """
    tops = torch.arange(max(1, grid.h - size.h + (not exclusive)))
    lefts = torch.arange(max(1, grid.w - size.w + (not exclusive)))
    return (tops[:, None] * grid.w + lefts).flatten()


@lru_cache(maxsize=256)
def offsets(grid: Grid, size: Size) -> Tensor:
    """A rectangle's patch indices relative to its top-left corner, ascending: [h * w]."""
    return (torch.arange(size.h)[:, None] * grid.w + torch.arange(size.w)).flatten()


def tube(positions: Tensor, grid: Grid) -> Tensor:
    """The same frame positions in every frame of the clip: [B, n] -> [B, T * n], frame by frame."""
    if grid.t == 1:
        return positions
    frames = torch.arange(grid.t)[:, None] * (grid.h * grid.w)  # [T, 1]
    return (positions[:, None, :] + frames).flatten(1)
