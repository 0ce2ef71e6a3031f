import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from sweeps.database import registering
from sweeps.database.tables import Attempt, Event, Result, RunRow
from sweeps.engine import executors, queue
from sweeps.engine.executors import (
    EXECUTORS,
    Ended,
    Job,
    blame,
    inline,
    local,
    look,
    note_giving_up,
    threads_per_worker,
)
from sweeps.engine.owner import is_dead, worker_name
from sweeps.progress import study_status
from tests.sweeps.conftest import BOTH
from tests.sweeps.counting import FUNCTIONS, NUM_STEPS, outcomes, states
from tests.sweeps.launched import register, two_rows

LAUNCHER = """
import sys
from pathlib import Path
from sweeps.engine.executors import Job, local
from tests.sweeps.counting import FUNCTIONS
job = Job(sys.argv[1], Path(sys.argv[2]), lease_s=60.0, functions=FUNCTIONS, preload=["sweeps.engine.working"])
print(local(job, workers=2), flush=True)
"""


def add(engine: Engine, *seeds: int, **config: Any) -> list[int]:
    with engine.begin() as connection:
        return registering.register(connection, [(config, seed) for seed in seeds or (0,)])


@pytest.fixture
def job(url: str, tmp_path: Path) -> Job:
    return Job(url, tmp_path / "results", functions=FUNCTIONS, preload=["sweeps.engine.working"])


def test_inline_trains_everything_and_ticks(engine: Engine, job: Job) -> None:
    add(engine, 0, 1)
    ticks: list[int] = []
    assert inline(job, on_tick=lambda: ticks.append(1)) == Ended()
    assert states(engine) == {"done": 2}
    assert ticks


def test_inline_has_one_worker(job: Job) -> None:
    with pytest.raises(ValueError, match="workers=2: executor=inline trains in one process"):
        inline(job, workers=2)


def test_an_executor_comes_back_when_nothing_is_left(engine: Engine, job: Job) -> None:
    for name in EXECUTORS:
        assert EXECUTORS[name](job, workers=1) == Ended()
        assert states(engine) == {} and not (job.results_dir / "runs").exists()


def test_two_processes_share_the_runs(engine: Engine, job: Job) -> None:
    add(engine, *range(8), step_s=0.02)
    assert local(job, workers=2) == Ended()
    assert states(engine) == {"done": 8}
    with engine.begin() as connection:
        assert len(set(connection.scalars(select(Attempt.worker)))) == 2
        assert connection.scalar(select(func.count()).select_from(Result)) == 8


