"""What a row is called beside its baseline, and what it takes where nothing is decided."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.power import TTestPower, ttest_power

from sweeps.answers.blocked_intervals import Arm, Comparison, Difference, Estimate, compare
from sweeps.answers.verdicts import Judged, _power, caveat, kind_of, num_more, sentence, verdicts
from sweeps.study.files import StudyError
from sweeps.study.margin import margin_of
from sweeps.study.metric_words import describe
from sweeps.study.reading import parse
from tests.sweeps.launched import TWO_ROWS

TOP1 = "ridge/digit_top1"


def around(mean: float, half: float, num_seeds: int = 3) -> Estimate:
    return Estimate(mean, mean - half, mean + half, num_seeds)


@pytest.mark.parametrize(
    ("mean", "half", "higher", "kind"),
    [
        (3.0, 1.0, True, "better"), (-3.0, 1.0, True, "worse"), (3.0, 1.0, False, "worse"), (3.0, 1.0, None, "higher"),
        (0.5, 1.4, True, "same"), (0.5, 1.6, True, "undecided"), (0.5, 0.1, True, "better"),
        (1.0, float("nan"), True, "undecided"),
    ],
)  # fmt: skip
def test_a_row_is_called_by_where_its_interval_lies(mean, half, higher, kind):
    assert kind_of(around(mean, half), higher, 2.0) == kind


@pytest.mark.parametrize(
    ("ended", "told"),
    [
        (["done"] * 3, ""), (["done", "failed"], ""), (["diverged"], "1 of 1 seed diverged"),
        (["diverged", "done", "diverged"], "2 of 3 seeds diverged"),
        (["collapsed", "done", "diverged"], "1 of 3 seeds diverged, 1 collapsed"),
    ],
)  # fmt: skip
def test_seeds_that_diverged_or_collapsed_are_a_caveat(ended, told):
    assert caveat(ended) == told


def test_without_a_margin_no_row_is_the_same():
    assert kind_of(around(0.0, 0.1), True, None) == "undecided"


def test_the_margin_is_two_points_of_top_1_at_scale_cpu_and_the_study_s_where_it_says_one():
    assert [margin_of({}, scale, TOP1) for scale in ("smoke", "cpu", "gpu", "paper")] == [2.0, 2.0, 1.0, 0.5]
    assert margin_of({}, "cpu", "flow/epe") is None
    told = {"margin": 0.3, "scales": {"gpu": {"margin": 0.1}}}
    assert margin_of(told, "cpu", "flow/epe") == 0.3 and margin_of(told, "gpu", "flow/epe") == 0.1


def test_a_margin_is_a_part_of_the_study_and_of_no_run():
    plain, told = (
        parse({**TWO_ROWS, **m}, Path("s.yaml")) for m in ({}, {"margin": 1, "scales": {"gpu": {"margin": 2}}})
    )
    for scale in ("cpu", "gpu"):
        assert [cell.overrides for cell in told.cells(scale)] == [cell.overrides for cell in plain.cells(scale)]


@pytest.mark.parametrize("value", [0, -1, "two", True, None])
def test_a_margin_that_is_no_number_is_named(value):
    with pytest.raises(StudyError, match=r"margin must be a number above 0"):
        parse({**TWO_ROWS, "margin": value}, Path("s.yaml"))
    with pytest.raises(StudyError, match=r"scales\.gpu\.margin must be a number above 0"):
        parse({**TWO_ROWS, "scales": {"gpu": {"margin": value}}}, Path("s.yaml"))


def test_seeds_until_a_difference_is_clear_are_those_of_statsmodels_power():
    found = num_more(Difference(around(1.0, 4.0, 4), 3, 2.0), Comparison({}), None)
    assert found is not None
    power = [TTestPower().power(0.5, 4 + n, 0.05) for n in (found - 1, found)]
    assert power[0] < 0.8 <= power[1]


def test_the_power_of_a_few_seeds_is_that_of_statsmodels():
    for mean, sd, num_seeds, df, confidence in (
        (1.0, 2.0, 5, 4, 0.95),
        (-0.3, 0.1, 3, 8, 0.9833),
        (2.0, 1.5, 40, 39, 0.95),
    ):
        expected = ttest_power(abs(mean) / sd, num_seeds, 1 - confidence, df=df)
        assert _power(mean, sd, num_seeds, df, confidence) == pytest.approx(expected, rel=1e-12)


def test_a_difference_of_nothing_asks_for_seeds_until_it_is_within_the_margin():
    wide = Difference(around(0.0, 4.0), 2, 2.0)
    assert num_more(wide, Comparison({}), None) is None
    assert 5 < (num_more(wide, Comparison({}), 2.0) or 0) < 20
    assert verdicts(Judged("", "a", Comparison({"b": wide})), TOP1, None)["b"].text == (
        "undecided: over 1000 more seeds"
    )


@pytest.mark.parametrize(("mean", "margin", "num_rows"), [(1.0, 2.0, 5), (0.2, 2.0, 5), (1.5, 2.0, 4), (-0.9, 2.0, 2)])
def test_so_many_seeds_decide_four_of_five_drawn_tables_one_way_or_the_other(mean, margin, num_rows):
    sd = 3.0
    rows = tuple(map(str, range(num_rows)))
    more = num_more(Difference(around(mean, 4.0), 2, sd), Comparison({}, rows), margin)
    assert more is not None
    generator = np.random.default_rng(0)

    def share(num_seeds: int) -> float:
        values = generator.normal(0, sd / math.sqrt(2), (4000, num_rows, num_seeds))
        rest = values - values.mean(axis=2, keepdims=True) - values.mean(axis=1, keepdims=True)
        rest += values.mean(axis=(1, 2), keepdims=True)
        df = (num_rows - 1) * (num_seeds - 1)
        halves = student.ppf(0.975, df) * np.sqrt(2 * (rest**2).sum(axis=(1, 2)) / df / num_seeds)
        means = np.abs(values[:, 1].mean(axis=1) - values[:, 0].mean(axis=1) + mean)
        return float(((means > halves) | (means + halves <= margin)).mean())

    assert share(more) < 0.8 < share(3 + more) + 0.02


def test_more_rows_need_fewer_seeds_as_they_tell_the_spread_together():
    difference = Difference(around(1.5, 4.0, 2), 4, 2.0)
    alone, together = (num_more(difference, Comparison({}, rows), None) for rows in ((), tuple("abcde")))
    assert (alone or 0) > (together or 0)


def test_an_undecided_row_says_seeds_and_minutes():
    column = Judged("", "a", Comparison({"b": Difference(around(1.0, 4.0, 4), 3, 2.0)}), {}, {"a": 60.0, "b": 120.0})
    num = num_more(column.comparison.differences["b"], column.comparison, 0.5)
    assert verdicts(column, TOP1, 0.5)["b"].text == (
        f"undecided: about {num} more seeds, about {3 * (num or 0)} minutes"
    )


def test_a_study_is_one_sentence_with_its_columns_and_without_its_reference():
    values = {"a": [50.0, 51.0, 50.5], "b": [60.1, 60.9, 60.4], "c": [40.0, 41.2, 40.4], "d": [50.1, 51.0, 50.4]}
    arms = [Arm(key, dict(enumerate(row))) for key, row in values.items()]
    random = Arm("random_init", {0: 1.0, 1: 2.0, 2: 3.0}, spoilt="untrained")
    labels = {"a": "90 %", "b": "75 %", "c": "50 %", "d": "25 %"}
    comparison = compare([*arms, random], "a")
    columns = [Judged(label, "a", comparison, labels) for label in ("half", "full")]
    one = "75 % is better; 50 % is worse; 25 % is the same within ±2"
    assert sentence(columns[:1], TOP1, 2.0) == f"{describe(TOP1).words} beside 90 %: half: {one}."
    assert sentence(columns, TOP1, 2.0) == f"{describe(TOP1).words} beside 90 %: half: {one}. full: {one}."
    assert sentence([Judged("", "a", Comparison({}), labels)], TOP1, 2.0) == ""


def test_a_column_that_decides_nothing_is_said_last():
    labels = {"a": "90 %", "b": "75 %"}
    arms = {
        "half": {"a": [50.0, 51.0, 50.5], "b": [50.9, 50.1, 51.4]},
        "full": {"a": [50.0, 51.0, 50.5], "b": [60.1, 60.9, 60.4]},
    }
    columns = [
        Judged(label, "a", compare([Arm(key, dict(enumerate(row))) for key, row in own.items()], "a"), labels)
        for label, own in arms.items()
    ]
    told = sentence(columns, TOP1, 0.1)
    assert 0 < told.index("full: 75 % is better") < told.index("half: 75 % (")


def test_a_label_with_a_comma_is_quoted_in_a_list():
    values = {"a": [50.0, 51.0, 50.5], "b": [60.1, 60.9, 60.4], "c": [40.0, 41.2, 40.4]}
    comparison = compare([Arm(key, dict(enumerate(row))) for key, row in values.items()], "a")
    labels = {"a": "none", "b": "factor 1, l2", "c": "l2"}
    assert sentence([Judged("", "a", comparison, labels)], TOP1, 2.0) == (
        f"{describe(TOP1).words} beside none: “factor 1, l2” is better; l2 is worse."
    )


def test_seeds_that_all_differ_by_one_number_decide_nothing():
    # Counted metrics do so by chance: an interval of no width would call the row better.
    comparison = compare([Arm("a", {0: 50.0, 1: 52.0}), Arm("b", {0: 51.5, 1: 53.5})], "a")
    verdict = verdicts(Judged("", "a", comparison, {"a": "a", "b": "b"}), TOP1, 2.0)["b"]
    assert verdict.kind == "undecided" and "differ by one number" in verdict.text


@pytest.mark.parametrize("by_row", [(1.1,), (1.1, 2.5)])  # two rows, and three of a model
def test_seeds_that_differ_by_one_number_but_for_rounding_decide_nothing(by_row):
    # 61.3 - 60.2 and 55.4 - 54.3 differ in their sixteenth digit.
    values = [60.2, 54.3, 51.1]
    arms = [Arm("a", dict(enumerate(values)))]
    arms += [Arm(str(n), {seed: round(one + n, 1) for seed, one in enumerate(values)}) for n in by_row]
    comparison = compare(arms, "a")
    found = verdicts(Judged("", "a", comparison, {arm.key: arm.key for arm in arms}), TOP1, 2.0)
    assert {verdict.kind for verdict in found.values()} == {"undecided"}
    assert all("differ by one number" in verdict.text for verdict in found.values())


@pytest.mark.parametrize("size", [1e-9, 1e9])
def test_a_verdict_does_not_depend_on_the_unit_of_its_metric(size):
    values = {"a": [60.2, 54.3, 51.1], "b": [61.0, 55.9, 52.2], "c": [62.7, 56.0, 53.6], "d": [60.2, 54.4, 51.0]}

    def found(unit: float) -> tuple[list[str], float]:
        arms = [Arm(key, {seed: one * unit for seed, one in enumerate(row)}) for key, row in values.items()]
        comparison = compare(arms, "a")
        told = verdicts(Judged("", "a", comparison, {arm.key: arm.key for arm in arms}), TOP1, 2.0 * unit)
        return [verdict.kind for verdict in told.values()], comparison.p_alike

    kinds, p_alike = found(size)
    assert kinds == found(1.0)[0] == ["better", "better", "same"]
    assert p_alike == pytest.approx(found(1.0)[1])


def test_two_rows_of_the_same_runs_are_the_same():
    runs = {0: 50.0, 1: 52.0}
    comparison = compare([Arm("a", runs), Arm("b", runs)], "a")
    assert verdicts(Judged("", "a", comparison, {"a": "a", "b": "b"}), TOP1, 2.0)["b"].kind == "same"
