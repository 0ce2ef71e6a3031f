"""A study's table as data: rows, columns and cells, before anything is formatted. `render` turns it into text.

A star stands where an exact test, corrected for the table's size, allows it; a mean is bold where its interval overlaps
no other's. With three seeds neither is common, and the notes say why.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import Enum

import pandas as pd

from analysis import collapse
from analysis.frame import Frame, Runs, records
from analysis.stats import (
    CONFIDENCE,
    Estimate,
    fewest_seeds,
    holm,
    mean_interval,
    paired_interval,
    shared_differences,
    sign_flip_p,
    smallest_p,
)
from sweeps.seen_data import of_config

ENDED_WITHOUT = ("failed", "diverged", "pruned", "cancelled")  # states of runs that will not have a number


class Kind(Enum):
    """What a column holds."""

    value = "value"
    difference = "difference"
    printed = "printed"
    setting = "setting"  # what a trial of a search chose


@dataclass(frozen=True)
class Column:
    """One column after the row label. `metric` and `col_key` say which runs it reads."""

    key: str
    label: str
    kind: Kind
    metric: str = ""
    col_key: str | None = None  # None: the row's own column key (or the table has no second axis)
    digits: int = 1  # decimals of its numbers


@dataclass(frozen=True)
class Cell:
    """A number, or the words that stand where it would be; `note` qualifies the number and is always shown.

    `p` is a difference's exact p by itself, `p_holm` the same for the whole table's differences at once.
    """

    estimate: Estimate | None = None
    text: str = ""
    note: str = ""
    p: float | None = None
    p_holm: float | None = None
    is_significant: bool = False  # a difference: p_holm below .05
    is_best: bool = False
    diverged: float = 0.0  # share of its runs that did


@dataclass(frozen=True)
class Row:
    """One line. A printed-only row was never trained here; a random-init row was evaluated without training."""

    key: str
    label: str
    cells: tuple[Cell, ...]
    is_baseline: bool = False
    is_random_init: bool = False
    is_printed_only: bool = False
    collapse: str = ""  # "1 of 3 seeds collapsed (seed 2: RankMe 1.3)"


@dataclass(frozen=True)
class Table:
    """All that is drawn, and nothing else is read to draw it."""

    name: str
    title: str
    caption: str
    row_header: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    provenance: str
    digest: str
    scale: str


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
    rows = [_trained_row(frame, place, columns) for place in places]
    if frame.study.printed:
        rows += [_printed_only_row(frame, level.key, level.label, columns) for level in frame.study.printed.rows]
    rows, about_best = _with_best(_with_stars(rows), columns, frame.metrics[0])
    return Table(
        name=frame.name,
        title=frame.study.title,
        caption=str(frame.study.table.get("caption") or frame.study.title),
        row_header=_row_header(frame, by_level),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple([*_notes(frame, columns, rows), *about_best]),
        provenance=provenance(frame),
        digest=frame.digest,
        scale=frame.scale,
    )


def _row_header(frame: Frame, by_level: bool) -> str:
    """The corner of the table: both axes' names, `rows \\ columns` where each has a side of its own."""
    rows, columns = frame.study.row_axis or "row", frame.study.col_axis
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
            label = f"{metric}: {level.label}" if len(frame.metrics) > 1 else level.label
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
        columns.append(Column(metric, metric, Kind.value, metric))
        if has_difference and number == 0:
            columns.append(Column(f"{metric}.difference", "Δ baseline", Kind.difference, metric))
    if frame.study.columns and _printed_keys(frame):
        columns.append(Column("printed", f"printed: {_printed_metric(frame)}", Kind.printed))
    elif frame.study.printed:
        columns += [
            Column(f"{key}.printed", f"printed: {key or _printed_metric(frame)}", Kind.printed, "", key)
            for key in _printed_keys(frame)
        ]
    return columns


def _printed_keys(frame: Frame) -> list[str]:
    """Column keys the paper prints numbers for: levels of the second axis, or names of quantities, or just ""."""
    values = frame.study.printed.values.values() if frame.study.printed else ()
    return list(dict.fromkeys(key for value in values for key in value))


def _printed_metric(frame: Frame) -> str:
    return (frame.study.printed.metric if frame.study.printed else "") or "value"


