"""MLflow's side of `benchmarks.database`: a point logged, many points logged, runs made and found again.

It has no queue of runs, so nothing stands beside our claims.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric

METRICS = ("loss", "lr", "weight_decay", "ema_decay", "grad_norm")
NUM_RUNS, NUM_OTHERS = 180, 220


def measure(folder: Path) -> Iterator[str]:
    """On a SQLite file, MLflow's own default."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.sqlite'}")
    version = f"MLflow {metadata.version('mlflow')}"
    mine = client.create_experiment("mine", artifact_location=str(folder / "artifacts"))
    others = client.create_experiment("others", artifact_location=str(folder / "artifacts"))
    run = client.create_run(mine).info.run_id
    times = []
    for step in range(60):
        start = time.perf_counter()
        client.log_batch(run, [Metric(name, 0.1, 0, step) for name in METRICS])
        times.append(time.perf_counter() - start)
    yield f"log() of five metrics, {version}'s log_batch   median {1e6 * sorted(times)[len(times) // 2]:,.0f} us"
    start = time.perf_counter()
    for first in range(0, 5000, 1000):  # the most that one call takes
        client.log_batch(run, [Metric("curve", 0.1 * step, 0, step) for step in range(first, first + 1000)])
    yield f"series, sqlite, {version}'s log_batch of 1,000   {5000 / (time.perf_counter() - start):>12,.0f} /s"
    start = time.perf_counter()
    for i in range(NUM_RUNS - 1 + NUM_OTHERS):
        made = client.create_run(mine if i < NUM_RUNS - 1 else others).info.run_id
        client.log_batch(made, [Metric("top1", float(i), 0, 100)])
        client.set_terminated(made)
    rate = (NUM_RUNS - 1 + NUM_OTHERS) / (time.perf_counter() - start)
    yield f"runs made, given one metric and ended, sqlite, {version}   {rate:,.0f} /s"
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert len(client.search_runs([mine], max_results=1000)) == NUM_RUNS
        times.append(time.perf_counter() - start)
    yield (
        f"a table's query, {NUM_RUNS} of {NUM_RUNS + NUM_OTHERS} runs, {version}'s search_runs   "
        f"{1e3 * min(times):,.0f} ms"
    )
