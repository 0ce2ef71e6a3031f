"""A table as LaTeX, which a paper takes by `\\input`: floats of blocks that its columns and pages have room for."""

from __future__ import annotations

import math
import re
import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from itertools import chain

from analysis.numbers.comparing import ROWS_DIFFER
from analysis.tables.parts import PRINTED, Column, Row, Table
from analysis.tables.render import NOTHING, PRINTED_ONLY, header_of, lines_of, one_line, with_marks
from sweeps.answers.collapse import MARK
from sweeps.answers.plateau import MARK as PLATEAU

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
    return "".join(map(_latex_character, one_line(text)))


@cache
def _latex_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    base, *accents = list(unicodedata.normalize("NFD", character))
    # The default font encoding OT1 has every accent of Latin letters but the ogonek.
    is_accented = len(accents) == 1 and base.isascii() and "À" <= character <= "ž" and accents[0] != "\u0328"
    return (
        character
        if " " <= character <= "~" or is_accented or character in "ßæÆøØœŒłŁ"
        else rf"\texttt{{U+{ord(character):04X}}}"
    )


@dataclass(frozen=True)
class Style:
    """Of all LaTeX of a report: what stands below a table, one of NOTES, and for which article it is, of ARTICLES."""

    notes: str = "short"
    article: str = "two_column"


PASTED = Style()


def latex(table: Table, style: Style = PASTED) -> str:
    """A `table` environment to `\\input`; needs booktabs, textcomp and xcolor. Printed-only rows are grey.

    Type is never smaller than \\footnotesize, 8 points in a paper of 10: what is wider than one of two columns is a
    `table*` over both, what is wider than the page is cut into blocks below one another, each with the rows' labels,
    and what is taller than a page goes on in a float of the same number.
    """
    table = _chosen(table)
    lines = lines_of(table)
    # A page is narrow: what an undecided row takes is in the sentence below.
    lines = [[*line[:-1], re.sub(r"undecided: [^;]*", "undecided", line[-1])] for line in lines]
    if style.notes == "short":  # which says what is grey
        lines = [[line[0].removesuffix(f" ({PRINTED_ONLY})"), *line[1:]] for line in lines]
    header = header_of(table)
    longest = [LONGEST, *[HEADER] * (len(header) - 1)]  # of a header's lines: labels below the first are as long
    broken = [[piece for line in lines for piece in _broken(line[place], LONGEST)] for place in range(len(header))]
    widths = [max(map(len, [*_broken(header[i], longest[i]), *pieces])) for i, pieces in enumerate(broken)]
    is_wide = style.article == "two_column" and sum(widths) + GAP * len(widths) > COLUMN
    blocks = _blocks(widths, PAGE if is_wide else ARTICLES[style.article])
    sides = ["l" if place == 0 or place > len(table.columns) else "r" for place in range(len(header))]
    cells = [_latex_row(row, line, sides) for row, line in zip(table.rows, lines, strict=True)]
    pieces = [piece for places in blocks for piece in _pieces(table, header, lines, cells, sides, places)]
    environment = "table*" if is_wide else "table"
    said = [escape_latex(text) for text in _latex_notes(table, style.notes)]
    floats = _floats(pieces)
    num_lines = math.ceil(len(" ".join(said)) / (RUNNING * (PAGE if is_wide else ARTICLES[style.article])))
    if sum(piece.height for piece in floats[-1]) + num_lines - NOTES_LINES > TALLEST:
        floats.append([])  # of the notes alone
    found = [r"% \usepackage{booktabs,textcomp,xcolor}"]
    for number, own in enumerate(floats):
        is_last = number == len(floats) - 1
        found += [
            rf"\begin{{{environment}}}",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            *_caption(table, is_continued=number > 0),
            *chain.from_iterable(_latex_block(piece, is_filled=len(pieces) > 1) for piece in own),
            *(
                [r"\par\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {' '.join(said)}}}"]
                if said and is_last
                else []
            ),
            rf"\end{{{environment}}}",
        ]
    return "\n".join([*found, ""])


