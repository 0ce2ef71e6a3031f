import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from analysis.report import contents
from sweeps import export
from sweeps.cells.capsule import read_capsule, write_capsule
from sweeps.console.errors import OK, USER_ERROR
from sweeps.database import artifacts, series
from sweeps.database.artifacts import Kept
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Artifact, Attempt, Blob, Chunk, Result, RunRow, StudyRow
from sweeps.engine import queue
from tests.sweeps.launched import finish_next, register, two_rows

METRIC = "ridge/digit_top1"


@pytest.fixture
def other(tmp_path: Path) -> Engine:
    """A second, empty database."""
    engine = open_database(f"sqlite:///{tmp_path / 'other.sqlite'}")
    upgrade(engine)
    return engine


def finish_all(engine: Engine, values: list[float]) -> None:
    register(engine, two_rows())
    for value in values:
        run_id = finish_next(engine, {METRIC: value}, cpu_seconds=10.0)
        with engine.begin() as connection:
            series.write(connection, [series.chunk_row(run_id, 1, 0, "loss", [1, 2], [0.9, value])])


def everything(engine: Engine) -> list[list[tuple[object, ...]]]:
    """The database's content, row for row."""
    with engine.connect() as connection:
        return [
            sorted(tuple(map(repr, row)) for row in connection.execute(select(table)))
            for table in (StudyRow, RunRow, Attempt, Result, Chunk)
        ]


def test_tables_and_figures_from_a_capsule_are_those_of_the_database(engine, tmp_path):
    finish_all(engine, [60.0, 61.0, 62.0, 63.0])
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    capsule = open_database(f"sqlite:///{tmp_path / 'capsule.sqlite'}", read_only=True)
    assert contents(capsule, ["ratio"]) == contents(engine, ["ratio"])


def test_a_capsule_is_one_file_that_opens_on_a_read_only_disk(engine, tmp_path):
    finish_all(engine, [60.0])
    folder = tmp_path / "disk"
    folder.mkdir()
    write_capsule(engine, folder / "capsule.sqlite", ["ratio"])
    assert [path.name for path in folder.iterdir()] == ["capsule.sqlite"]
    connection = sqlite3.connect(f"file:{folder / 'capsule.sqlite'}?mode=ro&immutable=1", uri=True)
    assert connection.execute("select count(*) from sw_result").fetchone() == (1,)
    connection.close()


def test_only_the_asked_for_study_and_only_ended_runs_are_in_a_capsule(engine, tmp_path):
    finish_all(engine, [60.0, 61.0])
    register(engine, two_rows("secret", rows=[{"key": "c", "set": {"mask.ratio": 0.9}}]))
    merged = write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    assert (merged.studies, merged.runs) == (1, 2)
    capsule = open_database(f"sqlite:///{tmp_path / 'capsule.sqlite'}")
    with capsule.connect() as connection:
        assert connection.scalars(select(StudyRow.name)).all() == ["ratio"]


def test_a_capsule_carries_the_pictures_of_its_runs_and_what_they_share_once(engine, other, tmp_path):
    finish_all(engine, [60.0, 61.0])
    with engine.begin() as connection:
        for run_id in (1, 2):
            files = [
                Kept("clips.npz", "picture", f"runs/{run_id}/clips.npz", b"of all"),
                Kept("masks.npz", "picture", f"runs/{run_id}/masks.npz", b"of %d" % run_id),
            ]
            artifacts.store(connection, run_id, 1, files)
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    read_capsule(tmp_path / "capsule.sqlite", other)
    with engine.connect() as here, other.connect() as there:
        assert sorted(there.scalars(select(Blob.content))) == [b"of 1", b"of 2", b"of all"]
        assert sorted(there.execute(select(Artifact)).all()) == sorted(here.execute(select(Artifact)).all())


def test_pictures_drawn_after_a_run_was_copied_follow_it(engine, other, tmp_path):
    finish_all(engine, [60.0, 61.0])
    keep(engine, Kept("masks.npz", "picture", "runs/1/masks.npz", b"of training"))
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    read_capsule(tmp_path / "capsule.sqlite", other)
    keep(engine, Kept("decoded.npz", "picture", "runs/1/decoded.npz", b"later"))
    merged = write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    assert merged.sentence() == "0 new studies, 0 new runs; 2 runs there already; 1 later picture of these"
    assert read_capsule(tmp_path / "capsule.sqlite", other).pictures == 1
    assert read_capsule(tmp_path / "capsule.sqlite", other).pictures == 0
    with engine.connect() as here, other.connect() as there:
        assert sorted(there.scalars(select(Blob.content))) == [b"later", b"of training"]
        assert sorted(there.execute(select(Artifact)).all()) == sorted(here.execute(select(Artifact)).all())


def keep(engine, picture: Kept) -> None:
    with engine.begin() as connection:
        artifacts.store(connection, 1, 1, [picture])


def test_reading_a_capsule_twice_changes_nothing(engine, other, tmp_path):
    finish_all(engine, [60.0, 61.0])
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    first = read_capsule(tmp_path / "capsule.sqlite", other)
    before = everything(other)
    second = read_capsule(tmp_path / "capsule.sqlite", other)
    assert (first.runs, second.runs, second.known) == (2, 0, 2)
    assert everything(other) == before


