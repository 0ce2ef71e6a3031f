"""Histograms of oriented gradients of the target patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from core.targets.pixels import Frames, chosen_frames, cut_patches, predicted_frames
from core.types import DataSpec, EncoderModule, Grid, Target, TargetModule, View


@dataclass
class HogTarget(Target):
    """How strongly brightness changes in each direction, in each cell of each target patch.

    Gradients are central differences within the frame, zero along its border; their directions, without sign, fall
    into `bins` equal bins of [0, 180) degrees, weighted by their length. A patch is `cells` x `cells` cells, and the
    bins of a cell are divided by their l2 norm, channel by channel. A vector is in the order (frame, row, column,
    channel, bin).

    Source: MaskFeat (Wei et al., 2021, arXiv:2112.09133), section 3: 9 bins, 2 x 2 cells in a patch of 16 pixels, each
    colour by itself; the target of MAE-ST (arXiv:2205.09113), Table 2b. Histograms: Dalal and Triggs, CVPR 2005.
    """

    bins: int = 9
    cells: int = 2  # along each side of a patch
    frames: Frames = Frames.all

    def __post_init__(self) -> None:
        for name in ("bins", "cells"):
            if getattr(self, name) < 1:
                raise ValueError(f"target.{name} must be at least 1, got {getattr(self, name)}")

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        return Histograms(self, encoder.grid, spec)


class Histograms(TargetModule):
    def __init__(self, options: HogTarget, grid: Grid, spec: DataSpec) -> None:
        super().__init__()
        self.options, self.grid = options, grid
        height, width = spec.height // grid.h, spec.width // grid.w
        if height % options.cells or width % options.cells:
            raise ValueError(
                f"target.cells must divide the patch, {height} x {width} pixels, got {options.cells}: "
                "use target.cells=1 for one histogram a patch"
            )
        self.frames = predicted_frames(options.frames, grid, spec)
        num_frames = (spec.frames if self.frames is None else len(self.frames)) // grid.t
        self.out_dim = num_frames * options.cells**2 * spec.channels * options.bins

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        clips = chosen_frames(clips, self.frames)
        rows, columns = self.grid.h * self.options.cells, self.grid.w * self.options.cells
        maps = histograms(clips.float(), rows, columns, self.options.bins)
        return [cut_patches(maps, self.grid, view.target).flatten(2) for view in views]


def histograms(clips: Tensor, rows: int, columns: int, bins: int) -> Tensor:
    """Normalised histograms of each frame's cells: [B, C, T, H, W] -> [B, C * bins, T, rows, columns]."""
    b, c, t, height, width = clips.shape
    across, down = torch.zeros_like(clips), torch.zeros_like(clips)
    across[..., 1:-1] = clips[..., 2:] - clips[..., :-2]
    down[..., 1:-1, :] = clips[..., 2:, :] - clips[..., :-2, :]
    length = torch.hypot(across, down)
    angle = torch.atan2(down, across).remainder(math.pi)
    which = (angle * (bins / math.pi)).long().clamp(max=bins - 1)  # an angle just below 0 comes out as pi itself
    cells = (b, c, t, rows, height // rows, columns, width // columns)
    # Bin by bin and not by scatter_add_, whose sums on a GPU come in another order each time.
    counts = [torch.where(which == k, length, 0).view(cells).sum((4, 6)) for k in range(bins)]
    return F.normalize(torch.stack(counts, 2), dim=2, eps=1e-5).flatten(1, 2)
