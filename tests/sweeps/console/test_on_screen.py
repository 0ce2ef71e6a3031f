"""The table that a launch ends with, on a terminal and in a pipe."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from sweeps.console.on_screen import few, files, read, show

TABLES = sorted((Path(__file__).parents[3] / "results" / "tables").glob("*.md"))
PAGE = """### What \\*helps*, & more

digits: b is better.

| row \\| x | top-1 (%) | Δ baseline | verdict |
|:--|--:|--:|:--|
| a (baseline) | 60.0 ± 1.0 | baseline |   |
| b\\_c † | **65.0 ± 1.0** | +5.0 ± 2.0 | better |

top-1 (%): mean over seeds.  
† b_c: 1 of 1 seed collapsed.  
<sub>database digest ab</sub>
"""


def shown(path, width, height):
    out = io.StringIO()
    show(path, Console(file=out, force_terminal=True, width=width, height=height, color_system=None))
    return out.getvalue().splitlines()


@pytest.fixture
def path(tmp_path):
    (tmp_path / "t.md").write_text(PAGE, encoding="utf-8")
    return tmp_path / "t.md"


def test_a_table_s_page_is_read_as_it_was_before_it_was_escaped(path):
    page = read(PAGE)
    assert (page.title, page.sentence) == ("What *helps*, & more", "digits: b is better.")
    assert page.header == ["row | x", "top-1 (%)", "Δ baseline", "verdict"]
    assert page.rows[1] == ["b_c †", "**65.0 ± 1.0**", "+5.0 ± 2.0", "better"]
    assert (page.marks, page.num_notes) == (["† b_c: 1 of 1 seed collapsed."], 1)


def test_a_terminal_gets_no_markdown_and_all_of_a_small_table(path):
    lines = shown(path, 80, 24)
    assert not any("|--" in line or "**" in line or "<sub>" in line for line in lines)
    assert any("65.0 ± 1.0" in line and "better" in line for line in lines)
    assert "1 note:" in " ".join(lines) and "more column" not in " ".join(lines)


def test_what_has_no_room_is_counted(path):
    rows = "".join(f"| row {number} | 1.0 ± 1.0 | +0.0 ± 2.0 | better |\n" for number in range(90))
    path.write_text(PAGE.replace("| a (base", rows + "| a (base"), encoding="utf-8")
    lines = shown(path, 40, 24)
    assert len(lines) <= 24 and max(map(len, lines)) <= 40
    assert "1 more column" in " ".join(lines) and "more rows" in " ".join(lines)


@pytest.mark.parametrize("size", [(80, 24), (100, 40)])
def test_every_table_of_the_reported_runs_is_at_most_a_screen(size):
    width, height = size
    assert TABLES
    for path in TABLES:
        if path.name not in ("index.md", "agreement.md"):
            lines = shown(path, width, height)
            assert len(lines) <= height and max(map(len, lines)) <= width, path.name


def test_a_pipe_gets_the_page_itself(path, capsys):
    show(path)
    assert capsys.readouterr().out == PAGE + "\n"


def test_files_of_one_name_are_said_once_with_their_endings():
    assert files([Path("t/a@b=0.5.md"), Path("t/a@b=0.5.csv"), Path("c.png")]) == "t/a@b=0.5.md .csv, c.png"


def test_of_many_lines_the_first_are_told():
    assert few(["a"] * 4, "there") == ["a"] * 4
    assert few(["a"] * 9, "there") == ["a", "a", "a", "and 6 more such runs: there"]
