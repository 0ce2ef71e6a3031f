from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine

from analysis import after_launch, report
from analysis.numbers import versions
from tests.analysis.conftest import MAIN, ROWS, Laboratory


class Launched:
    """A study of a database whose files were written once, and how often they were made."""

    def __init__(self, laboratory: Laboratory, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.laboratory, self.folder, self.num_made = laboratory, folder, 0
        self.meanwhile: Callable[[], object] = bool  # while they are made
        made = report.write

        def counted(*arguments: Any) -> list[Path]:
            self.num_made += 1
            self.meanwhile()
            return made(*arguments)

        monkeypatch.setattr(report, "write", counted)

    def again(self) -> list[Path]:
        return after_launch.write(self.laboratory.engine, ["rows"], self.folder / "results")


@pytest.fixture
def launched(laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launched:
    monkeypatch.chdir(tmp_path)  # what is remembered lies below it
    laboratory.study("rows", {**ROWS, "figures": []})
    laboratory.run("rows", "block", 0, {MAIN: 50.0})
    found = Launched(laboratory, tmp_path, monkeypatch)
    found.again()
    return found


def test_nothing_is_made_while_nothing_changed(launched: Launched) -> None:
    paths = launched.again()
    assert launched.num_made == 1
    assert launched.folder / "results/tables/rows.md" in paths and all(path.is_file() for path in paths)
    assert paths == report.write(launched.laboratory.engine, ["rows"], launched.folder / "results")


def _write_a_study(launched: Launched) -> None:
    (launched.folder / "studies").mkdir()
    (launched.folder / "studies/other.yaml").write_text(yaml.safe_dump(ROWS))


CHANGES: dict[str, Callable[[Launched], object]] = {
    "a file is edited": lambda one: (one.folder / "results/tables/rows.md").write_text("mine"),
    "a file is gone": lambda one: (one.folder / "results/report/index.html").unlink(),
    "a run ended": lambda one: one.laboratory.run("rows", "random", 0, {MAIN: 60.0}),
    "a study came": lambda one: one.laboratory.study("others", {**ROWS, "figures": []}),
    "a study file came": _write_a_study,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_them_again(launched: Launched, change: str) -> None:
    CHANGES[change](launched)
    launched.again()
    assert launched.num_made == 2
    assert launched.again() and launched.num_made == 2


def test_other_code_makes_them_again(launched: Launched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "code", lambda packages: "of tomorrow")
    launched.again()
    assert launched.num_made == 2


def test_another_folder_has_files_of_its_own(launched: Launched) -> None:
    after_launch.write(launched.laboratory.engine, ["rows"], launched.folder / "elsewhere")
    assert launched.num_made == 2 and (launched.folder / "elsewhere/tables/rows.md").is_file()


def test_what_is_written_meanwhile_is_looked_at_the_next_time(launched: Launched) -> None:
    (launched.folder / "results/tables/rows.md").unlink()
    launched.meanwhile = lambda: launched.laboratory.run("rows", "random", 0, {MAIN: 60.0})
    launched.again()
    launched.meanwhile = bool
    launched.again()
    assert launched.num_made == 3


def test_a_server_tells_no_state_so_that_files_are_always_made() -> None:
    assert after_launch._database(create_engine("postgresql://nobody@nowhere/none")) == ""
