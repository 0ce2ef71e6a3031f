"""What a study's page shows: its table with the paper's numbers, its curves and its runs."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from sqlalchemy import Connection, select

from analysis.numbers.agreement import pairs
from analysis.numbers.frame import Frame, records
from analysis.site.curves import Curve, Panel, panels
from analysis.tables.parts import Cell, Column, Kind, Row, Table
from analysis.tables.render import cell_text, row_label
from sweeps.database import series
from sweeps.database.tables import BROKEN, Attempt

MOST_LISTED = 500  # runs in a study's list
MOST_PAGES = 100  # runs of a study with a page of their own among the static files
FEWER_PAGES = 40  # of a study that has more than that
MOST_DRAWN = 72  # runs whose curves are on the study's page
FEWEST_POINTS = 8
MOST_BESIDE = 3  # printed columns between the main metric and the others
SCHEDULES = ("lr", "weight_decay", "ema_decay", "samples_per_second")  # the same for every row; on a run's page
_ORDER = {**dict.fromkeys(("failed", *BROKEN), 0), "running": 1}  # listed first where not all can be

AGREES, OPPOSITE, OPEN = "agrees", "opposite", "open"


@dataclass(frozen=True)
class ShownCell:
    """A cell as a page has it: its words, what it is sorted by, and a hint with the words behind it."""

    text: str
    kind: str
    order: float | None
    hint: str = ""
    hint_text: str = ""
    aside: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class ShownRow:
    label: str
    kind: str  # trained, baseline, random_init, printed_only
    anchor: str
    cells: tuple[ShownCell, ...]
    verdict: str = ""


@dataclass(frozen=True)
class ListedRun:
    """A line in a study's list of runs: every metric, its value and how that is written.

    `key` is empty where it has no page.
    """

    row: str
    column: str
    seed: int
    state: str
    values: tuple[tuple[str, float | None, str], ...]
    seconds: float | None
    error: str
    key: str


@dataclass(frozen=True)
class CurveGroup:
    """All drawings of one metric, on the same axes within a column of the study."""

    metric: str
    panels: tuple[Panel, ...]
    seeds: tuple[int, ...]


# ---- the table -------------------------------------------------------------------------------------------------------


def side_by_side(table: Table, frame: Frame) -> Table:
    """The same table with the printed columns beside the main metric's, before the other metrics.

    Of more than `MOST_BESIDE` only those that ours is compared with, so that no metric is beyond the window's edge.
    """
    kinds = [column.kind for column in table.columns]
    if Kind.difference not in kinds or any(column.col_key for column in table.columns if column.kind is Kind.value):
        return table  # a column's printed numbers stand beside it already
    main = kinds.index(Kind.difference) + 1
    printed = [i for i in range(main, len(kinds)) if kinds[i] is Kind.printed]
    if len(printed) > MOST_BESIDE:
        compared = compared_columns(frame)
        printed = [i for i in printed if table.columns[i].col_key in compared][:MOST_BESIDE]
    order = [*range(main), *printed]
    order += [i for i in range(main, len(kinds)) if kinds[i] is not Kind.printed]
    order += [i for i in range(len(kinds)) if i not in order]
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in order)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[i] for i in order), rows=rows)


def shown_rows(table: Table, frame: Frame) -> list[ShownRow]:
    """The table's rows; beside a printed number its own difference to the baseline, and whether ours has its sign."""
    baselines = {row.col_key: row for row in table.rows if row.is_baseline}
    compared = compared_columns(frame)
    return [
        ShownRow(
            label=row_label(row),
            kind=_kind(row),
            anchor=row.key,
            verdict=row.verdict,
            cells=tuple(
                _shown(table, row, baselines.get(row.col_key), cell, column, compared)
                for cell, column in zip(row.cells, table.columns, strict=True)
            ),
        )
        for row in table.rows
    ]


def _kind(row: Row) -> str:
    if row.is_random_init:
        return "random_init"
    return "printed_only" if row.is_printed_only else "baseline" if row.is_baseline else "trained"


def compared_columns(frame: Frame) -> set[str | None]:
    """Keys of the printed columns that the main metric, whose differences the table shows, stands against."""
    if frame.study.printed is None or frame.study.search(frame.scale) is not None:
        return set()
    # With metrics as columns a study's second axis is in the rows, and its printed column has no key.
    return {
        key for pair in pairs(frame) if pair.metric == frame.metrics[0] for key in (pair.quantity, pair.col_key, None)
    }


