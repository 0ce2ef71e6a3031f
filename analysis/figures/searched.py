"""What a searched study's figures show: which options mattered, and how the metric lies over two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.figures.search import spec_of, trials, value_text
from analysis.numbers.frame import Frame
from analysis.numbers.importances import FEWEST, importances, share_intervals, uncertainty
from sweeps.console.errors import UserError
from sweeps.console.tables import counted
from sweeps.study.metric_words import describe, metric_words, option_words
from sweeps.study.search_space import SearchSpec

KINDS = ("importance", "contour")
FEWEST_OF_CONTOUR = 10  # places of finished trials: a surface between fewer is made up
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
    intervals: tuple[tuple[float, float], ...] = ()  # of each bar
    axes: tuple[Axis, ...] = ()
    values: NDArray[np.float64] | None = None
    surface: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None = None


def plot(frame: Frame, figure: Mapping[str, Any]) -> Landscape:
    """What an `importance` or `contour` figure shows.

    Raises UserError naming the figure where a contour's axis is not searched.
    """
    spec = spec_of(frame)
    metric = str(figure.get("metric", spec.metric))
    title = str(figure.get("title", frame.study.title))
    is_importance = figure["kind"] == "importance"
    share = f"share of the variance of {describe(metric).words}"
    label = str(figure.get("ylabel", share)) if is_importance else metric_words(metric)
    done = trials(frame, metric).dropna(subset="value")
    note = counted(len(done), "finished trial")
    if is_importance:
        bars = importances(done, spec) if len(done) >= FEWEST else ()
        if not bars:
            return Landscape(title, "importance", label, f"{note}: too few that differ")
        ends = share_intervals(done, spec, [key for key, _ in bars])
        return Landscape(title, "importance", label, f"{note}, {uncertainty(done)}", bars=bars, intervals=ends)
    for name in ("x", "y"):
        if figure.get(name) not in spec.space:
            raise UserError(
                f"{frame.name}: figure {figure['name']}: {name} must be one of the searched options "
                f"{', '.join(spec.space)}, got {figure.get(name)!r}"
            )
    keys = [str(figure[name]) for name in ("x", "y")]
    # Two trials that differ elsewhere may lie in one place, where the later one would hide the other.
    placed = done.groupby(keys, sort=False, as_index=False, dropna=False).agg({"value": "mean"})
    axes = tuple(
        _axis(placed, spec, str(figure[n]), str(figure.get(f"{n}label", option_words(str(figure[n])))))
        for n in ("x", "y")
    )
    values = placed["value"].to_numpy(dtype=np.float64)
    surface = _surface(axes, values) if len(placed) >= FEWEST_OF_CONTOUR else None
    if len(placed) < len(done):
        note += f" in {counted(len(placed), 'place')}, each the mean of those there"
    if others := len({*spec.space} - {*keys}):
        note += f", whatever their {counted(others, 'other option')}"
    note = f"Dots: {note}" + ("; the surface between them is interpolated." if surface else ".")
    return Landscape(title, "contour", label, note, axes=axes, values=values, surface=surface)


def _axis(done: pd.DataFrame, spec: SearchSpec, key: str, label: str) -> Axis:
    found = spec.space[key]
    chosen = done[key]
    if found.kind == "categorical":
        chosen = chosen.map({choice: place for place, choice in enumerate(found.choices)})
    places: NDArray[np.float64] = chosen.to_numpy(dtype=np.float64)
    if found.kind == "categorical":
        names = tuple(value_text(choice) for choice in found.choices)
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
