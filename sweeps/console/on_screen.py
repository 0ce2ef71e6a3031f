"""What a launch ends with: a table's page, of its width and length on a terminal, as it is in a file or a pipe."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeps.console.tables import console, counted

GAP = 2  # letters between columns
LEAST, LABEL = 12, 30  # of a column whose header is longer; at most of the labels' column
FEW = 3  # lines that tell of one kind of thing
BELOW, LEAST_ROWS = 7, 5  # lines that are kept for what is said below a table; rows of it
MARKS = ("†", "‡")


class Page(NamedTuple):
    """A table's Markdown, read again."""

    title: str
    sentence: str  # "" without one
    header: list[str]
    rows: list[list[str]]
    marks: list[str]  # the notes on marked rows
    num_notes: int  # the others


def show(path: Path, screen: Console | None = None) -> None:
    """Print the table whose Markdown `path` holds: on a terminal what fits, and where the rest is."""
    text, screen = path.read_text(encoding="utf-8"), screen or console()
    if not screen.is_terminal:
        screen.print(text, markup=False, highlight=False, soft_wrap=True)
        return
    page, is_short = read(text), screen.height < 30
    above = [Text(page.title, "bold")]
    if page.sentence:
        above.append(Text(_cut(page.sentence, (2 if is_short else 3) * screen.width)))
    marks = [Text(_cut(note, 2 * screen.width), "dim") for note in page.marks[: 1 if is_short else FEW]]
    widths = _widths(page)
    num_columns = _fitting(widths, screen.width)
    taken = sum(len(screen.render_lines(one, pad=False)) for one in (*above, *marks)) + BELOW
    num_rows = _rows_in(screen, page, widths[:num_columns], screen.height - taken)
    left = [
        (len(page.header) - num_columns, "more column"),
        (len(page.rows) - num_rows, "more row"),
        (page.num_notes + len(page.marks) - len(marks), "note"),
    ]
    told = ", ".join(counted(number, word) for number, word in left if number)
    last = Text(f"± is the half-width of the 95 % interval; {told}: {path}", "dim")
    for one in (*above, _table(page, widths[:num_columns], num_rows), *marks, last):
        screen.print(one)


def _rows_in(screen: Console, page: Page, widths: Sequence[int], height: int) -> int:
    """How many of the first rows a table of `height` lines has room for; some, whatever it has."""
    for number in range(len(page.rows), LEAST_ROWS, -1):
        if len(screen.render_lines(_table(page, widths, number), pad=False)) <= height:
            return number
    return min(LEAST_ROWS, len(page.rows))


def read(markdown: str) -> Page:
    """The parts of a table as `analysis.tables.render.markdown` writes it."""
    lines = [line.rstrip() for line in markdown.splitlines() if line.strip()]
    rules = [place for place, line in enumerate(lines) if line.startswith("|:--")]
    first = rules[0] - 1
    rows = [_cells(line) for line in lines[first:] if line.startswith("| ")]
    before, after = lines[:first], [_plain(line) for line in lines[first:] if not line.startswith(("|", "<sub>"))]
    marks = [note for note in after if note.startswith(MARKS)]
    sentence = " ".join(_plain(line) for line in before[1:])
    return Page(_plain(before[0].removeprefix("### ")), sentence, rows[0], rows[1:], marks, len(after) - len(marks))


def _cells(line: str) -> list[str]:
    """Of a row; what is bold stays marked by two stars."""
    return [_plain(cell.strip()) for cell in re.split(r" \| ", line[2:].removesuffix(" |"))]


def _plain(text: str) -> str:
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~$!#])", r"\1", text)).strip()


def _widths(page: Page) -> list[int]:
    """Of each column: its cells in one line, its header broken between words. Labels and verdicts are broken too."""
    found = []
    for place, header in enumerate(page.header):
        cells = [_marked(row[place])[0] for row in page.rows]
        longest = max([min(len(header), LEAST), *map(len, [*header.split(), *cells])])
        found.append(min(longest, LABEL) if place == 0 else longest)
    return found


def _fitting(widths: Sequence[int], width: int) -> int:
    """How many columns, from the first, fit; the first two whatever they take."""
    total, number = widths[0], 1
    for one in widths[1:]:
        total += one + GAP
        if total > width and number > 1:
            break
        number += 1
    return number


def _table(page: Page, widths: Sequence[int], num_rows: int) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), show_edge=False, pad_edge=False, header_style="dim")
    for place, width in enumerate(widths):
        is_text = place == 0 or page.header[place] == "verdict"
        table.add_column(Text(page.header[place]), justify="left" if is_text else "right", max_width=width)
    for row in page.rows[:num_rows]:
        table.add_row(*(Text(text, "bold" if is_best else "") for text, is_best in map(_marked, row[: len(widths)])))
    return table


def _marked(cell: str) -> tuple[str, bool]:
    """A cell's words, and whether it is the best of its column."""
    is_best = len(cell) > 4 and cell.startswith("**") and cell.endswith("**")
    return (cell[2:-2] if is_best else cell), is_best


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2].rsplit(" ", 1)[0] + " …"


def files(paths: Sequence[Path]) -> str:
    """Files in few words: those of one name with their endings, `a/b.md .tex .csv`."""
    found: dict[Path, list[str]] = {}
    for path in paths:
        found.setdefault(path.with_suffix(""), []).append(path.suffix)
    return ", ".join(f"{stem}{' '.join(suffixes)}" for stem, suffixes in found.items())


def few(lines: Sequence[str], where: str) -> list[str]:
    """The first of many lines that tell of one kind of thing, and where the others are."""
    rest = len(lines) - FEW
    return [*lines] if rest <= 1 else [*lines[:FEW], f"and {rest} more such runs: {where}"]
