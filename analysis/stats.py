"""Mean, interval and paired difference over seeds: the only numbers a table or a figure shows.

Intervals are 95 % two-sided t-intervals. They are not corrected for the number of rows a table has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_seeds` seeds and its 95 % interval; the interval of one value is NaN, not zero."""

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


@cache
def t_quantile(num_values: int) -> float:
    """What the standard error is multiplied by: 12.7 for two values, 4.3 for three. NaN for fewer than two."""
    if num_values < 2:
        return math.nan
    # The same function as scipy.stats.t.ppf, whose module takes a second to import.
    return float(stdtrit(num_values - 1, 0.5 + CONFIDENCE / 2))


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean with its 95 % t-interval, in the values' own unit (percentage points for top-1).

    Raises ValueError when there is no value, or one is not finite: a run that has no number is counted by the
    caller and shown as missing, never averaged away here.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise ValueError("a mean needs at least one value, got none")
    if not np.isfinite(array).all():
        raise ValueError(f"a mean needs finite values, got {array.tolist()}")
    mean = float(array.mean())
    if array.size == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    margin = t_quantile(array.size) * float(array.std(ddof=1)) / math.sqrt(array.size)
    return Estimate(mean, mean - margin, mean + margin, array.size)


def paired_difference(arm: pd.Series[float], baseline: pd.Series[float]) -> Estimate:
    """Mean difference to the baseline over the seeds both have, with a 95 % t-interval.

    Both series are indexed by seed. Pairing by seed removes the variance that data order and initialisation share.
    Values are in the metric's own unit (percentage points for top-1). With 3 seeds the t-quantile is 4.3, so the
    interval is wide: that is the honest width, do not bootstrap three numbers to shrink it.

    Raises ValueError if fewer than two seeds are shared.
    """
    return paired_interval(arm.dropna().to_dict(), baseline.dropna().to_dict())


def paired_interval(arm: Mapping[Any, float], baseline: Mapping[Any, float]) -> Estimate:
    """`paired_difference` of values keyed by seed: a table has a thousand of these and pandas is slow to start."""
    shared = sorted(arm.keys() & baseline.keys())
    if len(shared) < 2:
        raise ValueError(
            f"a paired difference needs at least two shared seeds, got {shared} of {sorted(arm)} and {sorted(baseline)}"
        )
    return mean_interval([arm[seed] - baseline[seed] for seed in shared])


def summarise(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """`mean_interval` of `value` in every group of `by` at once: columns mean, low, high, num_seeds.

    Groups keep the order of their first row. NaN values (runs without a number) are left out of `num_seeds`, and a
    group of nothing else has NaN everywhere and `num_seeds` 0.
    """
    grouped = rows.groupby(by, sort=False, dropna=False)["value"]
    summary = pd.DataFrame({"mean": grouped.mean(), "std": grouped.std(ddof=1), "num_seeds": grouped.count()})
    quantiles = {n: t_quantile(int(n)) for n in summary["num_seeds"].unique()}
    margin = summary["num_seeds"].map(quantiles) * summary["std"] / np.sqrt(summary["num_seeds"].clip(lower=1))
    summary["low"], summary["high"] = summary["mean"] - margin, summary["mean"] + margin
    return summary[["mean", "low", "high", "num_seeds"]].reset_index()
