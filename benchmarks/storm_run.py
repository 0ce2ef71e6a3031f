"""What is trained in a storm: the same steps and checkpoints under ours (`storm`) and under Optuna (`storm_optuna`)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

NUM_STEPS, STEP_S = 12, 0.05
WORKERS, LEASE_S = 4, 5


@dataclass(frozen=True)
class Counting:
    cell: int
    seed: int
    folder: Path
    checkpoints: Path


def steps(run: Counting) -> Iterator[int]:
    """Run step after step from where its checkpoint is, and yield each; every step run is noted down."""
    for step in range(begun(run) + 1, NUM_STEPS + 1):
        note_step(run, step)
        time.sleep(STEP_S)
        yield step


def begun(run: Counting) -> int:
    """The step of its checkpoint, 0 without one."""
    saved = run.checkpoints / "checkpoint"
    return int(saved.read_text()) if saved.exists() else 0


def note_step(run: Counting, step: int) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    note(run.folder / "steps.log", f"{step}\n")
    note(run.folder.parent / "progress", ".")


def save(run: Counting, step: int) -> Path:
    temporary, saved = run.checkpoints / f".checkpoint.{os.getpid()}", run.checkpoints / "checkpoint"
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    temporary.write_text(str(step))
    temporary.replace(saved)
    return saved


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def value_of(cell: int, seed: int) -> float:
    """What a run must report."""
    return float(1000 * cell + seed)