def _chosen(table: Table) -> Table:
    """The table with the columns that its study wants in LaTeX: the main metric's, and those that it names."""
    if table.latex is None or not table.columns:
        return table
    main, patterns = table.columns[0].metric, table.latex

    def is_kept(column: Column) -> bool:
        names = (column.metric, column.key, column.col_key or "")
        return column.metric == main or any(fnmatchcase(name, one) for name in names for one in patterns)

    kept = [place for place, column in enumerate(table.columns) if is_kept(column)]
    rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows)


def _caption(table: Table, *, is_continued: bool) -> list[str]:
    caption = escape_latex(table.caption)
    if is_continued:
        return [r"\addtocounter{table}{-1}", rf"\caption[]{{{caption} (continued)}}"]
    return [rf"\caption{{{caption}}}", rf"\label{{tab:{re.sub(r'[^A-Za-z0-9.:-]', '-', table.name)}}}"]


# In letters of \footnotesize, about 4.3 points each, and a twelfth spared for words that have wider ones: a column of a
# two-column paper of 10 points, both columns with the gap between them (452 points on A4, 469 on US letter), and a
# paper of one column (345 points in the article class and LNCS, 397 at ICLR and NeurIPS).
COLUMN, PAGE, SINGLE, GAP = 50, 97, 74, 2
ARTICLES = {"two_column": COLUMN, "one_column": SINGLE}
HEADER, LONGEST = 14, 22  # what is longer is broken into lines
RUNNING = 1.3  # letters of running text where a table has room for one
NOTES_LINES = 4  # that TALLEST leaves room for
TALLEST, RULES = 48, 4  # lines of a page, with its caption and notes, and what the rules of a block take of them
NOTES = ("short", "full", "none")


def _latex_notes(table: Table, notes: str) -> list[str]:
    """`short`: what a number and each mark is, and where they come from, in a line; `full` what the Markdown says."""
    if notes == "none":
        return []
    if notes == "full":
        return [*filter(None, [table.sentence]), *table.notes, table.provenance]
    what = f"{table.intervals}. " if table.intervals else ""
    cells = [cell for row in table.rows for cell in row.cells]
    marks = {
        "bold: best, no interval overlaps its": any(cell.is_best for cell in cells),
        "*: p < .05, sign-flip test, Holm": any(cell.is_significant for cell in cells),
        f"{MARK}: features collapsed or as untrained": any(row.collapse for row in table.rows),
        f"{PLATEAU}: a plateau of the loss left late, or not": any(row.plateau for row in table.rows),
        f"grey: {PRINTED_ONLY}": any(row.is_printed_only for row in table.rows),
    }
    told = "; ".join(words for words, is_used in marks.items() if is_used)
    # Else the rows seem to differ in less, and what is printed to be of the same data.
    also = [note for note in table.notes if note.startswith((ROWS_DIFFER, PRINTED))]
    return [
        *filter(None, [table.caveat]),
        *also,
        f"{what}{told[:1].upper()}{told[1:]}{'. ' if told else ''}Scale {table.scale}, database digest {table.digest}.",
    ]


# A mark stays with what it marks, "±" with both of its numbers: alone on a line it would be read as of another row.
_BOUND = re.compile(rf" (?=[{MARK}{PLATEAU}*±](?:\s|$))|(?<=±) ")


def _broken(text: str, most: int) -> list[str]:
    """`text` in lines of at most `most` letters, or one word."""
    if len(text) <= most and text and " ".join(text.split()) == text:  # most cells: `wrap` takes ten times as long
        return [text]
    bound = _BOUND.sub("\N{NO-BREAK SPACE}", text)
    return textwrap.wrap(bound, most, break_long_words=False, break_on_hyphens=False) or [""]


def _blocks(widths: Sequence[int], most: int) -> list[list[int]]:
    """The columns after the rows' labels, in as few blocks as have room for them beside the labels, and then as evenly
    as they go: no block of one column below one of eight."""
    found = _filled(widths, most)
    # Where each column has a block of its own, no width makes more of them.
    for narrower in range(most - 1, max(widths), -1):
        if len(blocks := _filled(widths, narrower)) > len(found):
            break
        found = blocks
    return found