# ---- cells -------------------------------------------------------------------------------------------------------


def _trained_row(frame: Frame, place: _Place, columns: list[Column]) -> Row:
    is_baseline = frame.study.baseline == place.row_key
    cells = tuple(_cell(frame, place, column, is_baseline) for column in columns)
    told = collapse.of_row(frame, place.row_key, place.col_key)
    return Row(place.row_key, place.label, cells, is_baseline, place.is_random_init, collapse=told)


def _cell(frame: Frame, place: _Place, column: Column, is_baseline: bool) -> Cell:
    if column.kind is Kind.printed:
        return _printed_cell(frame, place, column)
    col_key = column.col_key if column.col_key is not None else (place.col_key or "")
    runs = frame.runs_of(place.row_key, col_key, column.metric)
    if runs is None:
        return Cell(text="–")
    if column.kind is Kind.value:
        return value_cell(runs, by_rule=frame.study.seed_rule(frame.scale) is not None)
    if is_baseline:
        return Cell(text="baseline")
    baseline = frame.runs_of(frame.study.baseline, col_key, column.metric)
    return Cell(text="–") if baseline is None else difference_cell(runs, baseline)


def value_cell(runs: Runs, *, by_rule: bool = False) -> Cell:
    """Mean over the seeds that finished. One that did not is named in the note, so no partial mean looks whole.

    `by_rule`: rows have different numbers of seeds, so each says how many.
    """
    num_done, num_wanted = len(runs.values), runs.num_wanted
    states = Counter(runs.without)
    if not runs.values:
        text = ", ".join(f"{state} ({_share(n, num_wanted)})" for state, n in states.items())
        return Cell(text=text, diverged=states["diverged"] / num_wanted)
    note = "1 seed" if num_wanted == 1 else f"{num_wanted} seeds" if by_rule else ""
    if states:
        note = ", ".join([_share(num_done, num_wanted), *(f"{n} {state}" for state, n in states.items())])
    return Cell(mean_interval(list(runs.values.values())), note=note, diverged=states["diverged"] / num_wanted)


def difference_cell(runs: Runs, baseline: Runs) -> Cell:
    """Paired difference to the baseline over shared seeds; "–" with its reason when fewer than two are shared."""
    num_shared = len(runs.values.keys() & baseline.values.keys())
    if num_shared < 2:
        return Cell(text="–", note=f"{num_shared} shared seed{'s' if num_shared != 1 else ''}")
    note = "" if num_shared == runs.num_wanted else _share(num_shared, runs.num_wanted)
    p = sign_flip_p(shared_differences(runs.values, baseline.values))
    return Cell(paired_interval(runs.values, baseline.values), note=note, p=p)


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


def _printed_only_row(frame: Frame, key: str, label: str, columns: list[Column]) -> Row:
    place = _Place(key, None, label)
    cells = tuple(
        _printed_cell(frame, place, column) if column.kind is Kind.printed else Cell(text="–") for column in columns
    )
    return Row(key, label, cells, is_printed_only=True)


# ---- marks -------------------------------------------------------------------------------------------------------

# Which way a metric is better, by a word of its name after the "/": flow/epe_noc, vos/jf, ridge/digit_top1.
_HIGHER = {"top1", "top5", "miou", "map", "jf", "j", "f"}
_LOWER = {"epe", "f1"}  # optical flow's Fl: the share of outliers


def higher_is_better(metric: str) -> bool | None:
    """None where neither is: a share of hidden patches, a cost that comes with what it buys."""
    words = set(metric.rpartition("/")[2].split("_"))
    return True if words & _HIGHER else False if words & _LOWER else None


def _with_stars(rows: list[Row]) -> list[Row]:
    """`rows` with Holm's p over all differences of the table, and what is significant by it."""
    places = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row.cells) if cell.p is not None]
    adjusted = dict(zip(places, holm([rows[i].cells[j].p or 0.0 for i, j in places]), strict=True))

    def starred(i: int, j: int, cell: Cell) -> Cell:
        p = adjusted.get((i, j))
        return cell if p is None else replace(cell, p_holm=p, is_significant=p < 1 - CONFIDENCE)

    return [
        replace(row, cells=tuple(starred(i, j, cell) for j, cell in enumerate(row.cells))) for i, row in enumerate(rows)
    ]


