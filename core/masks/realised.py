"""What a mask really did, after rounding, overlap and cutting: recorded with every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Generator, Tensor

from core.masks.ragged import Flags
from core.types import Grid, Mask, View

NAMES = ("context_share", "target_share", "hidden_share", "spatial_ratio", "context_time", "target_time")
_MIN_BATCHES, _MIN_SAMPLES = 16, 256


def expected(mask: Mask, grid: Grid, batch_size: int, generator: Generator) -> dict[str, float]:
    """Means of `realised` over batches such as training draws.

    The batch size matters: `ragged=truncate` cuts a batch to its poorest sample. Several batches, because a block's
    size is drawn once for all samples of one.
    """
    num_batches = max(_MIN_BATCHES, -(-_MIN_SAMPLES // batch_size))
    rows = [realised(mask.sample(grid, batch_size, generator), grid) for _ in range(num_batches)]
    return {name: sum(row[name] for row in rows) / num_batches for name in rows[0]}


def realised(views: Sequence[View], grid: Grid) -> dict[str, float]:
    """Shares in [0, 1], means over the batch and over the contexts of a sample.

    `context_share` and `target_share` count patches of the grid, the targets that share a context as their union;
    `hidden_share` is 1 - context_share, the fraction that the encoder does not see, and `spatial_ratio` the same in
    those time slices alone that hold a target (V-JEPA's "Avg. Spatial Size"). `context_time` and `target_time` (its
    "Avg. Depth") are the fractions of time slices with at least one patch. Where a sample has several contexts
    (V-JEPA), each kind is also given by itself as `kind0/context_share` and so on.
    """
    groups: list[list[View]] = []
    for view in views:
        if groups and groups[-1][0].context is view.context:
            groups[-1].append(view)
        else:
            groups.append([view])
    rows = [_one_context(group, grid) for group in groups]
    result = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
    if len(groups) > 1:
        for group, row in zip(groups, rows, strict=True):
            result |= {f"kind{group[0].kind}/{name}": value for name, value in row.items()}
    return result


def _one_context(views: Sequence[View], grid: Grid) -> dict[str, float]:
    context = _flags([views[0].context], grid)
    target = _flags([view.target for view in views], grid)
    share = float(context.mean())
    return {
        "context_share": share,
        "target_share": float(target.mean()),
        "hidden_share": 1 - share,
        "spatial_ratio": _spatial_ratio(context, target, grid),
        "context_time": _time_share(context, grid),
        "target_time": _time_share(target, grid),
    }


def _spatial_ratio(context: Flags, target: Flags, grid: Grid) -> float:
    """Share of the positions that are not context, in each sample's time slices with a target."""
    touched = target.reshape(len(target), grid.t, -1).any(2)  # [B, T]
    hidden = 1 - context.reshape(len(context), grid.t, -1).mean(2)
    return float(((hidden * touched).sum(1) / touched.sum(1)).mean())


def _flags(indices: Sequence[Tensor], grid: Grid) -> Flags:
    """The patches in any of the index sets: [B, N]. Padding repeats a valid patch, so it adds none."""
    flags = np.zeros((len(indices[0]), grid.num_patches), dtype=bool)
    for index in indices:
        np.put_along_axis(flags, index.cpu().numpy(), True, axis=1)
    return flags


def _time_share(flags: Flags, grid: Grid) -> float:
    return float(flags.reshape(len(flags), grid.t, -1).any(2).mean())
