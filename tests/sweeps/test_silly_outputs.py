"""Where a command's output and files go may close, fill up or be something else: one line, the right option blamed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from analysis import report
from core import evaluate, train
from core.terminal import blamed
from core.weights import __main__ as weights_command
from sweeps import decode, export, export_encoder, launch, plan, query, status, worker
from sweeps import evaluate as evaluate_runs
from sweeps.console.errors import OK, USER_ERROR, UserError
from sweeps.console.url import mask_url
from sweeps.study.overrides import bare
from tests.sweeps.launched import register, two_rows

ROOT = Path(__file__).parents[2]
RUN = ["method=mae", "scale=smoke"]
DIGITS = "99999999999999999999"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a mistake was answered with."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and text.startswith("error: "), text
    return text


def python(*words: str, to: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """A command whose output goes through the shell's `to`."""
    line = f'{sys.executable} -m "$@" {to}'
    variables = os.environ | {"PYTHONPATH": str(ROOT), **environment}
    command = ["bash", "-o", "pipefail", "-c", line, "bash", *words]
    return subprocess.run(command, capture_output=True, env=variables, check=False)


@pytest.mark.parametrize("buffering", ["", "1"])
@pytest.mark.parametrize("words", [["core.train", "--help"], ["core.weights", "--help"], ["sweeps.launch", "--help"]])
def test_a_reader_that_never_read_is_no_error(words: list[str], buffering: str) -> None:
    done = python(*words, to="| true", PYTHONUNBUFFERED=buffering)
    assert (done.returncode, done.stderr) == (OK, b"")


def test_a_table_whose_reader_has_gone_is_no_error(engine: Engine, url: str) -> None:
    register(engine, two_rows())
    done = python("sweeps.status", f"db={url}", to="| true")
    assert (done.returncode, done.stderr) == (OK, b"")


