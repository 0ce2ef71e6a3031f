"""What recording costs a training step: the same cpu-scale run bare and through the database, in turns.

    python benchmarks/overhead.py [--method mae_st] [--steps 200] [--rounds 5]

Bare: the trainer with a recorder that drops everything. Recorded: a worker claims the run and records every step's
numbers, heartbeats and TensorBoard events into SQLite. Prints the median seconds of each and their ratio, and the peak
memory of this process. To stay below: 2 % overhead, 1.5 GB.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.config import flatten, identity, load
from core.trainer import train
from sweeps import queue
from sweeps.db import open_database, upgrade
from sweeps.worker import Work, work


class Bare:
    """A recorder that drops everything but the costs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, dict[str, Any]()

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def saw(self, data: Mapping[str, str]) -> None: ...

    def checkpointed(self, step: int, path: Path) -> None: ...

    def should_stop(self) -> bool:
        return False

    def keep(self, name: str, kind: str, content: bytes) -> None: ...

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        self.facts = dict(facts)


def bare_seconds(overrides: list[str], folder: Path) -> float:
    record = Bare(folder)
    train(load(overrides), record)
    return float(record.facts["train_seconds"])


def recorded_seconds(overrides: list[str], folder: Path, runtime: Mapping[str, Any]) -> float:
    engine = open_database(f"sqlite:///{folder}/runs.sqlite")
    upgrade(engine)
    run = load(overrides)
    with engine.begin() as connection:
        queue.register(connection, [(identity(flatten(run)), run.seed)])
    seen: list[float] = []

    def train_and_time(run: Any, record: Any) -> None:
        end = record.finish

        def finish(outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
            seen.append(float(facts["train_seconds"]))
            end(outcome, results, facts)

        record.finish = finish
        train(run, record)

    outcomes = work(engine, Work(folder, runtime=runtime), stop=threading.Event(), train=train_and_time)
    assert outcomes["done"] == 1, outcomes
    return seen[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="mae_st")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    bare, recorded = [], []
    with tempfile.TemporaryDirectory() as name:
        runtime = {"cache": f"{name}/cache", "threads": 1}
        overrides = [f"method={args.method}", f"optim.steps={args.steps}", "evals=[]"]
        overrides += [f"runtime.{key}={value}" for key, value in runtime.items()]
        for number in range(args.rounds + 1):
            folder = Path(name) / str(number)
            for part in ("bare", "recorded"):
                (folder / part).mkdir(parents=True)
            pair = bare_seconds(overrides, folder / "bare"), recorded_seconds(overrides, folder / "recorded", runtime)
            if number:  # the first round warms caches
                bare.append(pair[0])
                recorded.append(pair[1])
                print(f"round {number}: bare {pair[0]:.2f} s, recorded {pair[1]:.2f} s", flush=True)
    ratio = statistics.median(b / a for a, b in zip(bare, recorded, strict=True))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{args.method}, {args.steps} steps: recording costs {100 * (ratio - 1):+.1f} % (median of {args.rounds} pairs)"
    )
    print(f"peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
