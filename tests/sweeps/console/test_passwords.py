"""No part of a password is shown: not of a URL at another option's place, nor when the database goes away."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from core import evaluate, train
from core.terminal import without_passwords
from sweeps import launch, status
from sweeps.console.errors import OK, USER_ERROR
from tests.sweeps.conftest import emptied
from tests.sweeps.launched import TWO_ROWS
from tests.sweeps.postgres import PostgresServer

URLS = ["postgresql://me:topsecret@h/x", "postgresql://me:a/b@topsecret@h/x", "postgresql://h/x?password=topsecret"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("key", ["bd=", "mask.bd=", ""])
@pytest.mark.parametrize("command", [train.main, evaluate.main, launch.main, status.main])
def test_a_url_at_another_place_is_refused_without_its_password(
    tmp_path: Path, monkeypatch, capsys, command, key: str, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ratio.yaml").write_text(yaml.safe_dump(TWO_ROWS))
    study = ["study=ratio.yaml", "scale=smoke"] if command is launch.main else []
    known = ["runtime.dir=run"] if command is evaluate.main else []
    assert command([*study, *known, f"{key}{url}"]) == USER_ERROR
    said = capsys.readouterr()
    assert "topsecret" not in said.out + said.err and said.err


@pytest.mark.parametrize(
    "text",
    [
        "see https://a.org/b and db=sqlite:///results/a.sqlite, linear@epochs=4",
        "a server (postgresql://user@host/name)",
        "go on with: python -m sweeps.launch db=postgresql://me:***@host/x",
    ],
)
def test_what_is_no_password_is_shown(text: str) -> None:
    assert without_passwords(text) == text


@pytest.mark.parametrize(
    "url", [*URLS, "me:topsecret@h/x", "postgresql:/me:topsecret@h", "postgresql:me:topsecret@h", "://me@topsecret@h"]
)
def test_a_password_in_an_address_that_lacks_a_part_is_masked(url: str) -> None:
    assert "topsecret" not in (masked := without_passwords(f"bd={url} is unknown")) and masked.endswith(" is unknown")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing can be written over")
@pytest.mark.parametrize("module", ["sweeps.status", "analysis.report", "sweeps.launch"])
def test_a_password_on_the_command_line_is_not_in_the_list_of_processes(tmp_path: Path, module: str) -> None:
    (tmp_path / "ratio.yaml").write_text(yaml.safe_dump(TWO_ROWS))
    with socket.create_server(("127.0.0.1", 0)) as server:  # it takes the connection, and says nothing
        url = f"postgresql://me:topsecret@127.0.0.1:{server.getsockname()[1]}/x?sslpassword=topsecret"
        words = ["study=ratio.yaml" if module == "sweeps.launch" else "study=ratio", f"db={url}"]
        command = subprocess.Popen([sys.executable, "-m", module, *words], cwd=tmp_path, stderr=subprocess.PIPE)
        connection, _ = server.accept()  # by now the command has read its words
        line = Path(f"/proc/{command.pid}/cmdline").read_bytes()
        connection.close()
    assert b"topsecret" not in line and line.startswith(sys.executable.encode())
    _, said = command.communicate()
    assert command.returncode == USER_ERROR and b"topsecret" not in said


def lines_of(group: int) -> set[str]:
    """The command lines of all processes of a group that are past their first moment."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(stat[2]) == group and "torch" in (folder / "maps").read_text():
                found.add((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def said_in(folder: Path) -> str:
    return "\n".join(file.read_text() for file in sorted(folder.glob("said*")))


@pytest.mark.slow
def test_a_server_that_goes_away_in_mid_study_shows_no_password_and_no_traceback(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = f"postgresql://postgres:topsecret@/postgres?host={postgres.folder}"
    study = {
        **TWO_ROWS,
        "base": {**TWO_ROWS.get("base", {}), "method": "mae", "evals": ["ridge"], "optim.steps": 100_000},
    }
    (tmp_path / "ratio.yaml").write_text(yaml.safe_dump(study))
    words = ["study=ratio.yaml", "scale=smoke", "workers=1", "results_dir=r", f"db={url}"]
    with (tmp_path / "out").open("wb") as out:
        launched = subprocess.Popen(
            [sys.executable, "-m", "sweeps.launch", *words], cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        while not list(tmp_path.glob("r/runs/*/*")) and launched.poll() is None:
            time.sleep(0.2)
        postgres.stop()
        try:
            while b"does not answer" not in (tmp_path / "out").read_bytes() and launched.poll() is None:
                time.sleep(0.2)
            launched.send_signal(signal.SIGINT)
            launched.wait(120)
        finally:
            postgres.start()
    finally:
        launched.kill()
        launched.wait()
    said = (tmp_path / "out").read_text()
    assert "does not answer" in said and "Traceback" not in said
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"topsecret" in file.read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_server_that_is_stopped_under_two_workers_loses_nothing_and_no_password_is_left(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    url = f"postgresql://postgres@/postgres?host={postgres.folder}&password=topsecret"
    base = {**TWO_ROWS["base"], "method": "mae", "evals": ["ridge"], "optim.steps": 2000, "optim.batch_size": 2}
    (tmp_path / "halves.yaml").write_text(yaml.safe_dump({**TWO_ROWS, "base": base, "seeds": [0]}))
    words = ["study=halves.yaml", "scale=smoke", "workers=2", "results_dir=r", f"db={url}", "lease_s=5"]

    def launched(out: Path) -> subprocess.Popen[bytes]:
        with out.open("wb") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeps.launch", *words], cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT
            )

    first = launched(tmp_path / "first")
    try:
        while len(list(tmp_path.glob("r/runs/*/*"))) < 2 and first.poll() is None:
            time.sleep(0.2)
        postgres.stop()
        try:
            while b"does not answer" not in (tmp_path / "first").read_bytes() and first.poll() is None:
                time.sleep(0.2)
        finally:
            first.kill()  # as the machine going down would: nobody says goodbye
            first.wait()
            postgres.start()
        second = launched(tmp_path / "second")
        assert second.wait() == 0, (tmp_path / "second").read_text()
    finally:
        first.kill()
    said = (tmp_path / "first").read_text() + (tmp_path / "second").read_text()
    assert "Traceback" not in said
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"topsecret" in file.read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "where", ["postgres:p%40topsecret@/postgres?host={}", "postgres@/postgres?host={}&password=p%40topsecret"]
)
def test_a_searched_study_its_report_and_its_capsule_hold_no_password(
    postgres: PostgresServer, tmp_path: Path, where: str
) -> None:
    emptied(postgres)
    base = {"method": "mae", "optim.steps": 2, "optim.batch_size": 4, "evals": ["collapse", "ridge"]}
    small = {"data.num_train": 48, "data.num_test": 32}
    search = {"space": {"mask.ratio": {"float": [0.3, 0.9]}}, "budget": 2, "sampler": "random", "pruner": "none"}
    study = {"title": "T", "question": "?", "base": base | small, "search": search, "metrics": ["ridge/{label}_top1"]}
    (tmp_path / "found.yaml").write_text(yaml.safe_dump(study))
    place = [f"db=postgresql://{where.format(postgres.folder)}", "results_dir=r"]
    commands = [
        ["sweeps.launch", "study=found.yaml", "scale=smoke", "workers=2", *place],
        ["sweeps.plan", "study=found.yaml", "scale=smoke", place[0]],
        ["sweeps.status", "study=found@smoke", place[0]],
        ["sweeps.query", "study=found@smoke", "format=csv", place[0]],
        ["sweeps.export", "study=all", "to=capsule.sqlite", place[0]],
        ["sweeps.importing", f"optuna={place[0].removeprefix('db=')}", "study_name=another", "db=sqlite:///i.sqlite"],
        ["analysis.report", "study=all", *place],
    ]
    listed = set()
    for number, words in enumerate(commands):
        with (tmp_path / f"said{number}").open("wb") as said:
            command = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=tmp_path, stdout=said, stderr=subprocess.STDOUT
            )
            while command.poll() is None:
                listed |= lines_of(group=os.getpgid(0))
                time.sleep(0.2)
        assert command.returncode == (USER_ERROR if "importing" in words[0] else OK), said_in(tmp_path)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"topsecret" in file.read_bytes()]
    assert any("forkserver" in line for line in listed), "the workers were seen"
    assert not [line for line in listed if "topsecret" in line]
