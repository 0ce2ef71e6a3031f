"""The page of the Python front door: its programs run, in the order in which they stand."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the reported runs' database where commands look for it."""
    (tmp_path / "results").mkdir()
    shutil.copy(ROOT / "results" / "ablations.sqlite", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    return tmp_path


@pytest.mark.parametrize("number", range(len(BLOCKS) - 1))
def test_what_the_page_asks_of_the_reported_runs_is_answered(folder, number, capsys):
    exec(compile(BLOCKS[number], "docs/python.md", "exec"), {})
    if "AblationError" in BLOCKS[number]:
        assert (
            "study=maskin_ratio: the database has no such study (did you mean masking_ratio?); it has: "
            in capsys.readouterr().out
        )
    if "savefig" in BLOCKS[number]:
        assert (folder / "mine.png").stat().st_size > 5000


@pytest.mark.slow
def test_what_the_page_trains_gives_numbers_and_an_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(BLOCKS[-1], "docs/python.md", "exec"), names)
    assert any(key.endswith("top1") for key in names["results"])
    assert names["features"].shape[0] == 2 and names["features"].ndim == 3
