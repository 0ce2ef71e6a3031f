"""Training curves, thinned and scaled to a small drawing. The template draws what is here and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.ticker import MaxNLocator

from sweeps.database.series import Series, Steps, Values

LEFT, RIGHT, TOP, BOTTOM = 80, 508, 16, 224  # of the axes, in a drawing of 520 by 260
NUM_POINTS = 72
LOG_FROM = 50  # largest over smallest value from which the axis is logarithmic


@dataclass(frozen=True)
class Line:
    """One curve: an SVG path, and which of the series colours it has (-1: the reference's grey)."""

    path: str
    color: int
    label: str


@dataclass(frozen=True)
class Joint:
    """Where a later attempt went on."""

    x: int
    label: str


@dataclass(frozen=True)
class Panel:
    """One drawing: its lines, joints, and the ticks (place, label) of its axes."""

    title: str
    lines: tuple[Line, ...]
    joints: tuple[Joint, ...]
    x_ticks: tuple[tuple[int, str], ...]
    y_ticks: tuple[tuple[int, str], ...]
    summary: str
    is_log: bool = False
    link: str = ""


@dataclass(frozen=True)
class Curve:
    """A series to be drawn, with the steps at which its run was resumed."""

    series: Series
    color: int
    label: str
    resumes: Sequence[tuple[int, int]] = ()  # (attempt, step)


def thin(series: Series, most: int = NUM_POINTS) -> Series:
    """At most `most` points, each the mean of equally many neighbours; values that are not finite are left out."""
    finite = np.isfinite(series.values)
    steps, values = series.steps[finite], series.values[finite]
    if len(steps) <= most:
        return Series(steps, values)
    starts = np.linspace(0, len(steps), most, endpoint=False).astype(np.int64)
    counts = np.diff(np.append(starts, len(steps)))
    means = np.add.reduceat(values, starts) / counts
    return Series(np.add.reduceat(steps, starts) // counts, means)


def average(series: Sequence[Series]) -> Series:
    """The mean over runs at the steps that the first of them has, as far as all of them go."""
    end = min(int(one.steps[-1]) for one in series)
    steps: Steps = series[0].steps[series[0].steps <= end]
    values: Values = np.mean([np.interp(steps, one.steps, one.values) for one in series], axis=0)
    return Series(steps, values)


@dataclass(frozen=True)
class Scale:
    """Where a step and a value lie in a drawing."""

    steps: tuple[int, int]
    values: tuple[float, float]
    is_log: bool

    def x(self, steps: Steps) -> list[int]:
        first, last = self.steps
        places = LEFT + (RIGHT - LEFT) * (steps - first) / max(1, last - first)
        return [int(place) for place in np.rint(places).tolist()]

    def y(self, values: Values) -> list[int]:
        low, high = self._on_axis(np.array(self.values)).tolist()
        shares = (self._on_axis(values) - low) / (high - low) if high > low else np.full(len(values), 0.5)
        return [int(place) for place in np.rint(BOTTOM - (BOTTOM - TOP) * shares).tolist()]

    def _on_axis(self, values: Values) -> Values:
        # numpy's own logarithm is another one from CPU to CPU.
        return np.array([math.log10(value) for value in values.tolist()]) if self.is_log else values

    def path(self, series: Series) -> str:
        """`M80 25l5-3 6 1...`: whole numbers, each point from the one before it, which is the shortest to write."""
        xs, ys = self.x(series.steps), self.y(series.values)
        moves = [
            f"{x - last_x} {y - last_y}" for (last_x, x), (last_y, y) in zip(pairwise(xs), pairwise(ys), strict=True)
        ]
        return f"M{xs[0]} {ys[0]}l{' '.join(moves or ['1 0'])}".replace(" -", "-")

    def x_ticks(self) -> tuple[tuple[int, str], ...]:
        steps = list(dict.fromkeys(self.steps))
        return tuple(zip(self.x(np.array(steps)), (f"{step:,}" for step in steps), strict=True))

    def y_ticks(self) -> tuple[tuple[int, str], ...]:
        low, high = self.values
        if self.is_log:
            marks = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
            marks = marks[:: max(1, len(marks) // 3)] or [low, high]
        else:
            marks = [float(mark) for mark in MaxNLocator(3).tick_values(low, high) if low <= mark <= high]
        marks = marks or [low]
        return tuple(zip(self.y(np.array(marks)), (f"{mark:.4g}" for mark in marks), strict=True))


def scale_of(thinned: Sequence[Series]) -> Scale | None:
    """The axes that all of these share; None where there is nothing to draw."""
    full = [series for series in thinned if len(series.steps)]
    if not full:
        return None
    values = np.concatenate([series.values for series in full])
    low, high = float(values.min()), float(values.max())
    if math.isclose(low, high, rel_tol=1e-9):  # a mean of equal numbers is off by its last bit
        high = low
    steps = min(int(s.steps[0]) for s in full), max(int(s.steps[-1]) for s in full)
    return Scale(steps, (low, high), is_log=low > 0 and high > LOG_FROM * low)


def panels(groups: Mapping[str, Sequence[Curve]], reference: str = "") -> list[Panel]:
    """A drawing for each group of curves, all on the same axes; the mean of the group `reference` in grey in each."""
    thinned = {
        title: [(curve, points) for curve in curves if len((points := thin(curve.series)).steps)]
        for title, curves in groups.items()
    }
    scale = scale_of([points for found in thinned.values() for _, points in found])
    if scale is None:
        return []
    others = [points for _, points in thinned.get(reference, ())]
    grey = Line(scale.path(average(others)), -1, f"mean of {reference}") if others else None
    return [_panel(title, found, scale, grey if title != reference else None) for title, found in thinned.items()]


def _panel(title: str, found: Sequence[tuple[Curve, Series]], scale: Scale, grey: Line | None) -> Panel:
    lines = [Line(scale.path(points), curve.color, curve.label) for curve, points in found]
    joints = [
        Joint(scale.x(np.array([step]))[0], f"{curve.label}: attempt {attempt} went on at step {step:,}")
        for curve, _ in found
        for attempt, step in curve.resumes
    ]
    ends = [f"{curve.label} ends at {points.values[-1]:.4g}" for curve, points in found]
    return Panel(
        title=title,
        lines=tuple([grey, *lines] if grey else lines),
        joints=tuple(joints),
        x_ticks=scale.x_ticks(),
        y_ticks=scale.y_ticks(),
        summary="; ".join(ends) or "no points",
        is_log=scale.is_log,
    )
