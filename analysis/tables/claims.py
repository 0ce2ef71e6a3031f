"""What a Markdown page claims, read from its text: `python -m analysis.report check_paper=results/README.md`.

A claim has a comment behind it, which no reader of the rendered page sees, and which names the cells that it tells of:

    66.4 against 65.9 %<!-- ijepa_masking_strategy: random, multiblock ridge/digit_top1 -->
    is better<!-- better masking_ratio: 0.75 long --> by 6.5 ± 3.6 points<!-- difference 0.75 -->

`claim_check` compares them with the tables. A number that looks like a result, or a verdict word, without one is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweeps.console.errors import UserError

VALUE, DIFFERENCE, BELOW, PRINTED, QUOTED = "value", "difference", "below", "printed", "in"
NUMERIC = (DIFFERENCE, BELOW, PRINTED)  # VALUE has no word in a mark
VERDICTS = ("better", "worse", "higher", "lower", "same", "undecided")

_VALUE = r"[+−-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_NUMBER = re.compile(rf"(?<![\w.,]){_VALUE}(?:\s±\s\d+(?:\.\d+)?)?(?!\w)")
_LIST = rf"(?:(?:,|;)?(?:\s(?:and|or|to|against))?\s{_VALUE})*"  # "32, 33 and 34 %" is three numbers of one unit
_UNIT = re.compile(rf"{_LIST}\s?(?:%|points?\b|times\b|ms\b)")
_PERCENT = re.compile(rf"{_LIST}\s?%")
_WORD = re.compile(r"\b(?:better|worse|undecided)\b")
_MARK = re.compile(r"<!--(.*?)-->", re.DOTALL)
_TOKEN = re.compile(r'"([^"]*)"|(,)|([^\s,"]+)')
_PARAGRAPH = re.compile(r"^\|.*$|(?:^(?!\|)(?=.*\S).*(?:\n|\Z))+", re.MULTILINE)
# What holds no result: code, where a link leads, and which table or figure of a paper is meant.
_NO_PROSE = re.compile(
    r"^```.*?^```|`(?:[^`\n]|\n(?!\n))*`|(?<=\])\([^)\s]*\)"
    r"|\b(?:Figures?|Tables?|[Ss]ections?)\s\d[\w.]*(?:(?:,|\sand|,\sand|\sto)\s\d[\w.]*)*",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Cell:
    """A cell as a mark names it. `before` is the column of the mark before, for one that names none itself."""

    study: str
    row: str  # its key, or its label
    column: str = ""
    before: str = ""
    seed: int | None = None

    def __str__(self) -> str:
        seed = "" if self.seed is None else f"seed={self.seed}"
        return " ".join(filter(None, [f"{self.study}:", self.row, self.column or self.before, seed]))


@dataclass(frozen=True)
class Claim:
    """A number or a phrase, where it stands, and what it is said to come from: cells, or lines of another file."""

    place: str  # "results/README.md:41"
    text: str
    kind: str
    cells: tuple[Cell, ...] = ()
    operator: str = ""  # "-" or "/" between two cells
    is_percent: bool = False
    file: str = ""
    phrase: str = ""  # in the lines of `file` that are meant

    def __str__(self) -> str:
        word = "" if self.kind == VALUE else f"{self.kind} "
        named = f" {self.operator} ".join(map(str, self.cells)) or f"{self.file}: {self.phrase}"
        return f'{self.place}: "{self.text}" ({word}{named})'


@dataclass
class Page:
    """A page's claims in their order, what is wrong before any table is looked at, and what it leaves unchecked."""

    claims: list[Claim] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)


