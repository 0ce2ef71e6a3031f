"""A page's claims beside the tables that they name: one line for each that says something else than its table does."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Engine, select

from analysis.numbers.stats import Estimate, mean_interval
from analysis.tables.claims import BELOW, DIFFERENCE, PRINTED, QUOTED, VERDICTS, Cell, Claim, Page
from analysis.tables.paper_check import compare, numbers_of, unknown
from sweeps.database.tables import CellRow, Result, RunRow, StudyRow

_MEAN, _PRINTED = ".mean", ".printed"
_PARTIAL = re.compile(r"\d+/\d+ seeds")  # how a table says that a mean is not of all seeds
_VERDICT = re.compile(rf"(?:.*?: )??({'|'.join(VERDICTS)})\b")
_SOURCE = "the table has"
_MOST_SHOWN = 200  # characters of a line


class Unknown(Exception):
    """A claim names what is not there."""


@dataclass(frozen=True)
class Table:
    """A study's CSV file, as it was read."""

    header: list[str]
    rows: list[dict[str, str]]

    @cached_property
    def differences(self) -> dict[str, str]:
        """The column of differences of each column that has one; a searched study names it the other way round."""
        found = {}
        for name in self._with(_MEAN):
            if name.endswith(".difference"):
                found[name.removesuffix(".difference")] = name
            elif name.startswith("difference/"):
                found[name.removeprefix("difference/")] = name
        return found

    @property
    def columns(self) -> list[str]:
        return [name for name in self._with(_MEAN) if name not in self.differences.values()]

    @property
    def printed(self) -> list[str]:
        return ["printed"] if "printed" in self.header else self._with(_PRINTED)

    def row(self, name: str) -> dict[str, str]:
        found = [row for row in self.rows if name in (row["row_key"], row["row"])]
        if len(found) == 1:
            return found[0]
        if found:  # a line a column of the study: only their labels differ
            labels = " or ".join(f'"{row["row"]}"' for row in found)
            raise Unknown(f"{len(found)} rows are called {name!r}; say which by its label: {labels}")
        raise Unknown(unknown("row", name, list(dict.fromkeys(row["row_key"] for row in self.rows)), where="the table"))

    def _with(self, ending: str) -> list[str]:
        return [name.removesuffix(ending) for name in self.header if name.endswith(ending)]


