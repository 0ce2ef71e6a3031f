"""Evaluating runs of a database again: recorded with settings, never repeated, never retrained."""

import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import delete, func, select, update

from analysis.numbers import frame
from core.evaluate import main
from sweeps import query
from sweeps.answers.evaluations import Made, record, recorded, trained_runs
from sweeps.cells.capsule import read_capsule, write_capsule
from sweeps.console.errors import UserError
from sweeps.database.lock import DatabaseLock
from sweeps.database.opening import migrations, newest_revision, open_database, revision, upgrade
from sweeps.database.tables import Attempt, CellRow, Config, EvaluationRow, Result, RunRow, StudyRow
from sweeps.evaluate import told
from sweeps.launch import main as launch
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import finish_next, register, two_rows

STUDY = """
title: Ratio
question: How much?
base: {method: mae, evals: [ridge], optim.steps: 2}
rows:
  - {key: half, set: {mask.ratio: 0.5}}
  - {key: most, set: {mask.ratio: 0.75}}
metrics: [ridge/digit_top1, linear@epochs=4/digit_top1, "quadrants@later/{label}_top1"]
random_init: false
seeds: [0]
"""
COSTS = {"seconds": 1.0, "cpu_seconds": 1.0, "gpu_seconds": 0.0, "peak_memory": 10, "peak_gpu_memory": 0}


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Options of a launched study's database and results, in a folder of their own."""
    folder = tmp_path_factory.mktemp("launched")
    (folder / "ratio.yaml").write_text(STUDY, encoding="utf-8")
    where = [f"db=sqlite:///{folder / 'a.sqlite'}", f"results_dir={folder / 'results'}"]
    code = launch(
        [
            f"study={folder / 'ratio.yaml'}",
            "scale=smoke",
            "executor=inline",
            *where,
            f"runtime.cache={folder / 'cache'}",
        ]
    )
    assert code == 0
    return folder, [*where, f"runtime.cache={folder / 'cache'}", "runtime.threads=1"]


def go(launched, capsys, *words):
    """Exit code, {(run, metric): how}, and what went to stderr."""
    capsys.readouterr()
    code = main([*launched[1], *words])
    said = capsys.readouterr()
    lines = [line.split() for line in said.out.splitlines() if line.startswith("run ")]
    return code, {(int(run), metric): how for _, run, metric, *_, how in lines if "cost/" not in metric}, said.err


def open_it(launched):
    return open_database(launched[1][0].removeprefix("db="))


def test_an_evaluation_is_made_once_recorded_with_its_settings_and_trains_nothing(launched, capsys):
    words = ["run=1", "evals=[linear]", "evals.linear.epochs=2"]
    assert go(launched, capsys, *words)[1] == {(1, "linear@epochs=2/digit_top1"): "made"}
    assert set(go(launched, capsys, *words)[1].values()) == {"recorded"}
    with open_it(launched).connect() as connection:
        row = connection.execute(select(EvaluationRow).where(EvaluationRow.name == "linear@epochs=2")).one()
        attempts = connection.scalar(select(func.count()).select_from(Attempt))
    assert row.settings["evals.linear.epochs"] == 2 and row.settings["eval_data"] is None
    assert row.step == 2 and row.cpu_seconds > 0 and row.peak_memory > 2**20 and row.host and row.env_hash
    assert attempts == 2  # one a run: nobody trained


def test_an_evaluation_that_the_study_has_not_takes_the_options_of_its_method_and_scale(launched, capsys):
    main([*launched[1], "run=1", "evals=[vissl]", "evals.vissl.layers=[1]"])
    assert "vissl@layers=1: options that were not given are those of method=mae scale=smoke (run 1)" in (
        capsys.readouterr().out
    )
    with open_it(launched).connect() as connection:
        row = connection.execute(select(EvaluationRow).where(EvaluationRow.name == "vissl@layers=1")).one()
    assert row.settings["evals.vissl.optimizer"] == "sgd" and row.settings["evals.vissl.epochs"] == 4


def test_the_runs_own_evaluation_is_answered_by_its_own_results(launched, capsys):
    assert go(launched, capsys, "run=1", "evals=[ridge]")[1] == {(1, "ridge/digit_top1"): "recorded"}


