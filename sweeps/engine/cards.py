"""How many workers the GPUs of this machine take: by their free memory, and by whether others keep them busy."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Engine, select

from sweeps.cells.gpu_memory import most_needed
from sweeps.console.tables import counted
from sweeps.database.tables import Config, RunRow
from sweeps.engine.executors import Job, default_workers, threads_per_worker
from sweeps.engine.statements import in_scope

log = logging.getLogger(__name__)

BUSY = 50  # % of the time: a GPU that others keep so busy gets one worker
ASK = ["nvidia-smi", "--query-gpu=index,memory.free,utilization.gpu", "--format=csv,noheader,nounits"]


class Card(NamedTuple):
    free_gib: float
    busy: float  # % of the last second in which something ran on it


def cards() -> list[Card]:
    """Those that this process may use; none where the driver's tool is not there or says nothing of them."""
    try:
        told = subprocess.run(ASK, capture_output=True, text=True, timeout=30, check=True).stdout
        rows = [[float(value) for value in line.split(",")] for line in told.splitlines()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
        if all(name.isdigit() for name in named):
            rows = [row for row in rows if str(int(row[0])) in named]
        else:  # UUIDs, or parts of cards: which ones the tool does not tell by number
            rows = rows[: len(named)]
    return [Card(free / 1024, busy) for _, free, busy in rows]


def workers_of(found: Sequence[Card], gpus_per_run: int, needed_gib: float, cores: int) -> int:
    """One for each set of `gpus_per_run` cards; several for a card alone that has room for their steps and is idle."""
    sets = max(1, len(found) // gpus_per_run)
    if gpus_per_run > 1 or any(card.busy > BUSY for card in found):
        return sets
    room = int(min(card.free_gib for card in found) / needed_gib)
    return sets * max(1, min(room, cores // sets))


def chosen_workers(engine: Engine, job: Job, num_waiting: int, executor: str = "local") -> int:
    """For a launch that does not say: `workers_of` where runs are trained on cards of this machine, one a core else.

    Never more than runs. A stack takes the memory that is free, so there is one worker a card.
    """
    found = cards() if executor == "local" and job.runtime.get("device", "auto") != "cpu" else []
    if not found:
        return default_workers(num_waiting, job.gpus_per_run)
    needed = max(card.free_gib for card in found)
    if job.stack == 1 and job.gpus_per_run == 1:
        with engine.connect() as connection:
            scope = in_scope(RunRow, job.study, job.seeds)
            waiting = select(Config.json).join(RunRow, RunRow.config_id == Config.id)
            configs = connection.scalars(waiting.where(RunRow.state != "done", *scope).group_by(Config.id)).all()
        needed = most_needed(configs, str(job.runtime.get("data_root", "."))) or needed
    workers = min(workers_of(found, job.gpus_per_run, needed, threads_per_worker(1)), max(1, num_waiting))
    told = f"{counted(workers, 'worker')} on {counted(len(found), 'GPU')}"
    print(f"{told} (workers=N for another number)", file=sys.stderr)
    return workers
