"""Random patches, positions or frames: one share of them is hidden."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Generator, Tensor

from core.masks.ragged import as_indices, column_bits, random_keys
from core.types import Grid, Mask, View


@dataclass
class RandomMask(Mask):
    """Hide patches anywhere in space and time.

    Images and clips alike; spreads what is kept over all frames, which is why MAE-ST can hide 90 %.

    Source: MAE (He et al., 2021, arXiv:2111.06377), section 3; MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113),
    section 3.2 and Figure 4a.
    """

    ratio: float = 0.75  # fraction of the patches hidden

    def __post_init__(self) -> None:
        check_ratio(self.ratio)

    def check(self, grid: Grid) -> None:
        num_context(self.ratio, grid.num_patches, grid, "patches")

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        kept = num_context(self.ratio, grid.num_patches, grid, "patches")
        context, target = split(batch_size, grid.num_patches, kept, generator)
        return [View(context, target)]


def check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ValueError(f"mask.ratio must be in (0, 1), got {ratio}")


def num_context(ratio: float, total: int, grid: Grid, what: str) -> int:
    """How many of `total` stay visible: floor(total x (1 - ratio)), as MAE counts.

    At least one is hidden. Raises ValueError when that leaves no context.
    """
    # 1e-6: 1560 * (1 - 0.9) is 155.99999999999997, and 156 are meant.
    kept = min(int(total * (1 - ratio) + 1e-6), total - 1)
    if kept < 1:
        raise ValueError(
            f"mask.ratio={ratio} leaves no context on grid {grid.t}x{grid.h}x{grid.w}: "
            f"of {total} {what} at least one must stay visible, so it must be at most {(total - 1) / total:.4g}"
        )
    return kept


def split(batch_size: int, total: int, num_first: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A random split of range(total) in each row, both parts ascending: [B, num_first], [B, total - num_first]."""
    keys = random_keys(batch_size, total, generator)
    keys.sort(axis=1)
    order = keys & ((1 << column_bits(total)) - 1)
    return as_indices(order[:, :num_first]), as_indices(order[:, num_first:])
