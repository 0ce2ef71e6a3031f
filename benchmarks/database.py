"""Time what the sweep engine does with its database, beside Optuna 5 (and MLflow where it is installed).

    python -m benchmarks.database [--only claims series log table study relaunch plan mlflow] [--runs 1000000] [--write]

Wall-clock figures are of this machine as busy as it is; where a target is a rate, the rate of the CPU seconds that our
process spent is printed too, which a busy machine changes little. Each figure is the best of several rounds.
"""

from __future__ import annotations

import importlib.util
import logging
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from sqlalchemy import Engine, insert, select, update

from analysis.numbers.frame import load
from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from benchmarks.storm import start_server
from sweeps.cells.registry import launch_hash, register_study
from sweeps.database import registering, series
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Config, Result, RunRow, StudyRow
from sweeps.engine import queue
from sweeps.engine.recorder import DatabaseRecorder
from tests.sweeps.launched import register, two_rows

OUTPUT = RESULTS / "database.txt"
TARGETS = {
    "claims, sqlite, 1 worker": "at least 4,000 /s",
    "claims, sqlite, 8 workers": "at least 4,000 /s",
    "claims, postgresql, 1 worker": "at least 1,000 /s",
    "claims, postgresql, 8 workers": "at least 1,000 /s",
    "series, sqlite, 500-point chunks": "at least 3,000,000 /s; at most 12 bytes a point on disk",
    "series, postgresql, 500-point chunks": "at least 3,000,000 /s",
    "log() of five metrics": "at most 50 us",
    "a table's query, 180 of 1,000,000 runs, file not in memory": "at most 5 ms",
    "a study of 1,000 cells": "at most 10 s",
    "relaunching a finished study": "at most 5 s",
    "plan study=all, the first time": "at most 5 s",
    "plan study=all, again": "at most 5 s",
}
PROVENANCE = {"host": "node", "device": "cpu", "git_sha": "0" * 40, "dirty": False, "env_hash": "0" * 64}


class Place(NamedTuple):
    """Where to measure: a folder for files, and the URL of a new database for each call."""

    folder: Path
    new_url: Callable[[str], str]  # "sqlite" or "postgresql"


class Spent(NamedTuple):
    wall_s: float
    cpu_s: float  # of this process and its children that have ended


def spent(action: Callable[[], Any]) -> Spent:
    begin, wall = _cpu(), time.perf_counter()
    action()
    return Spent(time.perf_counter() - wall, _cpu() - begin)


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def rate(count: int, rounds: list[Spent]) -> str:
    """Best wall-clock rate, and the best per second of our own CPU."""
    wall, cpu = min(r.wall_s for r in rounds), min(r.cpu_s for r in rounds)
    return f"{count / wall:>12,.0f} /s   ({count / cpu:,.0f} per CPU-second of the client)"


# ---- claims ----------------------------------------------------------------------------------------------------------


def claims(place: Place) -> Iterator[str]:
    for kind in ("sqlite", "postgresql"):
        url = place.new_url(kind)
        engine = open_database(url)
        upgrade(engine)
        with engine.begin() as connection:
            registering.register(connection, [({"a": i}, 0) for i in range(8000)])  # 2,500 + 4 x 8 x 161 are claimed
        rounds = [spent(partial(claim_many, engine, 500)) for _ in range(5)]
        yield f"claims, {kind}, 1 worker{rate(500, rounds)}"
        yield f"claims, {kind}, 8 workers   {rate_of_eight(url)}"
        engine.dispose()
    for kind in ("sqlite", "postgresql"):
        study = optuna_study(place.new_url(kind))
        for i in range(100):
            study.enqueue_trial({"a": i})
        rounds = [spent(partial(ask_many, study, 25)) for _ in range(3)]
        yield f"claims, {kind}, 1 worker, Optuna's ask() of enqueued trials{rate(25, rounds)}"


def ask_many(study: optuna.Study, count: int) -> None:
    for _ in range(count):
        study.ask()


def claim_one(engine: Engine) -> None:
    with engine.begin() as connection:
        assert queue.claim(connection, f"w{os.getpid()}", provenance=PROVENANCE) is not None


