import errno
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import Engine, select, update

from core.configuring.config import ConfigError
from sweeps import cli
from sweeps.database import registering, series
from sweeps.database.tables import Attempt, Environment, Event, Result, RunRow
from sweeps.engine import queue
from sweeps.engine.owner import is_dead, worker_name
from sweeps.engine.working import Work, run_folder, stop_on_signals, work
from sweeps.worker import USAGE, main
from tests.sweeps.counting import FUNCTIONS, NUM_STEPS


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


def add(engine: Engine, *seeds: int, **config: Any) -> list[int]:
    with engine.begin() as connection:
        return registering.register(connection, [(config, seed) for seed in seeds or (0,)])


def go(engine: Engine, results: Path, *, stop: threading.Event | None = None, **options: Any) -> Counter[str]:
    return work(engine, Work(results, **options), stop=stop or threading.Event(), **FUNCTIONS)  # type: ignore[arg-type]


def outcomes(engine: Engine) -> list[str | None]:
    with engine.begin() as connection:
        return list(connection.scalars(select(Attempt.outcome).order_by(Attempt.run_id, Attempt.n)))


def states(engine: Engine) -> list[str]:
    with engine.begin() as connection:
        return list(connection.scalars(select(RunRow.state).order_by(RunRow.id)))


def errors(engine: Engine) -> list[str | None]:
    with engine.begin() as connection:
        return list(connection.scalars(select(Attempt.error).order_by(Attempt.n)))


def forget_the_waits(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(not_before=0.0))


def test_a_worker_trains_everything_and_stops(engine: Engine, results: Path) -> None:
    add(engine, 0, 1, 2)
    assert go(engine, results) == {"done": 3}
    with engine.begin() as connection:
        assert list(connection.scalars(select(Result.value).order_by(Result.run_id))) == [10.0, 11.0, 12.0]
        curve = series.read(connection, 1, "count")
    assert curve.steps.tolist() == list(range(1, NUM_STEPS + 1))


def test_an_attempt_says_where_and_with_what_it_ran(engine: Engine, results: Path) -> None:
    add(engine)
    go(engine, results)
    with engine.begin() as connection:
        row = connection.execute(select(Attempt.__table__)).one()
        packages = connection.scalar(select(Environment.packages).where(Environment.hash == row.env_hash))
    assert row.worker == worker_name()
    assert row.host and row.device and row.peak_memory > 0 and row.cpu_seconds > 0
    assert packages is not None and {"torch", "python", "SQLAlchemy"} <= {*packages, "SQLAlchemy"}


def test_a_stopped_worker_gives_its_run_back_and_the_next_goes_on_from_there(engine: Engine, results: Path) -> None:
    add(engine, step_s=0.05)
    stop = threading.Event()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    assert go(engine, results, stop=stop) == {"preempted": 1}
    assert states(engine) == ["queued"]
    assert go(engine, results) == {"done": 1}
    trained = (results / "runs" / "1" / "trained").read_text().split()
    assert trained == [str(step) for step in range(1, NUM_STEPS + 1)]  # no step twice
    with engine.begin() as connection:
        assert series.read(connection, 1, "count").values.tolist() == list(range(1, NUM_STEPS + 1))


def test_an_error_is_recorded_and_tried_again_later(engine: Engine, results: Path) -> None:
    add(engine, breaks="once")
    assert go(engine, results) == {"failed": 1}
    assert states(engine) == ["queued"]
    forget_the_waits(engine)
    assert go(engine, results) == {"done": 1}
    assert outcomes(engine) == ["failed", "done"]
    assert "went wrong" in (results / "runs" / "1" / "errors.txt").read_text()


def test_the_same_error_again_makes_the_run_failed(engine: Engine, results: Path) -> None:
    add(engine, breaks="always")
    go(engine, results)
    forget_the_waits(engine)
    go(engine, results)
    assert states(engine) == ["failed"]
    assert errors(engine) == ["ValueError: something at 0x… went wrong"] * 2


def test_a_failing_run_does_not_keep_the_others_from_training(engine: Engine, results: Path) -> None:
    add(engine, breaks="always")
    add(engine, 0, 1)
    assert go(engine, results) == {"failed": 1, "done": 2}


def test_running_out_of_memory_is_named(engine: Engine, results: Path) -> None:
    add(engine, breaks="memory")
    go(engine, results)
    assert errors(engine) == ["out_of_memory: host"]


def test_a_config_that_cannot_be_built_fails_at_once(engine: Engine, results: Path) -> None:
    add(engine, breaks="config")
    go(engine, results)
    assert states(engine) == ["failed"]
    assert errors(engine) == ["ConfigError: breaks must not be config"]


def test_a_full_disk_ends_the_worker_and_blames_no_run(engine: Engine, results: Path) -> None:
    add(engine, breaks="disk")
    with pytest.raises(
        cli.UserError, match=r"No space left on device \(run 1, step 4\); earlier checkpoints are intact"
    ):
        go(engine, results)
    assert (states(engine), outcomes(engine)) == (["queued"], ["preempted"])
    assert go(engine, results) == {"done": 1}
    trained = (results / "runs" / "1" / "trained").read_text().split()
    assert trained == ["1", "2", "3", "4", "5", *(str(step) for step in range(5, NUM_STEPS + 1))]


