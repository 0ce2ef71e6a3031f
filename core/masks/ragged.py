"""Turning patch flags that differ in number from sample to sample into index tensors.

Flags are numpy booleans [B, N]; indices come back as torch int64, ascending in each row. numpy because its sort of
short integer rows is some twenty times faster than torch's on a CPU (64 rows of 196: 18 against 380 us), and a mask
is drawn in every step.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

Flags = NDArray[np.bool_]  # [B, N]
Indices = NDArray[Any]  # [B, n], int32 or int64


class Ragged(Enum):
    """What to do when the samples of a batch have different numbers of patches.

    fixed: a random subset whose length is a function of the options and the grid only. truncate: the first patches in
    raster order, as many as the poorest sample of the batch has; this is what the authors' code does, and it makes
    the mask ratio depend on the batch size. pad: every patch is kept and the shorter samples are filled up.
    """

    fixed = "fixed"
    truncate = "truncate"
    pad = "pad"


def random_keys(num_rows: int, num_columns: int, generator: Generator) -> Indices:
    """Distinct random non-negative integers [B, N] whose low bits are the column: sorting a row shuffles its columns.

    Being distinct, they sort to the same order on every machine, whichever algorithm sorts them. At least 18 random
    bits above the column number, so the order is uniform to 1 in 2**18 for neighbours.
    """
    bits = column_bits(num_columns)
    wide = bits > 12  # 30 bits would leave fewer than 18 random ones
    per_draw = 1 if wide else 2
    num_draws = -(-num_rows * num_columns // per_draw)
    raw = torch.empty(num_draws, dtype=torch.int64).random_(generator=generator).numpy()
    dtype, limit = (np.int64, 2**62 - 1) if wide else (np.int32, 2**30 - 1)
    keys: Indices = raw.view(dtype)[: num_rows * num_columns].reshape(num_rows, num_columns)
    keys &= limit ^ ((1 << bits) - 1)
    keys |= np.arange(num_columns, dtype=dtype)
    return keys


def column_bits(num_columns: int) -> int:
    return max(1, (num_columns - 1).bit_length())


def as_indices(columns: Indices) -> Tensor:
    """Columns in any order -> int64, ascending in each row."""
    return torch.from_numpy(np.sort(columns, axis=1).astype(np.int64))


def random_subset(flags: Flags, length: int, generator: Generator) -> Tensor:
    """`length` of each row's flagged columns, drawn uniformly: [B, length].

    A row with fewer than `length` flags fills up with random unflagged columns; callers that must not have that
    make sure of the number first.
    """
    keys = random_keys(len(flags), flags.shape[1], generator)
    # The unused top bit sends unflagged columns to the end of the row.
    keys |= (~flags).astype(keys.dtype) << (keys.itemsize * 8 - 2)
    kept = np.partition(keys, length - 1, axis=1)[:, :length]
    return as_indices(kept & ((1 << column_bits(flags.shape[1])) - 1))


def first_in_raster(flags: Flags) -> Tensor:
    """Each row's first flagged columns, as many as the poorest row has: [B, min count]."""
    num_rows, num_columns = flags.shape
    counts = np.count_nonzero(flags, axis=1)
    firsts = (counts.cumsum() - counts)[:, None] + np.arange(counts.min())  # places in the list of all flags
    columns = np.flatnonzero(flags)[firsts]
    columns -= np.arange(num_rows)[:, None] * num_columns
    return torch.from_numpy(columns)


def padded(flags: Flags) -> tuple[Tensor, Tensor]:
    """Every flagged column, [B, max count], and which places count. Unused places repeat the row's first column."""
    counts = flags.sum(1)
    places = np.arange(int(counts.max()))
    columns = np.sort(np.where(flags, np.arange(flags.shape[1]), flags.shape[1]), axis=1)[:, : len(places)]
    valid = places < counts[:, None]
    columns = np.where(valid, columns, columns[:, :1])
    return torch.from_numpy(columns), torch.from_numpy(valid)


def columns_of(flags: Flags) -> Tensor:
    """The flagged columns of rows that all have the same number of them: [B, count]."""
    num_rows, num_columns = flags.shape
    flat = np.flatnonzero(flags).reshape(num_rows, -1)
    flat -= np.arange(num_rows)[:, None] * num_columns
    return torch.from_numpy(flat)
