from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from analysis.stats import Estimate, mean_interval, paired_difference, summarise


def test_an_interval_equals_scipy() -> None:
    values = [61.0, 62.5, 60.1, 64.2]
    estimate = mean_interval(values)
    expected = scipy_stats.t.interval(0.95, 3, loc=np.mean(values), scale=scipy_stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(expected)
    assert estimate.mean == pytest.approx(np.mean(values)) and estimate.num_seeds == 4


def test_three_seeds_have_the_wide_interval_of_three_seeds() -> None:
    assert mean_interval([1.0, 2.0, 3.0]).half_width == pytest.approx(4.302653 / math.sqrt(3))


def test_one_value_has_a_mean_and_no_interval() -> None:
    estimate = mean_interval([5.0])
    assert estimate.mean == 5.0 and not estimate.has_interval and not estimate.excludes_zero


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_mean_of_nothing_or_of_no_number_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="a mean needs"):
        mean_interval(values)


def test_a_paired_difference_equals_scipys_paired_test() -> None:
    arm = pd.Series([71.0, 74.0, 73.5], index=[0, 1, 2])
    baseline = pd.Series([70.0, 72.0, 73.0], index=[0, 1, 2])
    estimate = paired_difference(arm, baseline)
    interval = scipy_stats.ttest_rel(arm, baseline).confidence_interval()
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_pairing_uses_the_seed_and_not_the_place() -> None:
    arm = pd.Series([3.0, 1.0, 2.0], index=[2, 0, 1])
    baseline = pd.Series([0.0, 1.0, 2.0, 9.0], index=[0, 1, 2, 3])
    assert paired_difference(arm, baseline) == Estimate(1.0, 1.0, 1.0, 3)


def test_pairing_leaves_out_seeds_without_a_value() -> None:
    arm = pd.Series([1.0, 2.0, math.nan], index=[0, 1, 2])
    assert paired_difference(arm, pd.Series([0.0, 0.0, 0.0], index=[0, 1, 2])).num_seeds == 2


def test_one_shared_seed_is_no_pair() -> None:
    with pytest.raises(ValueError, match="at least two shared seeds"):
        paired_difference(pd.Series([1.0, 2.0], index=[0, 1]), pd.Series([1.0, 2.0], index=[1, 2]))


def test_an_interval_excludes_zero_on_either_side_only() -> None:
    assert Estimate(1.0, 0.1, 1.9, 3).excludes_zero and Estimate(-1.0, -1.9, -0.1, 3).excludes_zero
    assert not Estimate(1.0, -0.1, 2.1, 3).excludes_zero


def test_summaries_of_all_groups_equal_one_interval_each() -> None:
    rows = pd.DataFrame(
        {"row": list("bbbaacd"), "value": [1.0, 2.0, 4.0, 5.0, math.nan, math.nan, 7.0]},
    )
    summary = summarise(rows, ["row"]).set_index("row")
    assert list(summary.index) == ["b", "a", "c", "d"]
    expected = mean_interval([1.0, 2.0, 4.0])
    assert summary.loc["b", ["mean", "low", "high"]].tolist() == pytest.approx(
        [expected.mean, expected.low, expected.high]
    )
    assert summary["num_seeds"].tolist() == [3, 1, 0, 1]
    assert math.isnan(summary.loc["c", "mean"]) and math.isnan(summary.loc["d", "low"])
