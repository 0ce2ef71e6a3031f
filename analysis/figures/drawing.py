"""Draw what `figures.plot` found. Nothing is computed here but places on the page."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from analysis.figures.plotting import FLAT, MOST_DOTS, Panel, Plot, levels
from analysis.figures.theme import COLUMN, MARKERS, PALETTE, PASTED, REFERENCE, TYPE, every_form, settings, text_width
from analysis.numbers.frame import records

PANEL_HEIGHT, LEGEND_LINE = 2.5, 0.17  # inches
MOST_IN_A_LINE = 3  # panels
# Letters of a line of an axis's label: below a panel, along its height, and where rows' labels leave less room.
WIDE, UPRIGHT, BESIDE_ROWS = 34, 22, 26
STEPS = (1, 2, 5, 10)  # between ticks, times a power of ten


def images(plot: Plot, article: str = PASTED) -> dict[str, bytes]:
    """The figure as {"svg": ..., "png": ..., "pdf": ...}; the same plot gives the same bytes."""
    with mpl.rc_context(cast(Any, settings(article))):
        figure = draw(plot)
        return every_form(figure)


def draw(plot: Plot) -> Figure:
    """Rows of panels with one legend beside them, or one panel below it. Call it within `theme.settings()`."""
    has_legend = bool((plot.points["hue"] != "").any())
    num_marks = max(len(_of(plot.points, number)) for number in range(len(plot.panels)))
    is_flat = plot.panels[0].kind in FLAT
    num_columns = min(len(plot.panels), MOST_IN_A_LINE)
    num_lines = math.ceil(len(plot.panels) / num_columns)
    height = num_lines * (1.3 + 0.3 * num_marks if is_flat else PANEL_HEIGHT)
    figure = Figure(figsize=(text_width() if num_columns > 1 else COLUMN, height), layout="constrained")
    cast(ConstrainedLayoutEngine, figure.get_layout_engine()).set(wspace=0.05)  # ticks stand out at both ends
    all_axes: list[Axes] = []
    for number, panel in enumerate(plot.panels):
        axes = figure.add_subplot(num_lines, num_columns, number + 1, sharey=_shared(all_axes, plot, panel))
        all_axes.append(axes)
        # Every panel gives a hue level the same colour, also one that shows only some of the levels.
        groups = _groups(_of(plot.points, number), _of(plot.seeds, number), levels(plot.points["hue"]))
        _DRAWING[panel.kind](axes, panel, groups)
        _reference(axes, panel, _of(plot.references, number))
        _keep_in_range(axes, panel)
        is_shared = any(axes.get_shared_y_axes().joined(axes, other) for other in all_axes[:-1])
        _label(axes, panel, is_shared=is_shared, most=WIDE if num_columns == 2 else BESIDE_ROWS)
    noted(figure, plot.title, f"{plot.note} {_about_reference(plot.references, has_legend=has_legend)}".strip())
    if has_legend:
        _legend(figure, plot, all_axes)
    return figure


def _about_reference(references: pd.DataFrame, *, has_legend: bool) -> str:
    """What a legend does not say of the untrained encoder's line and of what is shaded around it."""
    told = [] if has_legend or references.empty else ["dashed: random init"]
    if references["low"].notna().any():
        told.append(f"shaded: {'its interval' if told else 'the interval of random init'}")
    return f"{', '.join(told).capitalize()}." if told else ""


def noted(figure: Figure, title: str, note: str) -> None:
    """The title above and the note below, in lines as long as the figure is wide; more than one each make it taller."""
    letters = int(figure.get_figwidth() * 72 / (0.53 * TYPE))
    title = textwrap.fill(title, int(0.85 * letters))
    note = textwrap.fill(note.replace(" %", "\u00a0%"), letters)  # no line begins with a sign
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * (title + note).count("\n"))
    figure.suptitle(title)
    if note:
        figure.supxlabel(note, fontsize=TYPE, x=0.01, ha="left")


def _shared(drawn: list[Axes], plot: Plot, panel: Panel) -> Axes | None:
    """The axes whose y this panel shares: the same rows, or the same metric in the same unit."""
    if not drawn:
        return None
    if panel.kind in FLAT:
        return drawn[0]
    return None if panel.is_printed or panel.metric != plot.panels[0].metric else drawn[0]