def claim_many(engine: Engine, count: int) -> None:
    for _ in range(count):
        claim_one(engine)


def _claim_from(url: str, count: int, ready: Any, ends: Any) -> None:
    engine = open_database(url)
    claim_one(engine)  # connected, its statements compiled
    ready.wait()
    start = time.perf_counter()
    claim_many(engine, count)
    ends.put((start, time.perf_counter()))
    engine.dispose()


def rate_of_eight(url: str, each: int = 160, rounds: int = 4) -> str:
    """From the first claim of any of eight processes to the last of all."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna", "sweeps.engine.queue", "analysis.numbers.frame"])
    rates = []
    for _ in range(rounds):
        ready, ends = context.Barrier(8), context.SimpleQueue()
        workers = [context.Process(target=_claim_from, args=(url, each, ready, ends)) for _ in range(8)]
        for worker in workers:
            worker.start()
        times = [ends.get() for _ in workers]
        for worker in workers:
            worker.join()
        rates.append(8 * each / (max(end for _, end in times) - min(start for start, _ in times)))
    return f"{max(rates):,.0f} /s   (rounds: {', '.join(f'{found:,.0f}' for found in rates)})"


def optuna_study(url: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    return optuna.create_study(storage=optuna.storages.RDBStorage(url), sampler=optuna.samplers.RandomSampler(seed=0))


# ---- series ----------------------------------------------------------------------------------------------------------


def curve(num_points: int) -> tuple[list[int], list[float]]:
    """A loss as a trainer logs it: float32, every tenth step, falling and noisy."""
    noise = np.random.default_rng(0).normal(size=num_points)
    steps = np.arange(num_points) * 10
    loss = (0.5 + 2 * np.exp(-steps / 3e4) + 0.02 * noise).astype(np.float32)
    return steps.tolist(), loss.astype(float).tolist()


def ingest(place: Place) -> Iterator[str]:
    num_points, per_chunk = 200_000, 500
    steps, values = curve(num_points)
    for kind in ("sqlite", "postgresql"):
        engine = open_database(place.new_url(kind))
        upgrade(engine)
        with engine.begin() as connection:
            registering.register(connection, [({"a": 0}, 0)])
        size, sent = file_size(engine), 0

        def send(attempt: int, engine: Any = engine) -> None:
            nonlocal sent
            for first in range(0, num_points, 20 * per_chunk):  # two generations of ten metrics: what a flush sends
                rows = []
                for seq in (first, first + 10 * per_chunk):
                    points = {
                        f"metric {i}": (
                            steps[seq : seq + per_chunk],
                            values[seq + i * per_chunk : seq + (i + 1) * per_chunk],
                        )
                        for i in range(10)
                    }
                    rows += series.chunk_rows(1, attempt, seq, points)
                with engine.begin() as connection:
                    series.write(connection, rows)
            sent += num_points

        rounds = [spent(lambda attempt=attempt: send(attempt)) for attempt in range(1, 6)]
        engine.dispose()
        grown = (file_size(engine) - size) / sent if kind == "sqlite" else float("nan")
        yield (
            f"series, {kind}, 500-point chunks{rate(num_points, rounds)}"
            + (f", {grown:.1f} bytes a point on disk" if kind == "sqlite" else "")
        )
    study = optuna_study(place.new_url("sqlite"))
    trial = study.ask()
    used = spent(lambda: [trial.report(values[i], i) for i in range(200)])
    yield f"series, sqlite, Optuna's report(){rate(200, [used])}"


def file_size(engine: Any) -> int:
    path = Path(str(engine.url.database))
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.commit()
            connection.exec_driver_sql("SELECT 1")
        engine.dispose()  # the last connection to close writes the log back
    return path.stat().st_size if path.exists() else 0


def log_overhead(place: Place) -> Iterator[str]:
    engine = open_database(place.new_url("sqlite"))
    upgrade(engine)
    with engine.begin() as connection:
        registering.register(connection, [({"a": 0}, 0)])
        claim = queue.claim(connection, "w", provenance=PROVENANCE)
    assert claim is not None
    metrics = dict.fromkeys(("loss", "lr", "weight_decay", "ema_decay", "grad_norm"), 0.1)
    times = []
    with DatabaseRecorder(
        engine, claim, place.folder / "run", results_dir=place.folder, stop=threading.Event()
    ) as record:
        for step in range(5000):
            start = time.perf_counter()
            record.log(step, metrics)
            times.append(time.perf_counter() - start)
        cpu = spent(lambda: [record.log(step, metrics) for step in range(5000, 10000)]).cpu_s / 5000
        record.finish("done", {}, {})
    median = sorted(times)[len(times) // 2]
    yield f"log() of five metrics   median {1e6 * median:.1f} us, {1e6 * cpu:.1f} us of CPU"
    engine.dispose()


# ---- tables ----------------------------------------------------------------------------------------------------------


def table_query(place: Place, num_runs: int) -> Iterator[str]:
    """A study of 60 cells by 3 seeds among `num_runs` runs of others, two metrics each."""
    path = place.folder / "table.sqlite"
    engine = open_database(f"sqlite:///{path}")
    upgrade(engine)
    rng = random.Random(0)
    with engine.begin() as connection:
        size = 10_000
        for first in range(0, num_runs // 3, size):
            ids = range(first + 1, min(first + size, num_runs // 3) + 1)
            connection.execute(
                insert(Config), [{"id": i, "hash": f"{i:064d}", "hash_version": 1, "json": {"a": i}} for i in ids]
            )
            runs = [(3 * i + seed, i, seed) for i in ids for seed in range(3)]
            states = {"code_epoch": 1, "state": "done", "attempt": 1, "created": 0.0}
            connection.execute(
                insert(RunRow), [{"id": run, "config_id": i, "seed": seed, **states} for run, i, seed in runs]
            )
            connection.execute(
                insert(Result),
                [
                    {"run_id": run, "metric": metric, "value": rng.random(), "attempt": 1}
                    for run, _, _ in runs
                    for metric in ("ridge/digit_top1", "knn/digit_top1")
                ],
            )
        connection.exec_driver_sql("ANALYZE")
    rows = [{"key": f"r{i}", "set": {"mask.ratio": i / 100}} for i in range(60)]
    registered = register(engine, two_rows("big", rows=rows, seeds=[0, 1, 2]))
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id.in_(registered.run_ids)).values(state="done", attempt=1))
        for run in registered.run_ids:
            connection.execute(
                insert(Result).values(run_id=run, metric="ridge/digit_top1", value=rng.random(), attempt=1)
            )
    engine.dispose()
    statement = (
        select(RunRow.config_id, RunRow.seed, RunRow.state, Result.value)
        .join(Result, Result.run_id == RunRow.id)
        .where(RunRow.config_id.in_(configs_of("big")), Result.metric == "ridge/digit_top1")
    )
    times, frames = [], []
    for _ in range(5):
        forget(path)
        reader = open_database(f"sqlite:///{path}", read_only=True)
        with reader.connect() as connection:
            start = time.perf_counter()
            assert len(connection.execute(statement).all()) == 180
            times.append(time.perf_counter() - start)
        frames.append(spent(lambda reader=reader: load(reader, "big")))
        reader.dispose()
    yield (
        f"a table's query, 180 of {num_runs:,} runs, file not in memory   {1e3 * min(times):.1f} ms; "
        f"analysis.numbers.frame.load of it, as pandas: {1e3 * min(f.wall_s for f in frames):.0f} ms"
    )


def configs_of(study: str) -> Any:
    from sweeps.database.tables import CellRow

    here = (StudyRow.id == CellRow.study_id) & (StudyRow.revision == CellRow.revision)
    return select(CellRow.config_id).join(StudyRow, here).where(StudyRow.name == study)


def forget(path: Path) -> None:
    """Drop the file from the system's memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# ---- studies ---------------------------------------------------------------------------------------------------------


