"""A searched study as data: its trials, its best beside the published setting, and its table.

Everything is computed from the study's stored runs, not from Optuna's tables, so a capsule gives the same figures.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.drawing import compact
from analysis.numbers import collapse, plateau
from analysis.numbers.frame import Frame, records
from analysis.numbers.importances import FEWEST, importances, share_intervals, uncertainty
from analysis.numbers.provenance import provenance
from analysis.numbers.stats import mean_interval, shared_differences, sign_flip_p, smallest_p
from analysis.tables.parts import Cell, Column, Kind, Row, Table
from sweeps.answers.plateau import note as plateau_note
from sweeps.answers.search_rounds import Judgement, Rounds, Seed, Tried, sentence
from sweeps.answers.verdicts import with_caveats
from sweeps.console.tables import counted
from sweeps.database.tables import BROKEN
from sweeps.study.margin import margin_of
from sweeps.study.metric_words import describe, metric_words, option_words
from sweeps.study.search_space import SearchSpec, is_trial

NUM_SHOWN = 15  # trials in the table, the best first
BEST, PUBLISHED = "best_judged", "default_judged"  # rows of judging seeds


def spec_of(frame: Frame) -> SearchSpec:
    spec = frame.study.search(frame.scale)
    assert spec is not None, f"{frame.name} is no search"
    return spec


def trials(frame: Frame, metric: str) -> pd.DataFrame:
    """One row a trial, in the order they were asked for, with `value` of `metric` and every option as a column.

    The value is the mean over the seeds that the trial was chosen by, NaN where one of them gave no number; `num_seeds`
    are those, `sd` is theirs, and `state` that of the first which is not done.
    """
    tidy = frame.tidy()
    own = tidy[tidy["row_key"].map(is_trial) & (tidy["metric"] == metric)].sort_values("row_order", kind="stable")
    seeds = choosing_seeds(frame)
    found = []
    for key, rows in own.groupby("row_key", sort=False):
        rows = rows[rows["seed"].isin(seeds[str(key)])].sort_values("seed", kind="stable")
        not_done = rows[rows["value"].isna()]
        first = (rows if not_done.empty else not_done).iloc[[0]].copy()
        is_whole = not_done.empty and len(rows) == len(seeds[str(key)])
        first["value"] = rows["value"].mean() if is_whole else np.nan
        first["num_seeds"], first["sd"] = len(rows), rows["value"].std(ddof=1)
        found.append(first)
    return pd.concat(found) if found else own.assign(num_seeds=0, sd=np.nan)


def choosing_seeds(frame: Frame) -> dict[str, list[int]]:
    """By trial's row key: those whose mean it stands for. Trials of one config stand for the same."""
    found = rounds(frame)
    configs = {tried.config: found.choosing_seeds(tried) for tried in found.trials}
    cells = frame.cells[frame.cells["row_key"].map(is_trial)]
    return {cell.row_key: configs[cell.config_id] for cell in records(cells)}


def rounds(frame: Frame) -> Rounds:
    """As `sweeps.answers.search_rounds.read`, from the frame alone."""
    return frame.once(_rounds)


def _rounds(frame: Frame) -> Rounds:
    spec, runs = spec_of(frame), frame.rows[frame.rows["metric"] == spec_of(frame).metric]
    tried: dict[str, Tried] = {}
    for key, own in runs.groupby("row_key", sort=False):
        if is_trial(str(key)) or key == frame.study.baseline:
            done = own[own["collapse"].notna() & (own["state"] == "done")]
            states = [json.loads(told).get("state", "") for told in done["collapse"]]
            seconds = own[["cpu_seconds", "gpu_seconds"]].max(axis="columns")
            seeds = {
                int(run.seed): Seed(run.state, None if np.isnan(run.value) else run.value, cost)
                for run, cost in zip(records(own), seconds, strict=True)
            }
            cell = own.iloc[0]
            tried[str(key)] = Tried(
                str(key), cell["row_label"], int(cell["config_id"]), seeds, next(filter(None, states), "")
            )
    by_config: dict[int, Tried] = {}
    for key, one in tried.items():
        if is_trial(key):
            by_config.setdefault(one.config, one)
    return Rounds(spec, frame.seeds[0], list(by_config.values()), tried.get(frame.study.baseline))


def sentence_of(frame: Frame) -> str:
    """What a search answers: its best beside the published setting."""
    metric, margin = _metric_and_margin(frame)
    return with_caveats(sentence(frame.once(_judged), metric, margin), frame.study.spec, frame.scale)


