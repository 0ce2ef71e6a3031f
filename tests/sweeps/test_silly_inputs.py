"""What people type by mistake is answered by one line and exit code 2, before anything trains."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from sqlalchemy import Engine

from core import train
from core.configuring.config import ConfigError, load
from sweeps import launch, plan, query, status
from sweeps.console.errors import OK, USER_ERROR
from sweeps.console.url import mask_url
from sweeps.study.files import StudyError
from sweeps.study.model import instance_name
from sweeps.study.reading import parse
from tests.sweeps.launched import TWO_ROWS, register, two_rows

ROOT = Path(__file__).parents[2]
RUN = ["method=mae", "scale=smoke"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "ratio.yaml").write_text(yaml.safe_dump(TWO_ROWS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:abc@topsecret@host/x",
        "postgresql://me:topsecret@ho@st/x",
        "postgresql://me:topsecret@host:port/x",
        "postgresql://me:a/b@topsecret@host/x",
        "postgresql//me:topsecret@host/x",
        "postgresql://127.0.0.1:1/x?password=topsecret",
        "postgresql://me:topsecret@127.0.0.1:1/x",
        "mysql://me:topsecret@host/x",
    ],
)
@pytest.mark.parametrize("command", [plan.main, status.main, launch.main])
def test_no_part_of_a_password_is_ever_shown(folder: Path, capsys: pytest.CaptureFixture[str], command, url) -> None:
    words = [f"db={url}", *([] if command is status.main else ["study=ratio"])]
    assert command(words) == USER_ERROR
    said = capsys.readouterr()
    assert "topsecret" not in said.out + said.err and said.err.count("\n") == 1
    assert "topsecret" not in mask_url(url)


def test_an_unescaped_at_sign_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main(["db=postgresql://me:abc@topsecret@host/x"]) == USER_ERROR
    assert "in a password write @ as %40" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", ["[99999999999999999999]", "[-1]", "[9223372036854775808]"])
def test_a_seed_beyond_what_is_stored_is_refused(folder: Path, capsys: pytest.CaptureFixture[str], seeds: str) -> None:
    assert launch.main(["study=ratio", f"seeds={seeds}"]) == USER_ERROR
    assert "seeds must be a list of different whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999"])
def test_a_seed_of_a_run_is_in_range(seed: str) -> None:
    with pytest.raises(ConfigError, match=r"seed must be a whole number in \[0, 2\*\*63\), got"):
        load([*RUN, f"seed={seed}"])


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["optim.weight_decay", "optim.lr_peak", "mask.ratio", "augment.scale_min"])
def test_a_number_that_is_none_is_refused_by_its_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load([*RUN, f"{key}={value}"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch.main(["study=ratio", "runtime.device=cuda"]) == USER_ERROR
    assert "runtime.device=cuda: torch sees no CUDA device here" in capsys.readouterr().err
    assert not (folder / "results").exists()


@pytest.mark.parametrize("place", ["/proc/x", "file"])
@pytest.mark.parametrize("option", ["runtime.dir", "runtime.cache"])
def test_a_folder_that_cannot_be_written_to_is_blamed_itself(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str, place: str
) -> None:
    (folder / "file").write_text("")
    places = {"runtime.dir": "run", "runtime.cache": "cache"} | {option: place}
    assert train.main([*RUN, *(f"{key}={value}" for key, value in places.items())]) == USER_ERROR
    assert f"error: {option}={place}: cannot be written to:" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", ["runtime.cache", "results_dir"])
def test_launch_blames_a_folder_before_any_worker_starts(
    folder: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert launch.main(["study=ratio", f"{option}=/proc/x"]) == USER_ERROR
    assert f"error: {option}=/proc/x: /proc cannot be written to" in capsys.readouterr().err


def test_the_home_folder_is_known_everywhere(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HOME", str(folder))
    for quote in ("'", ""):  # a shell takes the quotes off, and puts the folder in only at the beginning of a word
        run = load([*RUN, f"runtime.dir={quote}~/run{quote}", f"runtime.cache={quote}~/cache{quote}"])
        assert (run.runtime.dir, run.runtime.cache) == (f"{folder}/run", f"{folder}/cache")
    assert status.main(["db=sqlite:///~/none.sqlite"]) == USER_ERROR
    assert f"db=sqlite:///{folder}/none.sqlite: there is no such file" in capsys.readouterr().err


def test_letters_beyond_ascii_need_no_quotes() -> None:
    with pytest.raises(ConfigError, match="got 'für_alle', which does not exist"):
        load([*RUN, "data=image_folder", "data.path=für_alle"])


@pytest.mark.parametrize("name", ["~/photos", "a#b", "a&b", "a!b;c", "<a>", "a^b`c"])
def test_a_folder_of_any_letters_needs_no_quotes(name: str) -> None:
    with pytest.raises(ConfigError, match="which does not exist"):
        load([*RUN, "data=image_folder", f"data.path={name}"])


def test_a_file_in_a_folders_place_is_named_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    assert train.main([*RUN, "runtime.dir=file"]) == USER_ERROR
    assert "error: runtime.dir=file: cannot be written to: " in (said := " ".join(capsys.readouterr().err.split()))
    assert said.endswith("file is a file; give a folder")


def test_a_files_name_in_place_of_a_url_is_told_how_to_become_one(folder: Path, capsys) -> None:
    for command in (launch.main, status.main):
        words = ["study=ratio"] if command is launch.main else []
        assert command([*words, "db=a/runs.sqlite"]) == USER_ERROR
        assert (
            "db=a/runs.sqlite: not a database URL; of a file it is db=sqlite:///a/runs.sqlite"
            in capsys.readouterr().err
        )


def test_words_of_another_form_are_told_at_once_with_the_form_that_is_taken(folder: Path, capsys) -> None:
    assert launch.main(["--study", "ratio", "--scale", "smoke"]) == USER_ERROR
    said = capsys.readouterr().err
    assert "'--study', 'ratio', '--scale', 'smoke' are not of the form key=value (study=VALUE, not --study" in said
    assert said.count("options:") == 1


def test_a_terminal_of_another_encoding_shows_the_table(engine: Engine, url: str) -> None:
    register(engine, two_rows(title="Größe → ∞"))
    environment = os.environ | {"PYTHONIOENCODING": "iso-8859-1", "PYTHONPATH": str(ROOT)}
    for words in ([], ["study=ratio"]):
        command = [sys.executable, "-m", "sweeps.status", f"db={url}", *words]
        done = subprocess.run(command, capture_output=True, env=environment, check=False)
        assert done.returncode == OK and b"Traceback" not in done.stderr and b"ratio" in done.stdout


def test_a_reader_that_has_seen_enough_is_no_error(engine: Engine, url: str) -> None:
    register(engine, two_rows())
    command = f"{sys.executable} -m sweeps.query study=ratio format=csv db={url} | head -c 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == OK and done.stderr == b""


@pytest.mark.parametrize(("asked", "meant"), [("mask.ratios", "mask.ratio"), ("optim.step", "optim.steps")])
def test_a_misspelt_option_in_a_question_is_refused_with_the_nearest(engine, url, capsys, asked, meant) -> None:
    register(engine, two_rows())
    assert query.main([f"select {{{asked}}} from sw_config", f"db={url}"]) == USER_ERROR
    assert f"{{{asked}}}: no config of this database has that option (did you mean {meant}" in capsys.readouterr().err


def test_method_and_scale_can_be_asked_for(engine: Engine, url: str) -> None:
    register(engine, two_rows())
    assert query.ask(engine, "select {method} as m, {scale} as s from sw_config").isna().all(axis=None)


def test_a_name_that_is_too_long_is_refused_before_training(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch.main(["study=ratio", f"name={'x' * 250}"]) == USER_ERROR
    assert "250 letters; a table's name has at most 120" in capsys.readouterr().err
    with pytest.raises(StudyError, match="at most 120"):
        instance_name("ratio", name="x" * 121)


def test_many_overrides_get_a_short_name_of_their_own() -> None:
    words = [f"encoder.option_{i}={i}.12345" for i in range(14)]
    name = instance_name("ratio", "gpu", words)
    assert name == instance_name("ratio", "gpu", list(reversed(words))) != instance_name("ratio", "gpu", words[:-1])
    assert name.startswith("ratio@gpu,encoder.option_0=0.12345,") and len(name) < 140 and "15-overrides-" in name


@pytest.mark.parametrize(
    ("file", "name"), [("my study.yaml", "my_study"), ("größe.yaml", "größe"), ("-x.yaml", "_x"), ("a/b&c.yaml", "b_c")]
)
def test_a_study_file_of_any_name_works_everywhere(file: str, name: str) -> None:
    assert parse(TWO_ROWS, Path(file)).name == name
