"""docs/check_a_paper.md: its LaTeX and its command, on the numbers that this repository reports."""

from pathlib import Path

import pytest

from analysis import report
from tests.docs.blocks import DOCS, blocks, commands

RESULTS = DOCS.parent / "results"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's LaTeX as main.tex beside the repository's results; the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.tex").write_text("".join(blocks("check_a_paper.md", "latex")))
    (tmp_path / "results").symlink_to(RESULTS)
    return tmp_path


def test_every_mark_of_the_page_names_a_number_of_this_repository(folder, capsys):
    (module, words) = commands("check_a_paper.md")[0]
    assert module == "analysis.report"
    code = report.main(words)
    lines = capsys.readouterr().out.splitlines()
    # Results may be trained again: their numbers then differ from the page's, but the cells are there.
    assert (code, lines) == (0, ["main.tex: 3 marked numbers are what the database gives"]) or all(
        "the database gives" in line for line in lines
    )


def test_a_number_that_was_changed_is_named_with_its_line(folder, capsys):
    (folder / "main.tex").write_text("\n\n" + r"\abl{masking_ratio/0.9/long/ridge/digit_top1}{99.9}")
    assert report.main(["check_paper=main.tex"]) == 1
    assert capsys.readouterr().out.startswith(
        r"main.tex:3: \abl{masking_ratio/0.9/long/ridge/digit_top1}{99.9}: the database gives "
    )
