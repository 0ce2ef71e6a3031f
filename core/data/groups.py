"""Data sets whose batches come from one of several members: which member a step takes, and which of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from core.types import generator_for

_TURNS = 1000  # steps in which each member has its share exactly


class Group(NamedTuple):
    """Samples `start` to `start + length - 1` of a data set: those that may be in one batch."""

    start: int
    length: int
    weight: float  # its share of the steps, in units of the others'


@lru_cache(maxsize=8)
def turns(seed: int, block: int, weights: tuple[float, ...]) -> Tensor:
    """Which group each of `_TURNS` steps in a row takes, block number `block` of them: [_TURNS] int64.

    Every group has its share of them, rounded (largest remainder) and at least one, in a random order.
    """
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights) * (_TURNS - len(weights))
    counts = 1 + shares.floor().long()
    left = shares.frac().argsort(descending=True, stable=True)[: _TURNS - int(counts.sum())]
    counts[left] += 1
    order = torch.randperm(_TURNS, generator=generator_for(seed, "group", block))
    return torch.arange(len(weights)).repeat_interleave(counts)[order]


def turn(seed: int, step: int, groups: Sequence[Group]) -> tuple[int, int]:
    """Which group step `step` (from 1) takes, and the how-many-eth step of that group it is (from 1)."""
    weights = tuple(group.weight for group in groups)
    block, place = divmod(step - 1, _TURNS)
    taken = turns(seed, block, weights)
    number = int(taken[place])
    a_block = int((taken == number).sum())  # the same in every block
    return number, block * a_block + int((taken[: place + 1] == number).sum())
