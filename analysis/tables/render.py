"""A table as Markdown and CSV, and the words of its cells, which `latex` shows too.

Every string of the table is escaped: labels come from study files and configs. All show the same words and digits, but
CSV, which gives full precision for whoever computes further.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from dataclasses import replace

from analysis.numbers.stats import Estimate
from analysis.tables.parts import Cell, Column, Kind, Row, Table
from sweeps.answers.collapse import MARK
from sweeps.answers.plateau import MARK as PLATEAU

PRINTED_ONLY = "printed only"
BASELINE = "baseline"
VERDICT = "verdict"
NOTHING = "–"  # where a row has no number by what it is
_WORDS = (Kind.printed, Kind.setting)  # columns of text, not of estimates


def format_estimate(estimate: Estimate, *, digits: int, signed: bool = False) -> str:
    """`61.4 ± 0.8`, `+1.2 ± 0.5`; the mean alone where one seed gives no interval."""
    mean = f"{estimate.mean:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    return f"{mean} ± {estimate.half_width:.{digits}f}" if estimate.has_interval else mean


def cell_text(cell: Cell, column: Column) -> str:
    """The words of one cell, not yet escaped."""
    text = cell.text
    if cell.estimate is not None:
        text = format_estimate(cell.estimate, digits=column.digits, signed=column.kind is Kind.difference)
        text += " *" if cell.is_significant else ""
    return f"{text} ({cell.note})" if cell.note else text


def row_label(row: Row) -> str:
    mark = BASELINE if row.is_baseline else PRINTED_ONLY if row.is_printed_only else ""
    label = " ".join([row.label, *([MARK] if row.collapse else []), *([PLATEAU] if row.plateau else [])])
    return f"{label} ({mark})" if mark else label


def lines_of(table: Table) -> list[list[str]]:
    """The words of each row: its label, its cells and, where rows are compared, its verdict. Not yet escaped."""
    has_verdicts = table.has_verdicts
    return [
        [row_label(row)]
        + [cell_text(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        + ([row.verdict] if has_verdicts else [])
        for row in table.rows
    ]


def header_of(table: Table) -> list[str]:
    """The words above `lines_of`."""
    return [table.row_header, *(column.label for column in table.columns), *([VERDICT] if table.has_verdicts else [])]


def with_marks(row: Row, cells: list[str], mark: str) -> list[str]:
    """Cells of text, the best ones marked; what stands beyond the columns is left."""
    is_best = [False, *(cell.is_best for cell in row.cells)]
    best = [*is_best, *[False] * (len(cells) - len(is_best))]
    return [mark.format(text) if is_best else text for text, is_best in zip(cells, best, strict=True)]


# ---- Markdown ----------------------------------------------------------------------------------------------------

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~$!#])")


def escape_markdown(text: str) -> str:
    """Show `text` as it is: no markup, no HTML, no table cell of its own, one line, no letter that reorders others."""
    text = _visible(one_line(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def markdown(table: Table) -> str:
    """A GitHub table under its title, with the notes and the provenance line below."""
    body = [[escape_markdown(text) or " " for text in line] for line in [header_of(table), *lines_of(table)]]
    body[1:] = [with_marks(row, cells, "**{}**") for row, cells in zip(table.rows, body[1:], strict=True)]
    lines = ["| " + " | ".join(cells) + " |" for cells in body]
    lines.insert(1, "|:--" + "|--:" * len(table.columns) + ("|:--|" if table.has_verdicts else "|"))
    notes = [escape_markdown(note) for note in table.notes]
    return "\n".join(
        [
            f"### {escape_markdown(table.caption)}",
            "",
            *([escape_markdown(table.sentence), ""] if table.sentence else []),
            *lines,
            "",
            *(f"{note}  " for note in notes),  # two spaces: a line break
            f"<sub>{escape_markdown(table.provenance)}</sub>",
            "",
        ]
    )


# ---- CSV ---------------------------------------------------------------------------------------------------------

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # some spreadsheets read the wide ones too


def escape_csv(text: str) -> str:
    """Text that a spreadsheet will not run as a formula: a leading apostrophe makes it a string there."""
    is_number = re.fullmatch(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?", text)
    return "'" + text if text.lstrip(" ").startswith(_FORMULA) and not is_number else text


def to_csv(table: Table) -> str:
    """One line a row; an estimate is four columns (mean, low, high, seeds) at full precision, and what is missing
    is named in its `.note` column. A difference has its p, by itself and after Holm's correction over the table. Every
    line carries study, scale and digest, so lines of several files can be mixed.
    """
    header = ["study", "scale", "digest", "row_key", "row", "kind", VERDICT]
    for column in table.columns:
        parts = [""] if column.kind in _WORDS else [".mean", ".low", ".high", ".seeds", ".note"]
        parts += [".p", ".p_holm"] if column.kind is Kind.difference else []
        header += [column.key + part for part in parts]
    lines = [header]
    for row in table.rows:
        line = [table.name, table.scale, table.digest, row.key, row.label, _row_kind(row), row.verdict]
        for cell, column in zip(row.cells, table.columns, strict=True):
            if column.kind is Kind.value and (row.collapse or row.plateau):
                told = ((MARK, row.collapse), (PLATEAU, row.plateau))
                cell = replace(cell, note="; ".join(filter(None, [cell.note, *(f"{m} {w}" for m, w in told if w)])))
            line += [cell.text] if column.kind in _WORDS else _estimate_fields(cell)
            line += [_number(cell.p), _number(cell.p_holm)] if column.kind is Kind.difference else []
        lines.append(line)
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[escape_csv(field) for field in line] for line in lines])
    return buffer.getvalue()


def _row_kind(row: Row) -> str:
    if row.is_random_init:
        return "random_init"
    return "printed_only" if row.is_printed_only else "baseline" if row.is_baseline else "trained"


def _estimate_fields(cell: Cell) -> list[str]:
    if cell.estimate is None:
        return ["", "", "", "", " ".join(filter(None, [cell.text, cell.note]))]
    interval = [repr(cell.estimate.low), repr(cell.estimate.high)] if cell.estimate.has_interval else ["", ""]
    return [repr(cell.estimate.mean), *interval, str(cell.estimate.num_seeds), cell.note]


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)


def _visible(text: str) -> str:
    """Control and formatting characters by their code point: a terminal would obey them, a reader not see them."""
    if text.isprintable():  # these are not
        return text
    return "".join(f"U+{ord(c):04X}" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)


def one_line(text: str) -> str:
    """`text` without line breaks, one space between words."""
    return " ".join(text.split())