class Checker:
    """Looks claims up: in the tables of a results folder, in files beside the page, and among recorded results."""

    def __init__(self, engine: Engine, tables: Path, page: Path) -> None:
        self.engine, self.folder, self.page = engine, tables, page
        self.tables: dict[str, Table] = {}

    def differences(self, page: Page) -> list[str]:
        """What is wrong with the page's marks, and a line a claim that its table does not make."""
        found = list(page.wrong)
        for claim in page.claims:
            try:
                reason = self._reason(claim)
            except Unknown as error:
                reason = str(error)
            if reason:
                found.append(f"{claim}: {reason}")
        return found

    def _reason(self, claim: Claim) -> str:
        if claim.kind in VERDICTS:
            return self._verdict(claim)
        numbers = numbers_of(claim.text.replace(",", ""))
        if numbers is None:
            return "not a number, nor a number ± a half-width"
        if claim.kind == QUOTED:
            return self._quoted(claim, numbers)
        estimates = [self._estimate(claim.kind, cell) for cell in claim.cells]
        if len(estimates) == 2:
            first, second = (estimate.mean for estimate in estimates)
            if claim.operator == "/" and second == 0:
                return "the second cell is 0"
            mean = first - second if claim.operator == "-" else first / second
            return compare(numbers, Estimate(mean, math.nan, math.nan, 1), _SOURCE)
        scale = 100 if claim.is_percent and self._is_share(claim.cells[0]) else 1
        scale = -scale if claim.kind == BELOW else scale
        one = estimates[0]
        low, high = sorted((scale * one.low, scale * one.high))
        return compare(numbers, Estimate(scale * one.mean, low, high, one.num_seeds), _SOURCE)

    def _quoted(self, claim: Claim, numbers: tuple[str, ...]) -> str:
        path = self.page.parent / claim.file
        if not path.is_file():
            return f"{path} is not there"
        text = path.read_text(encoding="utf-8").replace("\\", "").replace("−", "-")
        lines = [line for line in text.splitlines() if claim.phrase in line]
        if not lines:
            return f"no line of {path} has these words"
        there = re.findall(r"-?\d+(?:\.\d+)?", " ".join(lines).replace(",", ""))
        if all(number.lstrip("+") in there for number in numbers):
            return ""
        return f"{path} has: {lines[0].strip()[:_MOST_SHOWN]}"

    # ---- cells -------------------------------------------------------------------------------------------------------

    def _table(self, study: str) -> Table:
        if study not in self.tables:
            path = self.folder / f"{study}.csv"
            if not path.is_file():
                known = sorted(path.stem for path in self.folder.glob("*.csv"))
                raise Unknown(unknown("study", study, known, where=str(self.folder)))
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                self.tables[study] = Table(list(reader.fieldnames or ()), list(reader))
        return self.tables[study]

    def _is_share(self, cell: Cell) -> bool:
        """Whether the column counts from 0 to 1, where a page says per cent: a share, or a setting of a search."""
        column = cell.column or cell.before
        return column.endswith("_share") or column in self._table(cell.study).header

    def _estimate(self, kind: str, cell: Cell) -> Estimate:
        table = self._table(cell.study)
        row = table.row(cell.row)
        if kind == PRINTED:
            return self._printed(table, row, cell)
        column = cell.column or cell.before or table.columns[0]
        if kind in (DIFFERENCE, BELOW):
            if column not in table.differences:
                raise Unknown(unknown("difference in", column, list(table.differences), where="the table"))
            column = table.differences[column]
        elif cell.seed is not None or column + _MEAN not in table.header:
            if column not in table.header:
                return self._recorded(row["row_key"], column, cell, table)
            return Estimate(_number(row[column]), math.nan, math.nan, 1)
        return _estimate(row, column)

    def _printed(self, table: Table, row: dict[str, str], cell: Cell) -> Estimate:
        name = cell.column or (cell.before if cell.before in table.printed else "")
        if not name and len(table.printed) == 1:
            name = table.printed[0]
        if name not in table.printed:
            raise Unknown(unknown("printed", name, table.printed, where="the table"))
        return Estimate(_number(row["printed" if name == "printed" else name + _PRINTED]), math.nan, math.nan, 1)

    def _recorded(self, row_key: str, metric: str, cell: Cell, table: Table) -> Estimate:
        """Of what no table shows: one seed's number, and evaluations that were made later (`vos@davis/jf`)."""
        query = (
            select(CellRow.revision, RunRow.seed, CellRow.col_key, Result.value)
            .join(RunRow, RunRow.id == Result.run_id)
            .join(CellRow, CellRow.config_id == RunRow.config_id)
            .join(StudyRow, StudyRow.id == CellRow.study_id)
            .where(StudyRow.name == cell.study, CellRow.row_key == row_key, RunRow.state == "done")
            .where(Result.metric == metric, Result.agg == "final")
            .order_by(RunRow.code_epoch)  # the newest says last what a seed's number is
        )
        with self.engine.connect() as connection:
            found = connection.execute(query).fetchall()
        # A row that was changed since may still be told of, as it was when it was last evaluated so.
        newest = max((one.revision for one in found), default=0)
        found = [one for one in found if one.revision == newest]
        if len({one.col_key for one in found}) > 1:
            raise Unknown(f"{metric} is of several columns of the study: only a number of its table can be named")
        values = {one.seed: one.value for one in found if cell.seed in (None, one.seed)}
        if not values:
            raise Unknown(unknown("column", metric, table.columns, where="the table"))
        return mean_interval(list(values.values()))

    def _verdict(self, claim: Claim) -> str:
        (cell,) = claim.cells
        table = self._table(cell.study)
        row = table.row(cell.row)
        names = list(table.differences)
        column = cell.column or (cell.before if cell.before in names else "")
        if not column and len(names) == 1:
            column = names[0]
        if column not in names:
            raise Unknown(unknown("verdict on", column, names, where="the table"))
        # A line of several columns has their verdicts in their order, each behind its column's label.
        own = [name for name in names if row[table.differences[name] + _MEAN]]
        told = row["verdict"].split("; ") if row["verdict"] else []
        texts = dict(zip(own, told, strict=False)) if len(own) == len(told) else {}
        text = texts.get(column, "")
        kind = _VERDICT.match(text)
        if kind is None:
            return f"the table has no verdict of this row{': ' + row['kind'] if row['kind'] != 'trained' else ''}"
        return "" if kind[1] == claim.kind else f"{_SOURCE}: {text}"


def _estimate(row: dict[str, str], column: str) -> Estimate:
    note = row[f"{column}.note"]
    if not row[column + _MEAN] or _PARTIAL.search(note):
        raise Unknown(f"{_SOURCE} no whole number there: {note or 'nothing'}")
    low, high = (float(row[f"{column}.{end}"] or math.nan) for end in ("low", "high"))
    return Estimate(float(row[column + _MEAN]), low, high, int(row[f"{column}.seeds"]))


def _number(text: str) -> float:
    try:
        return float(text.removeprefix("'"))
    except ValueError:
        raise Unknown(f"{_SOURCE} no number there: {text or 'nothing'}") from None
