"""A table as Markdown, LaTeX and CSV. Every string of the table is escaped: labels come from study files and configs.

The three show the same words and digits, but CSV, which gives full precision for whoever computes further.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from dataclasses import replace

from analysis.stats import Estimate
from analysis.tables import Cell, Column, Kind, Row, Table
from sweeps.collapse import MARK
from sweeps.plateau import MARK as PLATEAU

PRINTED_ONLY = "printed only"
BASELINE = "baseline"
VERDICT = "verdict"
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


def _lines(table: Table) -> list[list[str]]:
    return [
        [row_label(row)]
        + [cell_text(cell, column) for cell, column in zip(row.cells, table.columns, strict=True)]
        + ([row.verdict] if table.has_verdicts else [])
        for row in table.rows
    ]


def _header(table: Table) -> list[str]:
    return [table.row_header, *(column.label for column in table.columns), *([VERDICT] if table.has_verdicts else [])]


def _with_marks(row: Row, cells: list[str], mark: str) -> list[str]:
    """Cells of text, the best ones marked; what stands beyond the columns is left."""
    is_best = [False, *(cell.is_best for cell in row.cells)]
    best = [*is_best, *[False] * (len(cells) - len(is_best))]
    return [mark.format(text) if is_best else text for text, is_best in zip(cells, best, strict=True)]


# ---- Markdown ----------------------------------------------------------------------------------------------------

_MARKDOWN_SPECIAL = re.compile(r"([\\`*_\[\]|~$!#])")


def escape_markdown(text: str) -> str:
    """Show `text` as it is: no markup, no HTML, no table cell of its own, one line, no letter that reorders others."""
    text = _visible(_one_line(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def markdown(table: Table) -> str:
    """A GitHub table under its title, with the notes and the provenance line below."""
    body = [[escape_markdown(text) or " " for text in line] for line in [_header(table), *_lines(table)]]
    body[1:] = [_with_marks(row, cells, "**{}**") for row, cells in zip(table.rows, body[1:], strict=True)]
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


# ---- LaTeX -------------------------------------------------------------------------------------------------------

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "''", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "÷": r"$\div$", "·": r"$\cdot$", "→": r"$\to$",
    "←": r"$\leftarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "≠": r"$\neq$", "∞": r"$\infty$",
    "√": r"$\surd$", "∈": r"$\in$", "°": r"$^{\circ}$", "µ": r"$\mu$", "…": r"\ldots{}", "–": "--", "—": "---",
    "‘": "`", "’": "'", "“": "``", "”": "''", "\u00a0": "~", "²": "$^2$", "³": "$^3$", "ℓ": r"$\ell$", "†": r"\dag{}",
    "‡": r"\ddag{}",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\epsilon$", "λ": r"$\lambda$",
    "μ": r"$\mu$", "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$", "τ": r"$\tau$", "φ": r"$\phi$", "ω": r"$\omega$",
    "Δ": r"$\Delta$", "Σ": r"$\Sigma$",
}  # fmt: skip


def escape_latex(text: str) -> str:
    """Show `text` as it is under pdfLaTeX with its default UTF-8 input.

    A character pdfLaTeX would stop at is shown by its code point, visibly, instead of breaking the paper's build.
    """
    return "".join(_LATEX.get(character) or _latex_character(character) for character in _one_line(text))


def _latex_character(character: str) -> str:
    base, *accents = list(unicodedata.normalize("NFD", character))
    # The default font encoding OT1 has every accent of Latin letters but the ogonek.
    is_accented = len(accents) == 1 and base.isascii() and "À" <= character <= "ž" and accents[0] != "\u0328"
    return (
        character
        if " " <= character <= "~" or is_accented or character in "ßæÆøØœŒłŁ"
        else rf"\texttt{{U+{ord(character):04X}}}"
    )


def latex(table: Table) -> str:
    """A `table` environment to `\\input`; needs booktabs, graphicx, textcomp and xcolor. Printed-only rows are grey."""
    lines = []
    for row, line in zip(table.rows, _lines(table), strict=True):
        # A page is narrow: what an undecided row takes is in the sentence below.
        cells = [escape_latex(text) for text in (*line[:-1], re.sub(r"undecided: [^;]*", "undecided", line[-1]))]
        cells[0] = _as_text(cells[0])
        cells = _with_marks(row, cells, r"\textbf{{{}}}")
        if row.is_printed_only:
            cells = [rf"\textcolor{{gray}}{{{cell}}}" for cell in cells]
        if row.is_random_init:
            lines.append(r"\midrule")
        lines.append(" & ".join(cells) + r" \\")
    header = _header(table)
    notes = [escape_latex(text) for text in (*filter(None, [table.sentence]), *table.notes, table.provenance)]
    label = re.sub(r"[^A-Za-z0-9.:-]", "-", table.name)
    columns = "r" * len(table.columns) + ("l" if table.has_verdicts else "")
    return "\n".join(
        [
            r"% \usepackage{booktabs,graphicx,textcomp,xcolor}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(table.caption)}}}",
            rf"\label{{tab:{label}}}",
            # A table wider than the page is made as narrow as it.
            rf"\resizebox{{\ifdim\width>\linewidth\linewidth\else\width\fi}}{{!}}{{\begin{{tabular}}{{l{columns}}}",
            r"\toprule",
            _as_text(" & ".join(escape_latex(text) for text in header)) + r" \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\medskip",
            rf"\parbox{{\linewidth}}{{\footnotesize {' '.join(notes)}}}",
            r"\end{table}",
            "",
        ]
    )


def _as_text(cell: str) -> str:
    """The first cell of a line: the line break or rule before it would take a "[" or "*" for its own argument."""
    return "{}" + cell if cell.startswith(("[", "*")) else cell


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
    return "".join(f"U+{ord(c):04X}" if unicodedata.category(c) in ("Cc", "Cf") else c for c in text)


def _one_line(text: str) -> str:
    return " ".join(text.split())
