"""A study's table as data: rows, columns and cells, before anything is formatted. `render` turns it into text.

A star stands where an exact test, corrected for the table's size, allows it; a mean is bold where its interval overlaps
no other's. With three seeds neither is common, and the notes say why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from analysis import collapse, comparing, plateau
from analysis.frame import Frame, Runs, records
from analysis.provenance import provenance
from analysis.stats import (
    CONFIDENCE,
    Comparison,
    Estimate,
    fewest_seeds,
    holm,
    mean_interval,
    shared_differences,
    sign_flip_p,
    smallest_p,
)
from sweeps.plateau import note as plateau_note
from sweeps.verdicts import higher_is_better as higher_is_better


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
    plateau: str = ""  # "left the plateau (loss 0.66) at step 126 (seed 0), 412 (seed 1, late) of 500"
    verdict: str = ""  # beside the baseline: "better", "undecided: about 4 more seeds, about 12 minutes"


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
    sentence: str = ""  # the rows' verdicts in one

    @property
    def has_verdicts(self) -> bool:
        return any(row.verdict for row in self.rows)


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
        rows += [_printed_only_row(frame, level.key, level.label, columns) for level in frame.study.printed.rows]
    rows, about_best = _with_best(_with_stars(rows), columns, frame.metrics[0])
    return Table(
        name=frame.name,
        title=frame.study.title,
        caption=str(frame.study.table.get("caption") or frame.study.title),
        row_header=_row_header(frame, by_level),
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple([*_notes(frame, columns, rows, compared), *about_best]),
        provenance=provenance(frame),
        digest=frame.digest,
        scale=frame.scale,
        sentence=comparing.sentence_of(frame, compared),
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


def _compared_columns(frame: Frame, columns: list[Column]) -> list[str]:
    """The column keys in which rows stand beside the baseline."""
    if not any(column.kind is Kind.difference for column in columns):
        return []
    return [column.key for column in frame.study.columns] or [""]


def _printed_keys(frame: Frame) -> list[str]:
    """Column keys the paper prints numbers for: levels of the second axis, or names of quantities, or just ""."""
    values = frame.study.printed.values.values() if frame.study.printed else ()
    return list(dict.fromkeys(key for value in values for key in value))


def _printed_metric(frame: Frame) -> str:
    return (frame.study.printed.metric if frame.study.printed else "") or "value"


# ---- cells -------------------------------------------------------------------------------------------------------


def _trained_row(
    frame: Frame, place: _Place, columns: list[Column], compared: Mapping[str, Comparison]
) -> Row:  # fmt: skip
    is_baseline = frame.study.baseline == place.row_key
    cells = tuple(_cell(frame, place, column, is_baseline, compared) for column in columns)
    told = collapse.of_row(frame, place.row_key, place.col_key)
    left = plateau.of_row(frame, place.row_key, place.col_key)
    return Row(place.row_key, place.label, cells, is_baseline, place.is_random_init, collapse=told, plateau=left)


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
        return Cell(text=text, diverged=states["diverged"] / num_wanted)
    note = "1 seed" if num_wanted == 1 else f"{num_wanted} seeds" if by_rule else ""
    if states:
        note = ", ".join([_share(num_done, num_wanted), *(f"{n} {state}" for state, n in states.items())])
    return Cell(mean_interval(list(runs.values.values())), note=note, diverged=states["diverged"] / num_wanted)


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


def _printed_only_row(frame: Frame, key: str, label: str, columns: list[Column]) -> Row:
    place = _Place(key, None, label)
    cells = tuple(
        _printed_cell(frame, place, column) if column.kind is Kind.printed else Cell(text="–") for column in columns
    )
    return Row(key, label, cells, is_printed_only=True)


# ---- marks -------------------------------------------------------------------------------------------------------


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


def _notes(
    frame: Frame, columns: list[Column], rows: list[Row], compared: Mapping[str, Comparison]
) -> list[str]:  # fmt: skip
    seeds, study = ", ".join(map(str, frame.seeds)), frame.study
    shown = list(dict.fromkeys(column.metric for column in columns if column.kind is Kind.value))
    notes = [f"{', '.join(shown)}: mean ± half-width of the 95 % t-interval over seeds {seeds}."]
    rule = study.seed_rule(frame.scale)
    notes += comparing.about_rule(rule) if rule else []
    level = f"{100 * (rule.confidence if rule else CONFIDENCE):.4g} %"
    if any(column.kind is Kind.difference for column in columns):
        label = next(level.label for level in study.rows if level.key == study.baseline)
        notes.append(
            f"Δ: mean difference in {shown[0]} to the baseline ({label}) over shared seeds, with its {level} interval, "
            "not corrected for the number of rows."
        )
        notes += comparing.about(frame, compared)
        notes += _about_stars(rows)
    notes += comparing.about_rows(frame)
    if study.printed and any(column.kind is Kind.printed for column in columns):
        source = study.printed.source or " ".join(study.source.values()) or "the paper"
        notes.append(f"Printed: {_printed_metric(frame)}, {source}; other data and scale than ours.")
    notes += _about_outcomes(frame)
    notes += [collapse.note(row.label, row.collapse) for row in rows if row.collapse]
    notes += [plateau_note(row.label, row.plateau) for row in rows if row.plateau]
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