def test_reading_one_s_own_capsule_changes_nothing(engine, tmp_path):
    finish_all(engine, [60.0, 61.0])
    before = everything(engine)
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    read_capsule(tmp_path / "capsule.sqlite", engine)
    assert everything(engine) == before


def test_two_machines_results_come_together(engine, other, tmp_path):
    finish_all(engine, [60.0, 61.0])
    register(other, two_rows())
    with other.begin() as connection:  # seed 0 is what the first machine has trained
        for _ in range(2):
            queue.cancel(connection, [queue.claim(connection, "worker 2").run_id])
    for value in (62.0, 63.0):
        finish_next(other, {METRIC: value})
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    read_capsule(tmp_path / "capsule.sqlite", other)
    with other.connect() as connection:
        values = connection.scalars(select(Result.value).order_by(Result.value)).all()
        states = set(connection.scalars(select(RunRow.state)))
    assert values == [60.0, 61.0, 62.0, 63.0]
    assert states == {"done"}


def test_an_adopted_run_keeps_the_attempts_it_had(engine, other, tmp_path):
    finish_all(engine, [60.0])
    register(other, two_rows())
    with other.begin() as connection:
        queue.release(connection, queue.claim(connection, "worker 2"))
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    read_capsule(tmp_path / "capsule.sqlite", other)
    with other.connect() as connection:
        run = connection.execute(select(RunRow).where(RunRow.state == "done")).one()
        attempts = connection.execute(select(Attempt.n, Attempt.outcome).where(Attempt.run_id == run.id)).all()
        result = connection.execute(select(Result.attempt, Result.value)).one()
        curve = series.read(connection, run.id, "loss")
    assert [tuple(attempt) for attempt in attempts] == [(1, "preempted"), (2, "done")]
    assert (run.attempt, tuple(result)) == (2, (2, 60.0))
    assert curve.values.tolist() == [0.9, 60.0]


def test_a_run_that_is_being_trained_is_left_alone(engine, other, tmp_path):
    finish_all(engine, [60.0])
    register(other, two_rows())
    with other.begin() as connection:
        claim = queue.claim(connection, "worker 2")
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    merged = read_capsule(tmp_path / "capsule.sqlite", other)
    assert (merged.runs, merged.running) == (0, [claim.run_id])
    with other.begin() as connection:
        queue.finish(connection, claim, "done", results={METRIC: 50.0})
        assert connection.scalars(select(Result.value)).all() == [50.0]


def test_a_study_that_differs_keeps_the_destination_s_cells_and_gains_the_runs(engine, other, tmp_path):
    finish_all(engine, [60.0])
    register(other, two_rows(title="Mine"))
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    merged = read_capsule(tmp_path / "capsule.sqlite", other)
    assert (merged.differing, merged.runs) == (["ratio"], 1)
    with other.connect() as connection:
        assert connection.scalar(select(StudyRow.spec))["title"] == "Mine"


def test_a_capsule_without_curves_has_the_results(engine, tmp_path):
    finish_all(engine, [60.0])
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"], with_series=False)
    capsule = open_database(f"sqlite:///{tmp_path / 'capsule.sqlite'}")
    with capsule.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Chunk)) == 0
        assert connection.scalars(select(Result.value)).all() == [60.0]


def test_a_capsule_grows_by_what_was_trained_since(engine, tmp_path):
    finish_all(engine, [60.0])
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    finish_next(engine, {METRIC: 61.0})
    assert write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"]).runs == 1


def test_both_commands_say_what_they_did(engine, url, tmp_path, capsys):
    finish_all(engine, [60.0])
    capsule = f"{tmp_path}/new/capsule.sqlite"
    assert export.main([f"to={capsule}", "study=ratio", f"db={url}"]) == OK
    assert "1 new study, 1 new run" in capsys.readouterr().out
    assert export.main([f"from={capsule}", f"db=sqlite:///{tmp_path}/fresh.sqlite"]) == OK
    assert "1 new study, 1 new run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say to=FILE to write a capsule, or from=FILE to read one"),
        (["to=a.sqlite", "from=b.sqlite"], "say to=FILE"),
        (["from=none.sqlite"], "from=none.sqlite: there is no such file"),
        (["from=text.sqlite"], "from=text.sqlite: not a capsule: file is not a database"),
        (["from=empty.sqlite"], "from=empty.sqlite: not a capsule: there is no study in it"),
        (["to=text.sqlite"], "to=text.sqlite: not a capsule"),
        (["to=a.sqlite", "study=ration"], "study=ration: the database has no such study (did you mean ratio?)"),
        (["to=/proc/a.sqlite"], "to=/proc: /proc cannot be written to"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(engine, url, tmp_path, monkeypatch, capsys, words, message):
    register(engine, two_rows())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.sqlite").write_text("not a database at all" * 100)
    sqlite3.connect(tmp_path / "empty.sqlite").execute("create table a (b)").connection.close()
    assert export.main([*words, f"db={url}"]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