def _filled(widths: Sequence[int], most: int) -> list[list[int]]:
    """Each block as full as it goes."""
    blocks: list[list[int]] = [[]]
    room = most - widths[0]
    for place, width in enumerate(widths[1:], 1):
        if blocks[-1] and room < width + GAP:
            blocks.append([])
            room = most - widths[0]
        blocks[-1].append(place)
        room -= width + GAP
    return blocks


@dataclass(frozen=True)
class _Piece:
    """A `tabular` that a page has room for: some columns of the table and some of its rows."""

    columns: str
    header: str
    rows: tuple[str, ...]
    height: int  # in lines


def _latex_row(row: Row, line: Sequence[str], sides: Sequence[str]) -> list[str]:
    """The line's cells as LaTeX has them."""
    cells = [_stacked(text, LONGEST, side) for text, side in zip(line, sides, strict=False)]
    cells = with_marks(row, cells, r"\textbf{{{}}}")
    cells[0] = _as_text(cells[0])
    return [rf"\textcolor{{gray}}{{{cell}}}" for cell in cells] if row.is_printed_only else cells


def _pieces(
    table: Table, header: Sequence[str], lines: Sequence[Sequence[str]], cells: Sequence[Sequence[str]],
    sides: Sequence[str], places: Sequence[int],
) -> list[_Piece]:  # fmt: skip
    """These columns, in as many pieces as their rows take; a row that has no cell in any of them is left out."""
    kept = [0, *places]
    columns = "".join(sides[place] for place in kept)
    longest = [LONGEST, *[HEADER] * len(places)]
    heads = list(zip(kept, longest, strict=True))
    head = _as_text(" & ".join(_stacked(header[place], most, sides[place]) for place, most in heads)) + r" \\"
    most = TALLEST - RULES - max(len(_broken(header[place], most)) for place, most in heads)
    pieces: list[_Piece] = []
    rows: list[str] = []
    height = 0
    for row, line, written in zip(table.rows, lines, cells, strict=True):
        if not any(line[place] not in ("", NOTHING) for place in places):
            continue
        tall = max(len(_broken(line[place], LONGEST)) for place in kept)
        if rows and height + tall > most:
            pieces.append(_Piece(columns, head, tuple(rows), height + TALLEST - most))
            rows, height = [], 0
        rows += [r"\midrule"] if row.is_random_init and rows else []
        rows.append(" & ".join(written[place] for place in kept) + r" \\")
        height += tall
    return [*pieces, _Piece(columns, head, tuple(rows), height + TALLEST - most)]


def _floats(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    """Pieces below one another, as many as a page has room for."""
    floats: list[list[_Piece]] = [[]]
    for piece in pieces:
        if floats[-1] and sum(other.height for other in floats[-1]) + piece.height > TALLEST:
            floats.append([])
        floats[-1].append(piece)
    return floats


def _latex_block(piece: _Piece, *, is_filled: bool) -> list[str]:
    """`is_filled`: as wide as the float, so that blocks below one another end alike."""
    name, size, fill = ("tabular*", r"{\linewidth}", r"@{\extracolsep{\fill}}") if is_filled else ("tabular", "", "")
    return [
        r"\par\medskip",
        rf"\begin{{{name}}}{size}{{{fill}{piece.columns}}}",
        r"\toprule",
        piece.header,
        r"\midrule",
        *piece.rows,
        r"\bottomrule",
        rf"\end{{{name}}}",
    ]


def _stacked(text: str, most: int, side: str) -> str:
    """Text of more than one line in a cell."""
    pieces = [escape_latex(piece) for piece in _broken(text, most)]
    # Numbers stand beside a label's last line: its others are seen to go on there.
    pieces[1:] = [r"\quad " + piece if side == "l" else _as_text(piece) for piece in pieces[1:]]
    # The strut keeps the first line as far from the row above as any row is.
    return pieces[0] if len(pieces) == 1 else rf"\shortstack[{side}]{{\strut " + r" \\ ".join(pieces) + "}"


def _as_text(cell: str) -> str:
    """The first cell of a line: the line break or rule before it would take a "[" or "*" for its own argument."""
    return "{}" + cell if cell.startswith(("[", "*")) else cell
