"""Studies that other processes make are those that this one makes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine

from analysis import one_study
from analysis.report import contents, main
from sweeps.console.errors import UserError
from sweeps.database.opening import open_database, url_to_share
from tests.analysis.conftest import ROWS, Laboratory


@pytest.fixture
def shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """From two studies on another process helps."""
    monkeypatch.setattr(one_study, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 2)


@pytest.mark.slow
def test_what_two_processes_make_has_the_same_bytes_in_the_same_order(
    engine: Engine, request: pytest.FixtureRequest
) -> None:
    alone = contents(engine, ["ijepa_masking", "masking_ratio"])
    request.getfixturevalue("shared_out")
    together = contents(engine, ["ijepa_masking", "masking_ratio"])
    assert list(together.items()) == list(alone.items())


@pytest.mark.slow
def test_what_another_process_refuses_is_said_and_no_file_is_written(
    laboratory: Laboratory, tmp_path: Path, shared_out: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("../outside", "rows", "rows@smoke"):
        laboratory.study(name, ROWS, "smoke" if "@" in name else "cpu")
    with pytest.raises(UserError, match="cannot name a file"):
        contents(laboratory.engine, ["../outside", "rows", "rows@smoke"])
    assert main([f"db={laboratory.engine.url}", f"results_dir={tmp_path / 'out'}"]) == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_another_process_opens_the_file_of_a_folder_that_nobody_can_write_to(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(filled, tmp_path / "a.sqlite")
    monkeypatch.setattr("os.access", lambda *words: False)
    url = f"sqlite:///{tmp_path}/a.sqlite"
    engine = open_database(url, read_only=True)
    assert str(engine.url) != url == str(url_to_share(engine))
    again = open_database(url_to_share(engine), read_only=True)
    assert again.url == engine.url