def test_a_worker_that_died_is_replaced_and_its_run_goes_on_at_once(engine: Engine, job: Job) -> None:
    add(engine, breaks="die")
    add(engine, 1)
    # Whoever waited for the lease would meet the limit of every test first.
    assert local(replace(job, lease_s=36_000.0), workers=1) == Ended()
    assert states(engine) == {"done": 2}
    assert outcomes(engine) == {"lost": 1, "done": 2}
    trained = (job.results_dir / "runs" / "1" / "trained").read_text().split()
    assert trained == ["1", "2", "3", "4", "5", *(str(step) for step in range(5, NUM_STEPS + 1))]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_launcher_that_ends_takes_its_workers_along_and_loses_nothing(
    engine: Engine, job: Job, number: signal.Signals
) -> None:
    add(engine, 0, 1, step_s=0.3)
    root = Path(__file__).parents[3]
    arguments = [sys.executable, "-c", LAUNCHER, job.url, str(job.results_dir)]
    with subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, text=True) as launcher:
        deadline = time.monotonic() + 60
        while states(engine)["running"] < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        with engine.begin() as connection:
            workers = set(connection.scalars(select(RunRow.owner)))
        os.kill(launcher.pid, number)
        output = launcher.communicate(timeout=60)[0]
    while not all(is_dead(str(worker)) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states(engine) == {"queued": 2}
    assert outcomes(engine) == {"preempted": 2}
    if number == signal.SIGTERM:
        assert output.strip() == "Ended(was_interrupted=True, gave_up=False)"
    assert local(job, workers=2) == Ended()
    assert states(engine) == {"done": 2}


@pytest.mark.slow
def test_workers_that_keep_dying_are_given_up(engine: Engine, job: Job, caplog: pytest.LogCaptureFixture) -> None:
    add(engine)
    broken = replace(job, functions={"unknown": FUNCTIONS["train"]})
    assert local(broken, workers=2) == Ended(gave_up=True)
    assert "died without finishing a run" in caplog.text
    assert states(engine) == {"queued": 1}
    assert noted(engine) == {"gave up: 5 workers in a row died without finishing a run, the last one exit code 1"}


def noted(engine: Engine) -> set[str | None]:
    with engine.begin() as connection:
        return set(connection.scalars(select(Event.detail).where(Event.kind == "gave_up")))


def test_why_a_launcher_gave_up_is_shown_until_somebody_takes_the_run(engine: Engine, job: Job) -> None:
    register(engine, two_rows(seeds=[0]))
    with engine.begin() as connection:
        note_giving_up(job, "5 workers died", connection)
    with engine.begin() as connection:
        assert [run.error for run in study_status.read(connection, "ratio").runs] == ["gave up: 5 workers died"] * 2
        queue.claim(connection, "w")
        assert [run.error for run in study_status.read(connection, "ratio").runs] == [None, "gave up: 5 workers died"]


def test_the_run_of_a_worker_that_died_after_the_sweep_waits_for_the_next_one(engine: Engine, job: Job) -> None:
    """Only the sweep sees what it died of: queued before, an out-of-memory kill would count as nobody's fault."""
    add(engine)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = worker_name(process.pid)
    with engine.begin() as connection:
        queue.claim(connection, name)
        process.kill()
        process.wait()
        look(job, connection, unswept=[name])
    assert states(engine) == {"running": 1}
    with engine.begin() as connection:
        look(job, connection)
    assert states(engine) == {"queued": 1}


@dataclass
class Hungry:
    runtime: Mapping[str, Any]


def build_hungry(config: Mapping[str, Any], *, seed: int, runtime: Mapping[str, Any]) -> Hungry:
    return Hungry(runtime)


def train_hungry(run: Hungry, record: Any) -> None:
    """End as the kernel ends a process when memory runs out: SIGKILL, and one more on the kernel's own count."""
    count = Path(run.runtime["vmstat"])
    count.write_text(f"oom_kill {int(count.read_text().split()[1]) + 1}\n")
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_run_that_keeps_running_out_of_memory_is_failed_and_named(
    engine: Engine, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "vmstat"
    count.write_text("oom_kill 7\n")
    monkeypatch.setattr(executors, "VMSTAT", count)
    add(engine)
    hungry = {"build": build_hungry, "train": train_hungry}
    assert local(replace(job, functions=hungry, runtime={"vmstat": str(count)}), workers=1) == Ended()
    assert states(engine) == {"failed": 1}
    with engine.begin() as connection:
        assert set(connection.scalars(select(Attempt.error))) == {"out_of_memory: host (the system killed the worker)"}


@pytest.mark.parametrize(
    ("exit_code", "ran_out_of_memory", "error"),
    [
        (-signal.SIGKILL, True, "out_of_memory: host (the system killed the worker)"),
        (-signal.SIGKILL, False, ""),  # by somebody else
        (-signal.SIGSEGV, False, "crash: killed by SIGSEGV"),
        (-signal.SIGTERM, True, ""),
        (1, True, ""),
    ],
)
def test_only_a_run_that_killed_its_worker_is_blamed(exit_code: int, ran_out_of_memory: bool, error: str) -> None:
    assert blame(exit_code, ran_out_of_memory=ran_out_of_memory) == error


@pytest.mark.slow
def test_a_full_disk_ends_a_launch_without_failing_a_run(engine: Engine, job: Job) -> None:
    add(engine, 0, 1, breaks="disk")
    assert local(job, workers=1) == Ended(gave_up=True)
    assert states(engine) == {"queued": 2}
    (reason,) = noted(engine)
    assert reason is not None and "No space left on device" in reason and "make room and launch again" in reason


@pytest.mark.slow
@BOTH
def test_two_launchers_at_the_same_moment_share_the_work(engine: Engine, job: Job) -> None:
    add(engine, *range(12), step_s=0.02)
    root = Path(__file__).parents[3]
    arguments = [sys.executable, "-c", LAUNCHER, job.url, str(job.results_dir)]
    launchers = [subprocess.Popen(arguments, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [launcher.communicate(timeout=250)[0].strip() for launcher in launchers]
    assert outputs == ["Ended(was_interrupted=False, gave_up=False)"] * 2
    assert (states(engine), outcomes(engine)) == ({"done": 12}, {"done": 12})


def test_workers_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_worker(1) == cores
    assert threads_per_worker(10 * cores) == 1


def test_a_job_in_a_log_shows_no_password():
    assert "secret" not in repr(Job("postgresql://me:secret@host/x", Path("r")))


def test_a_group_of_processes_that_is_asked_to_end_before_it_trains_ends_without_a_traceback(engine, url, tmp_path):
    register(engine, two_rows())
    code = (
        "from pathlib import Path; from sweeps.engine.executors import Job, local; "
        f"job = Job({url!r}, Path({str(tmp_path)!r}), preload=['tests.sweeps.engine.ended_with_its_group']); "
        "print(local(job, workers=1))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False
    )
    assert (done.returncode, done.stderr) == (0, "") and "was_interrupted=True" in done.stdout


def test_a_worker_whose_server_has_gone_before_it_begins_ends_with_a_line_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(executors.signal, "signal", lambda *_: None)  # of this process, which is not the worker's
    with pytest.raises(SystemExit) as ended:
        executors._serve(Job("postgresql://me:secret@127.0.0.1:1/x", tmp_path), 1, 1)
    assert ended.value.code == 1
    assert "worker 1 ends, another takes its place" in caplog.text and "secret" not in caplog.text
