"""The pixels of the target patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from core.types import DataSpec, EncoderModule, Grid, Target, TargetModule, View


class PixelNorm(Enum):
    none = "none"
    patch = "patch"
    cube_channel = "cube_channel"


class Frames(Enum):
    all = "all"
    mae_st = "mae_st"


@dataclass
class PixelTarget(Target):
    """Pixels of each target patch, as vectors in the order (frame, row, column, channel).

    norm=patch: each patch minus its mean, over its standard deviation (unbiased variance + 1e-6), all values of the
    patch together (MAE, MAE-ST). norm=cube_channel: mean and standard deviation (unbiased, + 1e-6 after the root) of
    each channel of the cube (VideoMAE). VideoMAE takes them of pixels in [0, 1]; here they are of the normalised
    clip, which differs by the 1e-6 alone because normalising is affine in each channel.
    frames=mae_st: only T/2 of the clip's T frames, at floor(linspace(0, T - 1, T / 2)), shared out among the
    tubelets in order: 0 2 4 6 8 10 12 15 of 16.

    Source: MAE (arXiv:2111.06377), section 3; MAE-ST (arXiv:2205.09113), section 4 and table 2c; VideoMAE
    (arXiv:2203.12602), section 3.
    """

    norm: PixelNorm = PixelNorm.patch
    frames: Frames = Frames.all

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        return Pixels(self, encoder.grid, spec)


class Pixels(TargetModule):
    def __init__(self, options: PixelTarget, grid: Grid, spec: DataSpec) -> None:
        super().__init__()
        self.grid, self.norm = grid, options.norm
        self.frames = predicted_frames(options.frames, grid, spec)
        per_tubelet = (spec.frames if self.frames is None else len(self.frames)) // grid.t
        self.out_dim = per_tubelet * (spec.height // grid.h) * (spec.width // grid.w) * spec.channels

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        clips = chosen_frames(clips, self.frames)
        return [normalise(cut_patches(clips, self.grid, view.target).float(), self.norm).flatten(2) for view in views]

    @torch.no_grad()
    def paint(self, clips: Tensor, view: View, prediction: Tensor) -> Tensor:
        """The target patches as predicted, everything else as it was.

        A patch that is normalised by itself is given its own mean and scale back, those of the original: the model
        predicts what is left, and the picture shows no more of its work than that (as in MAE's and MAE-ST's figures).
        With frames=mae_st the frames that are not predicted are NaN.
        """
        frames = self.frames if self.frames is not None else list(range(clips.shape[2]))
        every = torch.arange(self.grid.num_patches, device=clips.device).expand(len(clips), -1)
        patches = cut_patches(clips[:, :, frames], self.grid, every).float()  # [B, N, u, p, q, C]
        index = view.target.view(*view.target.shape, 1, 1, 1, 1).expand(-1, -1, *patches.shape[2:])
        originals = patches.gather(1, index)
        patches = patches.scatter(1, index, denormalise(prediction.view_as(originals), originals, self.norm))
        painted = torch.full_like(clips, math.nan, dtype=torch.float32)
        painted[:, :, frames] = join_patches(patches, self.grid)
        return painted


def predicted_frames(frames: Frames, grid: Grid, spec: DataSpec) -> list[int] | None:
    """The frames of a clip that a target is about, None for all; ValueError where they cannot be shared out."""
    if frames is Frames.all:
        return None
    per_tubelet = spec.frames // grid.t
    if per_tubelet % 2:
        raise ValueError(
            f"target.frames=mae_st halves the frames of a tubelet, so encoder.tubelet must be even, "
            f"got {per_tubelet}: use target.frames=all"
        )
    return every_other_frame(spec.frames)


def every_other_frame(num_frames: int) -> list[int]:
    """floor(linspace(0, T - 1, T / 2)) in whole numbers: every second frame, but the last one is T - 1."""
    count = num_frames // 2
    return [i * (num_frames - 1) // max(count - 1, 1) for i in range(count)]


def chosen_frames(clips: Tensor, frames: Sequence[int] | None) -> Tensor:
    """`clips` [B, C, T, H, W] with these frames only, or as they are.

    One by one: an index would be copied to a GPU, which waits for all that it has to do before.
    """
    return clips if frames is None else torch.stack([clips[:, :, frame] for frame in frames], dim=2)


def cut_patches(clips: Tensor, grid: Grid, index: Tensor) -> Tensor:
    """The patches at `index` [B, n] of `clips` [B, C, T, H, W]: [B, n, frames, rows, columns, C]."""
    b, c, frames, height, width = clips.shape
    cut = clips.reshape(b, c, grid.t, frames // grid.t, grid.h, height // grid.h, grid.w, width // grid.w)
    cut = cut.permute(0, 2, 4, 6, 3, 5, 7, 1)  # [B, t, h, w, u, p, q, C]
    rows = cut.reshape(b * grid.num_patches, -1)  # most patches are targets: one copy of all, then whole rows
    offset = grid.num_patches * torch.arange(b, device=clips.device)[:, None]
    return rows[index + offset].view(*index.shape, *cut.shape[4:])


def join_patches(patches: Tensor, grid: Grid) -> Tensor:
    """All patches of each clip [B, N, frames, rows, columns, C] -> [B, C, T, H, W]; undoes `cut_patches`."""
    b, _, frames, rows, columns, c = patches.shape
    laid = patches.view(b, *grid, frames, rows, columns, c).permute(0, 7, 1, 4, 2, 5, 3, 6)  # [B, C, t, u, h, p, w, q]
    return laid.reshape(b, c, grid.t * frames, grid.h * rows, grid.w * columns)


def normalise(patches: Tensor, norm: PixelNorm) -> Tensor:
    """`patches` [B, n, u, p, q, C], float32 and not used again, each normalised by itself."""
    if norm is PixelNorm.none:
        return patches
    over = (2, 3, 4, 5) if norm is PixelNorm.patch else (2, 3, 4)
    count = math.prod([patches.shape[dim] for dim in over])  # torch.compile cannot take a generator here
    # Not torch.var_mean, which takes several times as long on CPU; in place, because these are the largest tensors of
    # a step.
    patches -= patches.mean(over, keepdim=True)
    variance = torch.linalg.vector_norm(patches, dim=over, keepdim=True).square() / (count - 1)
    patches *= (variance + 1e-6).rsqrt() if norm is PixelNorm.patch else 1 / (variance.sqrt() + 1e-6)
    return patches


def denormalise(values: Tensor, originals: Tensor, norm: PixelNorm) -> Tensor:
    """`values` with the mean and the scale that `normalise` takes away from `originals`; both [B, n, u, p, q, C]."""
    if norm is PixelNorm.none:
        return values
    over = (2, 3, 4, 5) if norm is PixelNorm.patch else (2, 3, 4)
    variance, mean = torch.var_mean(originals, over, keepdim=True)
    return mean + values * ((variance + 1e-6).sqrt() if norm is PixelNorm.patch else variance.sqrt() + 1e-6)
