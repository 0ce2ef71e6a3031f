"""What a mask really did, after rounding, overlap and cutting: recorded with every run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from core.masks.ragged import Flags
from core.types import Grid, View


def realised(views: Sequence[View], grid: Grid) -> dict[str, float]:
    """Shares in [0, 1], means over the batch and over the contexts of a sample.

    `context_share` and `target_share` count patches of the grid, the targets that share a context as their union;
    `hidden_share` is 1 - context_share, the fraction that the encoder does not see. `context_time` and `target_time`
    are the fractions of time slices with at least one patch. Where a sample has several contexts (V-JEPA), each kind
    is also given by itself as `kind0/context_share` and so on.
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
        "context_time": _time_share(context, grid),
        "target_time": _time_share(target, grid),
    }


def _flags(indices: Sequence[Tensor], grid: Grid) -> Flags:
    """The patches in any of the index sets: [B, N]. Padding repeats a valid patch, so it adds none."""
    flags = np.zeros((len(indices[0]), grid.num_patches), dtype=bool)
    for index in indices:
        np.put_along_axis(flags, index.cpu().numpy(), True, axis=1)
    return flags


def _time_share(flags: Flags, grid: Grid) -> float:
    return float(flags.reshape(len(flags), grid.t, -1).any(2).mean())
