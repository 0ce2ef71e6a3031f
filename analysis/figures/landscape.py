"""Draw what `searched.plot` found: bars of importance, or the metric over two options."""

from __future__ import annotations

from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.figures.drawing import BESIDE_ROWS, PANEL_HEIGHT, STEPS, compact, noted, wrapped
from analysis.figures.searched import Axis, Landscape
from analysis.figures.theme import COLUMN, PALETTE, REFERENCE, every_form, settings
from sweeps.study.metric_words import option_words

COLORS = "cividis"  # the same for the colour-blind, and in grey


def images(plot: Landscape) -> dict[str, bytes]:
    """The figure as {"svg": ..., "png": ..., "pdf": ...}, importances also as "csv".

    The same plot gives the same bytes.
    """
    with mpl.rc_context(cast(Any, settings())):
        figure = draw(plot)
        found = every_form(figure)
    return found | ({"csv": to_csv(plot)} if plot.bars else {})


def to_csv(plot: Landscape) -> bytes:
    """A line an option: its share with the ends of its interval, at full precision."""
    lines = ["option,share,low,high"]
    ends = plot.intervals or ((float("nan"),) * 2,) * len(plot.bars)
    for (key, share), (low, high) in zip(plot.bars, ends, strict=True):
        lines.append(f"{key},{share!r},{low!r},{high!r}")
    return ("\n".join(lines) + "\n").encode()


def draw(plot: Landscape) -> Figure:
    """Call it within `theme.settings()`."""
    is_contour = plot.kind == "contour"
    height = PANEL_HEIGHT + 0.4 if is_contour else 1.3 + 0.3 * max(1, len(plot.bars))
    figure = Figure(figsize=(COLUMN, height), layout="constrained")
    axes = figure.add_subplot()
    if is_contour:
        _contour(figure, axes, plot)
    else:
        _bars(axes, plot)
    noted(figure, plot.title, plot.note)
    return figure


def _bars(axes: Axes, plot: Landscape) -> None:
    places = range(len(plot.bars))
    axes.barh(places, [share for _, share in plot.bars], height=0.7, color=PALETTE[0])
    for place, (_, share), (low, high) in zip(places, plot.bars, plot.intervals, strict=False):
        axes.errorbar(share, place, xerr=[[share - low], [high - share]], color=REFERENCE, capsize=3, linewidth=1)
    axes.set_yticks(places, [option_words(key) for key, _ in plot.bars])
    axes.set_ylim(max(1, len(plot.bars)) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(wrapped(plot.metric, BESIDE_ROWS))
    axes.grid(axis="y", visible=False)


def _contour(figure: Figure, axes: Axes, plot: Landscape) -> None:
    x, y = plot.axes
    assert plot.values is not None
    _place(axes, x, "x")
    _place(axes, y, "y")
    if len(plot.values):
        # One scale for marks and surface, which lies between the marks' values.
        scale = Normalize(plot.values.min(), plot.values.max())
        if plot.surface is not None:
            axes.contourf(*plot.surface, levels=12, cmap=COLORS, norm=scale, alpha=0.85)
        marks = axes.scatter(
            x.places, y.places, c=plot.values, cmap=COLORS, norm=scale, edgecolors=REFERENCE, s=30, zorder=3
        )
        figure.colorbar(marks, ax=axes, label=wrapped(plot.metric))
    axes.grid(visible=False)


def _place(axes: Axes, axis: Axis, name: str) -> None:
    """Label and scale of one side."""
    side: Any = axes.xaxis if name == "x" else axes.yaxis
    margin = 0 if axis.is_log else 0.05 * (axis.high - axis.low)
    axes.set(**{f"{name}label": axis.label, f"{name}lim": (axis.low - margin, axis.high + margin)})
    if axis.names:
        side.set_ticks(range(len(axis.names)), axis.names)
        return
    if axis.is_log:
        axes.set(**{f"{name}scale": "log"})
    else:
        side.set_major_locator(MaxNLocator(5, integer=axis.is_whole, steps=STEPS))
    side.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