def kinds_of(frame: Frame) -> Counter[str]:
    """The verdict of a search's best beside the published setting, once it is judged."""
    judged = frame.once(_judged)
    return Counter([judged.verdict.kind] if judged is not None and judged.verdict is not None else [])


def _judged(frame: Frame) -> Judgement | None:
    return rounds(frame).judgement(*_metric_and_margin(frame))


def _metric_and_margin(frame: Frame) -> tuple[str, float | None]:
    metric = spec_of(frame).metric
    return metric, margin_of(frame.study.spec, frame.scale, metric)


# ---- the table ---------------------------------------------------------------------------------------------------


def table(frame: Frame) -> Table:
    """The best trials with what they chose, then the setting that was not searched and the random initialisation.

    Above them the best and the published setting on the seeds that chose neither, where the search has such.
    """
    spec = spec_of(frame)
    tidy = frame.tidy()
    columns = [
        Column(metric, metric_words(metric), Kind.value, metric, digits=frame.study.decimals(metric))
        for metric in frame.metrics
    ]
    if spec.seeds.judging:
        digits = frame.study.decimals(spec.metric)
        columns.insert(
            1, Column(f"difference/{spec.metric}", "Δ not searched", Kind.difference, spec.metric, digits=digits)
        )
    columns += [Column(key, option_words(key), Kind.setting) for key in spec.space]
    _, margin = _metric_and_margin(frame)
    judged = frame.once(_judged)
    seeds = choosing_seeds(frame)
    found = trials(frame, spec.metric)
    done = found.dropna(subset="value").sort_values("value", ascending=spec.direction == "minimize", kind="stable")
    shown = [*done["row_key"].head(NUM_SHOWN)]
    others = [key for key in dict.fromkeys(frame.cells["row_key"]) if not is_trial(key)]
    by_row = {str(key): rows for key, rows in tidy.groupby("row_key", sort=False)}

    def of_row(key: str) -> Sequence[int]:
        """A row's own seeds: what was judged on others has a row of these."""
        return seeds.get(key, frame.study.seeds(frame.scale))

    rows = tuple(
        replace(
            _row(
                _of_seeds(by_row[key], of_row(key)),
                columns,
                is_baseline=key == frame.study.baseline,
            ),
            collapse=collapse.of_row(frame, key, seeds=of_row(key)),
            plateau=plateau.of_row(frame, key, seeds=of_row(key)),
        )
        for key in [*shown, *others]
    )
    if judged is not None:
        rows = (*_judged_rows(frame, judged, by_row, columns), *rows)
    return Table(
        name=frame.name,
        title=frame.study.title,
        caption=str(frame.study.table.get("caption") or frame.study.title),
        row_header="trial",
        columns=tuple(columns),
        rows=rows,
        notes=(
            *_notes(frame, spec, found, len(shown)),
            *_about_judging(spec, judged, margin),
            *_about_importances(frame, found.dropna(subset="value"), spec),
            *(collapse.note(row.label, row.collapse) for row in rows if row.collapse),
            *(plateau_note(row.label, row.plateau) for row in rows if row.plateau),
        ),
        provenance=provenance(frame),
        digest=frame.digest,
        scale=frame.scale,
        sentence=with_caveats(sentence(judged, spec.metric, margin), frame.study.spec, frame.scale),
        caveat=frame.study.spec.get("caveat", ""),
    )


def _of_seeds(rows: pd.DataFrame, seeds: Sequence[int]) -> pd.DataFrame:
    return rows[rows["seed"].isin(seeds)]


def _judged_rows(
    frame: Frame, judged: Judgement, by_row: Mapping[str, pd.DataFrame], columns: list[Column]
) -> list[Row]:
    """The best trial and the published setting on the judging seeds."""
    made = []
    for tried, key in ((judged.best, BEST), (judged.default, PUBLISHED)):
        row = _row(_of_seeds(by_row[tried.key], judged.seeds), columns, is_baseline=key == PUBLISHED)
        found = collapse.of_row(frame, tried.key, seeds=judged.seeds)
        left = plateau.of_row(frame, tried.key, seeds=judged.seeds)
        made.append(replace(row, key=key, label=f"{tried.label}, judged", collapse=found, plateau=left))
    place = next(i for i, column in enumerate(columns) if column.kind is Kind.difference)
    best, published = made
    if judged.difference is not None:
        both = (judged.best.values(judged.seeds), judged.default.values(judged.seeds))
        p = sign_flip_p(shared_differences(*both))
        told = Cell(judged.difference.estimate, p=p, p_holm=p, note=judged.difference.fallback)
        cells = [told if i == place else cell for i, cell in enumerate(best.cells)]
        best = replace(best, cells=tuple(cells), verdict=judged.verdict.text if judged.verdict else "")
    cells = [Cell(text="baseline") if i == place else cell for i, cell in enumerate(published.cells)]
    return [best, replace(published, cells=tuple(cells))]


