from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests

from analysis.numbers.stats import (
    Estimate,
    fewest_seeds,
    holm,
    interquartile_mean,
    mean_interval,
    paired_difference,
    sign_flip_p,
    smallest_p,
    stratified_bootstrap,
    summarise,
)


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


# ---- tests


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0, 2.0, 3.0], 2 / 8),  # +++ and ---
        ([1.0, 2.0, -0.5], 4 / 8),  # sums 2.5 and 3.5, and their mirrors, of 0.5, 1.5, 2.5, 3.5
        ([1.0, 2.0, -3.0], 1.0),  # the mean is zero: nothing is nearer
        ([0.5, 0.6, 0.7, 0.8, 0.9], 2 / 32),  # five seeds that agree: not below .05
        ([-0.5, -0.6, -0.7, -0.8, -0.9, -1.0], 2 / 64),
        ([0.0, 0.0, 1.0], 1.0),
    ],
)
def test_the_sign_flip_test_counts_the_patterns_at_least_as_far_out(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences) == p


def test_the_sign_flip_test_equals_scipys_permutation_test() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, 9)
    exact = scipy_stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_p(list(values)) == pytest.approx(exact.pvalue)


def test_equal_differences_are_equal_in_spite_of_rounding() -> None:
    assert sign_flip_p([0.1] * 10) == 2 / 2**10


def test_the_sign_flip_test_is_for_two_to_sixteen_values() -> None:
    assert sign_flip_p([1.0]) is None and sign_flip_p([1.0] * 17) is None
    assert sign_flip_p([1.0] * 16) == smallest_p(16)


def test_five_seeds_cannot_be_significant_and_six_can_where_one_difference_is_tested() -> None:
    assert smallest_p(5) == 0.0625 and smallest_p(6) < 0.05
    assert fewest_seeds(1) == 6


@pytest.mark.parametrize("num_tests", range(1, 40))
def test_the_fewest_seeds_are_the_first_whose_smallest_p_survives_holm(num_tests: int) -> None:
    seeds = fewest_seeds(num_tests)
    assert num_tests * smallest_p(seeds) < 0.05 <= num_tests * smallest_p(seeds - 1)


def test_holm_equals_statsmodels() -> None:
    p = [0.01, 0.04, 0.03, 0.5, 0.03, 0.0001]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist())
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06]) and holm([]) == []


# ---- over studies


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -50.0]) == (2 + 3 + 4 + 5) / 4
    assert interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # a quarter of three is none


@pytest.mark.parametrize("size", [4, 5, 7, 11, 30])
def test_the_interquartile_mean_is_scipys_trimmed_mean_as_in_rliable(size: int) -> None:
    values = np.random.default_rng(size).normal(size=size)
    assert interquartile_mean(values) == pytest.approx(float(scipy_stats.trim_mean(values, 0.25)))


def test_a_bootstrap_stays_within_its_strata() -> None:
    # Resampling across studies would mix 0 and 100; within them nothing varies.
    estimate = stratified_bootstrap([[0.0, 0.0, 0.0], [100.0, 100.0]], lambda values: float(values.mean()))
    assert estimate == Estimate(40.0, 40.0, 40.0, 5)


def test_a_bootstrap_has_the_percentiles_of_all_possible_draws() -> None:
    # Each stratum of two gives its low, its middle (twice as often) or its high value: the mean is 0 to 1 in steps of
    # a quarter with chances 1 4 6 4 1 of 16, so that 2.5 and 97.5 % lie within the ends' 6.25 %.
    estimate = stratified_bootstrap([[0.0, 1.0], [0.0, 1.0]], lambda values: float(values.mean()))
    assert (estimate.mean, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


def test_a_bootstrap_gives_the_same_interval_again_and_leaves_the_global_generator_alone() -> None:
    strata = [[1.0, 2.0, 4.0], [3.0, 9.0]]
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    assert stratified_bootstrap(strata, interquartile_mean) == stratified_bootstrap(strata, interquartile_mean)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_nothing_has_no_aggregate() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        interquartile_mean([])
    with pytest.raises(ValueError, match="at least one value"):
        stratified_bootstrap([[]], interquartile_mean)
