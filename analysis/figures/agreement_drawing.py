"""Draw `analysis.numbers.agreement`: a line a table, rank correlation on the left and signs on the right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.drawing import noted
from analysis.figures.theme import PALETTE, PASTED, REFERENCE, TYPE, every_form, settings, svg, text_width
from analysis.numbers.agreement import FEWEST_ROWS, Comparison, Summary

LINE_HEIGHT = 0.165  # inches: forty tables are on one page of a paper
SAME, OTHER, TAU = PALETTE[0], "#D9D9D9", PALETTE[1]
_NOTE = (
    "τ: Kendall's rank correlation of our rows' order with the printed one. Lines: its 95 % interval over resampled "
    f"seeds, widened as a t-interval is for so few. Hollow: fewer than {FEWEST_ROWS} rows, or one seed. Ours are small "
    "encoders on other data than the papers'; what differs is listed in tables/agreement.md, whose total counts a pair "
    "of configurations that several tables compare once."
)


def images(summaries: Sequence[Summary], *, for_a_page: bool = False, article: str = PASTED) -> dict[str, bytes]:
    """The figure as {"svg": ..., "png": ..., "pdf": ...}, or `for_a_page` the first only.

    Nothing where there is no comparison to draw.
    """
    if not summaries:
        return {}
    with mpl.rc_context(cast(Any, settings(article))):
        figure = draw(summaries)
        return {"svg": svg(figure)} if for_a_page else every_form(figure)


def draw(summaries: Sequence[Summary]) -> Figure:
    """Call it within `theme.settings()`."""
    lines = [comparison for summary in summaries for comparison in summary.comparisons]
    places, papers = _places(lines)
    lines = [lines[number] for number in sorted(places, key=places.__getitem__)]
    at = sorted(places.values())
    num_lines = max(at) + 1
    figure = Figure(figsize=(text_width(), 1.0 + LINE_HEIGHT * num_lines), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    _correlations(left, lines, at)
    _signs(right, lines, at)
    scales = {summary.scale for summary in summaries}
    words = Counter(line.words for line in lines)
    labels = [_label(line, with_scale=len(scales) > 1, is_alone=words[line.words] == 1) for line in lines]
    left.set_yticks([*at, *papers.values()], [*labels, *papers])
    for label in left.get_yticklabels()[len(at) :]:
        label.set_fontweight("bold")
    left.set_ylim(num_lines - 0.5, -0.5)
    for axes in (left, right):  # a page of lines is read from above
        axes.xaxis.set_label_position("top")
        axes.tick_params(axis="x", labeltop=True, labelbottom=False)
    noted(figure, f"Do our tables agree with the printed ones? (scale {', '.join(sorted(scales))})", _NOTE)
    return figure


def _places(lines: Sequence[Comparison]) -> tuple[dict[int, int], dict[str, int]]:
    """Where each comparison stands, by its number, and each paper's heading above its own, from the top."""
    papers: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        papers.setdefault(line.paper or "other", []).append(number)
    places: dict[int, int] = {}
    headings: dict[str, int] = {}
    for paper, numbers in sorted(papers.items()):
        headings[paper] = len(places) + len(headings)
        for number in numbers:
            places[number] = len(places) + len(headings)
    return places, headings


def _label(line: Comparison, *, with_scale: bool, is_alone: bool) -> str:
    """In words; by the study's name where another has the same ones."""
    words = line.words if is_alone else f"{line.study}: {line.quantity}".removesuffix(": ")
    return f"{words} ({line.scale})" if with_scale and "@" not in line.study else words


def _correlations(axes: Axes, lines: Sequence[Comparison], places: Sequence[int]) -> None:
    axes.axvline(0, color=REFERENCE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for place, line in zip(places, lines, strict=True):
        if not math.isfinite(line.tau):
            continue
        low, high = line.tau_interval
        if math.isfinite(low):
            axes.plot([low, high], [place, place], color=TAU, linewidth=1.4, zorder=2, solid_capstyle="butt")
        is_whole = len(line.rows) >= FEWEST_ROWS and line.num_seeds > 1
        axes.scatter([line.tau], [place], c=[TAU if is_whole else "white"], edgecolors=TAU, s=24, zorder=3)
    axes.set_xlim(-1.08, 1.08)
    axes.set(xlabel="τ of the rows' order")
    axes.grid(axis="y", visible=False)


def _signs(axes: Axes, lines: Sequence[Comparison], places: Sequence[int]) -> None:
    most = max(1, *(line.num_signs for line in lines))
    for place, line in zip(places, lines, strict=True):
        axes.barh(place, line.num_signs, height=0.7, color=OTHER, zorder=2)
        axes.barh(place, line.num_same, height=0.7, color=SAME, zorder=3)
        text = f"{line.num_same} of {line.num_signs}" if line.num_signs else "none is printed"
        axes.text(line.num_signs + 0.02 * most, place, f" {text}", va="center", fontsize=TYPE)
    axes.set_xlim(0, 1.45 * most)
    axes.set_xticks([])
    axes.set(xlabel="differences to\nthe baseline with\nthe printed sign")
    axes.tick_params(labelleft=False)
    axes.grid(visible=False)
