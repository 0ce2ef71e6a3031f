"""The commands of docs/reproduce.md, one after the other in a folder with a small database."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analysis import report
from sweeps import export, launch, status
from sweeps.database.opening import open_database, upgrade
from tests.docs.blocks import DOCS, commands
from tests.sweeps.launched import finish_next, register, two_rows

COMMANDS = commands("reproduce.md")
MAINS: dict[str, Callable[[Sequence[str]], int]] = {
    "analysis.report": report.main,
    "sweeps.export": export.main,
    "sweeps.launch": launch.main,
    "sweeps.status": status.main,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results/ with a finished study and its tables, as in the repository; and the current folder."""
    monkeypatch.chdir(tmp_path)
    engine = open_database("sqlite:///results/ablations.sqlite")
    upgrade(engine)
    register(engine, two_rows())
    for number in range(4):
        finish_next(engine, {"ridge/digit_top1": 60.0 + number})
    report.write(engine, ["ratio"], Path("results"))
    engine.dispose()
    return tmp_path


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}


def test_every_command_but_training_gives_the_same_tables(folder):
    for module, words in COMMANDS:
        if module != "sweeps.launch":
            assert MAINS[module](words) == 0, (module, words)
    assert tables(folder / "offline") == tables(folder / "mine") == tables(folder / "results")


def test_a_table_that_somebody_changed_is_found(folder, capsys):
    (folder / "results/tables/ratio.md").write_text("better")
    assert report.main(["check=true"]) == 1
    assert "results/tables/ratio.md: differs from the database" in "".join(capsys.readouterr())


@pytest.mark.slow
def test_training_again_writes_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (words,) = [words for module, words in COMMANDS if module == "sweeps.launch"]
    assert launch.main([*words, "scale=smoke", "executor=inline", "seeds=[0]"]) == 0
    assert (tmp_path / "again/tables/masking_ratio@smoke.md").is_file()


def test_training_again_is_a_command_that_launch_understands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (words,) = [words for module, words in COMMANDS if module == "sweeps.launch"]
    assert launch.parse(words).request.study.name == "masking_ratio"


@pytest.mark.parametrize("document, lines", [("query.md", 175), ("reproduce.md", 100), ("add_a_mask.md", 100)])
def test_a_document_is_short(document, lines):
    assert len((DOCS / document).read_text(encoding="utf-8").splitlines()) <= lines