def _about_stars(rows: list[Row]) -> list[str]:
    """What a star means, and whether the table's seeds allow one at all."""
    tested = [cell for row in rows for cell in row.cells if cell.p is not None]
    if not tested:
        return []
    count, num_seeds = len(tested), max(cell.estimate.num_seeds for cell in tested if cell.estimate)
    family = f"{count} differences" if count > 1 else "one difference"
    text = f"Exact two-sided sign-flip test over seeds, Holm's correction over the table's {family}: "
    if count * smallest_p(num_seeds) < 1 - CONFIDENCE:
        return [text + "* p < .05."]
    return [
        f"{text}{num_seeds} seeds give no p below {smallest_p(num_seeds):.3g} (2/2^{num_seeds}), and that before the "
        f"correction, so that no difference can have a star; here it takes {fewest_seeds(count)} seeds."
    ]


def _with_best(rows: list[Row], columns: list[Column], main: str) -> tuple[list[Row], list[str]]:
    """The best mean of each column of the main metric, marked where it is clear of every other row; and a note.

    Divergence is a result: a row of which a run diverged is not the best, whatever its other runs reached, and one of
    which all did leaves nothing open.
    """
    is_higher = higher_is_better(main)
    if is_higher is None:
        return rows, []
    rows, unclear, has_best = list(rows), [], False
    for j, column in enumerate(columns):
        if column.kind is not Kind.value or column.metric != main:
            continue
        found = {i: row.cells[j].estimate for i, row in enumerate(rows) if not row.cells[j].diverged}
        means = {i: estimate.mean for i, estimate in found.items() if estimate is not None}
        if len(means) < 2:
            continue
        best = max(means, key=lambda i: means[i] if is_higher else -means[i])
        others = _not_clear_of(best, rows, j)
        if others:
            where = f" ({column.label})" if column.col_key is not None else ""
            unclear.append(f"{rows[best].label}{where} is not told from {', '.join(others)}")
        else:
            cells = list(rows[best].cells)
            cells[j] = replace(cells[j], is_best=True)
            rows[best], has_best = replace(rows[best], cells=tuple(cells)), True
    notes = ["Bold: the best mean of its column; its interval overlaps no other row's."] if has_best else []
    if unclear:
        notes.append(f"Not bold, as intervals overlap or are missing: the best mean, {'; '.join(unclear)}.")
    return rows, notes


def _not_clear_of(best: int, rows: list[Row], column: int) -> list[str]:
    """The trained rows whose interval overlaps that of row `best`, or which lack an interval."""
    mine = rows[best].cells[column].estimate
    assert mine is not None
    others = []
    for i, row in enumerate(rows):
        estimate, is_cell = row.cells[column].estimate, row.cells[column].text != "–"
        if i == best or row.is_printed_only or not is_cell or row.cells[column].diverged == 1:
            continue
        both = estimate is not None and estimate.has_interval and mine.has_interval
        if not both or estimate is None or (estimate.low <= mine.high and mine.low <= estimate.high):
            others.append(row.label)
    return others


# ---- below the table ---------------------------------------------------------------------------------------------


def _notes(frame: Frame, columns: list[Column], rows: list[Row]) -> list[str]:
    seeds, study = ", ".join(map(str, frame.seeds)), frame.study
    shown = list(dict.fromkeys(column.metric for column in columns if column.kind is Kind.value))
    notes = [f"{', '.join(shown)}: mean ± half-width of the 95 % t-interval over seeds {seeds}."]
    if rule := study.seed_rule(frame.scale):
        notes.append(
            f"Every row has {rule.start} seeds; more, up to {rule.maximum}, went to the rows whose interval of Δ was "
            f"the widest, until every half-width was below {rule.half_width:g}."
        )
    if any(column.kind is Kind.difference for column in columns):
        label = next(level.label for level in study.rows if level.key == study.baseline)
        notes.append(
            f"Δ: mean difference in {shown[0]} to the baseline ({label}) over shared seeds, with its 95 % interval, "
            "not corrected for the number of rows."
        )
        notes += _about_stars(rows)
    if study.printed and any(column.kind is Kind.printed for column in columns):
        source = study.printed.source or " ".join(study.source.values()) or "the paper"
        notes.append(f"Printed: {_printed_metric(frame)}, {source}; other data and scale than ours.")
    notes += _about_outcomes(frame)
    notes += [collapse.note(row.label, row.collapse) for row in rows if row.collapse]
    if any(row.is_printed_only for row in rows):
        notes.append("Rows marked as printed only were not trained here.")
    unaveraged = _unaveraged(frame)
    return [*notes, unaveraged] if unaveraged else notes


