"""No part of a password is shown: not of a URL at another option's place, nor when the database goes away."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from core import evaluate, train
from sweeps import launch, status
from sweeps.cli import USER_ERROR
from sweeps.terminal import without_passwords
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


def test_what_is_no_password_is_shown() -> None:
    text = "see https://a.org/b and db=sqlite:///results/a.sqlite, linear@epochs=4"
    assert without_passwords(text) == text
    assert without_passwords(f"bd={URLS[0]}: unknown") == "bd=postgresql://***@h/x: unknown"


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
