"""What is trained in a storm over stacked runs: workers claim up to `STACK` of one shape and step them together.

The choice of runs, leases and endings are the platform's own; a step is that of `storm_run`, so that what must come out
is known. The configs are those of a real method, as their shape decides which runs go together; a value tells the cell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.storm_run import NUM_STEPS, STEP_S, Counting, begun, note_step, save, value_of

if TYPE_CHECKING:  # core.types imports torch, 3 s that a launcher goes without
    from core.configuring.config import Run
    from core.types import Recorder

STACK = 4
CELL = "optim.lr_peak"  # tells the cell, in units of
UNIT = 1e-5


@cache
def _common() -> dict[str, Any]:
    from core.configuring.config import flatten, identity, load

    return identity(flatten(load(["method=mae", "scale=smoke", "evals=[]"])))


def configs(cells: int) -> list[dict[str, Any]]:
    return [_common() | {CELL: UNIT * (cell + 1)} for cell in range(cells)]


def cell_of(rate: float) -> int:
    return round(rate / UNIT) - 1


def build(config: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any]) -> Run:
    from core.configuring.config import from_flat

    return from_flat(config, seed=seed, runtime=runtime)


def train(run: Run, record: Recorder) -> None:
    (error,) = train_together([run], [record])
    if error is not None:
        raise error


def train_together(runs: Sequence[Run], records: Sequence[Recorder]) -> list[Exception | None]:
    """As `core.running.stacked.train_stacked`: whatever ends one run leaves the others alone."""
    going = {i: _steps(run, record) for i, (run, record) in enumerate(zip(runs, records, strict=True))}
    errors: list[Exception | None] = [None] * len(runs)
    while going:
        time.sleep(STEP_S)  # one program for all
        for i, steps in list(going.items()):
            try:
                next(steps)
            except StopIteration:
                del going[i]
            except Exception as error:
                errors[i] = error
                del going[i]
    return errors


def _steps(run: Run, record: Recorder) -> Iterator[None]:
    mine = Counting(cell_of(run.optim.lr_peak), run.seed, Path(run.runtime.dir), record.folder)
    for step in range(begun(mine) + 1, NUM_STEPS + 1):
        note_step(mine, step)
        yield
        record.log(step, {"count": float(step)})
        record.checkpointed(step, save(mine, step))
        if record.should_stop() and step < NUM_STEPS:
            record.finish("preempted", {}, {})
            return
    record.finish("done", {"value": value_of(mine.cell, mine.seed)}, {})
