"""Which clips of a video an encoder sees, and how an encoder sees clips of another length than its own.

A video is one sample of a data set, or `clips_per_video` samples in a row. What is asked of it (`Sampling`) and what
the encoder was built for decide the cuts, which are made without chance: every run is judged on the same clips.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from core.types import DataSpec, EncoderModule, Sampling


class Cut(NamedTuple):
    """One clip of a video: from its sample number `sample`, frame `first`, row `top` and column `left` on."""

    sample: int
    first: int
    top: int
    left: int


class Plan(NamedTuple):
    """The clips of every view of a video, in temporal order, and how long each is."""

    views: list[list[Cut]]
    frames: int


def plan(data: DataSpec, encoder: DataSpec, sampling: Sampling, key: str = "") -> Plan:
    """How `sampling` is done on `data` for an encoder built for clips like `encoder`.

    The offered clips of a video are its samples, or, where a sample has more frames than the encoder takes, as many
    pieces of it. Of these `clips * temporal_views` are taken, each from the middle of its share of the video, and dealt
    out to the views in turn. An encoder of images sees all frames of a sample, one by one.

    Raises ValueError when the data's clips cannot be made the encoder's, or do not suffice; it names options as those
    of `key` ("evals.attentive.").
    """
    if data.channels != encoder.channels:
        raise ValueError(
            f"eval_data has {data.channels} channels, the encoder takes {encoder.channels}: choose other eval_data"
        )
    one_by_one, is_still = encoder.frames == 1, data.frames == 1
    pieces = 1 if one_by_one or is_still else data.frames // encoder.frames
    if pieces == 0:
        raise ValueError(
            f"eval_data's clips have {data.frames} frames, fewer than the {encoder.frames} that the encoder takes: "
            "set eval_data.frames to a multiple of them, or to 1"
        )
    if pieces > 1 and data.clips_per_video > 1:
        raise ValueError(
            f"eval_data gives {data.clips_per_video} clips a video of {data.frames} frames each, and the encoder takes "
            f"{encoder.frames}: ask the data for clips of that length, or for one clip a video"
        )
    offered = max(pieces, data.clips_per_video)
    total = offered if sampling.clips is None else sampling.clips * sampling.temporal_views
    if total > offered or total % sampling.temporal_views:
        raise ValueError(
            f"{key}temporal_views {sampling.temporal_views} times clips {sampling.clips}: the data gives {offered} "
            f"clips a video ({data.clips_per_video} of {data.frames} frames; the encoder takes {encoder.frames}), so "
            f"their product must be at most that, and temporal_views must divide it where clips is null"
        )
    frames = data.frames if one_by_one else min(encoder.frames, data.frames)
    middles = [(2 * index + 1) / (2 * total) for index in range(total)]
    if pieces > 1:
        places = [(0, int(middle * data.frames - frames / 2)) for middle in middles]
    else:
        places = [(int(middle * data.clips_per_video), 0) for middle in middles]
    views = [
        [Cut(sample, first, top, left) for sample, first in places[view :: sampling.temporal_views]]
        for view in range(sampling.temporal_views)
        for top, left in corners(data, encoder, sampling.spatial_views, key)
    ]
    return Plan(views, frames)


def corners(data: DataSpec, encoder: DataSpec, num_crops: int, key: str = "") -> list[tuple[int, int]]:
    """Top and left of crops of the encoder's size, evenly from one end to the other: the middle for one crop.

    Of wide clips that are as high as the encoder's these are the left, the middle and the right third.
    """
    spare_h, spare_w = data.height - encoder.height, data.width - encoder.width
    if spare_h < 0 or spare_w < 0:
        raise ValueError(
            f"eval_data's clips are {data.height}x{data.width} px, smaller than the encoder's "
            f"{encoder.height}x{encoder.width}: set eval_data.size to at least that"
        )
    if num_crops > 1 and spare_h == spare_w == 0:
        raise ValueError(
            f"{key}spatial_views {num_crops}: the data's clips are as large as the encoder's, "
            f"{data.height}x{data.width} px, so there is one crop only; set eval_data.size to more"
        )
    shares = [0.5] if num_crops == 1 else [index / (num_crops - 1) for index in range(num_crops)]
    return [(round(share * spare_h), round(share * spare_w)) for share in shares]


def encode(
    encoder: EncoderModule,
    clips: Tensor,
    built_for: DataSpec,
    sampling: Sampling,
    num_layers: int,
    *,
    with_prefix: bool = False,
) -> list[Tensor]:
    """Patch tokens [B, n, D] of the last `num_layers` blocks, shallow to deep, for `clips` [B, C, T, H, W].

    With `with_prefix` the class tokens come first, [B, P + n, D]: of an image encoder the means of its frames' ones.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), appendix B.1: image encoders frame by frame, video encoders
    on an image repeated over time; `deflate`: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), section 5.5.
    """
    batch, frames = clips.shape[0], clips.shape[2]
    blocks, num_prefix = (encoder.with_prefix, encoder.num_prefix) if with_prefix else (encoder.intermediate, 0)
    if built_for.frames == frames:
        return blocks(clips, num_layers)
    if built_for.frames == 1:
        images = clips.transpose(1, 2).flatten(0, 1)[:, :, None]  # [B * T, C, 1, H, W]
        layers = [tokens.view(batch, frames, *tokens.shape[1:]) for tokens in blocks(images, num_layers)]
        if sampling.average_frames:
            return [_over_frames(tokens) for tokens in layers]
        if not num_prefix:
            return [tokens.flatten(1, 2) for tokens in layers]
        prefixes = [_over_frames(tokens[:, :, :num_prefix]) for tokens in layers]
        patches = [tokens[:, :, num_prefix:].flatten(1, 2) for tokens in layers]
        return [torch.cat(parts, dim=1) for parts in zip(prefixes, patches, strict=True)]
    assert frames == 1, (frames, built_for.frames)
    still = clips.expand(-1, -1, built_for.frames, -1, -1)
    if not sampling.deflate:
        return blocks(still, num_layers)
    # One time slice of equal frames: the patch embedding is linear, so its weights are summed over time.
    keep = torch.arange(encoder.grid.h * encoder.grid.w, device=clips.device).expand(batch, -1)
    return blocks(still, num_layers, keep)


def _over_frames(tokens: Tensor) -> Tensor:
    """[B, T, n, D] -> [B, n, D]."""
    return tokens.mean(dim=1, dtype=torch.float32).to(tokens.dtype)


def num_tokens(encoder: EncoderModule, data: DataSpec, built_for: DataSpec, sampling: Sampling) -> int:
    """How many tokens `encode` gives for one clip."""
    if built_for.frames == 1 and not sampling.average_frames:
        return encoder.grid.num_patches * data.frames
    is_deflated = data.frames == 1 < built_for.frames and sampling.deflate
    return encoder.grid.num_patches // encoder.grid.t if is_deflated else encoder.grid.num_patches