def _of(points: pd.DataFrame, number: int) -> pd.DataFrame:
    return points[points["panel"] == number]


def _label(axes: Axes, panel: Panel, *, is_shared: bool, most: int) -> None:
    """`most` letters has a line below a panel that has rows' labels to its left."""
    if panel.kind in FLAT:  # the values lie along x
        num_rows = len(axes.get_yticks())
        axes.set(xlabel=wrapped(panel.ylabel, most), ylabel=wrapped(panel.xlabel, max(12, 5 * num_rows)))
    else:
        axes.set(xlabel=wrapped(panel.xlabel), ylabel=wrapped(panel.ylabel, UPRIGHT))
    axes.set_title(panel.title)
    if is_shared:
        axes.set_ylabel("")
        axes.tick_params(labelleft=False)
    axes.grid(axis="x" if panel.kind in FLAT else "y", visible=True)
    axes.grid(axis="y" if panel.kind in FLAT else "x", visible=False)


def _keep_in_range(axes: Axes, panel: Panel) -> None:
    """The axis ends where the metric's values do: no room beyond it that looks as if a number could lie there."""
    is_flat = panel.kind in FLAT
    low, high = axes.get_xlim() if is_flat else axes.get_ylim()
    ends = max(low, panel.low), min(high, panel.high)
    if ends[0] < ends[1]:
        (axes.set_xlim if is_flat else axes.set_ylim)(*ends)


def wrapped(label: str, most: int = WIDE) -> str:
    """In lines as long as a panel is wide; a unit does not stand alone."""
    return textwrap.fill(re.sub(r" (\([^ ]*\))$", "\u00a0\\1", label), most)


def _reference(axes: Axes, panel: Panel, reference: pd.DataFrame) -> None:
    """The untrained encoder: a dashed line over bars and under marks, its interval behind everything."""
    for row in records(reference.dropna(subset="mean")):
        line, span = (axes.axvline, axes.axvspan) if panel.kind in FLAT else (axes.axhline, axes.axhspan)
        line(row.mean, color=REFERENCE, linestyle=(0, (4, 3)), linewidth=1.1, zorder=2.5, label="random init")
        if np.isfinite(row.low):
            span(row.low, row.high, color=REFERENCE, alpha=0.08, linewidth=0, zorder=0)


# ---- lines and marks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """The points of one hue level with their seeds, and how that level is drawn."""

    points: pd.DataFrame
    seeds: pd.DataFrame
    label: str
    color: str
    marker: str


def _groups(points: pd.DataFrame, seeds: pd.DataFrame, hues: Sequence[Any]) -> list[_Group]:
    return [
        _Group(
            points[points["hue"] == hue],
            seeds[seeds["hue"] == hue],
            _name(hue),
            PALETTE[i % len(PALETTE)],
            MARKERS[i % len(MARKERS)],
        )
        for i, hue in enumerate(hues)
    ]  # fmt: skip


def _lines(axes: Axes, panel: Panel, groups: Sequence[_Group]) -> None:
    to_place = _place_x(axes, panel, groups)
    for group in groups:
        placed = group.points.assign(x=to_place(group.points["x"])).sort_values("x")
        points = placed.dropna(subset="mean")
        if points.empty:
            continue
        if len(points) < len(placed) and not panel.is_printed:
            _absent(axes, placed[placed["mean"].isna()], group)
        sns.lineplot(
            x=points["x"], y=points["mean"], ax=axes, color=group.color, linestyle="--" if panel.is_printed else "-",
            marker=group.marker, markeredgecolor=group.color, errorbar=None, label=group.label or None, legend=False,
        )  # fmt: skip
        _marks(axes, points, group, hollow=panel.is_printed)
        if len(points) > 1 and points["num_seeds"].min() > MOST_DOTS:
            axes.fill_between(points["x"], points["low"], points["high"], color=group.color, alpha=0.13, linewidth=0)
        else:
            _error_bars(axes, points, group)
        _dots(axes, group.seeds.assign(x=to_place(group.seeds["x"])), group)


def _absent(axes: Axes, points: pd.DataFrame, group: _Group) -> None:
    """Crosses on the lower edge: no run gave a number here; the note below the figure names them."""
    place = axes.get_xaxis_transform()
    axes.plot(points["x"], [0.02] * len(points), "x", transform=place, color=group.color, markersize=5, zorder=4)


