"""Feature maps of single frames: the tokens of a clip by frame, and an encoder on frames larger than its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evals.frozen.samples import subset
from core.types import DataSpec, Encoder, EncoderModule, Grid


def by_frame(tokens: Tensor, grid: Grid, num_frames: int, frames: Sequence[int]) -> Tensor:
    """Tokens [N, n, D] of clips of `num_frames` as maps of some of their frames: [N, F, h, w, D].

    A tubelet's tokens stand for each of its frames. An encoder of clips has seen an image in every frame: its maps are
    averaged then.
    """
    num_slices = tokens.shape[1] // (grid.h * grid.w)
    maps = tokens.view(len(tokens), num_slices, grid.h, grid.w, tokens.shape[-1])
    if num_slices > num_frames:
        return maps.float().mean(1, keepdim=True).to(maps.dtype)
    return maps[:, [frame * num_slices // num_frames for frame in frames]]


def centre(frames: Tensor, built_for: DataSpec) -> Tensor:
    """The middle of `frames` [..., H, W] that an encoder of smaller ones sees, as `clips.corners` has it."""
    top, left = (round((have - want) / 2) for have, want in zip(frames.shape[-2:], _size(built_for), strict=True))
    return frames[..., top : top + built_for.height, left : left + built_for.width]


def _size(spec: DataSpec) -> tuple[int, int]:
    return spec.height, spec.width


def read_segments(dataset: Any, split: str, samples: Tensor, frames: Sequence[int]) -> Tensor:
    """What each pixel of these frames of some samples shows, [B, F, H, W] int16, -1 = not labelled.

    Raises ValueError naming the clip for a value that is no class.
    """
    num_classes = dataset.spec.segment_classes
    classes: Tensor = dataset.segments(samples)[:, list(frames)]
    wrong = ((classes < -1) | (classes >= num_classes)).flatten(1)
    if wrong.any():
        row = int(wrong.any(1).nonzero()[0])
        raise ValueError(
            f"eval_data: {split} clip {int(samples[row])} has a pixel of the class "
            f"{int(classes[row].flatten()[wrong[row]][0])}; classes are 0 .. {num_classes - 1}, or -1 for not labelled"
        )
    return classes.to(torch.int16)


def check_pixels(key: str, train: Any, test: Any, frames: Sequence[int], *, max_train: int | None = None) -> None:
    """Raise ValueError where no pixel of these frames of a split has a class. Reads until it finds one."""
    ends = {"train": "so nothing can be learned", "test": "so there is nothing to be judged on"}
    for split, dataset in (("train", train), ("test", test)):
        samples = subset(len(dataset), max_train if split == "train" else None)
        parts = (read_segments(dataset, split, part, frames) for part in torch.split(samples, 16))
        if not any(bool((part >= 0).any()) for part in parts):
            raise ValueError(f"{key}: no {split} pixel has a class, {ends[split]}")


def fitting(size: Sequence[int], built_for: DataSpec, grid: Grid) -> tuple[int, int]:
    """The multiple of the encoder's stride that is nearest to frames of `size`, at least one stride."""
    strides = built_for.height // grid.h, built_for.width // grid.w
    height, width = (max(1, round(have / stride)) * stride for have, stride in zip(size, strides, strict=True))
    return height, width


def resized(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalised frames [T, C, H, W] of another size."""
    if tuple(frames.shape[2:]) == size:
        return frames
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False, antialias=True)


def frames_at_once(size: tuple[int, int]) -> int:
    """How many frames are encoded together: as many pixels as keep what a layer makes of them in a few 100 MB."""
    return max(1, 2**18 // (size[0] * size[1]))


def encoded_frames(encoder: EncoderModule, frames: Tensor, level: int) -> Tensor:
    """Maps [T, h, w, D] of frames [T, C, H, W] that `encoder` takes: the last layer's tokens, or a pyramid's level."""
    clips = frames[:, :, None]
    if level > 1:
        return level_of(encoder.pyramid(clips), level)
    tokens = encoder.intermediate(clips, 1)[0]
    height = round((tokens.shape[1] * frames.shape[2] / frames.shape[3]) ** 0.5)
    return tokens.reshape(len(frames), height, -1, tokens.shape[-1])


def check_level(key: str, level: int, encoder: Encoder, built_for: DataSpec) -> None:
    """Raise ValueError naming the option `key` when the encoder has no pyramid with such a level."""
    if level > 1 and not encoder.has_pyramid:
        raise ValueError(f"{key} must be 1, the last layer's tokens, for an encoder without a pyramid; got {level}")
    num_levels = len(encoder.level_widths(built_for)) if encoder.has_pyramid else 1
    if level > num_levels:
        raise ValueError(f"{key} must be in [1, {num_levels}], the pyramid's levels (encoder.levels), got {level}")


def level_at(stride: int, coarsest: int) -> int:
    """The level whose cells are `stride` px wide; the lowest resolution has `coarsest`, each next one half of that."""
    return (coarsest // stride).bit_length()


def check_stride(key: str, stride: int, encoder: Encoder, built_for: DataSpec) -> None:
    """Raise ValueError naming the option `key` when the encoder has no map whose cells are `stride` px wide."""
    coarsest = built_for.width // encoder.grid(built_for).w
    num_levels = len(encoder.level_widths(built_for)) if encoder.has_pyramid else 1
    strides = [coarsest >> level for level in range(num_levels)]
    if stride not in strides:
        listed = ", ".join(map(str, strides))
        raise ValueError(f"{key} must be the width of a cell of the encoder's maps, in px: {listed}; got {stride}")


def level_of(levels: Sequence[Tensor], level: int) -> Tensor:
    """Number `level` (from 1) of a pyramid, channels last; `check_level` says whether there is such a one."""
    return levels[level - 1].permute(0, 2, 3, 1)
