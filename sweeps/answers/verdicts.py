"""What a table says of each row beside its baseline, in words: better, worse, same within a margin, or undecided.

The interval that the table shows decides: clear of zero, the row is better or worse; within the margin on both sides,
it is the same (which an interval of 95 % says at 2.5 % a side, more strictly than two one-sided tests at 5 %). Else it
is undecided, and the spread so far tells how many more seeds would decide it in four of five tries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, nctdtr, ndtr

from sweeps.answers.blocked_intervals import Comparison, Difference, Estimate, quantile
from sweeps.answers.collapse import UNSEEN
from sweeps.study.metric_words import describe

POWER = 0.8
MOST_SEEDS = 1000
NUM_SPREADS = 200  # over which a forecast takes the mean
MOST_NAMED = 8  # rows of one verdict in a sentence

# Which way a metric is better, by a word of its name after the "/": flow/epe_noc, vos/jf, ridge/digit_top1.
_HIGHER = {"top1", "top5", "miou", "map", "jf", "j", "f"}
_LOWER = {"epe", "f1"}  # optical flow's Fl: the share of outliers


def higher_is_better(metric: str) -> bool | None:
    """None where neither is: a share of hidden patches, a cost that comes with what it buys."""
    words = set(metric.rpartition("/")[2].split("_"))
    return True if words & _HIGHER else False if words & _LOWER else None


@dataclass(frozen=True)
class Verdict:
    """`kind` is better, worse, higher, lower (of a metric that is better in neither direction), same or undecided."""

    kind: str
    text: str
    caveat: str = ""  # "2 of 6 seeds diverged": where that is, a decided text ends with it

    @property
    def is_decided(self) -> bool:
        return self.kind != "undecided"


@dataclass(frozen=True)
class Judged:
    """A column of the table: its label, its rows' labels in their order, by row the seconds of a run and `caveat`."""

    label: str
    baseline: str
    comparison: Comparison
    labels: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    caveats: Mapping[str, str] = field(default_factory=dict)


def caveat(ended: Sequence[str]) -> str:
    """`2 of 6 seeds diverged, 1 collapsed`; empty where none did. `ended`: how each seed's run ended, in a word.

    The mean is of seeds that ended with a number, and of collapsed ones it says little: a verdict is of these.
    """
    seeds = f" of {len(ended)} seed{'s' if len(ended) > 1 else ''}"
    told: list[str] = []
    for word in ("diverged", "collapsed"):
        if num := sum(one == word for one in ended):
            told.append(f"{num}{'' if told else seeds} {word}")
    if told and (num := sum(one == UNSEEN for one in ended)):
        told.append(f"{num} {UNSEEN}")
    return ", ".join(told)


def kind_of(estimate: Estimate, is_higher: bool | None, margin: float | None) -> str:
    if estimate.excludes_zero:
        if is_higher is None:
            return "higher" if estimate.mean > 0 else "lower"
        return "better" if (estimate.mean > 0) == is_higher else "worse"
    is_same = margin is not None and -margin <= estimate.low and estimate.high <= margin
    return "same" if is_same else "undecided"


def verdicts(column: Judged, metric: str, margin: float | None) -> dict[str, Verdict]:
    """Of every row that has a difference, by its key."""
    found = {}
    for key, difference in column.comparison.differences.items():
        kind = kind_of(difference.estimate, higher_is_better(metric), margin)
        if difference.is_by_one_number:
            found[key] = Verdict("undecided", "undecided: all seeds differ by one number, 1 more seed tells the spread")
            continue
        text = f"same within ±{margin:g}" if kind == "same" else kind
        if kind == "undecided":
            seconds = column.seconds.get(key, math.nan) + column.seconds.get(column.baseline, math.nan)
            text = f"undecided: {_what_it_takes(num_more(difference, column.comparison, margin), seconds)}"
        if (told := column.caveats.get(key, "")) and kind != "undecided":
            text = f"{text}, but {told}"
        found[key] = Verdict(kind, text, told)
    return found