def big_study(place: Place) -> Iterator[str]:
    """Expand and register a grid of 1,000 cells, then finish it and launch it again."""
    # torch is imported by `expand` only.
    from sweeps.cells.expand import expand
    from sweeps.cells.request import Request
    from sweeps.study.reading import read

    ratios, rates = [round(0.3 + 0.01 * i, 2) for i in range(50)], [round(1e-4 * (i + 1), 4) for i in range(20)]
    path = place.folder / "thousand.yaml"
    path.write_text(
        "title: A thousand cells\nquestion: How long does it take?\nbase: {method: mae}\n"
        f"grid: {{mask.ratio: {ratios}, optim.lr_peak: {rates}}}\nrandom_init: false\nseeds: [0]\n"
        "metrics: [ridge/digit_top1]\n"
    )
    request = Request(read(str(path)), "smoke")
    url = f"sqlite:///{place.folder / 'thousand.sqlite'}"
    engine = open_database(url)
    upgrade(engine)
    imported = spent(lambda: importlib.import_module("core.configuring.config"))
    expanded: list[Any] = []
    used = spent(lambda: expanded.append(expand(request)))
    with engine.begin() as connection:
        wrote = spent(lambda: register_study(connection, expanded[0], launch_hash(request, "")))
    yield (
        f"a study of {len(expanded[0].cells):,} cells   expanding {used.wall_s:.1f} s ({used.cpu_s:.1f} s of CPU), "
        f"registering {wrote.wall_s:.1f} s, after core's import ({imported.wall_s:.1f} s)"
    )
    engine.dispose()


