"""Rows beside their baseline over seeds: the interval of each difference, from all rows of a column together.

**The model.** A value is its row's effect, its seed's effect and a rest of one variance for all rows. The rest is
estimated from all whole rows at once, with (rows - 1)(seeds - 1) degrees of freedom where every row has every seed: a
paired t-interval of three seeds has two. With two rows it is the paired interval, to the digit.

**Where it does not hold.** Bartlett's test asks whether the rows vary alike. Where it says no, each row takes the wider
of the model's interval and its own paired one. A row that is untrained, collapsed or lacks a number is left out of the
model and has its own paired interval. `benchmarks/power.py` shows how often each holds the truth.

No pandas: `sweeps.search.seeds` spends runs by this, `analysis` shows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, stdtrit

CONFIDENCE = 0.95
ALIKE = 0.1  # Bartlett's p below this: rows do not vary alike
FEWEST_ROWS = 3  # that a model takes: of two it is the paired interval
UNLIKE = "rows do not vary alike"
ROUNDING = 1e-12  # of the largest value: what floats add to a difference, and no metric resolves

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_seeds` seeds and its interval; the interval of one value is NaN, not zero."""

    mean: float
    low: float
    high: float
    num_seeds: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        return self.has_interval and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Arm:
    """A row of a column: its values by seed, and what may keep it out of the model."""

    key: str
    values: Mapping[int, float]
    config: Any = None  # two rows of one config are one row to the model
    num_without: int = 0  # seeds that it should have a number of and has not
    spoilt: str = ""  # "collapsed", "untrained"


@dataclass(frozen=True)
class Difference:
    """A row minus the baseline. `fallback` says why it is the row's own paired interval; "" where the model's."""

    estimate: Estimate
    df: int
    sd: float  # of one seed's difference
    fallback: str = ""

    @property
    def is_by_one_number(self) -> bool:
        """All seeds differ by one number, as those of counted metrics do by chance: that is no spread of zero."""
        return self.sd == 0 and self.estimate.mean != 0


@dataclass(frozen=True)
class Comparison:
    """All differences of a column, and the model behind them: no `rows` where there is none."""

    differences: Mapping[str, Difference]  # by row key
    rows: tuple[str, ...] = ()  # in the model, the baseline among them
    df: int = 0
    correlation: float = math.nan  # of two rows over the seeds that all have
    p_alike: float = math.nan
    confidence: float = CONFIDENCE

    @property
    def is_alike(self) -> bool:
        return not self.p_alike < ALIKE


@dataclass(frozen=True)
class _Fit:
    effects: Numbers  # [rows], up to a constant
    spread: Numbers  # [rows]: a difference's variance over the rest's
    residuals: list[Numbers]  # by row
    df: int
    variance: float
    largest: float  # of all values, whichever its sign


@cache
def quantile(df: int, confidence: float = CONFIDENCE) -> float:
    """What a standard error is multiplied by: 12.7 for one degree of freedom, 4.3 for two. NaN for none."""
    # The same function as scipy.stats.t.ppf, whose module takes half a second to import.
    return float(stdtrit(df, 0.5 + confidence / 2)) if df > 0 else math.nan


def shared_differences(arm: Mapping[Any, float], baseline: Mapping[Any, float]) -> list[float]:
    """Arm minus baseline for each seed that both have, by seed."""
    return [arm[seed] - baseline[seed] for seed in sorted(arm.keys() & baseline.keys())]


def paired(arm: Mapping[Any, float], baseline: Mapping[Any, float], confidence: float = CONFIDENCE) -> Difference:
    """By the two rows' shared seeds alone. Raises ValueError where they share fewer than two."""
    values = np.asarray(shared_differences(arm, baseline), dtype=np.float64)
    if values.size < 2:
        raise ValueError(
            f"a paired difference needs at least two shared seeds, got {sorted(arm.keys() & baseline.keys())} of "
            f"{sorted(arm)} and {sorted(baseline)}"
        )
    largest = max(abs(value) for row in (arm, baseline) for value in row.values())
    mean, sd = _unrounded(float(values.mean()), largest), _unrounded(float(values.std(ddof=1)), largest)
    margin = quantile(values.size - 1, confidence) * sd / math.sqrt(values.size)
    return Difference(_around(mean, margin, values.size), values.size - 1, sd)


