"""A study's table as data: rows, columns and cells, before anything is formatted. `render` turns it into text.

A star stands where an exact test, corrected for the table's size, allows it; a mean is bold where its interval overlaps
no other's. With three seeds neither is common, and the notes say why.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.numbers import collapse, comparing, plateau
from analysis.numbers.frame import Frame, Runs, records
from analysis.numbers.provenance import provenance
from analysis.numbers.stats import (
    CONFIDENCE,
    Comparison,
    Estimate,
    mean_interval,
    shared_differences,
    sign_flip_p,
)
from analysis.tables.marks import notes_of, printed_metric, with_best, with_stars
from analysis.tables.parts import Cell, Column, Kind, Row, Table
from sweeps.database.tables import BROKEN
from sweeps.study.metric_words import describe, metric_words, option_words


@dataclass(frozen=True)
class _Place:
    """Where a line of the table reads its runs: with the metrics as columns, each column level is its own line."""

    row_key: str
    col_key: str | None
    label: str
    is_random_init: bool = False


def build(frame: Frame) -> Table:
    """Lay the study out as its `table:` section says.

    With `columns: columns` (the default when the study has a second axis) a column is a level of that axis, in a
    block for every metric; with `columns: metrics` a column is a metric and each level of a second axis is a line of
    its own.
    """
    by_level = bool(frame.study.columns) and frame.study.table.get("columns", "columns") == "columns"
    places = _places(frame, by_level)
    columns = _columns(frame, places, by_level)
    columns = [replace(column, digits=frame.study.decimals(column.metric)) for column in columns]
    compared = {key: comparing.of_column(frame, key, frame.metrics[0]) for key in _compared_columns(frame, columns)}
    rows = [_trained_row(frame, place, columns, compared) for place in places]
    told = comparing.verdicts(frame, compared)
    rows = [
        replace(row, verdict=told.get((row.key, place.col_key), "")) for row, place in zip(rows, places, strict=True)
    ]
    if frame.study.printed:
        rows += [_printed_only_row(frame, place, columns) for place in _printed_places(frame, by_level)]
    rows, about_best = with_best(with_stars(rows), columns, frame.metrics[0])
    return Table(
        name=frame.name,
        title=frame.study.title,
        caption=str(frame.study.table.get("caption") or frame.study.title),
        row_header=_row_header(frame, by_level),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple([*notes_of(frame, columns, rows, compared), *about_best]),
        provenance=provenance(frame),
        digest=frame.digest,
        scale=frame.scale,
        sentence=comparing.sentence_of(frame, compared),
        caveat=frame.study.spec.get("caveat", ""),
        latex=_in_latex(frame),
        level=rule.confidence if (rule := frame.study.seed_rule(frame.scale)) else CONFIDENCE,
    )


def _in_latex(frame: Frame) -> tuple[str, ...] | None:
    """What `table.latex` names; `{label}` stands for whatever label the data has."""
    names = frame.study.table.get("latex")
    return None if names is None else tuple(re.sub(r"{labels?}", "*", name) for name in names)


def _row_header(frame: Frame, by_level: bool) -> str:
    """The corner of the table: both axes' names, `rows \\ columns` where each has a side of its own."""
    rows, columns = (option_words(axis) if axis else "" for axis in (frame.study.row_axis, frame.study.col_axis))
    rows = rows or "row"
    return f"{rows} \\ {columns}" if columns and by_level else ", ".join(filter(None, [rows, columns]))


# ---- layout ------------------------------------------------------------------------------------------------------


def _places(frame: Frame, by_level: bool) -> list[_Place]:
    cells = frame.cells
    if by_level:
        # A random-init cell may stand in one column only; it is still one line.
        lines = cells.drop_duplicates("row_key")
        places = [_Place(c.row_key, None, c.row_label, c.is_random_init) for c in records(lines)]
    else:
        places = [
            _Place(c.row_key, c.col_key, ", ".join(filter(None, [c.row_label, c.col_label])), c.is_random_init)
            for c in records(cells)
        ]
    return sorted(places, key=lambda place: place.is_random_init)  # stable: the study's order, reference last


def _columns(frame: Frame, places: list[_Place], by_level: bool) -> list[Column]:
    has_difference = len(places) > 1
    columns: list[Column] = []
    if by_level:
        for number, level in [(n, level) for n in range(len(frame.metrics)) for level in frame.study.columns]:
            # A block a metric; only the main one, the first, has differences and stands beside the printed numbers.
            metric = frame.metrics[number]
            label = f"{metric_words(metric)}: {level.label}" if len(frame.metrics) > 1 else level.label
            columns.append(
                Column(f"{level.key}.{metric}" if number else level.key, label, Kind.value, metric, level.key)
            )
            if number:
                continue
            if has_difference:
                columns.append(
                    Column(f"{level.key}.difference", f"Δ {level.label}", Kind.difference, metric, level.key)
                )
            if level.key in _printed_keys(frame):
                columns.append(Column(f"{level.key}.printed", f"printed: {level.label}", Kind.printed, "", level.key))
        return columns
    for number, metric in enumerate(frame.metrics):
        columns.append(Column(metric, metric_words(metric), Kind.value, metric))
        if has_difference and number == 0:
            columns.append(Column(f"{metric}.difference", "Δ baseline", Kind.difference, metric))
    if frame.study.columns and _printed_keys(frame):
        columns.append(Column("printed", f"printed: {printed_metric(frame)}", Kind.printed))
    elif frame.study.printed:
        columns += [
            Column(f"{key}.printed", f"printed: {key or printed_metric(frame)}", Kind.printed, "", key)
            for key in _printed_keys(frame)
        ]
    return columns


