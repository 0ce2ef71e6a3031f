"""Masks that are drawn for real where everything else has only shapes, on torch's meta device."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Generator

from core.types import Grid, Mask, View


class _Drawn:
    """A mask whose draws have content whatever the device that tensors are made on."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        with torch.device("cpu"):
            return list(self._mask.sample(grid, batch_size, generator))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mask, name)


def drawn(mask: Mask | None) -> Mask | None:
    return None if mask is None else cast(Mask, _Drawn(mask))
