"""The simulation computes what the table does, and counts what it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from benchmarks.power import Lowest, by_rule, coverage_lines, drawn, intervals, rule_lines, seeds_to
from sweeps.answers.blocked_intervals import Arm, compare
from sweeps.study.seed_rule import SeedRule


@pytest.mark.parametrize("num_seeds", [[3, 3, 3, 3], [6, 3, 4, 6]])
def test_simulated_intervals_are_those_of_the_table(num_seeds: list[int]) -> None:
    values = 3 * drawn(np.random.default_rng(0), 20, 4, 6, 1.0, 0.3)
    has = np.broadcast_to(np.arange(6) < np.asarray(num_seeds)[:, None], values.shape)
    found = intervals(values, has, 0.99)
    fallbacks = 0
    for table, means, halves in zip(values, found.means, found.halves, strict=True):
        arms = [Arm(str(i), dict(enumerate(row[:n]))) for i, (row, n) in enumerate(zip(table, num_seeds, strict=True))]
        differences = list(compare(arms, "0", 0.99).differences.values())
        assert means == pytest.approx([d.estimate.mean for d in differences])
        assert halves == pytest.approx([d.estimate.half_width for d in differences])
        fallbacks += sum(bool(d.fallback) for d in differences)
    assert fallbacks > 0


def test_a_rule_s_rows_stop_when_they_are_decided_and_the_baseline_goes_with_the_last() -> None:
    values = 0.01 * drawn(np.random.default_rng(0), 50, 3, 6, 0.0, 0.0)
    values[:, 1] += 100.0
    found, num_seeds = by_rule(values, SeedRule(3, 6, None), margin=0.0)
    assert (num_seeds[:, 1] == 3).all() and (num_seeds[:, 0] == num_seeds[:, 2]).all()
    assert (num_seeds[:, 2] == 6).mean() > 0.9 and found.means.shape == (50, 2)


def test_the_drawn_variances_are_one_in_the_mean_and_their_logarithms_spread_as_asked() -> None:
    values = drawn(np.random.default_rng(0), 2000, 2, 50, 1.0, 0.0)
    variances = values.var(axis=2, ddof=1)
    assert variances.mean() == pytest.approx(1, abs=0.1) and np.log(variances).std() == pytest.approx(1, abs=0.1)


def test_seeds_to_a_half_width_are_the_first_that_reach_it() -> None:
    found = seeds_to(3.0, 2)
    halves = [scipy_stats.t.ppf(0.975, n - 1) * 3.0 / np.sqrt(n) for n in (found - 1, found)]
    assert halves[1] <= 2.0 < halves[0]


def test_the_lowest_coverage_of_all_lines_is_told_beside_what_is_asked() -> None:
    lowest = Lowest(94.0, 10000)
    assert lowest.line("one", [(0.97, 1.0), (0.951, 2.0)]).startswith("one ")
    assert lowest.verdict("it") == "asked of it: at least 94 %; lowest 95.1 ± 0.4 % (one): holds"
    lowest.line("two", [(0.93, 1.0)])
    assert lowest.verdict("it").endswith("lowest 93.0 ± 0.5 % (two): DOES NOT HOLD")


def test_every_kind_of_interval_is_simulated_and_told_against_what_is_asked() -> None:
    fixed, rules = list(coverage_lines(40)), list(rule_lines(20))
    assert fixed[-1].startswith("asked of seeds given beforehand: at least 94 %")
    assert rules[-1].startswith("asked of a rule: at least 95 %")
    assert any("6-3-4-6 seeds" in line for line in fixed) and any("a mean" in line for line in fixed)