def num_more(difference: Difference, comparison: Comparison, margin: float | None) -> int | None:
    """Seeds until the difference found so far would be clear of zero, or within the margin, in four of five tries.

    None beyond `MOST_SEEDS`.
    """
    num = difference.estimate.num_seeds
    num_rows = len(comparison.rows) if comparison.rows and not difference.fallback else 2

    def decides(n: int) -> bool:
        mean, df = difference.estimate.mean, (num_rows - 1) * (n - 1)
        return _decided(mean, difference.sd, n, df, comparison.confidence, margin) >= POWER

    low, high = num, num + 1
    while not decides(high):
        if high >= MOST_SEEDS:
            return None
        low, high = high, min(MOST_SEEDS, 2 * high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - num


@cache  # the table, the sentence and the index ask for the same
def _power(mean: float, sd: float, num_seeds: int, df: int, confidence: float) -> float:
    """Of a two-sided t-test, that it finds this mean: as statsmodels' `ttest_power`, which takes a second to import."""
    if sd <= 0 or not mean:
        return 0.0
    noncentrality, critical = abs(mean) / sd * math.sqrt(num_seeds), quantile(df, confidence)
    return float(1 - nctdtr(df, noncentrality, critical) + nctdtr(df, noncentrality, -critical))


@cache
def _decided(mean: float, sd: float, num_seeds: int, df: int, confidence: float, margin: float | None) -> float:
    """The share of intervals of so many seeds that are clear of zero or within the margin, were the mean so far true.

    Neither alone: an interval of half the margin's width is always one or the other.
    """
    if margin is None:
        return _power(mean, sd, num_seeds, df, confidence)
    if sd <= 0:
        return float(abs(mean) <= margin)
    error = sd / math.sqrt(num_seeds)
    halves = quantile(df, confidence) * error * _spreads(df)
    clear = ndtr((-halves - mean) / error) + ndtr((mean - halves) / error)
    inner = np.maximum(np.minimum(halves, margin - halves), 0)
    same = ndtr((inner - mean) / error) - ndtr((-inner - mean) / error)
    return float((clear + same).mean())


@cache
def _spreads(df: int) -> NDArray[np.float64]:
    """How wide the interval comes out is chance too: the spread found is that of a chi-squared of df degrees."""
    shares = (np.arange(NUM_SPREADS) + 0.5) / NUM_SPREADS
    return np.asarray(np.sqrt(2 * gammaincinv(df / 2, shares) / df), dtype=np.float64)


def _what_it_takes(num: int | None, seconds: float) -> str:
    if num is None:
        return f"over {MOST_SEEDS} more seeds"
    seeds = f"about {num} more seed{'s' if num > 1 else ''}"
    return seeds if math.isnan(seconds) else f"{seeds}, {_about(num * seconds)}"


def _about(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return "less than a minute"
    if minutes >= 120:
        return f"about {minutes / 60:.0f} hours"
    return f"about {minutes:.0f} minute{'s' if round(minutes) > 1 else ''}"


# ---- the study in a sentence -----------------------------------------------------------------------------------------

_SAID = ("better", "worse", "higher", "lower", "same", "undecided")


ONLY_RUNS = "Scale smoke tells that it runs, not what is better."


def with_caveats(told: str, spec: Mapping[str, Any], scale: str) -> str:
    """A study's sentence, and what its file or its scale has against taking the verdicts at their word."""
    return " ".join(filter(None, [told, spec.get("caveat"), ONLY_RUNS if scale == "smoke" else ""])) if told else ""


def sentence(columns: Sequence[Judged], metric: str, margin: float | None) -> str:
    """`Beside 90 %: 75 % is better; 50 % and 95 % are worse.`; "" where nothing can be compared yet.

    The random initialisation is a reference, not an answer: it is in the table only. Columns that decide nothing come
    last, as an index may cut a long sentence.
    """
    parts: list[tuple[bool, str]] = []
    for column in columns:
        found = {key: v for key, v in verdicts(column, metric, margin).items() if key in column.labels}
        if words := "; ".join(filter(None, (_of_kind(column, found, kind, margin) for kind in _SAID))):
            is_open = all(verdict.kind == "undecided" for verdict in found.values())
            parts.append((is_open, f"{column.label}: {words}" if column.label else words))
    if not parts:
        return ""
    of = next(column for column in columns if column.baseline in column.labels)
    baseline, lost = of.labels[of.baseline], of.caveats.get(of.baseline, "")
    told = [words for _, words in sorted(parts, key=lambda part: part[0])]  # stable: the study's order
    return f"{describe(metric).words} beside {baseline}{f' ({lost})' if lost else ''}: {'. '.join(told)}."


def _of_kind(column: Judged, found: Mapping[str, Verdict], kind: str, margin: float | None) -> str:
    rows = [(column.labels[key], verdict) for key, verdict in found.items() if verdict.kind == kind]
    if not rows:
        return ""
    if kind == "undecided":
        told = [f"{_quoted(label)} ({verdict.text.removeprefix('undecided: ')})" for label, verdict in rows]
    else:
        told = [_quoted(label) + (f" ({verdict.caveat})" if verdict.caveat else "") for label, verdict in rows]
    word = f"the same within ±{margin:g}" if kind == "same" else kind
    return f"{_listed(told)} {'are' if len(told) > 1 else 'is'} {word}"


def _quoted(label: str) -> str:
    """A label with a comma would fall apart in a list."""
    return f"“{label}”" if "," in label else label


def _listed(words: Sequence[str]) -> str:
    if len(words) > MOST_NAMED:
        words = [*words[:MOST_NAMED], f"{len(words) - MOST_NAMED} more"]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
