"""Pairs per second through the flow estimator, and the correlation beside plain loops.

    python -m benchmarks.flow [--seconds 2] [--write]

Both directions of a pair are estimated, forward and backward pass, in one thread. Rates are by CPU seconds, which a
busy machine changes little; the median of calls taken in turns. "pixels" is the loop that the formula reads as, over
pixels and displacements; "displacements" adds up one shifted product after the other, as correlations are usually
written in PyTorch. All give the same numbers (tests/core/objectives/test_warp.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.lines import RESULTS, arguments_of, show
from core.objectives.flow_estimator import FlowEstimator, Shape
from core.objectives.warp import correlate
from core.types import generator_for

OUTPUT = RESULTS / "flow.txt"
TARGETS = {
    "correlation of 32 x 32 x 8^2 maps": "at least 10 times as fast as over pixels",
    "correlation of 32 x 32 x 16^2 maps": "at least 10 times as fast as over pixels",
    "correlation of 2 x 96 x 16^2 maps": "at least 10 times as fast as over pixels",
}
RADIUS = 4
MAPS = ((32, 32, 8), (32, 32, 16), (2, 96, 16))  # batch, channels, side
SMALL = Shape(factor=0.25, norm=True, l2=False, radius=2, dense=False, match=True, context=False, clip=12.0)
FULL = Shape(factor=1.0, norm=True, l2=False, radius=4, dense=True, match=False, context=True, clip=256.0)
ESTIMATORS = {  # what it is: shape, channels and sides of the levels, pairs
    "m_jepa at scale cpu, 32 px": (SMALL, (32, 32), (8, 16), 16),
    "C = 1 of the paper, 128 px, 4 levels": (FULL, (768, 384, 192, 96), (4, 8, 16, 32), 2),
}


def over_displacements(first: Tensor, second: Tensor, radius: int) -> Tensor:
    height, width = first.shape[-2:]
    padded = F.pad(second, (radius,) * 4)
    shifts = [(dy, dx) for dy in range(2 * radius + 1) for dx in range(2 * radius + 1)]
    return torch.stack([(first * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], dim=1)


def over_pixels(first: Tensor, second: Tensor, radius: int) -> Tensor:
    height, width = first.shape[-2:]
    padded, side = F.pad(second, (radius,) * 4), 2 * radius + 1
    rows = [
        torch.stack(
            [(first[..., y, x] * padded[..., y + dy, x + dx]).mean(1) for dy in range(side) for dx in range(side)]
        )
        for y in range(height)
        for x in range(width)
    ]  # [side^2, B] of every pixel
    return torch.stack(rows, dim=-1).permute(1, 0, 2).unflatten(2, (height, width))


def there_and_back(method: Callable[..., Tensor], first: Tensor, second: Tensor, radius: int) -> None:
    volume = method(first, second, radius)
    torch.autograd.grad(volume.sum(), (first, second))


def cpu_seconds(calls: Sequence[Callable[[], None]], budget_s: float) -> list[float]:
    """Median CPU seconds of each call; taken in turns, so that a busy machine slows all."""
    spent: list[list[float]] = [[] for _ in calls]
    for call in calls:
        call()
    start = time.process_time()
    while time.process_time() - start < budget_s or len(spent[0]) < 3:
        for call, times in zip(calls, spent, strict=True):
            before = time.process_time()
            call()
            times.append(time.process_time() - before)
    return [median(times) for times in spent]


def maps(*shape: int, name: str) -> Tensor:
    return torch.randn(*shape, generator=generator_for(0, name), requires_grad=True)


def measure(budget_s: float) -> Iterator[str]:
    torch.set_num_threads(1)
    yield "one thread; the correlation's forward and backward pass, CPU-ms a call"
    for batch, channels, side in MAPS:
        first, second = (maps(batch, channels, side, side, name=name) for name in ("first", "second"))
        fast = [partial(there_and_back, method, first, second, RADIUS) for method in (over_displacements, correlate)]
        shifted, ours = cpu_seconds(fast, budget_s)
        before = time.process_time()
        there_and_back(over_pixels, first, second, RADIUS)  # once: it takes seconds
        plain = time.process_time() - before
        yield (
            f"correlation of {batch} x {channels} x {side}^2 maps: {1e3 * ours:,.1f} ms, "
            f"{plain / ours:,.0f} times as fast as over pixels ({1e3 * plain:,.0f} ms), "
            f"{shifted / ours:.1f} times as fast as over displacements ({1e3 * shifted:,.1f} ms)"
        )
    yield ""
    yield "estimator, both directions, forward and backward"
    for name, (shape, widths, sides, pairs) in ESTIMATORS.items():
        [seconds] = cpu_seconds([estimating(shape, widths, sides, pairs)], budget_s)
        yield f"{name:<40}{pairs / seconds:10,.1f} pairs a CPU-second"


def estimating(shape: Shape, widths: Sequence[int], sides: Sequence[int], pairs: int) -> Callable[[], None]:
    """A call that estimates both directions of `pairs` pairs, forward and backward."""
    estimator = FlowEstimator(shape, widths, generator_for(0, "estimator"))
    first, second = (
        [maps(2 * pairs, width, side, side, name=name) for width, side in zip(widths, sides, strict=True)]
        for name in ("first", "second")
    )
    scales = [2.0 * sides[-1] / side for side in sides]

    def call() -> None:
        loss = estimator(first, second, scales)[-1].square().sum()
        torch.autograd.grad(loss, [*estimator.parameters(), *first, *second], allow_unused=True)

    return call


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds given to each comparison")
    arguments = parser.parse_args()
    output = OUTPUT if arguments.write else None
    show(measure(arguments.seconds), output, benchmark=__file__, software=("torch",), targets=TARGETS)


if __name__ == "__main__":
    main()