def _scatter(axes: Axes, panel: Panel, groups: Sequence[_Group]) -> None:
    to_place = _place_x(axes, panel, groups)
    for group in groups:
        points = group.points.assign(x=to_place(group.points["x"])).dropna(subset=["mean", "x"])
        _error_bars(axes, points, group)
        _dots(axes, group.seeds.assign(x=to_place(group.seeds["x"])).dropna(subset="x"), group)
        _marks(axes, points, group, hollow=panel.is_printed, label=group.label or None)


def _marks(axes: Axes, points: pd.DataFrame, group: _Group, *, hollow: bool, label: str | None = None) -> None:
    """Filled where every seed is in; hollow where some are missing, and for printed numbers."""
    whole = (points["num_seeds"] >= points["num_wanted"]) & (not hollow)
    faces = [group.color if is_whole else "white" for is_whole in whole]
    axes.scatter(
        points["x"], points["mean"], c=faces, edgecolors=group.color, marker=group.marker, s=28, zorder=4, label=label
    )


def _error_bars(axes: Axes, points: pd.DataFrame, group: _Group) -> None:
    axes.errorbar(
        points["x"], points["mean"], yerr=_whiskers(points), color=group.color, linestyle="none", elinewidth=0.8,
        capsize=1.5, zorder=3,
    )  # fmt: skip


def _whiskers(points: pd.DataFrame) -> Any:
    """From the mean to each end of its interval, which may be cut off at the end of the metric's range."""
    return np.stack([(points["mean"] - points["low"]).fillna(0), (points["high"] - points["mean"]).fillna(0)]).clip(0)


def _dots(axes: Axes, seeds: pd.DataFrame, group: _Group, *, is_flat: bool = False) -> None:
    """Every seed, beside its mean; on the bar itself where there is one."""
    if seeds.empty:
        return
    shift = ScaledTranslation(0 if is_flat else 4 / 72, 0, axes.figure.dpi_scale_trans)
    x, y = (seeds["value"], seeds["x"]) if is_flat else (seeds["x"], seeds["value"])
    axes.scatter(
        x, y, s=7, color="white" if is_flat else group.color, edgecolors=REFERENCE if is_flat else "white",
        linewidths=0.5 if is_flat else 0.3, zorder=5,
        transform=axes.transData + shift,
    )  # fmt: skip


def _place_x(axes: Axes, panel: Panel, groups: Sequence[_Group]) -> Callable[[pd.Series[Any]], pd.Series[float]]:
    """Numbers where they are, ticks on them if they fit; words side by side in the study's order."""
    found = levels([value for group in groups for value in group.points["x"]])
    if not all(isinstance(value, float | int) for value in found):
        axes.set_xticks(range(len(found)), [textwrap.fill(_name(level), 9, break_long_words=False) for level in found])
        axes.set_xlim(-0.4, len(found) - 0.6)
        return lambda x: x.map({level: place for place, level in enumerate(found)}).astype("float64")
    zero = _place_of_zero(found) if panel.is_log else 0.0
    if panel.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_minor_locator(NullLocator())
    if panel.is_log and 0 in found:
        found = [zero if value == 0 else value for value in found]
        axes.set_xticks(found if _ticks_fit(found, is_log=True) else [zero, *_decades(found[1:])])
        _broken_axis(axes, math.sqrt(zero * found[1]))
    elif _ticks_fit(found, is_log=panel.is_log):
        axes.set_xticks(found)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(0 if value == zero else value)))
    axes.margins(x=0.08)
    return lambda x: x.astype("float64").replace(0, zero)


def _broken_axis(axes: Axes, place: float) -> None:
    """Two strokes through the axis between 0 and the rest, which no log axis joins."""
    strokes: dict[str, Any] = {"marker": [(-1, -2), (1, 2)], "markersize": 6, "markeredgecolor": REFERENCE}
    for shift in (-1.5, 1.5):  # points
        beside = axes.get_xaxis_transform() + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
        axes.plot([place], [0], transform=beside, clip_on=False, zorder=5, color="none", **strokes)


def _place_of_zero(values: Sequence[float]) -> float:
    """Where a log axis shows 0: left of the smallest of the other values, by the step from it to the next."""
    others = [value for value in values if value > 0]
    return others[0] ** 2 / others[1] if len(others) > 1 else others[0] / 10 if others else 1.0


