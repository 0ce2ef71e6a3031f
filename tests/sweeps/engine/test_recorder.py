import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, func, select, update
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sweeps.database import registering, series
from sweeps.database.tables import Attempt, Chunk, Result, RunRow
from sweeps.engine import queue
from sweeps.engine.attempt_folder import adopt
from sweeps.engine.journal import Journal, leftovers
from sweeps.engine.queue import Claim
from sweeps.engine.recorder import DatabaseRecorder
from tests.sweeps.conftest import BOTH
from tests.sweeps.postgres import PostgresServer

Make = Callable[..., DatabaseRecorder]


def claim_one(engine: Engine, worker: str = "w") -> Claim:
    with engine.begin() as connection:
        registering.register(connection, [({"mask": "random"}, 0)])
        claim = queue.claim(connection, worker)
    assert claim is not None
    return claim


@pytest.fixture
def claim(engine: Engine) -> Claim:
    return claim_one(engine)


@pytest.fixture
def make(engine: Engine, tmp_path: Path) -> Make:
    def recorder(claim: Claim, **options: Any) -> DatabaseRecorder:
        options = {"stop": threading.Event(), "sync_s": 0.02, "results_dir": tmp_path} | options
        return DatabaseRecorder(engine, claim, tmp_path / "runs" / str(claim.run_id), **options)

    return recorder


def state(engine: Engine) -> tuple[str, str | None]:
    with engine.begin() as connection:
        run = connection.execute(select(RunRow.state, RunRow.attempt)).one()
        return run.state, connection.scalar(select(Attempt.outcome).where(Attempt.n == run.attempt))


def curve(engine: Engine, metric: str = "loss") -> dict[int, float]:
    with engine.begin() as connection:
        found = series.read(connection, 1, metric)
    return dict(zip(found.steps.tolist(), found.values.tolist(), strict=True))


def wait_for(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.01)


def let_another_have_it(engine: Engine) -> Claim:
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(lease_until=0.0))
        other = queue.claim(connection, "another")
    assert other is not None
    return other


