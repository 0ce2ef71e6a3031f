"""A table's rows beside its baseline: every difference with the interval that all rows of a column give together."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from analysis.numbers.frame import Frame, records
from analysis.numbers.stats import CONFIDENCE, Comparison, compare
from sweeps.answers.blocked_intervals import ALIKE, UNLIKE, Arm
from sweeps.answers.collapse import ended
from sweeps.answers.verdicts import Judged, caveat, sentence, with_caveats
from sweeps.answers.verdicts import verdicts as verdicts_of
from sweeps.study import fair_rows
from sweeps.study.margin import margin_of
from sweeps.study.metric_words import metric_words
from sweeps.study.seed_rule import SeedRule


def of_column(frame: Frame, col_key: str, metric: str) -> Comparison:
    """The rows of one column at one metric; a row of which a seed collapsed or learnt nothing is left out of the model.

    A rule for seeds looks at the differences again and again: their intervals are as wide as its looks ask for.
    """
    return frame.once(_of_column, col_key, metric)


def _of_column(frame: Frame, col_key: str, metric: str) -> Comparison:
    cells = frame.cells[frame.cells["col_key"] == col_key]
    spoilt = _spoilt(frame, col_key)
    arms = []
    for cell in records(cells):
        runs = frame.runs_of(cell.row_key, col_key, metric)
        if runs is not None and runs.values:
            told = "untrained" if cell.is_random_init else spoilt.get(cell.row_key, "")
            arms.append(Arm(cell.row_key, runs.values, cell.config_id, len(runs.without), told))
    rule = frame.study.seed_rule(frame.scale)
    return compare(arms, frame.study.baseline, rule.confidence if rule else CONFIDENCE)


def _spoilt(frame: Frame, col_key: str) -> dict[str, str]:
    runs = frame.runs
    told = runs[(runs["col_key"] == col_key) & (runs["state"] == "done") & runs["collapse"].notna()]
    states = ((run.row_key, json.loads(run.collapse).get("state", "")) for run in records(told))
    return {row: state for row, state in states if state}


def judged(frame: Frame, compared: Mapping[str, Comparison]) -> list[Judged]:
    """The columns as verdicts are made of them; the random initialisation has no label there, as it is no answer."""
    labels, columns, means = frame.once(_words_and_means)
    caveats = frame.once(_caveats)
    return [
        Judged(
            columns.get(key, ""), frame.study.baseline, comparison, labels,
            {row: means[row, key] for row in labels if (row, key) in means},
            {row: caveats[row, key] for row in labels if (row, key) in caveats},
        )
        for key, comparison in compared.items()
    ]  # fmt: skip


def _caveats(frame: Frame) -> dict[Any, str]:
    """By row and column what its seeds came to, where some diverged or collapsed."""
    found: dict[Any, list[str]] = {}
    for run in records(frame.runs):
        told = json.loads(run.collapse) if isinstance(run.collapse, str) else None
        found.setdefault((run.row_key, run.col_key), []).append(ended(run.state, told))
    return {place: told for place, words in found.items() if (told := caveat(words))}


def _words_and_means(frame: Frame) -> tuple[dict[str, str], dict[str, str], dict[Any, float]]:
    """The rows' labels, the columns', and by row and column the mean seconds of a run."""
    labels = {cell.row_key: cell.row_label for cell in records(frame.cells[~frame.cells["is_random_init"]])}
    columns = {cell.col_key: cell.col_label for cell in records(frame.cells)}
    done = frame.runs[frame.runs["state"] == "done"]
    cost = done.assign(seconds=done[["cpu_seconds", "gpu_seconds"]].max(axis="columns"))
    means = cost.groupby(["row_key", "col_key"])["seconds"].mean().dropna().to_dict()
    return labels, columns, means


def kinds_of(frame: Frame) -> Counter[str]:
    """How many rows beside the baseline, in all columns, are better, worse, same, ... or undecided."""
    return frame.once(_kinds_of)


def _kinds_of(frame: Frame) -> Counter[str]:
    metric = frame.metrics[0]
    margin = margin_of(frame.study.spec, frame.scale, metric)
    columns = judged(frame, _compared(frame, metric))
    return Counter(
        verdict.kind
        for column in columns
        for row, verdict in verdicts_of(column, metric, margin).items()
        if row in column.labels
    )


def sentence_of(frame: Frame, compared: Mapping[str, Comparison] | None = None) -> str:
    """What the rows of a study answer, as far as their runs give it."""
    metric = frame.metrics[0]
    if compared is None:
        compared = _compared(frame, metric)
    told = sentence(judged(frame, compared), metric, margin_of(frame.study.spec, frame.scale, metric))
    if not told and len(frame.seeds) == 1 and _asks_which_is_better(frame, metric):
        return f"{metric_words(metric)}: one seed a row tells no row from another, so that there is no verdict."
    return with_caveats(told, frame.study.spec, frame.scale)


def _asks_which_is_better(frame: Frame, metric: str) -> bool:
    """Several rows that were trained, by more than what their masks leave of a picture."""
    trained = set(frame.cells.loc[~frame.cells["is_random_init"], "row_key"])
    done = frame.runs[(frame.runs["state"] == "done") & frame.runs["row_key"].isin(trained)]
    return done["row_key"].nunique() > 1 and not metric.startswith("mask/")


def _compared(frame: Frame, metric: str) -> dict[str, Comparison]:
    keys = [column.key for column in frame.study.columns] or list(dict.fromkeys(frame.cells["col_key"]))
    return {key: of_column(frame, key, metric) for key in keys}


def verdicts(frame: Frame, compared: Mapping[str, Comparison]) -> dict[tuple[str, str | None], str]:
    """By row and column key, and by row and None for a line of all columns: `half length: worse; full: better`."""
    metric = frame.metrics[0]
    margin = margin_of(frame.study.spec, frame.scale, metric)
    lines: dict[str, list[str]] = {}
    found: dict[tuple[str, str | None], str] = {}
    for key, column in zip(compared, judged(frame, compared), strict=True):
        for row, verdict in verdicts_of(column, metric, margin).items():
            if row in column.labels:
                found[row, key] = verdict.text
                lines.setdefault(row, []).append(f"{column.label}: {verdict.text}" if column.label else verdict.text)
    return found | {(row, None): "; ".join(told) for row, told in lines.items()}


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
        if reasons and (comparison.rows or any(reason.startswith("the baseline") for reason in reasons)):
            own.append(where + "; ".join(f"{', '.join(rows)} ({reason})" for reason, rows in reasons.items()))
    notes = []
    if models:
        notes.append(f"Intervals of Δ are of all rows together, row + seed with one variance: {'; '.join(models)}.")
    if own:
        notes.append(f"Own paired interval instead: {'; '.join(own)}.")
    return notes


ROWS_DIFFER = "Rows also differ in what is part of each one's recipe:"


def about_rows(frame: Frame) -> list[str]:
    """What the rows differ in besides what their labels stand for: as the study's `varies` lets them, as another method
    or objective has it, or as a row that changes a part gives itself another schedule or other data for it."""
    configs = {(cell.row_key, cell.col_key): _options(frame, cell.config_id) for cell in records(frame.cells)}
    cells = frame.study.cells(frame.scale)
    pairs = [(cell, configs[at]) for cell in cells if (at := (cell.row_key, cell.col_key)) in configs]
    found = fair_rows.differences(frame.study, frame.scale, pairs)
    unlabelled = (difference for difference in found if difference.is_beside_the_label)
    by_row = fair_rows.by_row(unlabelled, lambda cell: cell.row_label)
    rows = [f"{label}: {', '.join(texts)}" for label, texts in by_row.items()]
    return [f"{ROWS_DIFFER} {'; '.join(rows)}."] if rows else []


def _options(frame: Frame, config_id: int) -> dict[str, Any]:
    """The stored config: a key that other configs have and this one has not is NaN in the frame."""
    options = frame.configs.loc[config_id].to_dict()
    return {str(key): v for key, v in options.items() if not (isinstance(v, float) and math.isnan(v))}


def about_rule(rule: SeedRule) -> list[str]:
    """How many seeds the rows have, and what their intervals pay for it."""
    until = "its difference was decided" if rule.half_width is None else f"its half-width was below {rule.half_width:g}"
    looks = rule.looks
    text = f"Every row has {rule.start} seeds; more, up to {rule.maximum}, went to each row until {until}."
    if len(looks) == 1:
        return [text]
    return [
        f"{text} It was judged at {', '.join(map(str, looks))} seeds; each of these {len(looks)} looks has a share of "
        f"the 5 %, so that intervals of Δ are of {100 * rule.confidence:.4g} % and hold whenever it stopped."
    ]


def _model(comparison: Comparison) -> str:
    told = f"{comparison.df} degrees of freedom, seed correlation {comparison.correlation:.2f}".replace("-", "−")
    told += f", Bartlett's p {comparison.p_alike:.2g}"
    return told if comparison.is_alike else f"{told} (below {ALIKE:g}: {UNLIKE}, the wider of both holds)"