def _shown(
    table: Table, row: Row, baseline: Row | None, cell: Cell, column: Column, compared: Collection[str | None]
) -> ShownCell:
    text = cell_text(cell, column)
    if cell.estimate is not None:
        return ShownCell(text, column.kind.value, cell.estimate.mean, is_best=cell.is_best)
    order = _number(cell.text) if column.kind is not Kind.value else None
    if column.kind is not Kind.printed or baseline is None or row is baseline or order is None:
        return ShownCell(text, column.kind.value, order)
    reference = _number(baseline.cells[table.columns.index(column)].text)
    if reference is None:
        return ShownCell(text, column.kind.value, order)
    digits = max(len(found.text.partition(".")[2]) for found in (cell, baseline.cells[table.columns.index(column)]))
    printed = order - reference
    hint, words = _hint(_partner(table, row, column) if column.col_key in compared else None, printed)
    aside = f"{printed:+.{digits}f}".replace("-", "−")
    return ShownCell(text, column.kind.value, order, hint, words, aside)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _partner(table: Table, row: Row, column: Column) -> Cell | None:
    """Our difference that answers to this printed number: of the same column, or the table's only one."""
    differences = [i for i, other in enumerate(table.columns) if other.kind is Kind.difference]
    same = [i for i in differences if column.col_key is not None and table.columns[i].col_key == column.col_key]
    chosen = same or (differences if len(differences) == 1 else [])
    return row.cells[chosen[0]] if chosen else None


def _hint(ours: Cell | None, printed: float) -> tuple[str, str]:
    """Whether our difference to the baseline has the printed one's sign; open where our interval has both signs."""
    if ours is None or ours.estimate is None or printed == 0:
        return "", ""
    if not ours.estimate.excludes_zero:
        return OPEN, "our interval of the difference contains zero: cannot tell"
    if (ours.estimate.mean > 0) == (printed > 0):
        return AGREES, "our difference to the baseline has the printed one's sign"
    return OPPOSITE, "our difference to the baseline has the opposite sign"


# ---- figures ---------------------------------------------------------------------------------------------------------

READING = {
    "line": "Marks: means over seeds, whiskers (bands from six seeds on): their 95 % t-intervals",
    "scatter": "Marks: means over seeds, whiskers: their 95 % t-intervals",
    "bar": "Bars: means over seeds, whiskers: their 95 % t-intervals",
    "point": "Marks: means over seeds, whiskers: their 95 % t-intervals",
    "importance": "What each option's choice explains of the finished trials' differences",
    "contour": "The metric between finished trials, which are marked",
}


def caption(frame: Frame, figure: Mapping[str, Any]) -> str:
    """How a figure is to be read: what a mark and its interval are, and what else is drawn."""
    panels = figure.get("panels") or [{}]
    kinds = dict.fromkeys(str({**figure, **panel}.get("kind", "line")) for panel in panels)
    words = ". ".join(READING[kind] for kind in kinds)
    if not kinds.keys() & {"importance", "contour"}:
        words += "; hollow: printed, or with seeds missing"
        if frame.cells["is_random_init"].any():
            words += "; dashed: the randomly initialised encoder, where the axis reaches it"
    return f"{words}."


# ---- runs ------------------------------------------------------------------------------------------------------------


def listed_ids(frame: Frame, most: int) -> list[int]:
    """The runs to show where not all can be: failed, diverged and collapsed ones, those that run, then the table's."""
    runs = frame.runs.dropna(subset="run_id").drop_duplicates("run_id")
    ranked = runs.assign(rank=runs["state"].map(_ORDER).fillna(2)).sort_values("rank", kind="stable")
    return [int(run_id) for run_id in ranked["run_id"].head(most)]


def listed_runs(frame: Frame, pages: Mapping[int, str]) -> list[ListedRun]:
    """The study's runs, missing ones too, in the table's order; at most `MOST_LISTED`.

    One that two columns share is listed once.
    """
    rows = frame.rows[frame.rows["metric"].isin(frame.metrics)]
    if len(frame.runs) > MOST_LISTED:
        rows = rows[rows["run_id"].isin(listed_ids(frame, MOST_LISTED))]
    found: dict[tuple[str, int, int], list[Any]] = {}
    for row in records(rows):
        found.setdefault((row.row_key, row.config_id, row.seed), []).append(row)
    return [_listed(frame, group, pages) for group in found.values()]


