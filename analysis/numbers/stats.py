"""Mean, interval, paired difference and its test over seeds; aggregates over studies. Nothing else is ever shown.

Intervals of a cell are 95 % two-sided t-intervals; those of differences are of all rows of a column together
(`sweeps.answers.blocked_intervals`). None is corrected for the number of rows a table has; the test of a difference is
exact and corrected (`sign_flip_p`, `holm`). What is aggregated over studies has bootstrap intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from sweeps.answers.blocked_intervals import CONFIDENCE as CONFIDENCE
from sweeps.answers.blocked_intervals import Comparison as Comparison
from sweeps.answers.blocked_intervals import Difference as Difference
from sweeps.answers.blocked_intervals import Estimate as Estimate
from sweeps.answers.blocked_intervals import compare as compare
from sweeps.answers.blocked_intervals import paired, quantile
from sweeps.answers.blocked_intervals import shared_differences as shared_differences

MOST_FLIPPED = 16  # values: 2^16 sign patterns are enumerated, more are not
NUM_RESAMPLES = 2000


def t_quantile(num_values: int) -> float:
    """What the standard error is multiplied by: 12.7 for two values, 4.3 for three. NaN for fewer than two."""
    return quantile(num_values - 1)


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
    return paired(arm, baseline).estimate


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


# ---- tests -----------------------------------------------------------------------------------------------------------


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """Two-sided p of paired differences: the share of all 2^n sign patterns whose mean lies as far from zero.

    Exact where, without an effect, each difference is as likely its opposite: no normal distribution is assumed. Never
    below `smallest_p(n)`. None for fewer than two values, or more than `MOST_FLIPPED`.

    Source: Fisher (1935), The Design of Experiments, section 21.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not 2 <= values.size <= MOST_FLIPPED:
        return None
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    # Rounding must not tell a sum from its own mirror image.
    slack = 1e-9 * float(np.abs(values).sum())
    return float((np.abs(sums) >= abs(float(values.sum())) - slack).mean())


def smallest_p(num_values: int) -> float:
    """What `sign_flip_p` gives when every difference has the same sign: .25 for three seeds, .0625 for five."""
    return float(2.0 ** (1 - num_values))


def fewest_seeds(num_tests: int) -> int:
    """The seeds from which on one of `num_tests` differences can be significant after Holm: 6 for one, 8 for five."""
    return math.floor(1 + math.log2(num_tests / (1 - CONFIDENCE)) + 1e-9) + 1


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that hold for the whole family at once, in the order given.

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


# ---- over studies ----------------------------------------------------------------------------------------------------


def interquartile_mean(values: Sequence[float] | NDArray[np.float64]) -> float:
    """The mean without the lowest and highest quarter (rounded down) of the values, all of them together.

    Source: rliable (Agarwal et al., 2021, arXiv:2108.13264), section 4.3: scipy's trim_mean at 25 %.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64), axis=None)
    cut = int(0.25 * ordered.size)
    if ordered.size == 0:
        raise ValueError("an interquartile mean needs at least one value, got none")
    return float(ordered[cut : ordered.size - cut].mean())


def stratified_bootstrap(
    strata: Sequence[Sequence[float]], statistic: Callable[[NDArray[np.float64]], float]
) -> Estimate:
    """`statistic` of all values with a 95 % percentile interval; resampled within each stratum, never across.

    A stratum holds one study's seeds: which studies there are is no matter of chance, which seeds they drew is.
    `num_seeds` counts the values. The generator is fixed: the same values give the same interval.

    Source: rliable (Agarwal et al., 2021, arXiv:2108.13264), section 4.1 and appendix A.3.
    """
    arrays = [np.asarray(stratum, dtype=np.float64) for stratum in strata if len(stratum)]
    if not arrays:
        raise ValueError("a bootstrap needs at least one value, got none")
    generator = np.random.default_rng(0)
    drawn = [array[generator.integers(0, array.size, (NUM_RESAMPLES, array.size))] for array in arrays]
    resampled = np.concatenate(drawn, axis=1)
    low, high = percentiles(np.array([statistic(values) for values in resampled]))
    return Estimate(statistic(np.concatenate(arrays)), low, high, sum(array.size for array in arrays))


def normal_quantile() -> float:
    """1.96: what a standard error is multiplied by where it is known."""
    return float(ndtri(0.5 + CONFIDENCE / 2))


def widening(num_values: int) -> float:
    """How much wider a mean's 95 % t-interval is than a Bayesian bootstrap's normal one: 3.1 for three values.

    Resamples of n values vary by (n - 1)/(n + 1) of what they should, and normal quantiles are not t's. 1 for one.

    Source: Hesterberg (2015), "What Teachers Should Know About the Bootstrap" (arXiv:1411.5279), whose expanded
    percentile interval moves the percentiles by such a factor. Three values have no resamples so far out, so here it is
    the resamples that are moved.
    """
    if num_values < 2:
        return 1.0
    return t_quantile(num_values) / normal_quantile() * math.sqrt((num_values + 1) / (num_values - 1))


def percentiles(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the 95 % percentile interval of a statistic's resamples."""
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return float(low), float(high)
