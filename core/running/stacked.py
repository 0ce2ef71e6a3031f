"""Train several runs together, each with its own draws, journal, checkpoints, evaluations and end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

import torch

from core.configuring.config import ConfigError, Run
from core.configuring.fitting import load_split
from core.configuring.places import located
from core.measuring.phases import cpu_seconds
from core.running.ranks.distributed import World
from core.running.stacking import Stack, refuse_alone
from core.running.tracking import tracked
from core.running.trainer import Taken, Wanted, place_of, steps_of
from core.types import Dataset, Recorder


def train_stacked(runs: Sequence[Run], records: Sequence[Recorder]) -> list[Exception | None]:
    """Do for each of `runs`, which are of one shape, what `core.running.trainer.train` does, their steps taken
    together.

    Returns what each run raised, None where it came to an end that its record was told. A run that diverges, is stopped
    or raises leaves the others alone. Numbers are those of runs trained alone to rounding, and not bitwise; checkpoints
    are the same, so that a run may go on alone, or one that began alone with others, from steps that differ.

    Raises ConfigError naming what keeps the runs from being one stack, before any of them trains.
    """
    refuse_alone(runs)
    with place_of(runs[0]) as (device, where):
        if where.size > 1:
            raise ConfigError(
                f"stack={len(runs)}: a stack trains in one process, and torchrun has started {where.size}"
            )
        with ExitStack() as trackers:
            told = [trackers.enter_context(tracked(*each)) for each in zip(runs, records, strict=True)]
            return _together(runs, told, device, where)


def _together(
    runs: Sequence[Run], records: Sequence[Recorder], device: torch.device, where: World
) -> list[Exception | None]:
    sets: dict[str, Dataset] = {}

    def load(run: Run, split: str, group: str = "data") -> Dataset:
        """Runs of the same data share it in memory."""
        key = f"{split} {getattr(located(run), group)!r}"
        if key not in sets:
            sets[key] = load_split(run, split, group)
        return sets[key]

    going = [steps_of(run, record, device, where, load) for run, record in zip(runs, records, strict=True)]
    errors: list[Exception | None] = [None] * len(runs)
    wanted: dict[int, Wanted] = {}

    def go_on(member: int, taken: Taken | None) -> None:
        """To the run's next step, or to its end."""
        wanted.pop(member, None)
        try:
            wanted[member] = next(going[member]) if taken is None else going[member].send(taken)
        except StopIteration:
            pass
        except Exception as error:
            errors[member] = error

    for member in range(len(runs)):
        go_on(member, None)
    stack: Stack | None = None
    members: list[int] = []
    while wanted:
        if members != sorted(wanted):
            members = sorted(wanted)
            stack = Stack([wanted[member].stepper for member in members]) if len(members) > 1 else None
        start, cpu_start = time.perf_counter(), cpu_seconds()
        try:
            rows = _step(stack, [wanted[member] for member in members])
        except Exception as error:  # no run's own: each has lost its step
            for member in members:
                errors[member] = error
                going[member].close()
            break
        seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu_start
        share = (seconds / len(members), cpu / len(members))
        for member, row in zip(members, rows, strict=True):
            go_on(member, Taken(row, share))
    return errors


def _step(stack: Stack | None, wanted: Sequence[Wanted]) -> Sequence[dict[str, torch.Tensor | float]]:
    if stack is None:
        (alone,) = wanted
        return [alone.stepper.step(alone.step, alone.batch, alone.pairs)]
    return stack.step([each.step for each in wanted], [each.batch for each in wanted])
