"""A few clips of a split, held in memory to be looked at along a run."""

from __future__ import annotations

import torch
from torch import Tensor

from core.data.arrays import ArrayDataset
from core.types import Dataset, DataSpec

MOST_BYTES = 64 * 2**20  # that the clips may take, so of long videos there are fewer


def held(dataset: Dataset, indices: Tensor, spec: DataSpec) -> ArrayDataset:
    """The clips at `indices`, without labels."""
    return ArrayDataset(spec, dataset.fetch(indices).clips.clone().numpy(), {})


def most_clips(spec: DataSpec) -> int:
    """How many clips of a split there is room for; never fewer than 8."""
    return max(8, MOST_BYTES // (spec.channels * spec.frames * spec.height * spec.width))


def spread_over(length: int, number: int) -> Tensor:
    """Indices of `number` clips of a split, evenly: a sorted folder has a class at its beginning."""
    return torch.arange(number) * length // number