def _about_outcomes(frame: Frame) -> list[str]:
    """What became here of the rows for which the paper prints a word in place of numbers."""
    notes = []
    for level in frame.study.rows:
        word = frame.study.printed.outcomes.get(level.key) if frame.study.printed else None
        states = frame.runs.loc[frame.runs["row_key"] == level.key, "state"]
        if word is not None and len(states):
            here = ", ".join(f"{n} {state}" for state, n in Counter(states).items())
            notes.append(f'Printed as "{word}": {level.label}; of its {len(states)} runs here: {here}.')
    return notes


def _unaveraged(frame: Frame, limit: int = 8) -> str:
    """Name the runs that have no number, so that a reader can look each one up."""
    runs = frame.runs
    without = runs[runs["state"] != "done"]
    named = [
        ", ".join(filter(None, [run.row_label, run.col_label])) + f", seed {run.seed}: {run.state}"
        for run in records(without.head(limit))
    ]
    if len(without) > limit:
        named.append(f"and {len(without) - limit} more")
    return f"Not averaged: {'; '.join(named)}." if named else ""


def provenance(frame: Frame) -> str:
    """Where the numbers came from: digest of what was read, runs, seeds, code, scale and cost of distinct runs."""
    runs = frame.runs
    trained = runs.dropna(subset="run_id").drop_duplicates("run_id")
    done = trained[trained["state"] == "done"]
    # Cells that share a config share its runs: the default row is trained once and counted once.
    num_wanted = len(runs.drop_duplicates(["config_id", "seed"]))
    seeds = ", ".join(map(str, frame.seeds))
    lost = [
        f"{int((trained['state'] == state).sum())} {state}" for state in ENDED_WITHOUT if state in set(trained["state"])
    ]
    parts = [
        f"database digest {frame.digest}",
        f"{len(done)} of {num_wanted} runs" + (f" ({', '.join(lost)})" if lost else ""),
        f"seeds {seeds}",
        data(frame),
        _code(done),
        f"scale {frame.scale}",
        f"{hours(trained['cpu_seconds'])} CPU-hours",
        f"{hours(trained['gpu_seconds'])} GPU-hours",
    ]
    return " · ".join(parts)


def data(frame: Frame) -> str:
    """The fingerprints of what the finished runs saw, and whether any set had more than one."""
    runs = frame.runs.dropna(subset="run_id").drop_duplicates("run_id")
    done = runs[runs["state"] == "done"]
    seen: dict[str, set[str]] = defaultdict(set)
    num_unknown = 0
    for run in records(done):
        if not isinstance(run.data, str):
            num_unknown += 1
            continue
        config = frame.configs.loc[run.config_id].dropna().to_dict()
        for name, value in of_config(config, json.loads(run.data)).items():
            seen[name].add(value)
    values = sorted({value[:8] for found in seen.values() for value in found})
    if not values:
        return "data unknown"
    text = f"data {', '.join(values)}"
    if any(len(found) > 1 for found in seen.values()):
        text += " (mixed: one set with several contents)"
    return text + (f" (of {num_unknown} runs: unknown)" if num_unknown else "")


def _code(done: pd.DataFrame) -> str:
    shas = sorted({str(sha)[:12] for sha in done["git_sha"].dropna() if sha})
    if not shas:
        return "git unknown"
    text = f"git {', '.join(shas)}" + (" (mixed)" if len(shas) > 1 else "")
    return text + (" with uncommitted changes" if done["dirty"].fillna(False).astype(bool).any() else "")


def hours(seconds: pd.Series[float]) -> str:
    """Three significant digits, in hours: a smoke study costs 0.002, a paper study 1430."""
    total = float(seconds.fillna(0).sum()) / 3600
    if total == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(total)))
    return f"{total:.{decimals}f}"
