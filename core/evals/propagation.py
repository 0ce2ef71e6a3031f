"""Carrying labels from frame to frame by the likeness of features."""

from __future__ import annotations

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 2**23  # affinities that are held together, 32 MB
TILE = 8  # smallest side of a tile of places that are treated together


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
    side = max(TILE, radius)  # of a tile of places, which has all that is near it in common
    out = labels.new_empty(height, width, labels.shape[-1])
    for columns, near_columns in _tiles(width, side, radius):
        beside = _is_near(columns, near_columns, radius)  # [c, u]
        per_row = len(columns) * len(keys) * min(height, 2 * radius + side) * len(near_columns)
        for rows, near_rows in _tiles(height, min(side, max(1, AT_ONCE // per_row)), radius):
            above = _is_near(rows, near_rows, radius)  # [r, v]
            near = (above[:, None, :, None] & beside[None, :, None, :]).flatten(2).flatten(0, 1)  # [r * c, v * u]
            box = slice(near_rows.start, near_rows.stop), slice(near_columns.start, near_columns.stop)
            places = keys[:, box[0], box[1]].flatten(0, 2)  # [n * v * u, D]
            here = query[rows.start : rows.stop, columns.start : columns.stop].flatten(0, 1)
            far = torch.where(near, 0.0, -torch.inf).to(
                here.device
            )  # added, which takes half the time of a masked fill
            affinity = (here @ places.T).view(len(here), len(keys), -1).add_(far[:, None]).flatten(1)
            best, place = affinity.topk(min(topk, affinity.shape[1]), dim=1)
            weight = (best / temperature).softmax(dim=1)  # of places too far away: 0
            found = (weight[..., None] * labels[:, box[0], box[1]].flatten(0, 2)[place]).sum(1)
            out[rows.start : rows.stop, columns.start : columns.stop] = found.view(len(rows), len(columns), -1)
    return out


def _tiles(length: int, side: int, radius: int) -> list[tuple[range, range]]:
    """Runs of at most `side` places, each with all that is no more than `radius` away from one of them."""
    runs = [range(start, min(start + side, length)) for start in range(0, length, side)]
    return [(run, range(max(0, run.start - radius), min(length, run.stop + radius))) for run in runs]


def _is_near(places: range, others: range, radius: int) -> Tensor:
    return (torch.tensor(places)[:, None] - torch.tensor(others)).abs() <= radius
