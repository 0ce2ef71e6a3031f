"""A searched study as data: its table of trials, which options mattered, and how the metric lies over two of them.

Everything is computed from the study's stored runs, not from Optuna's tables, so a capsule gives the same figures.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis import collapse
from analysis.drawing import compact
from analysis.frame import Frame, records
from analysis.provenance import provenance
from analysis.stats import mean_interval
from analysis.tables import Cell, Column, Kind, Row, Table
from sweeps.cli import UserError
from sweeps.study import SearchSpec, is_trial

KINDS = ("importance", "contour")
NUM_SHOWN = 15  # trials in the table, the best first
FEWEST = 4  # finished trials that importances and contours need
GRID_SIZE = 60


@dataclass(frozen=True)
class Axis:
    """An option on an axis: numbers where they are (or their logarithm), categories side by side."""

    key: str
    label: str
    places: NDArray[np.float64]  # of the trials
    low: float  # of the space
    high: float
    is_log: bool = False
    is_whole: bool = False
    names: tuple[str, ...] = ()  # of the categories, at 0, 1, ...


@dataclass(frozen=True)
class Landscape:
    """What one figure of a search draws. `bars` for an importance, `axes` and `values` for a contour."""

    title: str
    kind: str
    metric: str
    note: str
    bars: tuple[tuple[str, float], ...] = ()  # option, share of the metric's variance; the largest first
    axes: tuple[Axis, ...] = ()
    values: NDArray[np.float64] | None = None
    surface: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None = None


def spec_of(frame: Frame) -> SearchSpec:
    spec = frame.study.search(frame.scale)
    assert spec is not None, f"{frame.name} is no search"
    return spec


def trials(frame: Frame, metric: str) -> pd.DataFrame:
    """One row a trial, in the order they were asked for, with `value` of `metric` and every option as a column."""
    tidy = frame.tidy()
    return tidy[tidy["row_key"].map(is_trial) & (tidy["metric"] == metric)].sort_values("row_order", kind="stable")


# ---- the table ---------------------------------------------------------------------------------------------------


def table(frame: Frame) -> Table:
    """The best trials with what they chose, then the setting that was not searched and the random initialisation."""
    spec = spec_of(frame)
    tidy = frame.tidy()
    columns = [
        Column(metric, metric, Kind.value, metric, digits=frame.study.decimals(metric)) for metric in frame.metrics
    ]
    columns += [Column(key, key, Kind.setting) for key in spec.space]
    found = trials(frame, spec.metric)
    done = found.dropna(subset="value").sort_values("value", ascending=spec.direction == "minimize", kind="stable")
    shown = [*done["row_key"].head(NUM_SHOWN)]
    others = [key for key in dict.fromkeys(frame.cells["row_key"]) if not is_trial(key)]
    by_row = {key: rows for key, rows in tidy.groupby("row_key", sort=False)}
    rows = tuple(
        replace(
            _row(by_row[key], columns, is_baseline=key == frame.study.baseline), collapse=collapse.of_row(frame, key)
        )
        for key in [*shown, *others]
    )
    return Table(
        name=frame.name,
        title=frame.study.title,
        caption=str(frame.study.table.get("caption") or frame.study.title),
        row_header="trial",
        columns=tuple(columns),
        rows=rows,
        notes=(
            *_notes(frame, spec, found, len(shown)),
            *(collapse.note(row.label, row.collapse) for row in rows if row.collapse),
        ),
        provenance=provenance(frame),
        digest=frame.digest,
        scale=frame.scale,
    )


def _row(rows: pd.DataFrame, columns: list[Column], *, is_baseline: bool) -> Row:
    first = next(iter(records(rows)))
    values = {row.metric: row for row in records(rows[["metric", "state", "value"]])}
    cells = []
    for column in columns:
        if column.kind is Kind.setting:
            cells.append(Cell(text=_shown(rows[column.key].iloc[0])))
        elif np.isnan(values[column.metric].value):
            state = values[column.metric].state
            cells.append(Cell(text="not recorded" if state == "done" else state))
        else:
            cells.append(Cell(mean_interval([float(values[column.metric].value)])))
    return Row(first.row_key, first.row_label, tuple(cells), is_baseline, bool(first.is_random_init))


def _shown(value: Any) -> str:
    return compact(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def _notes(frame: Frame, spec: SearchSpec, found: pd.DataFrame, num_shown: int) -> list[str]:
    states = Counter(found["state"])
    counts = ", ".join(f"{n} {state}" for state, n in sorted(states.items()))
    word = "smallest" if spec.direction == "minimize" else "largest"
    return [
        f"{len(found)} trials ({counts or 'none yet'}), sampler {spec.sampler}, pruner {spec.pruner}; "
        f"the {num_shown} with the {word} {spec.metric} are shown.",
        "One seed a trial, and the best of many: its number is too good by the luck of the draw. Train it with more "
        "seeds, as a study of rows, before comparing.",
    ]


# ---- the figures -------------------------------------------------------------------------------------------------


def plot(frame: Frame, figure: Mapping[str, Any]) -> Landscape:
    """What an `importance` or `contour` figure shows.

    Raises UserError naming the figure where a contour's axis is not searched.
    """
    spec = spec_of(frame)
    metric = str(figure.get("metric", spec.metric))
    title = str(figure.get("title", frame.study.title))
    label = str(figure.get("ylabel" if figure["kind"] == "importance" else "metric", metric))
    done = trials(frame, metric).dropna(subset="value")
    note = f"{len(done)} finished trials"
    if figure["kind"] == "importance":
        bars = importances(done, spec) if len(done) >= FEWEST else ()
        if not bars:
            note += ": too few that differ"
        return Landscape(title, "importance", label, note, bars=bars)
    for name in ("x", "y"):
        if figure.get(name) not in spec.space:
            raise UserError(
                f"{frame.name}: figure {figure['name']}: {name} must be one of the searched options "
                f"{', '.join(spec.space)}, got {figure.get(name)!r}"
            )
    axes = tuple(_axis(done, spec, str(figure[n]), str(figure.get(f"{n}label", figure[n]))) for n in ("x", "y"))
    values = done["value"].to_numpy(dtype=np.float64)
    surface = _surface(axes, values) if len(done) >= FEWEST else None
    return Landscape(title, "contour", label, note, axes=axes, values=values, surface=surface)


def importances(done: pd.DataFrame, spec: SearchSpec) -> tuple[tuple[str, float], ...]:
    """Each option's share of the metric's variance over the space (fANOVA), the largest first; () for a flat metric.

    Source: Hutter, Hoos and Leyton-Brown (2014), "An efficient approach for assessing hyperparameter importance".
    """
    # Half a second, for the studies that have such a figure.
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    if np.ptp(done["value"].to_numpy(dtype=np.float64)) == 0:
        return ()
    space: dict[str, BaseDistribution] = {}
    for key, found in spec.space.items():
        # fANOVA only needs the bounds: a whole number is a float to it.
        space[key] = (
            CategoricalDistribution(found.choices)
            if found.kind == "categorical"
            else FloatDistribution(found.low, found.high, log=found.log)
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()  # whichever direction: the variance has none
    for row in done.to_dict("records"):
        params = {
            key: next(c for c in found.choices if c == row[key]) if found.kind == "categorical" else float(row[key])
            for key, found in spec.space.items()
        }
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=float(row["value"])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return tuple(sorted(((key, float(share)) for key, share in shares.items()), key=lambda bar: (-bar[1], bar[0])))


def _axis(done: pd.DataFrame, spec: SearchSpec, key: str, label: str) -> Axis:
    found = spec.space[key]
    chosen = done[key]
    if found.kind == "categorical":
        chosen = chosen.map({choice: place for place, choice in enumerate(found.choices)})
    places: NDArray[np.float64] = chosen.to_numpy(dtype=np.float64)
    if found.kind == "categorical":
        names = tuple(_shown(choice) for choice in found.choices)
        return Axis(key, label, places, 0, len(names) - 1, names=names)
    return Axis(key, label, places, found.low, found.high, is_log=found.log, is_whole=found.kind == "int")


def _surface(
    axes: tuple[Axis, ...], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """x, y and the metric between the trials: the mean of all, weighted by 1 / distance² in the plane they span."""
    grid = np.linspace(0, 1, GRID_SIZE)
    lines, units = [], []
    for axis in axes:
        low, high, places = axis.low, axis.high, axis.places
        if axis.is_log:
            low, high, places = np.log(low), np.log(high), np.log(places)
        line = low + (high - low) * grid
        lines.append(np.exp(line) if axis.is_log else line)
        units.append((places - low) / (high - low))
    distances = (grid[None, :, None] - units[0]) ** 2 + (grid[:, None, None] - units[1]) ** 2 + 1e-3
    return lines[0], lines[1], (values / distances).sum(-1) / (1 / distances).sum(-1)
