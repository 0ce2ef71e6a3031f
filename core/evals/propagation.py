"""Carrying labels from frame to frame by the likeness of features."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 2**23  # affinities that are held together, 32 MB


def propagated(maps: Tensor, first: Tensor, *, n_context: int, topk: int, radius: int, temperature: float) -> Tensor:
    """Labels of every frame of a video, [T, h, w, K], of which `first` [h, w, K] are given.

    A place's label is the mean of those of the `topk` places that are most like it, of the first frame and of the
    `n_context` frames before it, no more than `radius` rows or columns away; weights are the softmax of the cosine of
    their features `maps` [T, h, w, D], divided by `temperature`.

    Source: DINO (Caron et al., 2021, arXiv:2104.14294), section 4.2.2, after Jabri et al. (2020, arXiv:2006.14613),
    section 3.1.
    """
    maps = F.normalize(maps, dim=-1)
    labels = [first]
    before: deque[int] = deque(maxlen=n_context)
    for frame in range(1, len(maps)):
        context = [0, *before]
        known = torch.stack([labels[index] for index in context])
        labels.append(nearest(maps[frame], maps[context], known, topk=topk, radius=radius, temperature=temperature))
        before.append(frame)
    return torch.stack(labels)


def nearest(query: Tensor, keys: Tensor, labels: Tensor, *, topk: int, radius: int, temperature: float) -> Tensor:
    """Labels [h, w, K] of a frame of normalised features `query` [h, w, D], from frames `keys` [n, h, w, D]."""
    height, width, _ = query.shape
    column = torch.arange(width, device=query.device)
    is_beside = (column[:, None] - column).abs() <= radius  # [w, w]
    rows_at_once = max(1, AT_ONCE // (width * width * len(keys) * min(height, 2 * radius + 1)))
    found = []
    for top in range(0, height, rows_at_once):
        rows = torch.arange(top, min(top + rows_at_once, height), device=query.device)
        near = torch.arange(max(0, top - radius), min(height, int(rows[-1]) + radius + 1), device=query.device)
        places = keys[:, near].flatten(0, 2)  # [n * r * w, D]
        affinity = (query[rows].flatten(0, 1) @ places.T).view(len(rows), width, len(keys), len(near), width)
        is_near = (rows[:, None] - near).abs() <= radius  # [rows, r]
        is_far = ~(is_near[:, None, :, None] & is_beside[None, :, None, :])  # [rows, w, r, w]
        affinity = affinity.masked_fill(is_far[:, :, None], -torch.inf).flatten(2)
        best, place = affinity.topk(min(topk, affinity.shape[-1]), dim=-1)
        weight = (best / temperature).softmax(dim=-1)  # of places too far away: 0
        found.append((weight[..., None] * labels[:, near].flatten(0, 2)[place]).sum(2))
    return torch.cat(found)
