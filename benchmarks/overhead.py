"""What recording and monitors cost a training step: the same cpu-scale run bare and through the database, in turns.

    python benchmarks/overhead.py [--method mae_st] [--steps 200] [--rounds 5] [--write]

Bare: the trainer with a recorder that drops everything. Recorded: a worker claims the run and records every step's
numbers, heartbeats and TensorBoard events into SQLite. Prints the median seconds of each and their ratio, and the peak
memory of this process. Monitors: the seconds of a look beside those of a step of the same run, for as many looks and
steps as a run of the scale's own length has; what `runtime.also_monitor` adds (probe, and LiDAR of methods that compare
views) beside the same run without it, in turns.
"""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import flatten, identity, load
from core.running.monitoring.monitor import LOOKS, SELDOM
from core.running.trainer import train
from sweeps.database import registering
from sweeps.database.opening import open_database, upgrade
from sweeps.engine.working import Work, work

OUTPUT = RESULTS / "overhead.txt"
MONITORED = ("mae_st", "mae", "ijepa", "vicreg")
COMPARING = ("ijepa", "vicreg")  # of which LiDAR is a number
TARGETS = {
    "mae_st, 200 steps": "at most 2 %",
    "peak memory": "at most 1.5 GB",
    "mae_st, monitors": "at most 3 %",
    "mae, monitors": "at most 3 %",
    "ijepa, monitors": "at most 3 %",
    "vicreg, monitors": "at most 3 %",
}


class Bare:
    """A recorder that drops everything but the costs and when it was looked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.facts = folder, dict[str, Any]()
        self._logged: list[str] = []

    def looks(self, kind: str) -> int:
        """At how many steps a monitor of this kind was logged; "" those that every run has."""
        return sum(name.startswith(f"monitor/{kind or 'rankme'}") for name in self._logged)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._logged += [name for name in metrics if name.startswith("monitor/")]

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
        registering.register(connection, [(identity(flatten(run)), run.seed)])
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


def lines(method: str, steps: int, rounds: int) -> Iterator[str]:
    bare, recorded = [], []
    with tempfile.TemporaryDirectory() as name:
        runtime = {"cache": f"{name}/cache", "threads": 1}
        overrides = [f"method={method}", f"optim.steps={steps}", "evals=[]"]
        overrides += [f"runtime.{key}={value}" for key, value in runtime.items()]
        for number in range(rounds + 1):
            folder = Path(name) / str(number)
            for part in ("bare", "recorded"):
                (folder / part).mkdir(parents=True)
            pair = bare_seconds(overrides, folder / "bare"), recorded_seconds(overrides, folder / "recorded", runtime)
            if number:  # the first round warms caches
                bare.append(pair[0])
                recorded.append(pair[1])
                yield f"round {number}: bare {pair[0]:.2f} s, recorded {pair[1]:.2f} s"
    ratio = statistics.median(b / a for a, b in zip(bare, recorded, strict=True))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    yield f"{method}, {steps} steps: recording costs {100 * (ratio - 1):+.1f} % (median of {rounds} pairs)"
    yield f"peak memory {peak:.2f} GB"


def monitor_lines(steps: int, rounds: int) -> Iterator[str]:
    """What each kind of look costs of a run of the scale's own length, from `steps` of it; kinds in turns, a round a
    pair, and what a run has anyway taken off what it is asked for besides."""
    with tempfile.TemporaryDirectory() as name:
        for method in MONITORED:
            words = [f"method={method}", "evals=[]", f"runtime.cache={name}/cache", "runtime.threads=1"]
            whole = load(words).optim.steps
            words += [f"optim.steps={steps}", f"runtime.monitors={max(1, LOOKS * steps // whole)}"]
            also = ["", "probe", *(["lidar"] if method in COMPARING else [])]
            shares = {kind: list[float]() for kind in also}
            for number in range(rounds + 1):
                seconds = dict[str, float]()  # of one look, each step's as 1
                for kind in also:
                    record = Bare(Path(name) / method / (kind or "plain") / str(number))
                    record.folder.mkdir(parents=True)
                    train(load([*words, f"runtime.also_monitor=[{kind}]", f"runtime.dir={record.folder}"]), record)
                    a_step = record.facts["train_seconds"] / steps
                    seconds[kind] = record.facts["monitor_seconds"] / a_step
                    if number:  # the first round warms caches
                        extra = (seconds[kind] - (seconds[""] if kind else 0.0)) / max(1, record.looks(kind))
                        shares[kind].append(100 * extra * (LOOKS // SELDOM if kind else LOOKS) / whole)
            for kind, found in shares.items():
                what = f"also_monitor={kind}" if kind else "monitors"
                share = f"{statistics.median(found):.1f} % of its steps' seconds"
                yield f"{method}, {what}: {share} (median of {rounds} runs of {steps} steps)"


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--method", default="mae_st")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = itertools.chain(
        lines(options.method, options.steps, options.rounds), monitor_lines(options.steps, options.rounds)
    )
    show(found, OUTPUT if options.write else None, benchmark=__file__, software=("torch",), targets=TARGETS)


if __name__ == "__main__":
    main()