def test_two_settings_of_one_evaluation_stand_beside_each_other(launched, capsys):
    for layers in (1, 2):
        go(launched, capsys, "run=2", "evals=[knn]", f"evals.knn.num_layers={layers}")
    with open_it(launched).connect() as connection:
        metrics = connection.scalars(select(Result.metric).where(Result.run_id == 2, Result.metric.like("knn%"))).all()
    assert {"knn/digit_top1", "knn@num_layers=2/digit_top1"} <= set(metrics)


def test_all_runs_of_a_study_or_a_list_of_ids_are_evaluated(launched, capsys):
    words = ["evals=[low_shot]", "evals.low_shot.share=0.5"]
    assert {run for run, _ in go(launched, capsys, "study=ratio@smoke", *words)[1]} == {1, 2}
    assert set(go(launched, capsys, "run=1,2", *words)[1].values()) == {"recorded"}


def test_a_name_stands_for_one_set_of_settings(launched, capsys):
    assert go(launched, capsys, "run=1", "evals=[knn]", "evals.knn.k=3", "as=near")[0] == 0
    code, _, error = go(launched, capsys, "run=1", "evals=[knn]", "evals.knn.k=4", "as=near")
    assert code == 2 and "knn@near is recorded with other settings" in error


def test_a_run_is_judged_on_another_data_set(launched, capsys):
    code, _, error = go(launched, capsys, "run=1", "eval_data=moving_digits", "eval_data.size=16")
    assert code == 2 and "eval_data's clips are 16x16 px, smaller than the encoder's 32x32" in error
    words = ["eval_data=moving_digits", "eval_data.size=48", "eval_data.num_train=96", "eval_data.num_test=32"]
    code, found, _ = go(launched, capsys, "run=1", *words, "as=large")
    assert code == 0 and (1, "ridge@large/digit_top1") in found


def test_a_table_shows_what_was_evaluated_later(launched, capsys):
    def column():
        rows = frame.load(open_it(launched), "ratio@smoke").rows
        return rows[rows["metric"] == "linear@epochs=4/digit_top1"]["value"]

    assert column().isna().tolist() == [True, True]
    go(launched, capsys, "study=ratio@smoke", "evals=[linear]", "evals.linear.epochs=4")
    assert column().between(0, 100).tolist() == [True, True]


def test_a_study_is_judged_again_by_quadrants_without_training_or_another_identity(launched, capsys):
    before = identities(launched)
    code, found, _ = go(launched, capsys, "study=ratio@smoke", "evals=[quadrants]", "as=later")
    assert code == 0 and found == {(run, "quadrants@later/digit_top1"): "made" for run in (1, 2)}
    rows = frame.load(open_it(launched), "ratio@smoke").rows
    assert rows[rows["metric"] == "quadrants@later/digit_top1"]["value"].between(0, 100).tolist() == [True, True]
    with open_it(launched).connect() as connection:
        made = connection.execute(select(EvaluationRow).where(EvaluationRow.name == "quadrants@later")).all()
    assert [row.settings["evals.quadrants.pool"] for row in made] == ["quadrants", "quadrants"]
    assert identities(launched) == before


def identities(launched):
    """Of every run: its config and its attempts."""
    with open_it(launched).connect() as connection:
        query = select(RunRow.id, Config.hash, func.count(Attempt.run_id)).group_by(RunRow.id, Config.hash)
        return connection.execute(query.join(Config).join(Attempt)).all()


def test_the_results_are_a_query_away(launched, capsys):
    go(launched, capsys, "run=1", "evals=[knn]", "evals.knn.k=5")
    assert query.main([launched[1][0], "select metric from sw_result where metric like 'knn@k=5/%'", "format=csv"]) == 0
    assert "knn@k=5/digit_top1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=99", "evals=[knn]"], "run=99: not in this database"),
        (["run=x", "evals=[knn]"], "run must be an id"),
        (["study=nope", "evals=[knn]"], "study=nope: the database has no such study"),
        (["run=1", "evals=[knnn]"], "did you mean knn"),
        (["run=1", "mask.ratio=0.1"], "the run is trained"),
        (["run=1", "evals=[knn]", "evals.knn.k=5000"], "knn"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(launched, capsys, words, message):
    code, _, error = go(launched, capsys, *words)
    assert code == 2 and message in error and "Traceback" not in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evals=[knnn]"], "did you mean knn"),
        (["evals=[knn]", "evals.knn.k=5000"], "evals.knn.k must be at most"),
        (["evals=[knn]", "evals.knn.k=9", "results_dir=nowhere"], "has no checkpoint in nowhere/runs/1"),
    ],
)
def test_what_is_wrong_with_every_run_of_a_study_is_said_once(launched, capsys, words, message):
    options = [word for word in launched[1] if word.partition("=")[0] not in {w.partition("=")[0] for w in words}]
    code, _, error = go((launched[0], options), capsys, "study=ratio@smoke", *words)
    assert code == 2 and error.count("\n") == 1 and error.count(message) == 1
    assert "run=1: " in error and "(so it is with 1 more of these runs: 2)" in error