def compare(arms: Sequence[Arm], baseline: str, confidence: float = CONFIDENCE) -> Comparison:
    """Every arm that shares two seeds with the baseline; empty where the baseline is not among them."""
    reference = next((arm for arm in arms if arm.key == baseline), None)
    if reference is None:
        return Comparison({}, confidence=confidence)
    others = [arm for arm in arms if arm is not reference and _num_shared(arm, reference) >= 2]
    own = {arm.key: paired(arm.values, reference.values, confidence) for arm in others}
    reasons = {arm.key: _reason(arm) for arm in others}
    if of_baseline := _reason(reference):
        # Of two rows there would be no model anyway.
        is_missed = sum(not reason for reason in reasons.values()) + 1 >= FEWEST_ROWS
        reasons = dict.fromkeys(own, f"the baseline is {of_baseline}") if is_missed else reasons
        return Comparison(_with_reasons(own, reasons), confidence=confidence)
    distinct = {_identity(reference): reference}
    for arm in others:
        if not _reason(arm):
            distinct.setdefault(_identity(arm), arm)
    pooled = list(distinct.values())
    if len(pooled) < FEWEST_ROWS:
        return Comparison(_with_reasons(own, reasons), confidence=confidence)
    fit = _fit([arm.values for arm in pooled])
    p_alike = _p_alike([np.array([*arm.values.values()]) for arm in pooled], fit.residuals, fit.largest)
    found = Comparison(own, tuple(arm.key for arm in pooled), fit.df, _correlation(pooled), p_alike, confidence)
    places = {_identity(arm): place for place, arm in enumerate(pooled)}
    differences = _with_reasons(own, reasons)
    for arm in others:
        place = places.get(_identity(arm), 0)
        if place and not reasons[arm.key]:
            differences[arm.key] = _modelled(fit, place, own[arm.key], found)
    return replace(found, differences=differences)


def _modelled(fit: _Fit, place: int, own: Difference, found: Comparison) -> Difference:
    margin = quantile(fit.df, found.confidence) * math.sqrt(fit.variance * fit.spread[place])
    if not found.is_alike and own.estimate.half_width > margin:
        return replace(own, fallback=UNLIKE)
    mean = _unrounded(float(fit.effects[place] - fit.effects[0]), fit.largest)
    return Difference(_around(mean, margin, own.estimate.num_seeds), fit.df, math.sqrt(2 * fit.variance))


def _identity(arm: Arm) -> Any:
    return arm.key if arm.config is None else arm.config


def _with_reasons(own: Mapping[str, Difference], reasons: Mapping[str, str]) -> dict[str, Difference]:
    return {key: replace(difference, fallback=reasons[key]) for key, difference in own.items()}


def _reason(arm: Arm) -> str:
    return arm.spoilt or ("incomplete" if arm.num_without else "")


def _num_shared(arm: Arm, other: Arm) -> int:
    return len(arm.values.keys() & other.values.keys())


def _unrounded(number: float, largest: float) -> float:
    """0 where it is no more than floats of this size add: 61.3 - 60.2 is not 55.4 - 54.3, though both are 1.1."""
    return 0.0 if abs(number) <= ROUNDING * largest else number


def _around(mean: float, margin: float, num_seeds: int) -> Estimate:
    return Estimate(mean, mean - margin, mean + margin, num_seeds)


# ---- the model -------------------------------------------------------------------------------------------------------