def _decades(values: Sequence[float]) -> list[float]:
    low, high = (math.floor(math.log10(value)) for value in (values[0], values[-1]))
    return [10.0**power for power in range(low, high + 1) if values[0] <= 10.0**power <= values[-1]]


def _ticks_fit(values: Sequence[float], *, is_log: bool) -> bool:
    if len(values) < 2 or (is_log and min(values) <= 0):
        return False
    places = np.log(values) if is_log else np.asarray(values, dtype=np.float64)
    return len(values) <= 7 and float(np.diff(places).min()) >= 0.13 * float(np.ptp(places))


# ---- bars and points ---------------------------------------------------------------------------------------------


def _flat(axes: Axes, panel: Panel, groups: Sequence[_Group]) -> None:
    """Rows from the top, hue levels side by side within a row; intervals as whiskers."""
    column = "x" if len(groups) > 1 else "label"
    rows = levels([row for group in groups for row in group.points[column]])
    step = 0.78 / max(1, len(groups))
    for number, group in enumerate(groups):
        points = group.points.dropna(subset="mean")
        offset = (number - (len(groups) - 1) / 2) * step
        places = points[column].map({row: place for place, row in enumerate(rows)}).astype("float64") + offset
        if panel.kind == "bar" and not panel.is_printed:
            _bars(axes, points, places, group, height=0.92 * step)
        else:
            swapped = points.assign(x=points["mean"], mean=places)
            _marks(axes, swapped, group, hollow=panel.is_printed, label=group.label)
            axes.margins(x=0.12)
        if not panel.is_printed:
            seeds = group.seeds.assign(
                x=group.seeds[column].map({row: n for n, row in enumerate(rows)}).astype("float64")
                + offset
                + 0.2 * step
            )
            _dots(axes, seeds, group, is_flat=True)
            color = REFERENCE if panel.kind == "bar" else group.color
            axes.errorbar(
                points["mean"],
                places,
                xerr=_whiskers(points),
                color=color,
                linestyle="none",
                elinewidth=0.8,
                capsize=1.5,
                zorder=3,
            )
    axes.set_yticks(range(len(rows)), [textwrap.fill(_name(row), 24) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))  # the ticks of two panels meet between them


def _bars(axes: Axes, points: pd.DataFrame, places: pd.Series[float], group: _Group, *, height: float) -> None:
    whole = points["num_seeds"] >= points["num_wanted"]
    colors = [group.color if is_whole else "white" for is_whole in whole]
    axes.barh(
        places, points["mean"], height=height, color=colors, edgecolor=group.color, linewidth=1, zorder=2,
        label=group.label,
    )  # fmt: skip


_DRAWING: dict[str, Callable[[Axes, Panel, Sequence[_Group]], None]] = {
    "line": _lines,
    "scatter": _scatter,
    "bar": _flat,
    "point": _flat,
}


# ---- words -------------------------------------------------------------------------------------------------------


def _legend(figure: Figure, plot: Plot, all_axes: list[Axes]) -> None:
    handles: dict[str, Any] = {}
    for axes in all_axes[::-1]:  # the first panel's marks win over the printed panel's
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    order = [_name(level) for level in levels(plot.points["hue"]) if _name(level) in handles]
    order += [label for label in handles if label not in order]
    shown, title = [handles[label] for label in order], plot.panels[0].hue_label or None
    if len(all_axes) > 1:
        figure.legend(shown, order, title=title, loc="outside right center")
        return
    # A column has no room beside the panel.
    room = (0.5 if plot.panels[0].kind in FLAT else 0.8) * COLUMN * 72
    num_columns = max(1, min(len(order), int(room / (0.56 * TYPE * max(map(len, order)) + 24))))
    num_lines = math.ceil(len(order) / num_columns) + (title is not None)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * num_lines)
    all_axes[0].legend(
        shown,
        order,
        title=title,
        ncols=num_columns,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        alignment="left",
        borderaxespad=0.2,
        columnspacing=1,
    )


def _name(level: Any) -> str:
    return compact(level) if isinstance(level, float | int) and not isinstance(level, bool) else str(level)


def compact(value: float) -> str:
    """0.75, 400, 12.8k, 1.2M: short enough for an axis."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4):  # four digits are as short as "9.8k"
            return f"{value / size:.3g}{suffix}"
    return f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"