@pytest.mark.parametrize("module", ["core.train", "sweeps.query"])
def test_a_closed_output_is_no_error(module: str) -> None:
    done = python(module, "--help", to=">&-")
    assert (done.returncode, done.stderr) == (OK, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("module", ["core.weights", "sweeps.status"])
def test_an_output_that_takes_no_more_is_told_in_one_line(module: str) -> None:
    done = python(module, "--help", to="> /dev/full")
    assert done.returncode == USER_ERROR
    assert done.stderr == b"error: No space left on device: make room where the output goes\n"


@pytest.mark.parametrize("command", [status.main, query.main, decode.main, export_encoder.main, evaluate_runs.main])
@pytest.mark.parametrize("run", [DIGITS, "--5", "\N{SUPERSCRIPT TWO}", "9" * 5000])
def test_a_run_that_no_database_can_hold_is_refused(engine, url, capsys, command, run: str) -> None:
    more = {query.main: ["series=loss"], export_encoder.main: ["to=encoder"]}.get(command, [])
    assert command([f"run={run}", f"db={url}", *more]) == USER_ERROR
    assert "error: run must be" in said(capsys)


@pytest.mark.parametrize(
    "query",
    ["sslpassword=topsecret", "sslpasword=topsecret", "options=-c%20topsecret", "passfile=topsecret", "port=topsecret"],
)
def test_options_of_a_url_are_shown_only_where_they_hold_no_secret(capsys, query: str) -> None:
    url = f"postgresql://me@127.0.0.1:1/x?{query}&sslmode=disable"
    assert status.main([f"db={url}"]) == USER_ERROR
    line = said(capsys)
    assert "topsecret" not in line and "sslmode=disable" in line
    assert "topsecret" not in mask_url(url)


def test_a_password_that_an_at_sign_and_a_question_mark_cut_is_not_shown(capsys) -> None:
    url = "postgresql://me:ab@c?topsecret@host/x"
    assert status.main([f"db={url}"]) == USER_ERROR
    assert "write @ as %40" in (line := said(capsys)) and "topsecret" not in line and "host/x" not in line
    assert mask_url(url) == "<a database URL>"


@pytest.mark.parametrize("content", ["{broken", "[]", "{}", "folder"])
def test_a_result_that_is_none_is_named(tmp_path: Path, capsys, content: str) -> None:
    path = tmp_path / "result.json"
    path.mkdir() if content == "folder" else path.write_text(content)
    assert train.main([*RUN, f"runtime.dir={tmp_path}"]) == USER_ERROR
    assert str(path) in said(capsys)


@pytest.mark.parametrize("environment", [{"RANK": "x"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "0"}])
def test_an_environment_that_announces_processes_by_halves_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, environment: dict[str, str]
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert train.main([*RUN, f"runtime.dir={tmp_path / 'run'}"]) == USER_ERROR
    assert "torchrun" in said(capsys)


def test_a_message_of_a_run_is_one_line_however_narrow_the_terminal(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert train.main([*RUN, "optim.batch_size=0", f"runtime.dir={tmp_path}"]) == USER_ERROR
    assert said(capsys) == "error: optim.batch_size must be at least 1, got 0\n"


def test_an_evaluations_file_that_is_a_folder_is_named(tmp_path: Path, capsys) -> None:
    run = [*RUN, f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={tmp_path / 'cache'}"]
    assert train.main(run) == OK
    (tmp_path / "run" / "evaluations.json").mkdir()
    capsys.readouterr()
    assert evaluate.main([*run[2:], "evals=[knn]"]) == USER_ERROR
    assert "evaluations.json cannot be read (Is a directory)" in said(capsys)


def test_the_home_folder_is_known_to_every_command(tmp_path, monkeypatch, capsys, engine, url) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    register(engine, two_rows())
    assert query.main(["select 1 as one", f"db={url}", "format=csv", "to=~/one.csv"]) == OK
    assert (tmp_path / "one.csv").read_text() == "one\n1\n"
    assert report.main([f"db={url}", "results_dir=~/made"]) == OK
    assert (tmp_path / "made" / "tables").is_dir()
    assert export.main([f"db={url}", "to=~/capsule.sqlite"]) == OK
    assert (tmp_path / "capsule.sqlite").is_file()
    capsys.readouterr()
    (tmp_path / "weights").write_text("")
    assert weights_command.main(["~/weights"]) == USER_ERROR
    assert f"{tmp_path}/weights" in said(capsys)


def test_a_results_folder_that_is_a_file_is_blamed(tmp_path: Path, capsys, engine: Engine, url: str) -> None:
    register(engine, two_rows())
    (tmp_path / "file").write_text("")
    assert report.main([f"db={url}", f"results_dir={tmp_path / 'file'}"]) == USER_ERROR
    place = tmp_path / "file"
    assert f"results_dir={place}: cannot be written to: {place} is a file; give a folder" in said(capsys)


def test_a_capsule_that_is_a_folder_is_refused(tmp_path: Path, capsys, engine: Engine, url: str) -> None:
    register(engine, two_rows())
    assert export.main([f"db={url}", f"to={tmp_path}"]) == USER_ERROR
    assert f"to={tmp_path}: is a folder; give a file in it" in said(capsys)


def test_a_study_file_of_another_encoding_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "größe.yaml").write_bytes("title: Größe".encode("latin-1"))
    assert plan.main([f"study={tmp_path / 'größe.yaml'}"]) == USER_ERROR
    assert "it is not UTF-8" in said(capsys)


def test_the_innermost_folder_is_blamed() -> None:
    folders = {"results_dir": Path("/a"), "runtime.cache": Path("/a/cache")}
    error = OSError(errno.ENOSPC, "No space left on device", "/a/cache/b/clips.npy")
    assert str(blamed(error, folders)).startswith("runtime.cache=/a/cache: cannot be written to: No space left")
    assert str(blamed(OSError(errno.EACCES, "denied", "/a/tables"), folders)).startswith("results_dir=/a:")
    assert blamed(OSError(errno.EACCES, "denied", "/b"), folders) is None
    assert blamed(OSError(errno.ENOSPC, "full"), folders) is None


def test_quotes_around_a_value_are_none_of_it() -> None:
    assert [bare(text) for text in ("'cuda'", '"a b"', "cpu", "'", "it's")] == ["cuda", "a b", "cpu", "'", "it's"]


@pytest.mark.parametrize("option", ["runtime.dir", "runtime.cache"])
@pytest.mark.parametrize("value", ["", "''", "' '"])
def test_a_folder_without_a_name_is_not_the_one_that_one_stands_in(
    tmp_path: Path, monkeypatch, capsys, option: str, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.main([*RUN, f"{option}={value}"]) == USER_ERROR
    assert f"{option} must name a folder, got " in said(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (launch, ["study=masking_ratio", "results_dir="]),
        (launch, ["study=masking_ratio", "name="]),
        (report, ["results_dir="]),
        (status, ["study="]),
        (query, ["study="]),
        (export, ["to="]),
    ],
)
def test_an_option_without_a_value_is_refused(tmp_path: Path, monkeypatch, capsys, command, words: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(words) == USER_ERROR
    assert f"{words[-1]} has no value; give one, or leave the word out" in said(capsys)
    assert not list(tmp_path.iterdir())


def test_more_threads_than_a_system_gives_are_refused(tmp_path: Path, capsys) -> None:
    assert train.main([*RUN, "runtime.threads=100000", f"runtime.dir={tmp_path}/run"]) == USER_ERROR
    assert "runtime.threads must be at most 1024, got 100000" in said(capsys)
    with pytest.raises(UserError, match="threads must be a whole number of at most 1024, got '100000'"):
        worker.main(["threads=100000", f"db=sqlite:///{tmp_path}/x.sqlite"])


def test_a_value_without_a_key_is_shown_as_it_was_typed(tmp_path: Path, capsys) -> None:
    assert train.main([*RUN, "=3", f"runtime.dir={tmp_path}/run"]) == USER_ERROR
    assert "error: '=3' is not of the form key=value" in said(capsys)


def test_a_plan_takes_the_results_folder_of_the_launch_that_it_plans(tmp_path: Path, capsys) -> None:
    words = ["study=masking_ratio", "scale=smoke", f"db=sqlite:///{tmp_path}/x.sqlite", f"results_dir={tmp_path}/out"]
    assert plan.main(words) == OK
    assert not list(tmp_path.iterdir())