def _row(rows: pd.DataFrame, columns: list[Column], *, is_baseline: bool) -> Row:
    first = next(iter(records(rows)))
    by_metric = {str(metric): own for metric, own in rows.groupby("metric", sort=False)}
    cells = []
    for column in columns:
        if column.kind is Kind.setting:
            cells.append(Cell(text=value_text(rows[column.key].iloc[0])))
        elif column.kind is Kind.difference:
            cells.append(Cell())
        else:
            cells.append(_value(by_metric[column.metric]))
    return Row(first.row_key, first.row_label, tuple(cells), is_baseline, bool(first.is_random_init))


def _value(runs: pd.DataFrame) -> Cell:
    """The mean over seeds; what became of those that gave no number is said beside it."""
    values = runs["value"].dropna()
    lost = Counter("not recorded" if state == "done" else state for state in runs[runs["value"].isna()]["state"])
    words = ", ".join(f"{n} of {len(runs)} {state}" for state, n in lost.items())
    if values.empty:
        return Cell(text=next(iter(lost)) if len(lost) == 1 else words)
    diverged = sum(lost[state] for state in BROKEN) / len(runs)
    return Cell(mean_interval([float(value) for value in values]), note=words, diverged=diverged)


def value_text(value: Any) -> str:
    if isinstance(value, float) and np.isnan(value):  # an option that a run of no steps does not have
        return ""
    return compact(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _notes(frame: Frame, spec: SearchSpec, found: pd.DataFrame, num_shown: int) -> list[str]:
    states = Counter(found["state"])
    counts = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    word = "smallest" if spec.direction == "minimize" else "largest"
    told = (
        f"{counted(len(found), 'trial')} ({counts or 'none yet'}), sampler {spec.sampler}, pruner {spec.pruner}; "
        f"the {num_shown} with the {word} {describe(spec.metric).words} are shown."
    )
    seeds = spec.seeds
    if seeds.per_trial > 1 or seeds.num_promoted:
        first = f"A trial is its mean over {seeds.per_trial} seed{'s' if seeds.per_trial > 1 else ''}"
        more = f", the best {seeds.num_promoted} over {seeds.per_promoted}" if seeds.num_promoted else ""
        return [
            told,
            f"{first}{more}; a trial of which a seed gave no number is not chosen. The best of many is too good by the "
            "luck of the draw"
            + ("." if seeds.judging else ": give the search judge: {seeds: 5} before comparing it."),
        ]  # fmt: skip
    return [
        told,
        "One seed a trial, and the best of many: its number is too good by the luck of the draw. Train it with more "
        "seeds, as a study of rows, before comparing.",
    ]


def _about_judging(spec: SearchSpec, judged: Judgement | None, margin: float | None) -> list[str]:
    if not spec.seeds.judging:
        return []
    if judged is None:
        return ["No trial is judged yet."]
    seeds = ", ".join(map(str, judged.seeds))
    within = "" if margin is None else f"; the same within ±{margin:g}"
    told = [
        f"Judged: {judged.best.label}, which has the best mean, and what was not searched, on seeds {seeds}, which "
        f"chose nothing; Δ is their paired difference with its 95 % interval{within}."
    ]
    if judged.num_without:
        told.append(f"{judged.num_without} of {len(judged.seeds)} judging seeds gave no pair of numbers.")
    both = (judged.best.values(judged.seeds), judged.default.values(judged.seeds))
    if (p := sign_flip_p(shared_differences(*both))) is not None:
        fewest = smallest_p(len(shared_differences(*both)))
        told.append(
            f"Exact two-sided sign-flip test of the difference: p {p:.3g}; so many seeds give none below {fewest:.2g}."
        )
    return told


def _about_importances(frame: Frame, done: pd.DataFrame, spec: SearchSpec) -> list[str]:
    """For who has the table only."""
    if not any(figure["kind"] == "importance" for figure in frame.study.figures) or len(done) < FEWEST:
        return []
    shares = importances(done, spec)
    if not shares:
        return []
    ends = share_intervals(done, spec, [key for key, _ in shares])
    told = (
        f"{option_words(key)} {share:.2f} [{low:.2f}, {high:.2f}]"
        for (key, share), (low, high) in zip(shares, ends, strict=True)
    )
    what = (
        f"Share of the variance of {describe(spec.metric).words} that an option explains (fANOVA), {uncertainty(done)}"
    )
    return [f"{what}: {', '.join(told)}."]
