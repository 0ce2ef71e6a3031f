"""A study's main figure at the size of a stamp, for the index: its shape, with no words and little to load.

It is drawn from the study's runs alone, so that an index of many studies draws no figure for it, and in the page's
colours. The sentence of the verdicts beside it says what is seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from analysis.numbers.frame import Frame, records
from sweeps.study.metric_words import metric_words

WIDTH, HEIGHT, EDGE = 132, 46, 4
MOST_MARKS = 40  # along one side
ALONG = ("line", "scatter")  # drawn with the rows along x, as the figure is


@dataclass(frozen=True)
class Series:
    """A column of the study: paths of its seeds, as dots, and of their means."""

    dots: str
    means: str


@dataclass(frozen=True)
class Thumbnail:
    label: str
    series: tuple[Series, ...]
    baseline: str  # a path; empty where there is none


def of_frame(frame: Frame) -> Thumbnail | None:
    """None where there is no figure, or fewer than two places have a number."""
    if not frame.study.figures:
        return None
    values: dict[str, dict[str, list[float]]] = {}
    runs = frame.runs[frame.runs["value"].notna() & ~frame.runs["is_random_init"].astype(bool)]
    for run in records(runs[["row_key", "col_key", "value"]]):
        values.setdefault(run.col_key, {}).setdefault(run.row_key, []).append(float(run.value))
    rows = list(dict.fromkeys(runs["row_key"]))[:MOST_MARKS]
    shown = [(row, one[row]) for one in values.values() for row in rows if row in one]
    if len(shown) < 2:
        return None
    is_along = str(frame.study.figures[0].get("kind", "line")) in ALONG
    ends = [value for _, found in shown for value in found]
    places = _Places(rows, min(ends), max(ends), is_along)
    baseline = next((one[frame.study.baseline] for one in values.values() if frame.study.baseline in one), None)
    return Thumbnail(
        label=f"{metric_words(frame.metrics[0])} of each row{'; dashed: the baseline' if baseline else ''}",
        series=tuple(_series(one, places) for one in values.values()),
        baseline=places.across(fmean(baseline)) if baseline else "",
    )


@dataclass(frozen=True)
class _Places:
    rows: Sequence[str]
    low: float
    high: float
    is_along: bool

    def at(self, row: str, value: float) -> tuple[float, float]:
        number = (self.rows.index(row) + 0.5) / len(self.rows)
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        x, y = (number, 1 - share) if self.is_along else (share, number)
        return round(EDGE + x * (WIDTH - 2 * EDGE), 1), round(EDGE + y * (HEIGHT - 2 * EDGE), 1)

    def across(self, value: float) -> str:
        x, y = self.at(self.rows[0], value)
        return f"M0 {y:g}H{WIDTH}" if self.is_along else f"M{x:g} 0V{HEIGHT}"


def _series(rows: dict[str, list[float]], places: _Places) -> Series:
    known = [(row, rows[row]) for row in places.rows if row in rows]
    dots = "".join("M{:g} {:g}h0".format(*places.at(row, value)) for row, found in known for value in found)
    means = [places.at(row, fmean(found)) for row, found in known]
    if places.is_along:
        return Series(dots, "M" + "L".join(f"{x:g} {y:g}" for x, y in means))
    half = min(4.0, 0.35 * HEIGHT / len(places.rows))
    return Series(dots, "".join(f"M{x:g} {y - half:g}v{2 * half:g}" for x, y in means))
