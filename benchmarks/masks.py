"""Masks per second: I-JEPA's mask drawn for a whole batch at once, beside a plain loop over its samples.

    python -m benchmarks.masks [--grid 14] [--batch-sizes 64 128 256] [--seconds 1] [--write]

The loop does what collators usually do: for each sample, draw a corner, set a rectangle of a [H, W] tensor, list its
patches. Both are run in turns in one process and on one thread, as a data worker runs them, and the medians compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import torch
from torch import Generator, Tensor

from benchmarks.lines import RESULTS, arguments_of, show
from core.masks.multiblock import MultiBlockMask
from core.masks.ragged import Ragged
from core.types import Grid, generator_for

OUTPUT = RESULTS / "masks.txt"
TARGETS = {
    "fixed, batch 64": "at least 50 times the loop",
    "fixed, batch 128": "at least 50 times the loop",
    "fixed, batch 256": "at least 50 times the loop",
    "truncate, batch 64": "at least 50 times the loop",
    "truncate, batch 128": "at least 50 times the loop",
    "truncate, batch 256": "at least 50 times the loop",
}
Draw = Callable[[Generator], object]


def loop(mask: MultiBlockMask, grid: Grid, batch_size: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Contexts [B, Nc] and targets [B, num_targets, Nt], one sample and one block after the other."""
    scale, aspect, share = torch.rand(3, generator=generator).tolist()
    if mask.shared_draw:
        aspect = scale
    target = side_lengths(
        grid,
        mask.target_scale_min + scale * (mask.target_scale_max - mask.target_scale_min),
        mask.target_aspect_min + aspect * (mask.target_aspect_max - mask.target_aspect_min),
    )
    around = side_lengths(grid, mask.context_scale_min + share * (mask.context_scale_max - mask.context_scale_min), 1.0)
    contexts, targets = [], []
    for _ in range(batch_size):
        while True:
            blocks = [block(grid, *target, generator) for _ in range(mask.num_targets)]
            free = block(grid, *around, generator)
            for hidden in blocks:
                free = free * (1 - hidden)
            context = free.flatten().nonzero().flatten()
            if len(context) >= length:
                break
        targets.append(torch.stack([hidden.flatten().nonzero().flatten() for hidden in blocks]))
        contexts.append(context)
    if mask.ragged is Ragged.fixed:
        kept = [row[torch.randperm(len(row), generator=generator)[:length]].sort().values for row in contexts]
    else:
        shortest = min(len(row) for row in contexts)
        kept = [row[:shortest] for row in contexts]
    return torch.stack(kept), torch.stack(targets)


def side_lengths(grid: Grid, scale: float, aspect: float) -> tuple[int, int]:
    patches = int(scale * grid.h * grid.w)
    height, width = round(math.sqrt(patches * aspect)), round(math.sqrt(patches / aspect))
    return min(height, grid.h), min(width, grid.w)


def block(grid: Grid, height: int, width: int, generator: Generator) -> Tensor:
    top = int(torch.randint(grid.h - height + 1, (1,), generator=generator))
    left = int(torch.randint(grid.w - width + 1, (1,), generator=generator))
    flags = torch.zeros(grid.h, grid.w, dtype=torch.int32)
    flags[top : top + height, left : left + width] = 1
    return flags


def seconds(draw: Draw, generator: Generator, *, budget_s: float) -> list[float]:
    """Wall-clock of each call, for about `budget_s`."""
    spent: list[float] = []
    while sum(spent) < budget_s:
        start = time.perf_counter()
        draw(generator)
        spent.append(time.perf_counter() - start)
    return spent


def compare(first: Draw, second: Draw, *, budget_s: float, num_rounds: int = 4) -> tuple[float, float]:
    """Median seconds a call of each; taken in turns, so that a busy machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    generator = generator_for(0, "benchmark")
    first(generator), second(generator)
    for _ in range(num_rounds):
        for draw, spent in zip((first, second), times, strict=True):
            spent += seconds(draw, generator, budget_s=budget_s / num_rounds)
    return median(times[0]), median(times[1])


def lines(grid: Grid, batch_sizes: Sequence[int], budget_s: float) -> Iterator[str]:
    yield f"multiblock on {grid.h}x{grid.w}, masks per second (one mask = one sample's context and targets)"
    for ragged in (Ragged.fixed, Ragged.truncate):
        mask = MultiBlockMask(ragged=ragged)
        mask.check(grid)
        length = mask.least_context(grid)
        for size in batch_sizes:
            plain, vectorised = compare(
                partial(loop, mask, grid, size, length), partial(mask.sample, grid, size), budget_s=budget_s
            )
            yield (
                f"{ragged.value}, batch {size}: {size / plain:,.0f} /s by the loop, "
                f"{size / vectorised:,.0f} /s at once, {plain / vectorised:.1f} times the loop"
            )


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--grid", type=int, default=14, help="rows and columns of patches")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--seconds", type=float, default=1.0, help="time given to each side of each comparison")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = Grid(1, options.grid, options.grid)
    found, output = lines(grid, options.batch_sizes, options.seconds), OUTPUT if options.write else None
    # The aim is of ViT's grid.
    show(found, output, benchmark=__file__, software=("torch",), targets=TARGETS if options.grid == 14 else {})


if __name__ == "__main__":
    main()
