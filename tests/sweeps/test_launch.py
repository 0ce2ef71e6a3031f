"""Launching: what is refused before anything is written, and one tiny study from its file to its table."""

import contextlib
import io
import re
import shutil
import sqlite3

import pytest
import yaml
from rich.console import Console
from sqlalchemy import func, select, update

from analysis import report
from sweeps import launch
from sweeps.console.errors import INCOMPLETE, INTERRUPTED, OK, USER_ERROR
from sweeps.database import series
from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, Result, RunRow, StudyRow
from sweeps.engine import executors, queue
from sweeps.progress import ending, live, study_status
from tests.sweeps.launched import finish_next, register, two_rows

TINY = {
    "title": "Hidden share",
    "question": "How much should be hidden?",
    "base": {"method": "mae", "evals": ["ridge"], "data.num_train": 48, "data.num_test": 32, "optim.steps": 2},
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}, {"key": "most", "set": {"mask.ratio": 0.75}}],
    "seeds": [0],
    "metrics": ["ridge/{label}_top1"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a tiny study in it."""
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "study is missing"),
        (["study=tinny"], "study=tinny: no such study (did you mean tiny"),
        (
            ["study=tiny", "scale=cpuu"],
            "scale must be one of smoke, cpu, lab, gpu, paper, got 'cpuu' (did you mean cpu?)",
        ),
        (["study=tiny", "workers=0"], "workers must be a whole number of at least 1, got '0'"),
        (["study=tiny", "workers=2", "executor=inline"], "executor=inline trains in one process"),
        (["study=tiny", "executor=slrm"], "executor must be one of inline, local"),
        (["study=tiny", "seeds=[0,0]"], "seeds must be a list of different whole numbers"),
        (["study=tiny", "lease_s=-1"], "lease_s must be a number above 0, got '-1'"),
        (["study=tiny", "stack=0"], "stack must be auto or a whole number in [1, 64], got '0'"),
        (["study=tiny", "gpus_per_run=0"], "gpus_per_run must be a whole number of at least 1, got '0'"),
        (["study=tiny", "gpus_per_run=64"], "gpus_per_run=64: torch sees"),
        (["study=tiny", "gpus_per_run=2", "stack=2", "runtime.device=cpu"], "stack=2: "),
        (["study=tiny", "scale=smoke", "gpus_per_run=2", "runtime.device=cpu", "optim.batch_size=15"], "be shared out"),
        (["study=tiny", "retry=yes"], "retry must be one of true, false"),
        (["study=tiny", "results_dir=/proc/none"], "results_dir=/proc/none: /proc cannot be written to"),
        (["study=tiny", "results_dir=studies/tiny.yaml"], "tiny.yaml is a file; give a folder"),
        (["study=tiny", "runtime.dir=x"], "runtime.dir: every run has a folder of its own"),
        (["study=tiny", "tiny"], "'tiny' is not of the form key=value"),
        (["study=tiny", "study=tiny"], "study is given twice: tiny and tiny"),
        (["study=tiny", "mask.ratio=0.5", "mask.ratio=0.7"], "mask.ratio is given twice: 0.5 and 0.7; give one value"),
        (["study=tiny", "db=mysql://root:secret@host/x"], "mysql"),
        (["study=tiny", "db=postgresql://me:secret@127.0.0.1:1/x"], "db=postgresql://me:***@127.0.0.1:1/x: cannot be"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_writes_nothing(folder, capsys, words, message):
    assert launch.main(words) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in folder.rglob("*")) == ["studies", "tiny.yaml"]


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"metrics": ["ridge/top-1"]}, [], "tiny.yaml: every row: unknown metric 'ridge/top-1'"),
        ({"metricss": ["ridge/top-1"]}, [], "tiny.yaml: unknown key metricss (did you mean metrics"),
        ({"base": {"method": "mae", "maks": "random"}}, [], "maks: unknown; did you mean mask"),
        ({}, ["encoder.widht=8"], "error: encoder.widht: unknown; did you mean encoder.width"),
        ({}, ["mask.ratio=0.5"], "varies mask.ratio from row to row"),
        ({}, ["data=image_folder", "data.path=nowhere"], "nowhere"),
    ],
)
def test_a_study_that_cannot_run_is_one_line_and_writes_nothing(folder, capsys, changes, words, message):
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}))
    assert launch.main(["study=tiny", "scale=smoke", *words]) == USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "results").exists()


def test_help_shows_how(capsys):
    assert launch.main(["--help"]) == OK
    assert "python -m sweeps.launch study=masking_ratio" in capsys.readouterr().out


@pytest.mark.slow
def test_a_study_goes_from_its_file_to_its_table_and_relaunching_trains_nothing(folder, monkeypatch, capsys):
    words = ["study=tiny", "scale=smoke", "executor=inline"]
    assert launch.main(words) == OK
    first = capsys.readouterr().out
    assert "| half † (baseline) |" in first  # two steps change nothing, and it says so
    assert "| random init |" in first
    engine = open_database(f"sqlite:///{folder}/results/ablations.sqlite", read_only=True)
    with engine.connect() as connection:
        value = connection.scalar(select(Result.value).where(Result.metric == "ridge/digit_top1"))
        num_attempts = connection.scalar(select(func.count()).select_from(Attempt))
    assert 0 <= value <= 100
    assert num_attempts == 3

    with monkeypatch.context() as patched:
        patched.setattr(report, "write", None)  # nothing has changed: nothing is made again
        assert launch.main(words) == OK
    assert capsys.readouterr().out == first
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(Attempt)) == num_attempts

    tables = folder / "results" / "tables"
    content = {path.name: path.read_bytes() for path in tables.iterdir()}
    shutil.rmtree(tables)
    assert launch.main(words) == OK
    assert {path.name: path.read_bytes() for path in tables.iterdir()} == content


@pytest.mark.slow
def test_a_launch_with_nothing_to_train_changes_no_byte_of_the_database(folder, monkeypatch, capsys):
    words = ["study=tiny", "scale=smoke", "executor=inline"]
    assert launch.main(words) == OK
    file = folder / "results" / "ablations.sqlite"
    with contextlib.closing(sqlite3.connect(file)) as database:  # as a repository or an archive keeps it
        database.execute("PRAGMA journal_mode = DELETE")
    before = file.read_bytes()
    assert launch.main(words) == OK
    assert launch.main([*words, "mask.ratio=2.0"]) == USER_ERROR
    assert launch.main([*words, "data.num_train=50", "name=other", "mask.ratoi=2"]) == USER_ERROR
    assert file.read_bytes() == before
    # The code that registers differs from the code that did: a comment in core, say.
    monkeypatch.setattr(launch, "fingerprint", lambda: "of other code")
    assert launch.main(words) == OK
    with monkeypatch.context() as patched:
        patched.setattr(launch, "expand_checked", None)  # what the launch before found is remembered
        assert launch.main(words) == OK
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.glob("ablations.sqlite*")] == ["ablations.sqlite"]


def test_an_override_makes_a_table_of_its_own_and_shares_what_is_equal(folder, capsys):
    words = ["scale=smoke", "executor=inline"]
    assert launch.main(["study=tiny", *words]) == OK
    assert launch.main(["study=tiny", "optim.steps=1", *words]) == OK
    names = {path.stem for path in (folder / "results" / "tables").glob("*.csv")}
    assert names == {"tiny@smoke", "tiny@smoke,optim.steps=1"}
    engine = open_database(f"sqlite:///{folder}/results/ablations.sqlite", read_only=True)
    with engine.connect() as connection:  # the untrained run is one run in both
        assert connection.scalar(select(func.count()).select_from(RunRow)) == 3 + 2


@pytest.mark.slow
def test_a_study_whose_runs_fail_says_which_and_exits_non_zero(folder, capsys):
    for name in ("cat", "dog"):  # found when the pictures are read
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(4):
            (folder / "photos" / name / f"{number}.png").write_bytes(b"no picture")
    data = {"data": "image_folder", "data.path": str(folder / "photos"), "data.size": 32}
    base = {key: value for key, value in TINY["base"].items() if not key.startswith("data")} | data
    broken = {**TINY, "base": base, "metrics": ["ridge/{label}_top1"]}
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump(broken))
    words = ["study=tiny", "scale=smoke", "executor=inline", "random_init=false"][:3]
    assert launch.main(words) == INCOMPLETE
    error = capsys.readouterr().err
    assert re.search(r"failed: half, seed 0 \(run \d+\): .*no image of the train split can be read", error)
    assert "3 of 3 runs of tiny@smoke without a result" in error
    assert "retry=true" in error


# ---- parts, without training -----------------------------------------------------------------------------------------


def read(engine, name="ratio"):
    with engine.connect() as connection:
        return study_status.read(connection, name)


def test_a_complete_study_ends_well_and_a_diverged_run_is_named(engine, capsys):
    register(engine, two_rows())
    for outcome in ("done", "done", "done", "diverged"):
        finish_next(engine, {}, outcome=outcome)
    assert ending.verdict(read(engine), ["study=ratio"]) == OK
    assert re.search(r"diverged at step 100: \w+, seed 1", capsys.readouterr().err)


def test_an_incomplete_study_names_what_is_missing_and_how_to_go_on(engine, capsys):
    register(engine, two_rows())
    finish_next(engine, {})
    assert ending.verdict(read(engine), ["study=ratio", "seeds=[0, 1]"]) == INCOMPLETE
    error = capsys.readouterr().err
    assert len(re.findall(r"^queued: ", error, re.MULTILINE)) == 3
    assert (
        "3 of 4 runs of ratio without a result; go on with: python -m sweeps.launch study=ratio 'seeds=[0, 1]'" in error
    )


def test_ctrl_c_says_how_to_go_on(folder, capsys, monkeypatch):
    monkeypatch.setattr(launch, "train", lambda *_: False)
    assert launch.main(["study=tiny", "scale=smoke"]) == INTERRUPTED
    error = capsys.readouterr().err
    assert "stopped: 3 runs are left; to go on: python -m sweeps.launch study=tiny scale=smoke\n" in error


def test_of_runs_that_were_begun_the_checkpoint_is_told(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == 1).values(checkpoint_step=40))
    said = ending.stopped(read(engine), ["study=ratio"])
    assert said.startswith("stopped: 4 runs are left; to go on, 1 of them from the last checkpoint: python -m ")


def test_retry_queues_failed_runs_again(folder, monkeypatch):
    monkeypatch.setattr(launch, "train", lambda *_: False)
    launch.main(["study=tiny", "scale=smoke"])
    engine = open_database(f"sqlite:///{folder}/results/ablations.sqlite")
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(state="failed"))
    launch.main(["study=tiny", "scale=smoke", "retry=true"])
    with engine.connect() as connection:
        assert set(connection.scalars(select(RunRow.state))) == {"queued"}


def test_editing_the_file_makes_a_new_revision(folder, monkeypatch):
    monkeypatch.setattr(launch, "train", lambda *_: False)
    launch.main(["study=tiny", "scale=smoke"])
    (folder / "studies" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "title": "Another"}))
    launch.main(["study=tiny", "scale=smoke"])
    engine = open_database(f"sqlite:///{folder}/results/ablations.sqlite")
    with engine.connect() as connection:
        assert connection.execute(select(StudyRow.revision, StudyRow.spec)).one()[0] == 2
        assert connection.scalar(select(func.count()).select_from(RunRow)) == 3


def test_workers_are_one_a_core_and_never_more_than_runs():
    assert executors.default_workers(1) == 1
    assert executors.default_workers(10_000) == executors.threads_per_worker(1)


def test_without_a_terminal_progress_is_a_line_when_a_run_has_ended(engine):
    register(engine, two_rows())
    shown = io.StringIO()
    with live.Progress(engine, "ratio", console=Console(file=shown, width=200)) as seen:
        for _ in range(3):
            seen.last_asked = 0.0
            seen.update()
        finish_next(engine, {})
        seen.last_asked = 0.0
        seen.update()
    assert shown.getvalue().splitlines() == ["ratio: 0 of 4 done", "ratio: 1 of 4 done"]


def test_a_line_names_what_runs_and_what_failed(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        queue.fail(connection, queue.claim(connection, "w"), "ValueError: no", is_final=True)
        queue.claim(connection, "w")
    assert re.fullmatch(r"ratio: 0 of 4 done, 1 failed; \w+, seed 0: step 0 of 100", live.line(read(engine)))


def test_on_a_terminal_every_running_run_has_a_line(engine):
    register(engine, two_rows())
    with engine.begin() as connection:
        queue.claim(connection, "w")
    console = Console(file=io.StringIO(), width=160, record=True, force_terminal=True)
    console.print(live.picture(read(engine)))
    lines = console.export_text().splitlines()
    assert "0 of 4 runs" in lines[0]
    assert "step 0 of 100" in lines[1]


def test_what_is_wrong_with_every_run_is_said_once(engine, capsys):
    register(engine, two_rows())
    with engine.begin() as connection:
        for _ in range(4):
            claim = queue.claim(connection, "worker 1")
            queue.fail(connection, claim, "ConfigError: label 'class': classes [1] have no train sample", is_final=True)
    assert ending.verdict(launch.read_status(engine, "ratio"), ["study=ratio"]) == INCOMPLETE
    error = capsys.readouterr().err
    assert error.count("have no train sample") == 1 and "(so did 3 more: " in error


def test_a_launched_study_trains_the_seeds_of_a_row_together_when_asked_to(folder):
    words = ["study=tiny", "scale=smoke", "executor=inline", "seeds=[0,1]", "stack=4", "runtime.threads=1"]
    assert launch.main(words) == OK
    with open_database("sqlite:///results/ablations.sqlite").begin() as connection:
        facts = connection.scalars(select(Attempt.facts)).all()
    # The rows differ in their mask, another shape; the runs without training cannot be stacked.
    assert sorted(each.get("stack", 1) for each in facts) == [1, 1, 2, 2, 2, 2]


def test_a_list_of_runtime_is_one_in_every_run(folder):
    words = ["study=tiny", "scale=smoke", "executor=inline", "seeds=[0]", "runtime.also_monitor=[probe, lidar]"]
    assert launch.main(words) == OK
    with open_database("sqlite:///results/ablations.sqlite").begin() as connection:
        assert "monitor/probe_digit_top1" in series.metrics(connection, 2)
