"""V-JEPA's masks: unions of space-time blocks, one view for each kind."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from core.masks.blocks import Shape, Size, check_range
from core.masks.ragged import Flags, Ragged, first_in_raster, padded, random_subset
from core.types import Grid, Mask, View, generator_for

NUM_ROUNDS = 20  # of drawing again the samples whose blocks cover too much or too little
LOW_QUANTILE = 0.1  # of the raw context and target lengths: the lengths of `ragged=fixed`


@dataclass
class MultiBlock3dMask(Mask):
    """Predict the union of several blocks from its complement; entry i of the lists gives the view of kind i.

    Defaults are V-JEPA's short-range (8 blocks of 0.15) and long-range masks (2 of 0.7), both used for every clip. The
    block size is drawn once a batch, positions (last row and column included) for each sample. A `temporal_scale` of 1
    makes tubes; below it, blocks lie anywhere in time. On an image the blocks are rectangles.

    Lengths differ between samples (`ragged`): `fixed` takes random subsets of context and target whose lengths are the
    0.1 quantiles of 1,024 draws of a generator of its own, so every time slice stays covered; a sample with fewer is
    drawn again up to 20 times and then borrows the missing patches at random from the other side. `truncate` is the
    authors' code: the first in (t, h, w) order, which drops the last time slices of both. `pad` keeps everything.

    `spatial_ratio` hides that share of the frames with a target exactly, where blocks alone vary: all blocks of
    a mask lie in the same time slices, of which the context keeps a random subset of what they leave, and all of the
    others. A sample whose blocks leave too little is drawn again, and borrows as above.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), section 3.1 and Appendix C.3 (Tables 13-15). The printed
    numbers were made with ragged=truncate, whose cutting is what hides 90 % there.
    """

    num_blocks: list[int] = field(default_factory=lambda: [8, 2])
    spatial_scale: list[float] = field(default_factory=lambda: [0.15, 0.7])  # fraction of a frame, of each block
    temporal_scale: list[float] = field(default_factory=lambda: [1.0, 1.0])  # fraction of the time slices
    aspect_min: float = 0.75  # height / width
    aspect_max: float = 1.5
    ragged: Ragged = Ragged.fixed
    context_share_max: float = 1.0  # cap on the context's length, as a fraction of all patches
    context_time_max: float = 1.0  # only this first fraction of the time slices is context; later ones become targets
    spatial_ratio: float | None = None  # share of the frames with a target that is hidden; null: what the blocks cover

    def __post_init__(self) -> None:
        lengths = {len(self.num_blocks), len(self.spatial_scale), len(self.temporal_scale)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "mask.num_blocks, mask.spatial_scale and mask.temporal_scale must have one entry for each mask of a "
                f"clip, got {self.num_blocks}, {self.spatial_scale} and {self.temporal_scale}"
            )
        if min(self.num_blocks) < 1:
            raise ValueError(f"mask.num_blocks must be at least 1 each, got {self.num_blocks}")
        for name in ("spatial_scale", "temporal_scale"):
            values = getattr(self, name)
            if not all(0 < value <= 1 for value in values):
                raise ValueError(f"mask.{name} must be in (0, 1] each, got {values}")
        check_range("mask.aspect", self.aspect_min, self.aspect_max, limit=math.inf)
        for name in ("context_share_max", "context_time_max"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise ValueError(f"mask.{name} must be in (0, 1], got {value}")
        if self.spatial_ratio is not None:
            if not 0 < self.spatial_ratio <= 1:
                raise ValueError(f"mask.spatial_ratio must be in (0, 1] or null, got {self.spatial_ratio}")
            if self.ragged is not Ragged.fixed or min(self.context_share_max, self.context_time_max) < 1:
                raise ValueError(
                    f"mask.spatial_ratio={self.spatial_ratio} decides how much is context: it needs mask.ragged=fixed, "
                    f"mask.context_share_max=1 and mask.context_time_max=1, got {self.ragged.value}, "
                    f"{self.context_share_max} and {self.context_time_max}"
                )

    def check(self, grid: Grid) -> None:
        """Raises ValueError when a kind of mask usually leaves no context or no target on `grid`."""
        if self.spatial_ratio is not None:
            for kind in range(len(self.num_blocks)):
                self._check_ratio(grid, kind)
            return
        for kind in range(len(self.num_blocks)):
            usual = _raw_lengths(self._key(), grid, kind).median
            if not 0 < usual < grid.num_patches:
                side = "context" if usual == 0 else "target"
                raise ValueError(
                    f"mask.num_blocks[{kind}]={self.num_blocks[kind]} blocks of mask.spatial_scale[{kind}]="
                    f"{self.spatial_scale[kind]} leave no {side} in more than half of the draws on grid "
                    f"{grid.t}x{grid.h}x{grid.w}: use fewer or smaller blocks, or smaller patches"
                )

    def _check_ratio(self, grid: Grid, kind: int) -> None:
        frame = Grid(1, grid.h, grid.w)
        depth, kept = self._kept(grid, kind)
        if not kept and depth == grid.t:
            raise ValueError(
                f"mask.spatial_ratio={self.spatial_ratio} leaves no context on grid {grid.t}x{grid.h}x{grid.w}"
            )
        num_left = frame.num_patches - _raw_lengths(self._key(), frame, kind).target
        if num_left * depth < kept:
            raise ValueError(
                f"mask.spatial_ratio={self.spatial_ratio} is less than {self.num_blocks[kind]} blocks of "
                f"mask.spatial_scale[{kind}]={self.spatial_scale[kind]} hide of a frame of {grid.h}x{grid.w} patches, "
                f"{1 - num_left / frame.num_patches:.2f} or more: use fewer or smaller blocks, or a larger ratio"
            )

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        self.check(grid)
        view = self._view if self.spatial_ratio is None else self._exact_view
        return [view(grid, batch_size, kind, generator) for kind in range(len(self.num_blocks))]

    def _view(self, grid: Grid, batch_size: int, kind: int, generator: Generator) -> View:
        num_context, num_target = self._lengths(grid, kind)
        free = self._draw(grid, batch_size, kind, num_context, grid.num_patches - num_target, generator)
        cap = self._cap(grid)
        if self.ragged is Ragged.fixed:
            context = random_subset(free, num_context, generator)
            target = random_subset(~free, num_target, generator)
            return View(context, target, kind=kind)
        if self.ragged is Ragged.truncate:
            return View(first_in_raster(free)[:, :cap], first_in_raster(~free), kind=kind)
        context, context_valid = padded(free)
        target, target_valid = padded(~free)
        return View(context[:, :cap], target, context_valid[:, :cap], target_valid, kind)

    def _exact_view(self, grid: Grid, batch_size: int, kind: int, generator: Generator) -> View:
        """Blocks drawn in one frame and laid over `depth` time slices of each sample."""
        frame, (depth, kept) = Grid(1, grid.h, grid.w), self._kept(grid, kind)
        area, num_target = frame.num_patches, _raw_lengths(self._key(), frame, kind).target
        free = self._draw(frame, batch_size, kind, -(-kept // depth), area - num_target, generator)
        first: Tensor = torch.randint(grid.t - depth + 1, (batch_size, 1), generator=generator) * area
        inside = np.tile(free, (1, depth))  # [B, depth * H * W]
        others = torch.arange((grid.t - depth) * area).expand(batch_size, -1)
        context = [others + depth * area * (others >= first)]
        if kept:
            context.append(random_subset(inside, kept, generator) + first)
        target = random_subset(~inside, depth * num_target, generator) + first
        return View(torch.cat(context, dim=1).sort(dim=1).values, target, kind=kind)

    def _kept(self, grid: Grid, kind: int) -> tuple[int, int]:
        """Time slices with a target, and context patches in all of these together."""
        assert self.spatial_ratio is not None
        depth = max(1, int(grid.t * self.temporal_scale[kind] + 1e-9))
        return depth, round((1 - self.spatial_ratio) * depth * grid.h * grid.w)

    def _lengths(self, grid: Grid, kind: int) -> tuple[int, int]:
        """The fewest context and target patches of a sample, and its exact lengths where these are fixed."""
        if self.ragged is not Ragged.fixed:
            return 1, 1
        raw = _raw_lengths(self._key(), grid, kind)
        return raw.context, raw.target

    def _cap(self, grid: Grid) -> int:
        return max(1, int(self.context_share_max * grid.num_patches))

    def _key(self) -> tuple[object, ...]:
        return tuple(tuple(value) if isinstance(value, list) else value for value in vars(self).values())

    # ---- drawing ---------------------------------------------------------------------------------

    def _draw(self, grid: Grid, batch_size: int, kind: int, fewest: int, most: int, generator: Generator) -> Flags:
        """Context flags [B, N] with between `fewest` and `most` set in each row, nearly always.

        After `NUM_ROUNDS` a row may still be out of these bounds; then single random patches change sides.
        """
        depth, size = self._size(grid, kind, generator)
        free = self._free(grid, batch_size, kind, depth, size, generator)
        for _ in range(NUM_ROUNDS):
            counts = free.sum(1)
            bad = np.flatnonzero((counts < fewest) | (counts > most))
            if not len(bad):
                return free
            free[bad] = self._free(grid, len(bad), kind, depth, size, generator)
        counts = free.sum(1)
        for row in np.flatnonzero((counts < fewest) | (counts > most)):
            length = min(max(int(counts[row]), fewest), most)
            context = random_subset(free[row : row + 1], length, generator).numpy()
            free[row] = False
            free[row, context[0]] = True
        return free

    def _size(self, grid: Grid, kind: int, generator: Generator) -> tuple[int, Size]:
        """The batch's block: depth in time slices, height and width."""
        scale = self.spatial_scale[kind]
        aspect = torch.rand(1, generator=generator).item()
        depth = max(1, int(grid.t * self.temporal_scale[kind] + 1e-9))
        return depth, Shape(scale, scale, self.aspect_min, self.aspect_max).size(grid, 0, aspect)

    def _free(self, grid: Grid, num: int, kind: int, depth: int, size: Size, generator: Generator) -> Flags:
        """Patches outside all blocks: [num, T * H * W]."""
        shape = (num, self.num_blocks[kind], 1)

        def inside(extent: int, total: int) -> Flags:  # [num, blocks, total]
            first: Tensor = torch.randint(total - extent + 1, shape, generator=generator)
            places = np.arange(total)
            return (places >= first.numpy()) & (places < first.numpy() + extent)

        in_t, in_h, in_w = inside(depth, grid.t), inside(size.h, grid.h), inside(size.w, grid.w)
        covered = np.zeros((num, *grid), dtype=bool)
        for block in range(self.num_blocks[kind]):
            frame = in_h[:, block, None, :, None] & in_w[:, block, None, None, :]
            covered |= in_t[:, block, :, None, None] & frame
        covered[:, max(1, int(grid.t * self.context_time_max + 1e-9)) :] = True
        return ~covered.reshape(num, -1)


class RawLengths(NamedTuple):
    """Lengths before anything is cut off or redrawn."""

    context: int  # low quantile, at most `context_share_max`
    target: int  # low quantile
    median: int  # of the context


@lru_cache(maxsize=64)
def _raw_lengths(key: tuple[object, ...], grid: Grid, kind: int) -> RawLengths:
    mask = MultiBlock3dMask(*(list(value) if isinstance(value, tuple) else value for value in key))  # type: ignore[arg-type]
    generator = generator_for(0, "multiblock3d", "raw context length", kind)
    counts = []
    for _ in range(128):
        depth, size = mask._size(grid, kind, generator)
        counts.append(mask._free(grid, 8, kind, depth, size, generator).sum(1))
    low, median, high = np.quantile(np.concatenate(counts), [LOW_QUANTILE, 0.5, 1 - LOW_QUANTILE])
    num_context = max(1, min(int(low), mask._cap(grid)))
    num_target = max(1, grid.num_patches - int(high))
    return RawLengths(num_context, num_target, int(median))