def test_errors_that_differ_in_more_than_the_run_are_all_said():
    found = told({1: "run=1: away, in runs/1/a", 2: "run=2: away, in runs/2/a", 12: "it has diverged"})
    assert found == [
        "run=1: away, in runs/1/a (so it is with 1 more of these runs: 2)",
        "run=12: it has diverged",
    ]


@pytest.fixture
def older(launched, tmp_path):
    """Options of a copy of the database as older code left it, and its file."""
    path = tmp_path / "older.sqlite"
    with closing(sqlite3.connect(launched[0] / "a.sqlite")) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    engine = open_database(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "0002")
    engine.dispose()
    return (launched[0], [f"db=sqlite:///{path}", *launched[1][1:]]), path


@pytest.mark.parametrize(
    "words",
    [["run=99"], ["study=nope"], ["run=1", "evals=[knnn]"], ["run=1,2", "mask.ratio=0.1"], ["run=1", "as=a/b"]],
)
def test_a_command_that_is_wrong_leaves_an_older_database_as_it_was(older, capsys, words):
    where, path = older
    before = path.read_bytes()
    assert go(where, capsys, *words)[0] == 2
    assert path.read_bytes() == before and revision(open_it(where)) == "0002"


def test_a_command_that_is_right_upgrades_an_older_database(older, capsys):
    where, _ = older
    assert go(where, capsys, "run=1", "evals=[ridge]")[1] == {(1, "ridge/digit_top1"): "recorded"}
    assert revision(open_it(where)) == newest_revision()


def test_a_run_without_its_checkpoint_is_named_with_what_to_do(launched, capsys, tmp_path):
    words = ["run=1", "evals=[knn]", "evals.knn.k=7"]
    code, _, error = go((launched[0], [launched[1][0], f"results_dir={tmp_path}", *launched[1][2:]]), capsys, *words)
    assert code == 2 and "run=1" in error and "give the results_dir that it was trained in" in error


def test_an_evaluation_that_another_process_makes_is_waited_for_and_not_made_twice(launched, capsys):
    engine, name = open_it(launched), "knn@k=6"
    lock = DatabaseLock(engine, "evaluation", zlib.crc32(b"1 knn@k=6") & 0x7FFFFFFF)
    assert lock.take()
    words = [*launched[1], "run=1", "evals=[knn]", "evals.knn.k=6"]
    second = threading.Thread(target=main, args=(words,))
    second.start()
    said = ""
    while "another process is making it; waiting" not in said:
        time.sleep(0.05)
        said += capsys.readouterr().out
        assert second.is_alive(), said
    settings = {"evals": "knn", "eval_data": None, "evals.knn.k": 6}
    with engine.begin() as connection:
        record(connection, 1, name, settings, Made({"knn@k=6/digit_top1": 12.5}, 2, COSTS, {"host": "node1"}))
    lock.close(tidy=True)
    second.join()
    assert re.search(r"knn@k=6/digit_top1 +12.500 +recorded", capsys.readouterr().out)
    assert not list(launched[0].glob(".*.evaluation-*.lock"))


