"""The intervals of a column's rows beside their baseline, against the textbook's formulas and statsmodels' fit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy import stats as scipy_stats

from sweeps.answers.blocked_intervals import UNLIKE, Arm, compare, paired


def arms(values: dict[str, list[float]]) -> list[Arm]:
    return [Arm(key, dict(enumerate(row))) for key, row in values.items()]


def drawn(num_rows: int, num_seeds: int, seed: int = 0) -> list[Arm]:
    generator = np.random.default_rng(seed)
    shared = generator.normal(size=num_seeds)
    rows = 10.0 * np.arange(num_rows)[:, None] + shared + generator.normal(size=(num_rows, num_seeds))
    return arms({f"r{i}": row.tolist() for i, row in enumerate(rows)})


def fitted(found: list[Arm], row: str):
    """statsmodels' least squares of row + seed: the row's effect beside r0's."""
    long = pd.DataFrame([(a.key, s, v) for a in found for s, v in a.values.items()], columns=["row", "seed", "value"])
    fit = smf.ols("value ~ C(row) + C(seed)", long).fit()
    name = f"C(row)[T.{row}]"
    return fit.params[name], fit.conf_int().loc[name].tolist(), int(fit.df_resid)


def test_two_rows_have_the_paired_interval_and_no_model():
    found = drawn(2, 4)
    difference = compare(found, "r0").differences["r1"]
    interval = scipy_stats.ttest_rel([*found[1].values.values()], [*found[0].values.values()]).confidence_interval()
    assert (difference.estimate.low, difference.estimate.high) == pytest.approx((interval.low, interval.high))
    assert compare(found, "r0").rows == () and difference.df == 3 and difference.fallback == ""


def test_more_rows_have_the_interval_of_the_two_way_model():
    found = drawn(5, 3)
    comparison = compare(found, "r0")
    for row in ("r1", "r4"):
        mean, interval, df = fitted(found, row)
        difference = comparison.differences[row]
        assert difference.estimate.mean == pytest.approx(mean) and difference.df == df == comparison.df == 8
        assert [difference.estimate.low, difference.estimate.high] == pytest.approx(interval)


def test_rows_of_different_numbers_of_seeds_have_the_model_s_interval_too():
    found = drawn(4, 6)
    found = [Arm(arm.key, {s: v for s, v in arm.values.items() if s < 3 + i}) for i, arm in enumerate(found[::-1])][
        ::-1
    ]
    mean, interval, df = fitted(found, "r2")
    difference = compare(found, "r0").differences["r2"]
    assert difference.estimate.mean == pytest.approx(mean) and difference.df == df
    assert [difference.estimate.low, difference.estimate.high] == pytest.approx(interval)


def test_a_smaller_chance_to_miss_is_a_wider_interval():
    found = drawn(4, 3)
    widths = [compare(found, "r0", c).differences["r1"].estimate.half_width for c in (0.95, 0.99)]
    assert widths[1] / widths[0] == pytest.approx(scipy_stats.t.ppf(0.995, 6) / scipy_stats.t.ppf(0.975, 6))


def test_rows_that_do_not_vary_alike_take_the_wider_of_both_intervals():
    values = {"base": [1.0, 1.1, 1.0, 0.9], "calm": [2.0, 2.0, 2.1, 2.0], "wild": [0.0, 30.0, -40.0, 5.0],
              "quiet": [3.0, 3.1, 3.0, 3.0]}  # fmt: skip
    comparison = compare(arms(values), "base")
    assert not comparison.is_alike and comparison.p_alike < 0.1
    wild, calm = comparison.differences["wild"], comparison.differences["calm"]
    own = paired(dict(enumerate(values["wild"])), dict(enumerate(values["base"])))
    assert wild.fallback == UNLIKE and wild.estimate == own.estimate
    assert calm.fallback == "" and calm.estimate.half_width > 10


def test_the_check_is_the_lower_of_bartlett_s_p_of_values_and_of_residuals():
    found = drawn(4, 5)
    values = np.array([list(arm.values.values()) for arm in found])
    rest = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    both = [scipy_stats.bartlett(*of).pvalue for of in (values, rest)]
    assert compare(found, "r0").p_alike == pytest.approx(min(both))


@pytest.mark.parametrize(
    ("spoilt", "reason"), [({"spoilt": "collapsed"}, "collapsed"), ({"num_without": 1}, "incomplete")]
)
def test_a_row_that_is_not_whole_has_its_own_interval_and_leaves_the_others_theirs(spoilt, reason):
    found = drawn(5, 3)
    odd = Arm("odd", {0: 1.0, 1: 50.0, 2: 9.0}, **spoilt)
    comparison = compare([*found, odd], "r0")
    assert comparison.rows == ("r0", "r1", "r2", "r3", "r4")
    assert comparison.differences["r1"] == compare(found, "r0").differences["r1"]
    assert comparison.differences["odd"].fallback == reason
    assert comparison.differences["odd"].estimate == paired(odd.values, found[0].values).estimate


def test_a_baseline_that_is_not_whole_leaves_every_row_its_own_interval():
    found = drawn(4, 3)
    found[0] = Arm("r0", found[0].values, num_without=1)
    comparison = compare(found, "r0")
    assert comparison.rows == () and {d.fallback for d in comparison.differences.values()} == {
        "the baseline is incomplete"
    }


def test_rows_of_one_config_count_once():
    found = [Arm(a.key, a.values, i) for i, a in enumerate(drawn(4, 3))]
    twin, same = Arm("twin", found[1].values, 1), Arm("same", found[0].values, 0)
    comparison = compare([*found, twin, same], "r0")
    assert comparison.rows == ("r0", "r1", "r2", "r3") and comparison.df == 6
    assert comparison.differences["twin"] == comparison.differences["r1"]
    assert comparison.differences["same"].estimate.half_width == 0


def test_the_seed_correlation_is_one_where_seeds_move_all_rows_alike_and_has_no_value_where_nothing_moves():
    moved = {row: [i + s for s in (0.0, 5.0, 2.0)] for i, row in enumerate("abc")}
    assert compare(arms(moved), "a").correlation == pytest.approx(1)
    still = compare(arms({row: [1.0, 1.0, 1.0] for row in "abc"}), "a")
    assert math.isnan(still.correlation) and still.is_alike and still.differences["b"].estimate.half_width == 0


def test_one_shared_seed_is_no_difference_and_no_baseline_no_comparison():
    found = [*drawn(3, 3), Arm("late", {2: 1.0, 7: 2.0})]
    assert compare(found, "r0").differences.keys() == {"r1", "r2"}
    assert compare(found, "nobody").differences == {}


def test_of_two_rows_a_baseline_that_is_not_whole_is_no_reason():
    found = drawn(2, 3)
    found[0] = Arm("r0", found[0].values, spoilt="untrained")
    assert compare(found, "r0").differences["r1"].fallback == ""
