"""A table's rows beside its baseline: every difference with the interval that all rows of a column give together."""

from __future__ import annotations

import json
from collections.abc import Mapping

from analysis.frame import Frame, records
from analysis.stats import CONFIDENCE, Comparison, compare
from sweeps.comparisons import ALIKE, UNLIKE, Arm


def of_column(frame: Frame, col_key: str, metric: str) -> Comparison:
    """The rows of one column at one metric; a row of which a seed collapsed or learnt nothing is left out of the model.

    A rule for seeds looks at the differences again and again: their intervals are as wide as its looks ask for.
    """
    cells = frame.cells[frame.cells["col_key"] == col_key]
    spoilt = _spoilt(frame, col_key)
    arms = []
    for cell in records(cells):
        runs = frame.runs_of(cell.row_key, col_key, metric)
        if runs is not None and runs.values:
            told = "untrained" if cell.is_random_init else spoilt.get(cell.row_key, "")
            arms.append(Arm(cell.row_key, runs.values, cell.config_id, len(runs.without), told))
    return compare(arms, frame.study.baseline, CONFIDENCE)


def _spoilt(frame: Frame, col_key: str) -> dict[str, str]:
    runs = frame.runs
    told = runs[(runs["col_key"] == col_key) & (runs["state"] == "done") & runs["collapse"].notna()]
    states = {run.row_key: json.loads(run.collapse).get("state", "") for run in records(told)}
    for run in records(told):
        states[run.row_key] = json.loads(run.collapse).get("state", "") or states[run.row_key]
    return {row: state for row, state in states.items() if state}


# ---- in words --------------------------------------------------------------------------------------------------------


def about(frame: Frame, compared: Mapping[str, Comparison]) -> list[str]:
    """How the intervals came about: the model's figures, and the rows that have their own instead.

    Nothing where every interval is the paired one of two rows.
    """
    labels = {cell.row_key: cell.row_label for cell in records(frame.cells)}
    columns = {column.key: column.label for column in frame.study.columns}
    models, own = [], []
    for key, comparison in compared.items():
        where = f"{columns[key]}: " if key in columns else ""
        if comparison.rows:
            models.append(where + _model(comparison))
        reasons: dict[str, list[str]] = {}
        for row, difference in comparison.differences.items():
            if difference.fallback:
                reasons.setdefault(difference.fallback, []).append(labels[row])
        if reasons and (comparison.rows or reasons.keys() - {"untrained"}):
            own.append(where + "; ".join(f"{', '.join(rows)} ({reason})" for reason, rows in reasons.items()))
    notes = []
    if models:
        notes.append(f"Intervals of Δ are of all rows together, row + seed with one variance: {'; '.join(models)}.")
    if own:
        notes.append(f"Own paired interval instead: {'; '.join(own)}.")
    return notes


def _model(comparison: Comparison) -> str:
    told = f"{comparison.df} degrees of freedom, seed correlation {comparison.correlation:.2f}".replace("-", "−")
    told += f", Bartlett's p {comparison.p_alike:.2g}"
    return told if comparison.is_alike else f"{told} (below {ALIKE:g}: {UNLIKE}, the wider of both holds)"
