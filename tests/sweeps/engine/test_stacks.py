"""Runs that one worker claims and trains together, each with a lease, a journal and an end of its own."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Connection, Engine, select, update

from core.configuring.config import flatten, from_flat, identity, load
from sweeps import cli
from sweeps.database import registering, series
from sweeps.database.tables import Attempt, Result, RunRow
from sweeps.engine import queue
from sweeps.engine.owner import reap, worker_name
from sweeps.engine.queue import Claim
from sweeps.engine.stacks import Stacks, in_time
from sweeps.engine.working import Work, work
from tests.sweeps.conftest import BOTH

TINY = ["scale=smoke", "evals=[ridge]", "precision=fp32", "optim.steps=6"]
ROUNDING = 1e-4


def config(*words: str) -> dict[str, Any]:
    return identity(flatten(load([*TINY, *words])))


def add(engine: Engine, *rows: tuple[dict[str, Any], int], priority: int = 0) -> list[int]:
    with engine.begin() as connection:
        return registering.register(connection, rows, priority=priority)


def go(engine: Engine, tmp_path: Path, stack: int = 4, **options: Any) -> Counter[str]:
    runtime = {"cache": str(tmp_path / "cache"), "threads": 1, "log_every": 1, "checkpoint_every": 2}
    what = Work(tmp_path / "results", stack=stack, runtime=runtime, has_time=options.pop("has_time", None))
    return work(engine, what, stop=options.pop("stop", threading.Event()), **options)


def attempts(engine: Engine) -> list[Any]:
    with engine.begin() as connection:
        return list(connection.execute(select(Attempt.__table__).order_by(Attempt.run_id, Attempt.n)))


def claim(engine: Engine, size: int, **options: Any) -> list[Claim]:
    with engine.begin() as connection:
        first = queue.claim(connection, worker_name())
        return [] if first is None else Stacks().more(connection, first, size, **options)


# ---- claiming --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_claim_takes_runs_of_one_shape_each_with_its_own_lease(engine: Engine) -> None:
    mae, wide = config("method=mae"), config("method=mae", "encoder.width=48")
    faster = config("method=mae", "optim.lr_peak=0.01")
    *alike, other = add(engine, (mae, 0), (mae, 1), (faster, 0), (mae, 2), (wide, 0))
    with engine.begin() as connection:  # the oldest run of all has another shape or not: its hash decides
        connection.execute(update(RunRow).where(RunRow.id.in_(alike)).values(priority=1))
    assert {(each.run_id, each.attempt) for each in claim(engine, 5)} == {(run, 1) for run in alike}
    with engine.begin() as connection:
        rows = connection.execute(select(RunRow.id, RunRow.state, RunRow.owner, RunRow.lease_until)).all()
    assert {row.id: row.state for row in rows} == {run: "running" for run in alike} | {other: "queued"}
    assert all(row.owner == worker_name() and row.lease_until for row in rows if row.state == "running")
    assert [row.facts for row in attempts(engine)] == [{"stack": 4}] * 4


def test_a_claim_takes_no_more_than_asked_and_none_that_failed_before(engine: Engine) -> None:
    mae = config("method=mae")
    add(engine, *((mae, seed) for seed in range(4)))
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == 2).values(n_fail=1))
    assert [each.run_id for each in claim(engine, 2)] == [1, 3]


@BOTH
@pytest.mark.parametrize(("seconds_a_run", "size"), [(1.0, 8), (10.0, 4), (40.0, 1), (1000.0, 8)])
def test_a_stack_is_as_large_as_there_is_time_for_and_whole_where_one_run_is_longer_than_the_job(
    engine: Engine, seconds_a_run: float, size: int
) -> None:
    first = Claim(7, 1, 0, {}, "hash", 0.0, "worker", 60.0, None)
    asked = []

    def has_time(connection: Connection, *, run: int | None = None, stack: int = 1) -> bool:
        asked.append(run)
        return seconds_a_run * stack <= 60.0

    with engine.begin() as connection:
        assert in_time(connection, has_time, first, 8) == size
    assert set(asked) == {7}


def test_a_worker_with_little_time_takes_a_smaller_stack(engine: Engine, tmp_path: Path) -> None:
    add(engine, *((config("method=mae"), seed) for seed in range(4)))

    def has_time(connection: Connection, *, run: int | None = None, stack: int = 1) -> bool:
        return stack <= 2

    go(engine, tmp_path, has_time=has_time)
    assert [row.facts["stack"] for row in attempts(engine)] == [2] * 4


def test_two_workers_never_share_a_run(engine: Engine) -> None:
    mae = config("method=mae")
    add(engine, *((mae, seed) for seed in range(12)))
    taken: list[int] = []
    threads = [
        threading.Thread(target=lambda: taken.extend(each.run_id for each in claim(engine, 4))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == len(set(taken)) <= 12


def test_a_stack_is_asked_for_by_number_or_auto() -> None:
    def parsed(word: str) -> int:
        return cli.parse([f"stack={word}"], ["stack"]).stack()

    assert parsed("auto") == cli.AUTO_STACK and parsed("8") == 8
    for word in ("0", "-1", "many", "65"):
        with pytest.raises(cli.UserError, match=r"stack must be auto or a whole number in \[1, 64\]"):
            parsed(word)


def test_what_cannot_be_stacked_is_trained_alone_and_said(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    add(engine, (config("method=vicreg"), 0))
    with engine.begin() as connection:
        first = queue.claim(connection, worker_name())
    assert first is not None
    with caplog.at_level("INFO"):
        assert Stacks().size(first, 8, from_flat, {}) == 1
    assert "objective=vicreg cannot be stacked" in caplog.text


# ---- training --------------------------------------------------------------------------------------------------------


def test_stacked_runs_are_recorded_as_alone_and_say_their_stack(engine: Engine, tmp_path: Path) -> None:
    mae = config("method=mae")
    add(engine, *((mae, seed) for seed in range(3)))
    assert go(engine, tmp_path) == {"done": 3}
    rows = attempts(engine)
    assert [(row.outcome, row.facts["stack"], row.step) for row in rows] == [("done", 3, 6)] * 3
    with engine.begin() as connection:
        curves = [series.read(connection, run, "loss") for run in (1, 2, 3)]
        results = connection.scalars(select(Result.run_id).where(Result.metric == "ridge/digit_top1")).all()
        connection.execute(update(RunRow).values(state="queued", checkpoint=None, checkpoint_step=None))
        connection.execute(Result.__table__.delete())
    assert sorted(results) == [1, 2, 3]
    assert go(engine, tmp_path / "alone", stack=1) == {"done": 3}
    assert all("stack" not in row.facts for row in attempts(engine) if row.n == 2)
    with engine.begin() as connection:
        for run, curve in zip((1, 2, 3), curves, strict=True):
            again = series.read(connection, run, "loss")
            assert again.steps.tolist() == curve.steps.tolist() == list(range(1, 7))
            assert again.values.tolist() == pytest.approx(curve.values.tolist(), rel=ROUNDING)


def test_a_stack_shares_out_the_processor_seconds_of_its_process(engine: Engine, tmp_path: Path) -> None:
    mae = config("method=mae")
    add(engine, *((mae, seed) for seed in range(3)))
    before = time.process_time()
    go(engine, tmp_path)
    used = time.process_time() - before
    assert sum(row.cpu_seconds for row in attempts(engine)) <= used


def test_a_run_that_diverges_or_fails_leaves_the_others_alone(engine: Engine, tmp_path: Path) -> None:
    mae, wild = config("method=mae"), config("method=mae", "optim.lr_peak=1e30", "optim.warmup_share=0")
    broken = config("method=mae", "augment.color=0.5")
    ids = add(engine, (mae, 0), (wild, 0), (broken, 0), (mae, 1))

    def build(values: dict[str, Any], **rest: Any) -> Any:
        if values["augment.color"] == 0.5:
            raise ValueError("no such run")
        return from_flat(values, **rest)

    assert go(engine, tmp_path, build=build)["done"] == 2
    with engine.begin() as connection:
        states = {row.id: row.state for row in connection.execute(select(RunRow.id, RunRow.state))}
    assert [states[run] for run in ids] == [
        "done",
        "diverged",
        "queued",
        "done",
    ]  # the error's run is to be tried again


def test_a_cancelled_run_of_a_stack_is_fenced_and_the_others_end(engine: Engine, tmp_path: Path) -> None:
    long = config("method=mae", "optim.steps=400", "evals=[]")
    add(engine, *((long, seed) for seed in range(3)))
    outcomes: list[Counter[str]] = []
    worker = threading.Thread(target=lambda: outcomes.append(go(engine, tmp_path)))
    worker.start()
    while not any(row.resume_step for row in attempts(engine)):
        time.sleep(0.02)
    with engine.begin() as connection:
        queue.cancel(connection, [2])
    worker.join()
    assert outcomes == [{"done": 2, "fenced": 1}]
    with engine.begin() as connection:
        assert list(connection.scalars(select(RunRow.state).order_by(RunRow.id))) == ["done", "cancelled", "done"]


def test_a_stopped_stack_gives_every_run_back_and_they_go_on_alone(engine: Engine, tmp_path: Path) -> None:
    mae = config("method=ijepa", "optim.steps=30", "evals=[]")
    add(engine, *((mae, seed) for seed in range(2)))
    stop = threading.Event()
    worker = threading.Thread(target=lambda: go(engine, tmp_path, stop=stop))
    worker.start()
    while not any(row.resume_step for row in attempts(engine)):
        time.sleep(0.01)
    stop.set()
    worker.join()
    assert go(engine, tmp_path, stack=1)["done"] == [row.outcome for row in attempts(engine)].count("done")
    with engine.begin() as connection:
        for run in (1, 2):
            assert series.read(connection, run, "loss").steps.tolist() == list(range(1, 31))


KILLED = """
import sys, threading
from pathlib import Path
from sweeps.database.opening import open_database
from sweeps.engine.working import Work, work
url, folder = sys.argv[1:]
runtime = {"cache": folder + "/cache", "threads": 1, "log_every": 1, "checkpoint_every": 5}
work(open_database(url), Work(Path(folder) / "results", stack=3, runtime=runtime), stop=threading.Event())
"""


@pytest.mark.parametrize("stack", [1, 3])
def test_a_killed_stack_loses_nothing(engine: Engine, url: str, tmp_path: Path, stack: int) -> None:
    long = config("method=mae", "optim.steps=100", "evals=[]")
    add(engine, *((long, seed) for seed in range(3)))
    process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)], env=os.environ)
    while len(list((tmp_path / "results" / "runs").glob("*/checkpoints/1/step-*.pt"))) < 4 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with engine.begin() as connection:
        assert sorted(reap(connection)) == [1, 2, 3]
    assert go(engine, tmp_path, stack=stack) == {"done": 3}
    rows = attempts(engine)
    assert [row.outcome for row in rows] == ["lost", "done"] * 3
    assert all(row.resume_step > 1 for row in rows if row.outcome == "done")  # from their own checkpoints
    with engine.begin() as connection:
        for run in (1, 2, 3):
            assert series.read(connection, run, "loss").steps.tolist() == list(range(1, 101))


def test_an_attempt_that_fails_keeps_what_was_told_of_its_stack(engine: Engine, tmp_path: Path) -> None:
    mae = config("method=mae", "evals=[]")
    add(engine, *((mae, seed) for seed in range(2)))

    def out_of_memory(runs: Any, records: Any) -> list[Exception | None]:
        return [torch.OutOfMemoryError("CUDA out of memory")] * len(runs)

    assert go(engine, tmp_path, train_together=out_of_memory) == {"failed": 2}
    assert [(row.error, row.facts) for row in attempts(engine)] == [("out_of_memory: GPU", {"stack": 2})] * 2
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(not_before=0.0))
    assert go(engine, tmp_path, train_together=out_of_memory) == {"done": 2}  # alone: what failed is not stacked again