@pytest.mark.slow
def test_what_was_finished_before_a_kill_is_not_repeated(launched, capsys):
    """The process dies by SIGKILL after its first evaluation, in the middle of a slow second one."""
    words = ["run=1", "evals=[collapse,linear]", "evals.linear.epochs=100000", "as=killed"]
    command = [sys.executable, "-m", "core.evaluate", *launched[1], *words, "evals.collapse.num_layers=2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        first = next(line for line in process.stdout if line.split()[-1] == "made")
        process.send_signal(signal.SIGKILL)
    assert "collapse@killed/" in first
    words[2] = "evals.linear.epochs=3"
    found = go(launched, capsys, *words, "evals.collapse.num_layers=2")[1]
    hows = {metric.split("/")[0]: how for (_, metric), how in found.items()}
    assert hows == {"collapse@killed": "recorded", "linear@killed": "made"}


# ---- the tables ------------------------------------------------------------------------------------------------------


def made(value):
    return Made({"knn@k=3/digit_top1": value}, 100, COSTS, {"host": "node1"})


@BOTH
def test_a_lock_is_held_by_one_and_free_when_it_is_closed(engine):
    first, second, other = (DatabaseLock(engine, "evaluation", number) for number in (7, 7, 8))
    assert first.take() and first.take() and not second.take() and other.take()
    first.close()
    assert second.take()
    for lock in (second, other):
        lock.close(tidy=True)


@BOTH
def test_an_evaluation_recorded_twice_keeps_the_first(engine):
    register(engine, two_rows())
    run = finish_next(engine, {"ridge/digit_top1": 60.0})
    for value in (61.0, 62.0):
        with engine.begin() as connection:
            record(connection, run, "knn@k=3", {"evals": "knn", "evals.knn.k": 3}, made(value))
    with engine.connect() as connection:
        same = recorded(connection, run, "knn@k=3", lambda settings: settings["evals.knn.k"] == 3, is_own=False)
        with pytest.raises(UserError, match="other settings"):
            recorded(connection, run, "knn@k=3", lambda settings: False, is_own=False)
    assert same == {"knn@k=3/digit_top1": 61.0}


@BOTH
def test_a_run_knows_the_method_and_the_scale_of_its_study(engine):
    register(engine, two_rows())
    run = finish_next(engine, {"ridge/digit_top1": 60.0})
    with engine.connect() as connection:
        (found,) = trained_runs(connection, ids=[run], study=None)
    assert found.presets == ("mae", "cpu")
    with engine.begin() as connection:
        spec = connection.scalar(select(StudyRow.spec))
        connection.execute(update(StudyRow).values(spec=spec | {"scale": "gpu", "overrides": ["method=ijepa"]}))
        (found,) = trained_runs(connection, ids=[run], study=None)
        assert found.presets == ("ijepa", "gpu")
        connection.execute(delete(CellRow))
        (found,) = trained_runs(connection, ids=[run], study=None)
        assert found.presets is None


@BOTH
def test_a_run_that_is_not_done_is_refused_by_its_state(engine):
    runs = register(engine, two_rows())
    assert runs
    with engine.connect() as connection:
        first = connection.scalar(select(func.min(RunRow.id)))
        with pytest.raises(UserError, match=f"run={first} is queued"):
            trained_runs(connection, ids=[first], study=None)
        with pytest.raises(UserError, match="none of its runs is done"):
            trained_runs(connection, ids=None, study="ratio")


def test_capsules_carry_later_evaluations_also_of_runs_that_are_there_already(engine, tmp_path):
    register(engine, two_rows())
    run = finish_next(engine, {"ridge/digit_top1": 60.0})
    other = open_database(f"sqlite:///{tmp_path / 'other.sqlite'}")
    upgrade(other)

    def carry():
        write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
        return read_capsule(tmp_path / "capsule.sqlite", other)

    assert carry().evaluations == 0
    with engine.begin() as connection:
        record(connection, run, "knn@k=3", {"evals": "knn", "evals.knn.k": 3}, made(61.0))
    assert carry().evaluations == 1
    assert carry().evaluations == 0
    with other.connect() as connection:
        assert connection.scalars(select(EvaluationRow.settings)).all() == [{"evals": "knn", "evals.knn.k": 3}]
        values = dict(connection.execute(select(Result.metric, Result.value)).all())
    assert values == {"ridge/digit_top1": 60.0, "knn@k=3/digit_top1": 61.0}
    fresh = open_database(f"sqlite:///{tmp_path / 'fresh.sqlite'}")
    upgrade(fresh)
    read_capsule(tmp_path / "capsule.sqlite", fresh)
    with fresh.connect() as connection:
        assert connection.scalars(select(EvaluationRow.name)).all() == ["knn@k=3"]
