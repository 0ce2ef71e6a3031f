"""Feature maps of single frames: the tokens of a clip by frame, and an encoder on frames larger than its own."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from core.types import DataSpec, Encoder, Grid


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
    """The middle of `frames` [..., H, W] that an encoder of smaller ones sees, as `core.evals.clips.corners` has it."""
    top, left = (round((have - want) / 2) for have, want in zip(frames.shape[-2:], _size(built_for), strict=True))
    return frames[..., top : top + built_for.height, left : left + built_for.width]


def _size(spec: DataSpec) -> tuple[int, int]:
    return spec.height, spec.width


def check_level(key: str, level: int, encoder: Encoder) -> None:
    """Raise ValueError naming the option `key` when only a pyramid would have such a level, and there is none."""
    if level > 1 and not encoder.has_pyramid:
        raise ValueError(f"{key} must be 1, the last layer's tokens, for an encoder without a pyramid; got {level}")


def level_of(levels: Sequence[Tensor], level: int) -> Tensor:
    """Number `level` (from 1) of a pyramid, channels last. Raises ValueError when it has fewer."""
    if level > len(levels):
        raise ValueError(f"level {level} was asked of an encoder whose pyramid has {len(levels)} (encoder.levels)")
    return levels[level - 1].permute(0, 2, 3, 1)
