"""Runs that several processes of one worker train together, under its one lease."""

import math
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
from sqlalchemy import Engine, select

from core.configuring.config import flatten, from_flat, identity, load
from core.running.ranks.processes import Together
from sweeps.database import registering, series
from sweeps.database.tables import Attempt, Result, RunRow
from sweeps.engine.owner import reap
from sweeps.engine.working import Work, work

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # each process imports torch
    pytest.mark.filterwarnings("ignore:.*broadcast_buffers:FutureWarning"),  # of DistributedDataParallel
]
TINY = ["method=mae", "scale=smoke", "evals=[ridge]", "precision=fp32", "optim.steps=6"]
ROUNDING = 1e-4


def add(engine: Engine, *words: str) -> None:
    given = {word.partition("=")[0]: word for word in (*TINY, *words)}
    config = identity(flatten(load(list(given.values()))))
    with engine.begin() as connection:
        registering.register(connection, [(config, 0)])


def work_in(folder: Path, size: int = 2) -> Work:
    runtime = {"cache": str(folder / "cache"), "threads": 1, "log_every": 1, "checkpoint_every": 2, "device": "cpu"}
    return Work(folder / "results", runtime=runtime, together=Together(size))


def go(engine: Engine, folder: Path, size: int = 2, **options: Any) -> Counter[str]:
    return work(engine, work_in(folder, size), stop=options.pop("stop", threading.Event()), **options)


def attempts(engine: Engine) -> list[Any]:
    with engine.begin() as connection:
        return list(connection.execute(select(Attempt.__table__).order_by(Attempt.run_id, Attempt.n)))


def losses(engine: Engine, run_id: int) -> dict[int, float]:
    with engine.begin() as connection:
        curve = series.read(connection, run_id, "loss")
        return dict(zip(map(int, curve.steps), map(float, curve.values), strict=True))


def results(engine: Engine) -> dict[str, float]:
    with engine.begin() as connection:
        rows = connection.execute(select(Result.metric, Result.value))
        return {row.metric: row.value for row in rows}


def children(of: int | None = None) -> list[int]:
    """The other processes of runs that a process (this one) has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == (of or os.getpid()) and b"core.running.ranks.one_rank" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # ended meanwhile
            continue
    return found


def has_ended(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_until(said: Any, limit_s: float = 240.0) -> None:
    deadline = time.monotonic() + limit_s
    while not said():
        assert time.monotonic() < deadline, "too long"
        time.sleep(0.05)


def test_two_processes_record_what_one_does(engine: Engine, tmp_path: Path) -> None:
    add(engine)
    assert go(engine, tmp_path) == {"done": 1}
    together, found = losses(engine, 1), results(engine)
    assert not children()
    (row,) = attempts(engine)
    assert (row.outcome, row.step, row.facts["processes"]) == ("done", 6, 2)
    alone = tmp_path / "alone"
    alone.mkdir()
    other = alone_on(alone)
    assert together == pytest.approx(losses(other, 1), rel=ROUNDING)
    assert found.keys() == results(other).keys()
    other.dispose()


def alone_on(folder: Path) -> Engine:
    from sweeps.database.opening import open_database, upgrade

    engine = open_database(f"sqlite:///{folder}/alone.sqlite")
    upgrade(engine)
    add(engine)
    assert go(engine, folder, size=1) == {"done": 1}
    return engine


LONG = ["optim.steps=4000"]
WORKER = """
import logging, sys
from pathlib import Path
from sweeps.database.opening import open_database
from sweeps.engine.working import stop_on_signals, work
from tests.sweeps.engine.test_processes import work_in
if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    with stop_on_signals() as stop:
        work(open_database(sys.argv[1]), work_in(Path(sys.argv[2])), stop=stop)
"""


def start(url: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, url, str(folder)])


def begun(engine: Engine) -> bool:
    with engine.begin() as connection:
        return bool(connection.scalar(select(RunRow.checkpoint_step)))


@pytest.mark.parametrize("who", ["first", "other"])
def test_a_signal_to_either_process_gives_the_run_back_at_one_step(
    engine: Engine, url: str, tmp_path: Path, who: str
) -> None:
    add(engine, *LONG)
    with start(url, tmp_path) as worker:
        wait_until(lambda: begun(engine))
        os.kill(worker.pid if who == "first" else children(worker.pid)[0], signal.SIGTERM)
        worker.wait(120)
    assert worker.returncode == 0
    (row,) = attempts(engine)
    with engine.begin() as connection:
        run = connection.execute(select(RunRow.state, RunRow.checkpoint_step)).one()
    assert (row.outcome, run.state, run.checkpoint_step) == ("preempted", "queued", row.step)

    stop = threading.Event()
    threading.Thread(
        target=lambda: (wait_until(lambda: len(attempts(engine)) == 2 and attempts(engine)[1].resume_step), stop.set())
    ).start()
    assert go(engine, tmp_path, stop=stop) == {"preempted": 1}
    assert attempts(engine)[1].resume_step == run.checkpoint_step + 1
    assert sorted(losses(engine, 1)) == list(range(1, attempts(engine)[1].step + 1))


def test_a_killed_worker_takes_its_other_processes_with_it(engine: Engine, url: str, tmp_path: Path) -> None:
    add(engine, *LONG)
    with start(url, tmp_path) as worker:
        wait_until(lambda: begun(engine))
        (other,) = children(worker.pid)
        worker.kill()
        worker.wait(60)
    wait_until(
        lambda: not Path(f"/proc/{other}").exists() or "\nState:\tZ" in Path(f"/proc/{other}/status").read_text()
    )
    with engine.begin() as connection:
        assert reap(connection) == [1]


def test_a_killed_process_is_named_and_the_run_is_tried_again(engine: Engine, url: str, tmp_path: Path) -> None:
    add(engine, *LONG)
    with start(url, tmp_path) as worker:
        wait_until(lambda: begun(engine))
        os.kill(children(worker.pid)[0], signal.SIGKILL)
        wait_until(lambda: attempts(engine)[0].outcome is not None)
        worker.terminate()
        worker.wait(120)
    assert (attempts(engine)[0].outcome, attempts(engine)[0].error) == (
        "failed", "RankError: process 1 of 2: killed by signal 9",
    )  # fmt: skip


def test_what_another_process_fails_of_is_the_runs_failure(engine: Engine, tmp_path: Path) -> None:
    add(engine)

    def unshared(*arguments: Any, **options: Any) -> Any:
        run = from_flat(*arguments, **options)
        run.runtime.same_data = ["no fingerprint"]  # refused where the other process builds the run
        return run

    assert go(engine, tmp_path, build=unshared) == {"failed": 1}
    assert "process 1 of 2: ConfigError: runtime.same_data must be a list" in attempts(engine)[0].error


def test_a_batch_that_cannot_be_shared_out_fails_by_name(engine: Engine, tmp_path: Path) -> None:
    add(engine, "optim.batch_size=15")
    assert go(engine, tmp_path) == {"failed": 1}
    assert "gpus_per_run=2: optim.batch_size=15 cannot be shared out evenly" in attempts(engine)[0].error
    assert math.isclose(attempts(engine)[0].gpu_seconds, 0.0)