def _compared_columns(frame: Frame, columns: list[Column]) -> list[str]:
    """The column keys in which rows stand beside the baseline."""
    if not any(column.kind is Kind.difference for column in columns):
        return []
    return [column.key for column in frame.study.columns] or [""]


def _printed_keys(frame: Frame) -> list[str]:
    """Column keys the paper prints numbers for: levels of the second axis, or names of quantities, or just ""."""
    values = frame.study.printed.values.values() if frame.study.printed else ()
    return list(dict.fromkeys(key for value in values for key in value))


# ---- cells -------------------------------------------------------------------------------------------------------


def _trained_row(
    frame: Frame, place: _Place, columns: list[Column], compared: Mapping[str, Comparison]
) -> Row:  # fmt: skip
    is_baseline = frame.study.baseline == place.row_key
    cells = tuple(_cell(frame, place, column, is_baseline, compared) for column in columns)
    told = collapse.of_row(frame, place.row_key, place.col_key)
    left = plateau.of_row(frame, place.row_key, place.col_key)
    return Row(
        place.row_key, place.label, cells, is_baseline, place.is_random_init, collapse=told, plateau=left,
        col_key=place.col_key,
    )  # fmt: skip


def _cell(
    frame: Frame, place: _Place, column: Column, is_baseline: bool, compared: Mapping[str, Comparison]
) -> Cell:  # fmt: skip
    if column.kind is Kind.printed:
        return _printed_cell(frame, place, column)
    col_key = column.col_key if column.col_key is not None else (place.col_key or "")
    runs = frame.runs_of(place.row_key, col_key, column.metric)
    if runs is None:
        return Cell(text="–")
    if column.kind is Kind.value:
        if place.is_random_init and not runs.values and not describe(column.metric).is_of_encoder:
            return Cell(text="–", note="untrained")  # what a step takes, say: there was none
        return value_cell(runs, by_rule=frame.study.seed_rule(frame.scale) is not None)
    if is_baseline:
        return Cell(text="baseline")
    baseline = frame.runs_of(frame.study.baseline, col_key, column.metric)
    if baseline is None:
        return Cell(text="–")
    difference = compared[col_key].differences.get(place.row_key)
    return difference_cell(runs, baseline, difference.estimate if difference else None)


def value_cell(runs: Runs, *, by_rule: bool = False) -> Cell:
    """Mean over the seeds that finished. One that did not is named in the note, so no partial mean looks whole.

    `by_rule`: rows have different numbers of seeds, so each says how many.
    """
    num_done, num_wanted = len(runs.values), runs.num_wanted
    states = Counter(runs.without)
    if not runs.values:
        text = ", ".join(f"{state} ({_share(n, num_wanted)})" for state, n in states.items())
        return Cell(text=text, diverged=_share_broken(states, num_wanted))
    note = "1 seed" if num_wanted == 1 else f"{num_wanted} seeds" if by_rule else ""
    if states:
        note = ", ".join([_share(num_done, num_wanted), *(f"{n} {state}" for state, n in states.items())])
    return Cell(mean_interval(list(runs.values.values())), note=note, diverged=_share_broken(states, num_wanted))


def _share_broken(states: Mapping[str, int], num_wanted: int) -> float:
    """Of the runs that ended in what is a result, though no number."""
    return sum(states[state] for state in BROKEN) / num_wanted


def difference_cell(runs: Runs, baseline: Runs, estimate: Estimate | None) -> Cell:
    """Difference to the baseline over shared seeds; "–" with its reason when fewer than two are shared."""
    num_shared = len(runs.values.keys() & baseline.values.keys())
    if estimate is None:
        return Cell(text="–", note=f"{num_shared} shared seed{'s' if num_shared != 1 else ''}")
    note = "" if num_shared == runs.num_wanted else _share(num_shared, runs.num_wanted)
    p = sign_flip_p(shared_differences(runs.values, baseline.values))
    return Cell(estimate, note=note, p=p)


def _share(num_done: int, num_wanted: int) -> str:
    return f"{num_done}/{num_wanted} seeds"


# ---- printed values ----------------------------------------------------------------------------------------------


def _printed_cell(frame: Frame, place: _Place, column: Column) -> Cell:
    printed = frame.study.printed
    if printed and place.row_key in printed.outcomes:
        return Cell(text=printed.outcomes[place.row_key])
    col_key = column.col_key if column.col_key is not None else (place.col_key or "")
    value = printed.values.get(place.row_key, {}).get(col_key) if printed else None
    return Cell(text="" if printed is None or value is None else printed.text(value, col_key))


def _printed_places(frame: Frame, by_level: bool) -> list[_Place]:
    """Lines of the rows that were never trained here: as many of each as the paper has numbers for."""
    assert frame.study.printed is not None
    places = []
    for row in frame.study.printed.rows:
        values = frame.study.printed.values.get(row.key, {})
        own = [] if by_level else [level for level in frame.study.columns if level.key in values]
        places += [_Place(row.key, level.key, f"{row.label}, {level.label}") for level in own]
        if not own:
            places.append(_Place(row.key, None, row.label))
    return places


def _printed_only_row(frame: Frame, place: _Place, columns: list[Column]) -> Row:
    cells = tuple(
        _printed_cell(frame, place, column) if column.kind is Kind.printed else Cell(text="–") for column in columns
    )
    return Row(place.row_key, place.label, cells, is_printed_only=True, col_key=place.col_key)
