"""Something tiny to train: it counts to ten, keeps its count in its folder, and can be told to go wrong."""

import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from core.configuring.config import ConfigError
from core.types import Recorder
from sweeps.database.tables import Attempt, RunRow

NUM_STEPS = 10


@dataclass
class Count:
    config: Mapping[str, Any]
    seed: int
    runtime: Mapping[str, Any]


def build(config: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any]) -> Count:
    if config.get("breaks") == "config":
        raise ConfigError("breaks must not be config")
    return Count(config, seed, runtime)


def train(run: Count, record: Recorder) -> None:
    """Log step = count and checkpoint at every step; `breaks` in the config says how and where it goes wrong."""
    folder = Path(run.runtime["dir"])
    saved = folder / "count"
    begin = int(saved.read_text()) if saved.exists() else 0
    breaks, at = run.config.get("breaks"), run.config.get("at", 5)
    is_first = not (folder / "broke").exists()
    for step in range(begin + 1, NUM_STEPS + 1):
        with (folder / "trained").open("a") as trained:
            trained.write(f"{step}\n")
        time.sleep(run.config.get("step_s", 0.0))
        if breaks and step == at and (is_first or breaks in ("always", "memory")):
            (folder / "broke").touch()
            go_wrong(breaks, record)
            if breaks == "diverge":
                return
        record.log(step, {"count": float(step)})
        saved.write_text(str(step))
        record.checkpointed(step, saved)
        if record.should_stop() and step < NUM_STEPS:
            record.finish("preempted", {}, {"step": step})
            return
    record.finish("done", {"count": float(NUM_STEPS + run.seed)}, {"train_seconds": 0.1})


def go_wrong(how: str, record: Recorder) -> None:
    if how in ("once", "always"):
        raise ValueError(f"something at {id(record):#x} went wrong")
    if how == "disk":
        Path("/dev/full").write_text("0")
    if how == "memory":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:64] DefaultCPUAllocator: can't allocate memory: 123 bytes")
    if how == "die":
        os.kill(os.getpid(), 9)
    if how == "diverge":
        record.finish("diverged", {}, {})


FUNCTIONS = {"build": build, "train": train}


def states(engine: Engine) -> Counter[str]:
    with engine.begin() as connection:
        return Counter(connection.scalars(select(RunRow.state)))


def outcomes(engine: Engine) -> Counter[str | None]:
    with engine.begin() as connection:
        return Counter(connection.scalars(select(Attempt.outcome)))