def break_database(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE sw_run RENAME TO sw_away")


def mend_database(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE sw_away RENAME TO sw_run")


@BOTH
def test_a_finished_run_has_its_curve_its_results_and_its_state(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim) as record:
        for step in (1, 2, 3):
            record.log(step, {"loss": 1 / step})
        record.finish("done", {"knn/digit_top1": 90.0}, {"train_seconds": 2.0, "broken": float("nan")})
    assert curve(engine) == {1: 1.0, 2: 0.5, 3: 1 / 3}
    assert state(engine) == ("done", "done")
    with engine.begin() as connection:
        assert connection.execute(select(Result.metric, Result.value, Result.step)).all() == [
            ("knn/digit_top1", 90.0, 3)
        ]
        assert connection.scalar(select(Attempt.facts)) == {"train_seconds": 2.0, "broken": None}
    assert list(record.run_folder.glob("points/*")) == []


def test_the_lease_is_renewed_while_the_trainer_is_busy(engine: Engine, make: Make) -> None:
    claim = claim_one(engine)._replace(lease_s=0.4)
    with make(claim, sync_s=30.0):  # renewed every quarter of a lease at the latest
        time.sleep(1.0)
        with engine.begin() as connection:
            assert queue.expire(connection) == []


def test_the_database_hears_of_the_step_a_run_is_at(engine: Engine, claim: Claim, make: Make) -> None:
    def heard() -> int | None:
        with engine.begin() as connection:
            return connection.scalar(select(Attempt.step))

    with make(claim) as record:
        record.log(7, {"loss": 1.0})
        wait_for(lambda: heard() == 7)


def test_the_database_hears_of_the_newest_loss_while_its_points_wait_to_be_sent(
    engine: Engine, claim: Claim, make: Make
) -> None:
    def heard() -> tuple[int | None, float | None]:
        with engine.begin() as connection:
            return tuple(connection.execute(select(Attempt.step, Attempt.loss)).one())

    with make(claim) as record:
        record.log(1, {"loss": 1.0})  # the first is sent at once
        wait_for(lambda: curve(engine) == {1: 1.0})
        record.log(2, {"loss": 0.5})
        wait_for(lambda: heard() == (2, 0.5))
        assert curve(engine) == {1: 1.0}


@BOTH
def test_a_loss_is_never_shown_beside_another_step(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim) as record:
        record.log(4, {"loss": 0.5})
        record.log(4, {"knn/digit_top1": 90.0})
        assert record.loss == 0.5
        record.log(6, {"finetune/loss": 0.1})
        assert record.loss is None
        record.log(7, {"loss": float("nan")})
        record.finish("diverged", {}, {})
    with engine.begin() as connection:
        assert connection.execute(select(Attempt.step, Attempt.loss)).one() == (7, None)


@BOTH
def test_a_checkpoint_is_recorded_relative_to_the_results_folder(engine: Engine, claim: Claim, make: Make) -> None:
    def stored() -> tuple[str | None, int | None]:
        with engine.begin() as connection:
            return tuple(connection.execute(select(RunRow.checkpoint, RunRow.checkpoint_step)).one())

    with make(claim) as record:
        record.checkpointed(40, record.folder / "step-40.pt")
        wait_for(lambda: stored() == ("runs/1/checkpoints/1/step-40.pt", 40))


@BOTH
def test_a_preempted_run_goes_back_into_the_queue(engine: Engine, claim: Claim, make: Make) -> None:
    stop = threading.Event()
    with make(claim, stop=stop) as record:
        assert not record.should_stop()
        stop.set()
        assert record.should_stop()
        record.finish("preempted", {}, {})
    assert state(engine) == ("queued", "preempted")


@BOTH
def test_a_worker_that_lost_its_lease_is_told_to_stop_and_writes_nothing(
    engine: Engine, claim: Claim, make: Make
) -> None:
    with make(claim) as record:
        let_another_have_it(engine)
        record.log(1, {"loss": 1.0})
        wait_for(record.should_stop)
        record.finish("done", {"m": 1.0}, {})
    assert record.outcome == "fenced"
    assert state(engine) == ("running", None)
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(Result)) == 0
        assert connection.scalar(select(func.count()).select_from(Chunk)) == 0


def test_a_lease_lost_just_before_the_end_is_noticed_at_the_end(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim, sync_s=60.0) as record:
        record.log(1, {"loss": 1.0})
        wait_for(lambda: curve(engine) == {1: 1.0})  # the first point is sent at once, the next with the end
        let_another_have_it(engine)
        record.log(2, {"loss": 0.5})
        record.finish("done", {"m": 1.0}, {})
    assert record.outcome == "fenced"
    assert curve(engine) == {1: 1.0}
    assert state(engine) == ("running", None)


def test_training_goes_on_while_the_database_is_away(
    engine: Engine, claim: Claim, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with make(claim) as record:
        break_database(engine)
        for step in range(1, 6):
            record.log(step, {"loss": float(step)})
        wait_for(lambda: "does not answer" in caplog.text)
        assert not record.should_stop()
        mend_database(engine)
        record.finish("done", {"m": 1.0}, {})
    assert curve(engine) == {step: float(step) for step in range(1, 6)}
    assert state(engine) == ("done", "done")


def test_an_ending_waits_for_the_database(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim, sync_s=60.0) as record:
        break_database(engine)
        timer = threading.Timer(0.5, mend_database, [engine])
        timer.start()
        record.finish("done", {"m": 1.0}, {})
        timer.join()
    assert state(engine) == ("done", "done")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_run_outlives_a_restart_of_the_database_server(
    engine: Engine, claim: Claim, make: Make, postgres: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with make(claim) as record:
        record.log(1, {"loss": 1.0})
        postgres.stop("fast")  # after "immediate" it would recover first, for seconds
        record.log(2, {"loss": 2.0})
        wait_for(lambda: "does not answer" in caplog.text)
        timer = threading.Timer(0.5, postgres.start)
        timer.start()
        record.finish("done", {"m": 1.0}, {})
        timer.join()
    assert curve(engine) == {1: 1.0, 2: 2.0}
    assert state(engine) == ("done", "done")


def test_what_a_killed_attempt_had_logged_is_sent_by_the_next(engine: Engine, claim: Claim, make: Make) -> None:
    killed = make(claim, sync_s=60.0)  # never entered, never left: as SIGKILL leaves it
    for step in (1, 2, 3):
        killed.log(step, {"loss": 1.0})
    torn = sorted(killed.run_folder.glob("points/*"))[-1]
    torn.write_bytes(torn.read_bytes() + b'[4, {"lo')
    with make(let_another_have_it(engine)) as record:
        for step in (3, 4):
            record.log(step, {"loss": 2.0})
        record.finish("done", {}, {})
    assert curve(engine) == {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}
    assert list(record.run_folder.glob("points/*")) == []


@BOTH
def test_sending_leftovers_twice_changes_nothing(engine: Engine, claim: Claim, make: Make) -> None:
    killed = make(claim, sync_s=60.0)
    killed.log(1, {"loss": 1.0})
    path = next(killed.run_folder.glob("points/*"))
    content = path.read_bytes()
    for _ in range(2):  # killed again between the commit and the removal of the file
        with make(let_another_have_it(engine)) as record:
            record.finish("preempted", {}, {})
        assert curve(engine) == {1: 1.0}
        path.write_bytes(content)
        with engine.begin() as connection:
            queue.claim(connection, "next")


def test_a_run_resumed_at_its_end_keeps_the_last_training_point(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim) as record:
        record.log(8, {"loss": 1.0})
        record.checkpointed(8, record.folder / "step-8.pt")
        record.finish("preempted", {}, {})
    with engine.begin() as connection:
        again = queue.claim(connection, "next")
    assert again is not None
    with make(again) as record:
        record.log(8, {"knn/digit_top1": 90.0})
        record.finish("done", {}, {})
    assert curve(engine) == {8: 1.0}
    assert curve(engine, "knn/digit_top1") == {8: 90.0}


def test_tensorboard_shows_the_curve_without_doubling_back(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim) as record:
        for step in (1, 2, 3):
            record.log(step, {"loss": 1.0})
        record.finish("preempted", {}, {})
    with engine.begin() as connection:
        again = queue.claim(connection, "next")
    assert again is not None
    with make(again) as record:
        for step in (3, 4):
            record.log(step, {"loss": 2.0})
        record.finish("done", {}, {})
    board = EventAccumulator(str(record.run_folder / "events"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_log_waits_for_no_database(engine: Engine, claim: Claim, make: Make) -> None:
    """Its microseconds are in benchmarks/database.py."""
    with make(claim, sync_s=0.01) as record:
        with engine.begin():  # nobody else may write meanwhile
            for step in range(1, 1001):
                record.log(step, {"loss": 0.1})
            assert record.step == 1000
        record.finish("done", {}, {})
    assert record.outcome == "done"


def test_a_journals_points_come_back_from_disk(tmp_path: Path) -> None:
    journal = Journal(tmp_path, attempt=1)
    journal.append(1, {"loss": 0.5})
    closed = journal.rotate()
    journal.append(2, {"loss": float("nan")})
    journal.close()
    assert closed is not None
    found = leftovers(tmp_path, before=2)
    assert [(g.attempt, g.seq, [step for step, _ in g.points]) for g in found] == [(1, 0, [1]), (1, 1, [2])]
    assert found[0].points == closed.points
    assert leftovers(tmp_path, before=1) == []


def test_a_full_disk_leaves_no_torn_point_in_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path, attempt=1)
    journal.append(1, {"loss": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 5, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left on device"):
            journal.append(2, {"loss": 0.5})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.append(3, {"loss": 0.5})
    journal.close()
    assert [step for step, _ in leftovers(tmp_path, before=2)[0].points] == [1, 3]


def test_a_journal_is_read_up_to_where_a_power_cut_spoilt_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path, attempt=1)
    journal.append(1, {"loss": 0.5})
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes() + b"\0\0\0\n")
    assert [step for step, _ in leftovers(tmp_path, before=2)[0].points] == [1]
    assert "unreadable from line 2 on" in caplog.text


def test_a_run_ends_well_without_a_place_for_its_tensorboard_events(
    engine: Engine, claim: Claim, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with make(claim) as record:
        (record.run_folder / "events").touch()  # a file where the folder should be
        record.log(1, {"loss": 1.0})
        record.finish("done", {}, {})
    assert "no more TensorBoard events" in caplog.text
    assert (state(engine), curve(engine)) == (("done", "done"), {1: 1.0})


def test_facts_of_any_kind_are_kept_as_json(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim) as record:
        record.finish("done", {}, {"path": Path("a/b"), "shares": [0.1, 0.2]})
    with engine.begin() as connection:
        assert json.loads(json.dumps(connection.scalar(select(Attempt.facts)))) == {"path": "a/b", "shares": [0.1, 0.2]}


def test_what_a_sleeper_logged_up_to_the_checkpoint_that_is_taken_over_is_shown(
    engine: Engine, claim: Claim, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = make(claim)
    sleeper.log(1, {"loss": 1.0})

    def wake_and_adopt(run_folder: Path, attempt: int) -> Path:
        sleeper.log(2, {"loss": 2.0})
        (sleeper.folder / "step-2.pt").touch()
        return adopt(run_folder, attempt)

    monkeypatch.setattr("sweeps.engine.recorder.adopt", wake_and_adopt)
    with make(let_another_have_it(engine)) as record:
        assert (record.folder / "step-2.pt").exists()
        record.log(3, {"loss": 3.0})
        record.finish("done", {}, {})
    assert curve(engine) == {1: 1.0, 2: 2.0, 3: 3.0}


def test_earlier_attempts_checkpoints_go_once_the_database_has_a_later_one(
    engine: Engine, claim: Claim, make: Make
) -> None:
    first = make(claim)
    (first.folder / "step-1.pt").touch()
    with make(let_another_have_it(engine)) as record:
        record.log(2, {"loss": 2.0})
        time.sleep(0.1)
        assert first.folder.exists()
        (record.folder / "step-2.pt").touch()
        record.checkpointed(2, record.folder / "step-2.pt")
        wait_for(lambda: not first.folder.exists())
        record.finish("done", {}, {})
    assert sorted(path.name for path in record.folder.iterdir()) == ["step-1.pt", "step-2.pt"]


def test_the_first_point_is_in_the_database_at_once(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim, sync_s=60.0) as record:
        record.log(1, {"loss": 1.0})
        wait_for(lambda: curve(engine) == {1: 1.0})
        record.finish("done", {}, {})


def test_a_look_at_features_that_collapsed_waits_for_no_other_points(engine: Engine, claim: Claim, make: Make) -> None:
    with make(claim, sync_s=60.0) as record:
        record.log(1, {"loss": 1.0})
        wait_for(lambda: curve(engine) == {1: 1.0})
        record.log(2, {"loss": 0.5, "monitor/rankme": 1.0, "monitor/collapsed": 1.0})
        wait_for(lambda: curve(engine, "monitor/collapsed") == {2: 1.0})
        record.finish("done", {}, {})