def _fit(rows: Sequence[Mapping[int, float]]) -> _Fit:
    """Least squares of row + seed, the baseline's row first.

    A seed that one row alone has tells nothing, and takes its degree of freedom.
    """
    seeds = sorted({seed for row in rows for seed in row})
    if all(len(row) == len(seeds) for row in rows):  # as the general case, without its matrices
        values = np.array([[row[seed] for seed in seeds] for row in rows])
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
        df = (len(rows) - 1) * (len(seeds) - 1)
        spread = np.full(len(rows), 2 / len(seeds))
        return _Fit(values.mean(axis=1), spread, list(rest), df, *_variance(rest, df, values))
    places = [(i, seeds.index(seed), value) for i, row in enumerate(rows) for seed, value in sorted(row.items())]
    design = np.zeros((len(places), len(rows) + len(seeds) - 1))
    for n, (i, j, _) in enumerate(places):
        design[n, i] = 1
        if j:
            design[n, len(rows) + j - 1] = 1
    values = np.array([value for _, _, value in places])
    inverse = np.linalg.pinv(design.T @ design)
    found = inverse @ design.T @ values
    rest = values - design @ found
    df = len(places) - int(np.linalg.matrix_rank(design))
    spread = np.diag(inverse)[: len(rows)] + inverse[0, 0] - 2 * inverse[0, : len(rows)]
    which = np.array([i for i, _, _ in places])
    residuals = [rest[which == i] for i in range(len(rows))]
    return _Fit(found[: len(rows)], spread, residuals, df, *_variance(rest, df, values))


def _variance(rest: Numbers, df: int, values: Numbers) -> tuple[float, float]:
    """Of the rest, and the largest of the values that it is the rest of."""
    largest, variance = float(np.abs(values).max()), float((rest**2).sum()) / df
    return (variance if _unrounded(math.sqrt(variance), largest) else 0.0), largest


def _p_alike(values: Sequence[Numbers], residuals: Sequence[Numbers], largest: float) -> float:
    """The lower of Bartlett's two p: that the rows vary alike over seeds, and that their residuals do.

    A row that varies a lot is in every row's residuals, by its part in the seeds' means; where seeds move all rows, the
    values hide what each row does by itself. Neither alone tells an odd row from few seeds.
    """
    return min(_bartlett(values, largest), _bartlett(residuals, largest))


def _bartlett(samples: Sequence[Numbers], largest: float) -> float:
    """1 where nothing varies, 0 where some samples do not vary at all; `largest`: of what they are of."""
    variances = np.array([float(sample.var(ddof=1)) for sample in samples])
    is_still = variances <= max(1e-12 * float(variances.max()), (ROUNDING * largest) ** 2)
    if is_still.any():
        return float(is_still.all())
    # As scipy.stats.bartlett, whose module takes half a second to import and whose checks take longer than the test.
    dfs = np.array([len(sample) - 1 for sample in samples], dtype=np.float64)
    df, num_more = dfs.sum(), len(samples) - 1
    pooled = (dfs * variances).sum() / df
    statistic = df * np.log(pooled) - (dfs * np.log(variances)).sum()
    statistic /= 1 + ((1 / dfs).sum() - 1 / df) / (3 * num_more)
    return float(chdtrc(num_more, statistic))


def _correlation(arms: Sequence[Arm]) -> float:
    """Of two rows over seeds, in the mean: the intraclass correlation of the two-way model. NaN where nothing varies.

    Source: Shrout and Fleiss (1979), "Intraclass correlations", ICC(3, 1).
    """
    seeds = sorted(set.intersection(*(set(arm.values) for arm in arms)))
    values = np.array([[arm.values[seed] for seed in seeds] for arm in arms])
    if len(seeds) < 2:
        return math.nan
    num_rows = len(arms)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    within = float((rest**2).sum()) / ((num_rows - 1) * (len(seeds) - 1))
    between = num_rows * float(values.mean(axis=0).var(ddof=1))
    total = between + (num_rows - 1) * within
    return (between - within) / total if total > 0 else math.nan
