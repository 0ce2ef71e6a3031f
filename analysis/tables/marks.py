"""What is marked in a table, and what is said below it: stars, the best of a column, what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from analysis.numbers import collapse, comparing
from analysis.numbers.frame import Frame, records
from analysis.numbers.stats import (
    CONFIDENCE,
    Comparison,
    fewest_seeds,
    holm,
    smallest_p,
)
from analysis.tables.parts import PRINTED, Cell, Column, Kind, Row
from sweeps.answers.plateau import note as plateau_note
from sweeps.answers.verdicts import higher_is_better
from sweeps.console.tables import counted
from sweeps.study.metric_words import metric_words


def with_stars(rows: list[Row]) -> list[Row]:
    """`rows` with Holm's p over all differences of the table, and what is significant by it."""
    places = [(i, j) for i, row in enumerate(rows) for j, cell in enumerate(row.cells) if cell.p is not None]
    adjusted = dict(zip(places, holm([rows[i].cells[j].p or 0.0 for i, j in places]), strict=True))

    def starred(i: int, j: int, cell: Cell) -> Cell:
        p = adjusted.get((i, j))
        return cell if p is None else replace(cell, p_holm=p, is_significant=p < 1 - CONFIDENCE)

    return [
        replace(row, cells=tuple(starred(i, j, cell) for j, cell in enumerate(row.cells))) for i, row in enumerate(rows)
    ]


def about_stars(rows: list[Row]) -> list[str]:
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


def with_best(rows: list[Row], columns: list[Column], main: str) -> tuple[list[Row], list[str]]:
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
            unclear.append(f"{rows[best].label}{where} with {', '.join(others)}")
        else:
            cells = list(rows[best].cells)
            cells[j] = replace(cells[j], is_best=True)
            rows[best], has_best = replace(rows[best], cells=tuple(cells)), True
    notes = ["Bold: the best mean of its column; its interval overlaps no other row's."] if has_best else []
    if unclear:
        # What Δ decides of the same seeds is another question: a best mean that is not bold may well be better.
        notes.append(f"Not bold, as own intervals overlap or are missing: the best mean, {'; '.join(unclear)}.")
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


def notes_of(
    frame: Frame, columns: list[Column], rows: list[Row], compared: Mapping[str, Comparison]
) -> list[str]:  # fmt: skip
    seeds, study = ", ".join(map(str, frame.seeds)), frame.study
    shown = list(dict.fromkeys(column.metric for column in columns if column.kind is Kind.value))
    what = f"mean ± half-width of the 95 % t-interval over seeds {seeds}" if len(frame.seeds) > 1 else f"seed {seeds}"
    notes = [f"{'; '.join(map(metric_words, shown))}: {what}."]
    rule = study.seed_rule(frame.scale)
    notes += comparing.about_rule(rule) if rule else []
    level = f"{100 * (rule.confidence if rule else CONFIDENCE):.4g} %"
    if any(column.kind is Kind.difference for column in columns):
        label = next(level.label for level in study.rows if level.key == study.baseline)
        notes.append(
            f"Δ: mean difference in {metric_words(shown[0])} to the baseline ({label}) over shared seeds, "
            f"with its {level} interval, not corrected for the number of rows."
        )
        notes += comparing.about(frame, compared)
        notes += about_stars(rows)
    notes += comparing.about_rows(frame)
    if study.printed and any(column.kind is Kind.printed for column in columns):
        source = study.printed.source or " ".join(study.source.values()) or "the paper"
        # Numbers of scale lab are of data that anyone may have.
        whose = "comparable where the data is the same" if frame.scale == "lab" else "other data and scale than ours"
        notes.append(f"{PRINTED} {printed_metric(frame)}, {source}; {whose}.")
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
    outcomes = frame.study.printed.outcomes if frame.study.printed else {}
    for level in (level for level in frame.study.rows if level.key in outcomes):
        word = outcomes[level.key]
        states = frame.runs.loc[frame.runs["row_key"] == level.key, "state"]
        if len(states):
            here = ", ".join(f"{n} {state}" for state, n in Counter(states).items())
            notes.append(f'Printed as "{word}": {level.label}; of its {counted(len(states), "run")} here: {here}.')
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


def printed_metric(frame: Frame) -> str:
    return (frame.study.printed.metric if frame.study.printed else "") or "value"