@pytest.mark.parametrize("option", ["runtime.cache", "results_dir"])
def test_a_full_disk_is_blamed_on_the_folder_that_is_on_it(engine: Engine, results: Path, option: str) -> None:
    folders = {"runtime.cache": results / "cache", "results_dir": results}
    full = OSError(errno.ENOSPC, "No space left on device", str(folders[option] / "file"))

    def train(*_: Any) -> None:
        raise ConfigError("as core tells it") from full

    add(engine, 0)
    what = Work(results, runtime={"cache": str(results / "cache")})
    with pytest.raises(cli.UserError, match=rf"^{option}={folders[option]}: cannot be written to: No space left"):
        work(engine, what, stop=threading.Event(), **FUNCTIONS | {"train": train})  # type: ignore[arg-type]
    assert (states(engine), outcomes(engine)) == (["queued"], ["preempted"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_worker_refuses_a_device_that_is_not_there(results: Path) -> None:
    with pytest.raises(cli.UserError, match="device=cuda: torch sees no CUDA device here; use device=cpu or auto"):
        main([f"results_dir={results}", "device=cuda", f"db=sqlite:///{results / 'none.sqlite'}"])
    assert not results.exists()


def test_a_diverged_run_is_an_outcome(engine: Engine, results: Path) -> None:
    add(engine, breaks="diverge")
    assert go(engine, results) == {"diverged": 1}
    assert states(engine) == ["diverged"]


def test_a_waiting_worker_takes_what_a_dead_one_held(engine: Engine, results: Path) -> None:
    add(engine)
    with engine.begin() as connection:
        queue.claim(connection, worker_name().rpartition("-")[0] + "-0")  # this process id, but another start
    assert go(engine, results, wait=True) == {"done": 1}
    assert outcomes(engine) == ["lost", "done"]


def test_a_worker_that_does_not_wait_leaves_what_another_holds(engine: Engine, results: Path) -> None:
    add(engine)
    with engine.begin() as connection:
        queue.claim(connection, "elsewhere")
    assert go(engine, results) == {}


def test_a_process_that_ended_is_dead_and_a_living_one_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = worker_name(process.pid)
        assert not is_dead(name)
        process.kill()
        process.wait()
        assert is_dead(name)
    assert not is_dead("another-host/boot-1/1-1")


def test_a_folder_of_another_databases_run_is_never_resumed(engine: Engine, results: Path) -> None:
    add(engine)
    with engine.begin() as connection:
        claim = queue.claim(connection, "w")
    assert claim is not None
    mine = run_folder(results, claim)
    assert run_folder(results, claim._replace(attempt=2)) == mine == results / "runs" / "1"
    other = claim._replace(config_hash="another")
    assert run_folder(results, other) == run_folder(results, other) == results / "runs" / "1-2"
    (results / "runs" / "1-3").mkdir()  # a process died before it could write whose it is
    assert run_folder(results, claim._replace(seed=5)) == results / "runs" / "1-4"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_asks_to_stop_and_the_handlers_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.wait(5)
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_interrupts() -> None:
    with pytest.raises(KeyboardInterrupt), stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_the_audit_tells_the_story_of_a_run(engine: Engine, results: Path) -> None:
    add(engine, breaks="once")
    go(engine, results)
    forget_the_waits(engine)
    go(engine, results)
    with engine.begin() as connection:
        kinds = list(connection.scalars(select(Event.kind).order_by(Event.id)))
    assert kinds == ["claimed", "failed", "claimed", "done"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["study=nope"], "study=nope: not in this database"),
        (["lease_s=-1"], "lease_s must be a number above 0, got '-1'"),
        (["devise=cpu"], "devise: unknown option"),
        (["db=mysql://me:secret@host/x"], "mysql is not supported"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_two(
    engine: Engine, url: str, results: Path, words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {word.partition("=")[0] for word in words}
    defaults = {"db": url, "results_dir": str(results)}
    words += [f"{name}={value}" for name, value in defaults.items() if name not in given]
    assert cli.run(main, words, USAGE) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
    assert "secret" not in error


def test_the_worker_command_joins_a_sweep_from_outside(
    engine: Engine, url: str, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(main, [f"db={url}", f"results_dir={results}"], USAGE) == 0
    assert capsys.readouterr().out == "nothing to claim\n"


def test_a_worker_under_torchrun_refuses_to_claim(
    engine: Engine, url: str, results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    add(engine)
    assert cli.run(main, [f"db={url}", f"results_dir={results}"], USAGE) == 2
    assert "start workers without torchrun" in capsys.readouterr().err
    with engine.begin() as connection:
        assert connection.scalar(select(RunRow.attempt)) == 0


def test_a_disk_that_is_full_when_a_run_begins_gives_it_back_and_says_so(
    engine: Engine, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(engine)

    def full(run_folder: Path, attempt: int) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sweeps.engine.recorder.adopt", full)
    with pytest.raises(cli.UserError, match=r"No space left on device \(run 1, step 0\).*make room and launch again"):
        go(engine, results)
    with engine.begin() as connection:
        assert connection.execute(select(RunRow.state, RunRow.n_fail)).one() == ("queued", 0)