def relaunch(place: Place) -> Iterator[str]:
    """The command for a finished study: a smoke study, trained here, is launched again."""
    words = ["study=masking_ratio", "scale=smoke", f"db=sqlite:///{place.folder / 'r.sqlite'}", "executor=inline"]
    command = [sys.executable, "-m", "sweeps.launch", *words, f"results_dir={place.folder / 'results'}"]
    run(command)
    yield f"relaunching a finished study   {seconds(spent(lambda: run(command)))}"


def plan(place: Place) -> Iterator[str]:
    command = [sys.executable, "-m", "sweeps.plan", "study=all", f"db=sqlite:///{place.folder / 'none.sqlite'}"]
    shutil.rmtree(place.folder / "plan", ignore_errors=True)
    (place.folder / "plan").mkdir()  # with a .cache of its own
    for words in ("the first time", "again"):
        used = spent(lambda: run(command, place.folder / "plan"))
        yield f"plan study=all, {words}   {seconds(used)}"


def run(command: list[str], folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def seconds(used: Spent) -> str:
    return f"{used.wall_s:.1f} s ({used.cpu_s:.1f} s of CPU)"


def beside_mlflow(place: Place) -> Iterator[str]:
    if importlib.util.find_spec("mlflow") is not None:
        # Optional, and 3 s to import.
        from benchmarks import database_mlflow

        yield from database_mlflow.measure(place.folder)


# ---- all of it -------------------------------------------------------------------------------------------------------


@contextmanager
def places() -> Iterator[Place]:
    folder, server = Path(tempfile.mkdtemp(prefix="bench-")), start_server()
    numbers = iter(range(1000))

    def new_url(kind: str) -> str:
        return server.new_database() if kind == "postgresql" else f"sqlite:///{folder / f'{next(numbers)}.sqlite'}"

    try:
        yield Place(folder, new_url)
    finally:
        server.stop()
        shutil.rmtree(server.folder)
        shutil.rmtree(folder)


def main() -> None:
    logging.disable(logging.INFO)
    parts: dict[str, Callable[[Place], Iterator[str]]] = {
        "claims": claims,
        "series": ingest,
        "log": log_overhead,
        "table": lambda place: table_query(place, options.runs),
        "study": big_study,
        "relaunch": relaunch,
        "plan": plan,
        "mlflow": beside_mlflow,
    }
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--runs", type=int, default=1_000_000, help="runs in the database of the table's query")
    options = parser.parse_args()

    def lines() -> Iterator[str]:
        if importlib.util.find_spec("mlflow") is None:
            yield "MLflow is not installed: left out (pip install mlflow, the dependency group bench)"
        with places() as place:
            for name in options.only:
                yield from parts[name](place)

    software = ("optuna", "sqlalchemy", "psycopg")
    show(lines(), OUTPUT if options.write else None, benchmark=__file__, software=software, targets=TARGETS)


if __name__ == "__main__":
    main()
