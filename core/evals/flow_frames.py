"""Frames as an estimator of flow takes them, of a size that its pyramid divides, and its flow in their own pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def estimated(
    estimate: Callable[[Tensor], Tensor], clips: Tensor, stride: tuple[int, int], size: tuple[int, int] | None
) -> Tensor:
    """Flow of every pair of consecutive frames of `clips` [B, C, T, H, W]: [B, T - 1, 2, H, W], pixels (right, down).

    `estimate` takes pairs [N, C, 2, h, w] whose height and width `stride` divides: frames are first resized to `size`
    (height, width), where it is given, and the edges are then repeated all around as far as needed.

    Source: RAFT (Teed and Deng, 2020, arXiv:2003.12039) evaluates padded frames, whose flow needs no scaling; the
    unsupervised estimators resized ones (UFlow, Jonschkowski et al., 2020, arXiv:2006.04902, section 4).
    """
    batch, _, frames, height, width = clips.shape
    pairs = torch.stack([clips[:, :, :-1], clips[:, :, 1:]], dim=3)  # [B, C, T - 1, 2, H, W]
    pairs = pairs.transpose(1, 2).flatten(0, 1)
    seen = pairs.transpose(1, 2).flatten(0, 1)  # [N * 2, C, H, W]
    if size is not None:
        seen = F.interpolate(seen, size=size, mode="bilinear", align_corners=False, antialias=True)
    left, right, top, bottom = edges(seen.shape[-2], seen.shape[-1], stride)
    padded = F.pad(seen, (left, right, top, bottom), mode="replicate")
    padded = padded.view(len(pairs), 2, *padded.shape[1:]).transpose(1, 2)
    flow = estimate(padded).float()
    flow = flow[..., top : top + seen.shape[-2], left : left + seen.shape[-1]]
    if size is not None:
        flow = F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False)
        flow = flow * flow.new_tensor([width / size[1], height / size[0]])[:, None, None]
    return flow.reshape(batch, frames - 1, 2, height, width)


def edges(height: int, width: int, stride: tuple[int, int]) -> tuple[int, int, int, int]:
    """How many pixels are missing to a multiple of `stride` at the left, right, top and bottom."""
    high, wide = -height % stride[0], -width % stride[1]
    return wide // 2, wide - wide // 2, high // 2, high - high // 2