def _listed(frame: Frame, group: Sequence[Any], pages: Mapping[int, str]) -> ListedRun:
    """One run from its rows: a row a metric and column."""
    first = group[0]
    is_run = first.run_id == first.run_id  # not NaN
    values = {row.metric: None if math.isnan(row.value) else float(row.value) for row in group}
    seconds = [float(s) for s in (first.cpu_seconds, first.gpu_seconds) if s == s]
    return ListedRun(
        row=first.row_label,
        column=", ".join(dict.fromkeys(row.col_label for row in group)),
        seed=int(first.seed),
        state=first.state,
        values=tuple(
            (metric, value, "–" if value is None else f"{value:.{frame.study.decimals(metric)}f}")
            for metric, value in values.items()
        ),
        seconds=max(seconds, default=0.0) if is_run else None,
        error=first.error if isinstance(first.error, str) else "",
        key=pages.get(int(first.run_id), "") if is_run else "",
    )


def page_ids(frame: Frame) -> list[int]:
    """The runs of this study that have a page among the static files."""
    ids = listed_ids(frame, MOST_PAGES + 1)
    return ids if len(ids) <= MOST_PAGES else ids[:FEWER_PAGES]


# ---- curves ----------------------------------------------------------------------------------------------------------


def curve_groups(connection: Connection, frame: Frame) -> tuple[list[CurveGroup], int]:
    """The drawings of every metric logged as a curve, and how many runs are left out of them."""
    runs = frame.runs.dropna(subset="run_id")
    runs = runs[~runs["is_random_init"]]
    cells = runs.drop_duplicates(["row_key", "col_key"])
    per_cell = max(1, MOST_DRAWN // max(1, len(cells)))
    drawn = runs.groupby(["row_key", "col_key"], sort=False).head(per_cell).head(MOST_DRAWN)
    ids = [int(run_id) for run_id in drawn["run_id"].drop_duplicates()]
    sizes = series.sizes(connection, ids)
    metrics = sorted({metric for found in sizes.values() for metric, n in found.items() if n >= FEWEST_POINTS})
    wanted = [metric for metric in metrics if metric not in SCHEDULES]
    wanted.sort(key=lambda metric: metric != "loss")
    resumes = _resumes(connection, ids)
    groups = [_group(connection, frame, drawn, metric, ids, resumes) for metric in wanted[:3]]
    num_left_out = runs["run_id"].nunique() - len(ids)
    return [group for group in groups if group.panels], num_left_out


def _group(
    connection: Connection, frame: Frame, drawn: pd.DataFrame, metric: str, ids: Sequence[int],
    resumes: Mapping[int, Sequence[tuple[int, int]]],
) -> CurveGroup:  # fmt: skip
    found = series.read_many(connection, ids, [metric])
    seeds = sorted({int(seed) for seed in drawn["seed"]})
    shown: list[Panel] = []
    for _, column in drawn.groupby("col_order", sort=True):
        groups: dict[str, list[Curve]] = {}
        reference = ""
        for run in records(column[["row_key", "row_label", "col_label", "seed", "run_id"]]):
            label = ", ".join(filter(None, [run.row_label, run.col_label]))
            one = found.get((int(run.run_id), metric))
            if one is None:
                continue
            if run.row_key == frame.study.baseline:
                reference = label
            groups.setdefault(label, []).append(
                Curve(one, seeds.index(run.seed), f"seed {run.seed}", resumes.get(int(run.run_id), ()))
            )
        shown += panels(groups, reference)
    return CurveGroup(metric, tuple(shown), tuple(seeds))


def _resumes(connection: Connection, ids: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """Where later attempts of these runs went on: (attempt, step)."""
    found: dict[int, list[tuple[int, int]]] = {}
    query = select(Attempt.run_id, Attempt.n, Attempt.resume_step).where(
        Attempt.run_id.in_(ids), Attempt.n > 1, Attempt.resume_step.is_not(None)
    )
    for run_id, n, step in connection.execute(query.order_by(Attempt.run_id, Attempt.n)):
        found.setdefault(run_id, []).append((n, int(step or 0)))
    return found