def read(path: Path) -> Page:
    """Raises UserError where the page cannot be read, or claims nothing: a check of nothing passes nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"check_paper={path}: cannot be read: {reason}") from None
    page, source = Page(), _without(_NO_PROSE, text)
    for match in _PARAGRAPH.finditer(source):
        _Paragraph(page, path, match[0], source.count("\n", 0, match.start()) + 1).read()
    if not page.claims and not page.wrong:
        raise UserError(f"check_paper={path}: no number is marked; mark one with 61.4<!-- study: row metric -->")
    return page


def _without(pattern: re.Pattern[str], text: str) -> str:
    """`text` with spaces for what matches: all else keeps its place."""
    return pattern.sub(lambda match: re.sub(r"\S", " ", match[0]), text)


class _Paragraph:
    """One paragraph, list or line of a table. A mark leaves out what the mark before it in the paragraph has named."""

    def __init__(self, page: Page, path: Path, text: str, line: int) -> None:
        self.page, self.path, self.text, self.line = page, path, text, line
        self.prose = _without(_MARK, text)
        self.numbers = list(_NUMBER.finditer(self.prose))
        self.bound: set[int] = set()  # where numbers and verdict words start that a mark tells of
        self.since = 0  # the end of the last mark that took numbers
        self.study = ""
        self.columns = {False: "", True: ""}  # of the table's own numbers, and of printed ones

    def read(self) -> None:
        unchecked: list[tuple[int, str]] = []
        for mark in _MARK.finditer(self.text):
            body = " ".join(mark[1].split())
            if body.startswith("unchecked:"):
                said = (text.strip() for text in body.removeprefix("unchecked:").split(";"))
                unchecked += [(mark.start(), text) for text in said if text]
            elif quoted := re.fullmatch(r"in (\S+): (.+)", body):
                for number in self._free(mark.start()):
                    self._claim(number, QUOTED, file=quoted[1], phrase=quoted[2])
                self.since = mark.end()
            else:
                try:
                    self._cells(mark, body)
                except ValueError as error:
                    self.page.wrong.append(f"{self._place(mark.start())}: <!-- {body} -->: {error}")
                    self.bound |= {number.start() for number in self._free(mark.start())[-1:]}  # said once
        for start, text in unchecked:
            self._excuse(start, text)
        self._forgotten()

    def _cells(self, mark: re.Match[str], body: str) -> None:
        tokens = [match[1] if match[1] is not None else match[0] for match in _TOKEN.finditer(body)]
        kind = tokens.pop(0) if tokens and tokens[0] in (*NUMERIC, *VERDICTS) else VALUE
        items = [self._item(item, kind == PRINTED) for item in _split(tokens)]
        if kind not in (VALUE, PRINTED) and any(operator for _, operator in items):
            raise ValueError(f"- and / stand between two numbers of a table or of a paper, not behind {kind!r}")
        columns = [cell.column for cells, _ in items for cell in cells if cell.column]
        if columns:  # the first that is named holds for those before it as well: `random, multiblock ridge/digit_top1`
            items = list(_filled(items, columns[0]))
            self.columns[kind == PRINTED] = columns[-1]
        if kind in VERDICTS:
            self._verdict(mark, kind, [cell for cells, _ in items for cell in cells])
            return
        found = self._free(mark.start())[-len(items) :]
        if len(found) < len(items):
            raise ValueError(f"it names {len(items)} cells, and {len(found)} numbers stand before it")
        for number, (cells, operator) in zip(found, items, strict=True):
            self._claim(number, kind, cells=cells, operator=operator)
        self.since = mark.end()

    def _item(self, words: list[str], is_printed: bool) -> tuple[tuple[Cell, ...], str]:
        """One cell, or two with an operator between them."""
        signs = [i for i, word in enumerate(words) if word in ("-", "/")]
        parts = [words[: signs[0]], words[signs[0] + 1 :]] if len(signs) == 1 else [words]
        return tuple(self._cell(part, is_printed) for part in parts), words[signs[0]] if len(parts) == 2 else ""

    def _cell(self, words: list[str], is_printed: bool) -> Cell:
        if words and words[0].endswith(":"):
            self.study, self.columns = words[0][:-1], {False: "", True: ""}
            words = words[1:]
        seeds = [word for word in words if re.fullmatch(r"seed=\d+", word)]
        names = [word for word in words if word not in seeds]
        if not self.study:
            raise ValueError("the first mark of a paragraph names its study: <!-- study: row metric -->")
        if not 1 <= len(names) <= 2 or len(seeds) > 1:
            raise ValueError(f"a cell is a row and at most a column, found: {' '.join(words) or 'nothing'}")
        column = names[1] if len(names) == 2 else ""
        seed = int(seeds[0].removeprefix("seed=")) if seeds else None
        return Cell(self.study, names[0], column, self.columns[is_printed], seed)

    def _verdict(self, mark: re.Match[str], kind: str, cells: list[Cell]) -> None:
        before = self.prose[: mark.start()].rstrip()
        said = next((word for word in _WORD.finditer(before) if word.end() == len(before)), None)
        if said:
            self.bound.add(said.start())
            if said[0] != kind:
                raise ValueError(f'"{said[0]}" stands before it')
        text = " ".join(before.split()[-3:])
        self.page.claims += [Claim(self._place(mark.start()), text, kind, (cell,)) for cell in cells]

    def _claim(
        self, number: re.Match[str], kind: str, *, cells: tuple[Cell, ...] = (), operator: str = "", file: str = "",
        phrase: str = "",
    ) -> None:  # fmt: skip
        self.bound.add(number.start())
        is_percent = _PERCENT.match(self.prose, number.end()) is not None
        place, text = self._place(number.start()), " ".join(number[0].split())
        self.page.claims.append(Claim(place, text, kind, cells, operator, is_percent, file, phrase))

    def _free(self, end: int) -> list[re.Match[str]]:
        return [number for number in self.numbers if self.since <= number.start() and number.end() <= end]

    def _excuse(self, start: int, text: str) -> None:
        """What the page says to be no result of a table: a setting, the paper's words."""
        words = r"\s+".join(map(re.escape, text.split()))
        found = list(re.finditer(rf"(?<![\w.]){words}(?!\w|\.\d)", self.prose))
        if "±" in text or not found:
            reason = (
                "an interval is always of a table: name its cell" if "±" in text else "the paragraph does not say it"
            )
            self.page.wrong.append(f'{self._place(start)}: unchecked "{text}": {reason}')
            return
        self.page.unchecked.append(text)
        for match in found:
            told = (*self.numbers, *_WORD.finditer(self.prose))
            self.bound |= {one.start() for one in told if match.start() <= one.start() < match.end()}

    def _forgotten(self) -> None:
        for number in self.numbers:
            looks_so = set("±.") & set(number[0]) or _UNIT.match(self.prose, number.end())
            if looks_so and number.start() not in self.bound:
                self._unbound(number)
        for word in _WORD.finditer(self.prose):
            if word.start() not in self.bound:
                self._unbound(word)

    def _unbound(self, match: re.Match[str]) -> None:
        text = " ".join(match[0].split())
        kind = f"{text} " if match.re is _WORD else ""
        line = " ".join(self.prose[max(match.start() - 30, 0) : match.end() + 10].split())
        self.page.wrong.append(
            f'{self._place(match.start())}: "{text}" names no cell (in: {line}); add <!-- {kind}study: row metric --> '
            f"behind it, or <!-- unchecked: {text} --> where no table has it"
        )

    def _place(self, position: int) -> str:
        return f"{self.path}:{self.line + self.text.count(chr(10), 0, position)}"


def _split(tokens: list[str]) -> Iterator[list[str]]:
    item: list[str] = []
    for token in tokens:
        if token == ",":
            yield item
            item = []
        else:
            item.append(token)
    yield item


def _filled(items: list[tuple[tuple[Cell, ...], str]], column: str) -> Iterator[tuple[tuple[Cell, ...], str]]:
    """`items` with a column for every cell: its own, or the one before it."""
    for cells, operator in items:
        own = []
        for cell in cells:
            column = cell.column or column
            own.append(replace(cell, column=column))
        yield tuple(own), operator
