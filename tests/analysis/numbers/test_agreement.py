from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sqlalchemy import Engine

from analysis.figures import agreement_drawing
from analysis.numbers import agreement
from analysis.numbers.agreement import (
    Comparison,
    around,
    compare,
    counted,
    draws,
    kendall_tau_b,
    resampled_means,
    spearman,
)
from analysis.numbers.frame import Frame, load
from analysis.numbers.stats import widening
from analysis.tables import agreement_page
from sweeps.cells.expand import expand
from sweeps.cells.request import Request
from sweeps.study.files import StudyError, names
from sweeps.study.reading import parse, read
from tests.analysis.conftest import MAIN, ROWS, Laboratory

OTHER = "knn/motion_top1"


def study(values: dict[str, Any], **printed: Any) -> dict[str, Any]:
    """Four rows, the first one the baseline; `values` are the printed ones."""
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in "abcd"]
    return {**ROWS, "rows": rows, "metrics": [MAIN, OTHER], "printed": {"metric": "top-1", "values": values, **printed}}


def run(laboratory: Laboratory, ours: dict[str, list[float]], name: str = "four") -> None:
    """The rows' main metric by seed; the other metric is its negative."""
    for row, values in ours.items():
        for seed, value in enumerate(values):
            laboratory.run(name, row, seed, {MAIN: value, OTHER: -value})


def only(frame: Frame) -> Comparison:
    (comparison,) = compare(frame)
    return comparison


PRINTED = {"a": 50.0, "b": 60.0, "c": 70.0, "d": 70.0}


# ---- rank correlation


def test_tau_of_four_rows_by_hand() -> None:
    # Six pairs: 1<2 1<3 1<4 2<3 2<4 agree, 3<4 does not.
    assert kendall_tau_b(np.array([1.0, 2.0, 3.0, 4.0]), np.array([[1.0, 2.0, 4.0, 3.0]])) == pytest.approx([4 / 6])


@pytest.mark.parametrize("seed", range(6))
def test_both_correlations_equal_scipys_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    printed, ours = generator.integers(0, 4, 7).astype(float), generator.integers(0, 5, (3, 7)).astype(float)
    assert kendall_tau_b(printed, ours) == pytest.approx([scipy_stats.kendalltau(printed, o).statistic for o in ours])
    assert spearman(printed, ours) == pytest.approx([scipy_stats.spearmanr(printed, o).statistic for o in ours])


def test_rows_that_all_tie_have_no_correlation() -> None:
    tied, ours = np.array([1.0, 1.0, 1.0]), np.array([[1.0, 2.0, 3.0]])
    assert math.isnan(kendall_tau_b(tied, ours)[0]) and math.isnan(spearman(tied, ours)[0])


def test_a_resample_weighs_a_seed_alike_for_every_row_and_every_table() -> None:
    means = resampled_means(np.array([[0.0, 3.0, 6.0], [1.0, 4.0, 7.0]]), [0, 1, 2])
    assert np.allclose(means[:, 1] - means[:, 0], 1) and len(np.unique(means[:, 0])) == len(means)
    three, two = draws([0, 1, 2]), draws([0, 2])
    assert three.sum(axis=1) == pytest.approx(1) and np.allclose(three[:, 0] / three[:, 2], two[:, 0] / two[:, 1])


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_resampled_means_vary_as_a_t_interval_does(num_seeds: int) -> None:
    """As for a t-interval of normal values; resamples as they are hold the mean in three of four."""
    values = np.random.default_rng(0).normal(size=(400, num_seeds))
    spread = 1.96 * resampled_means(values, range(num_seeds)).std(axis=0)
    means = np.abs(values.mean(axis=1))
    assert 0.92 < (means < spread).mean() < 0.98
    assert (means < spread / widening(num_seeds)).mean() < 0.88


def test_an_interval_lies_about_its_own_estimate_and_within_one() -> None:
    pulled = np.random.default_rng(0).normal(0.4, 0.1, 4000)  # as resamples of a correlation of 0.5 are
    low, high = around(0.5, pulled)
    assert low == pytest.approx(0.5 - 1.96 * 0.1 - 0.1, abs=0.01) and high == pytest.approx(1.0 - low)
    assert around(0.9, pulled)[1] == 1.0


# ---- a table


def test_the_same_order_is_one_and_every_sign_agrees(laboratory: Laboratory) -> None:
    laboratory.study("four", study(PRINTED))
    run(laboratory, {row: [10.0 * i, 10.0 * i + 1, 10.0 * i + 2] for i, row in enumerate("abcd")})
    found = only(load(laboratory.engine, "four"))
    # c and d are printed equal: tau-b of five ordered pairs of six
    assert found.tau == pytest.approx(5 / math.sqrt(5 * 6)) and np.allclose(found.taus, found.tau)
    assert (found.num_same, found.num_signs, found.num_clear, found.num_clear_same) == (3, 3, 3, 3)
    assert found.rows == ("a", "b", "c", "d") and found.num_seeds == 3 and found.metric == MAIN


def test_errors_that_fall_as_printed_errors_do_agree_and_a_row_that_diverged_is_left_out(
    laboratory: Laboratory,
) -> None:
    epe = "flow/epe"
    printed = {"a": {"K15": 4.0}, "b": {"K15": 3.0}, "c": {"K15": 2.0}, "d": {"K15": 1.0}}
    laboratory.study("four", study(printed, compare={"K15": "epe"}) | {"metrics": [epe]})
    for row, error in (("a", 0.9), ("b", 0.5), ("c", 0.2)):
        for seed in range(3):
            laboratory.run("four", row, seed, {epe: error + 0.01 * seed})
    for seed in range(3):
        laboratory.run("four", "d", seed, {epe: 0.0}, state="diverged")
    found = only(load(laboratory.engine, "four"))
    assert (found.tau, found.rho) == (1.0, 1.0) and found.left_out == ("d",)
    assert (found.num_same, found.num_signs, found.num_clear_same, found.num_clear) == (2, 2, 2, 2)


def test_an_error_s_gain_is_not_counted_among_points_of_top_1(laboratory: Laboratory) -> None:
    laboratory.study("four", study(PRINTED) | {"metrics": ["flow/epe"], "seeds": [0]})
    for row in ("a", "b", "c", "random_init"):
        laboratory.run("four", row, 0, {"flow/epe": 1.0})
    assert agreement.summarise([agreement.of_study(load(laboratory.engine, "four"))])[0].gain is None


def test_the_interval_shows_that_one_seed_reverses_the_order(laboratory: Laboratory) -> None:
    laboratory.study("four", study({"a": 1.0, "b": 2.0}))
    run(laboratory, {"a": [10.0, 10.0, 10.0], "b": [12.0, 12.0, 7.0]})
    found = only(load(laboratory.engine, "four"))
    assert found.tau == 1.0 and found.tau_interval[0] < 0 and found.tau_interval[1] == 1.0
    assert (found.num_same, found.num_signs, found.num_clear) == (1, 1, 0)


def test_a_row_that_lacks_a_number_is_left_out_and_named(laboratory: Laboratory) -> None:
    laboratory.study("four", study(PRINTED))
    run(laboratory, {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.0], "c": [9.0, 9.0]})
    laboratory.run("four", "d", 0, {MAIN: 1.0}, state="diverged")
    found = only(load(laboratory.engine, "four"))
    assert found.rows == ("a", "b") and found.left_out == ("c", "d")
    assert "2 (without c, d)" in agreement_page.markdown(
        agreement.summarise([agreement.of_study(load(laboratory.engine, "four"))])
    )


def test_a_row_printed_equal_to_the_baseline_has_no_sign(laboratory: Laboratory) -> None:
    laboratory.study("four", study({"c": 70.0, "d": 70.0, "b": 60.0}) | {"baseline": "d"})
    run(laboratory, {"b": [2.0, 3.0, 4.0], "c": [9.0, 9.0, 9.0], "d": [5.0, 5.0, 5.0]})
    assert only(load(laboratory.engine, "four")).num_signs == 1


def test_one_seed_has_a_correlation_and_no_interval(laboratory: Laboratory) -> None:
    laboratory.study("four", study(PRINTED) | {"seeds": [0]})
    run(laboratory, {row: [float(i)] for i, row in enumerate("abcd")})
    found = only(load(laboratory.engine, "four"))
    assert all(math.isnan(end) for end in found.tau_interval) and found.num_clear == 0


def test_compare_says_which_metric_stands_against_which_printed_number(laboratory: Laboratory) -> None:
    values = {"a": {"K": 1.0, "S": 1.0}, "b": {"K": 2.0, "S": 2.0}, "c": {"K": 3.0}}
    laboratory.study("four", study(values, compare={"S": ["class_top1", "motion_top1"], "K": MAIN}))
    laboratory.study("first", study(values))
    laboratory.study("gone", study(values, compare={"S": "epe"}))
    for name in ("four", "first"):
        if name == "four":
            run(laboratory, {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0], "c": [3.0, 3.0, 3.0]}, name)
    found = compare(load(laboratory.engine, "four"))
    assert [(c.quantity, c.metric, len(c.rows), c.tau) for c in found] == [("K", MAIN, 3, 1.0), ("S", OTHER, 2, -1.0)]
    assert [(c.quantity, c.metric) for c in compare(load(laboratory.engine, "first"))] == [("K", MAIN)]
    assert compare(load(laboratory.engine, "gone")) == []


def test_with_columns_each_printed_column_is_compared_in_its_place(engine: Engine) -> None:
    frame = load(engine, "masking_ratio")  # one printed row: no order
    assert compare(frame) == []
    assert [(pair.quantity, pair.col_key) for pair in agreement.pairs(frame)] == [
        ("full length", "long"),
        ("half length", "short"),
    ]


@pytest.mark.parametrize(
    ("printed", "message"),
    [
        ({"compare": {"T": MAIN}}, "unknown key printed.compare.T; allowed: K"),
        ({"compare": [MAIN]}, "printed.compare must be a mapping"),
        ({"compare": {"K": [1]}}, r"printed.compare.K must be a metric such as digit_top1, or a list .*, got \[1\]"),
    ],
)
def test_a_mistake_in_compare_is_named(printed: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        parse(study({"a": {"K": 1.0}}, **printed), Path("studies/x.yaml"))


@pytest.mark.parametrize("name", [n for n in names() if (p := read(n).printed) is not None and p.compare])
def test_what_a_study_compares_is_in_its_table(name: str) -> None:
    expansion = expand(Request(read(name), "cpu"))
    targets = expansion.spec["printed"]["compare"].values()
    for target in targets:
        of_scale = target if isinstance(target, list) else [target]
        assert any(name in (metric, metric.partition("/")[2]) for metric in expansion.metrics for name in of_scale), (
            target
        )
    assert targets


# ---- over tables


@pytest.fixture
def two_tables(laboratory: Laboratory) -> list[Frame]:
    """One table in the printed order, one in the reverse, of different recipes."""
    for name, sign in (("four", 1), ("back", -1)):
        document = study({"a": 1.0, "b": 2.0, "c": 3.0}) | {"base": {"data": name}}
        laboratory.study(name, document)
        run(laboratory, {row: [50.0 + sign * (10 * i + s) for s in range(3)] for i, row in enumerate("abc")}, name)
        run(laboratory, {"d": [1.0, 2.0, 3.0], "random_init": [30.0, 30.0, 30.0]}, name)
    return [load(laboratory.engine, name) for name in ("back", "four")]


def test_the_mean_over_tables_and_the_gain_over_random_initialisation(two_tables: list[Frame]) -> None:
    (summary,) = agreement.summarise(map(agreement.of_study, two_tables))
    assert summary.tau is not None and (summary.tau.mean, summary.tau.low, summary.tau.high) == (0.0, 0.0, 0.0)
    # gains 20 21 22 of one default recipe and 20 19 18 of the other: without one at either end 20 20 19 21
    assert summary.gain is not None and summary.gain.mean == 20.0 and summary.num_recipes == 2
    assert 19 <= summary.gain.low < 20 < summary.gain.high <= 21


def test_a_recipe_that_two_tables_share_counts_once(laboratory: Laboratory) -> None:
    for name in ("one", "two"):
        laboratory.study(name, study({"a": 1.0, "b": 2.0}))
    run(laboratory, {"a": [50.0, 51.0, 52.0], "b": [50.0] * 3, "random_init": [30.0] * 3}, "one")
    (summary,) = agreement.summarise(agreement.of_study(load(laboratory.engine, name)) for name in ("one", "two"))
    assert summary.gain is not None and (summary.num_recipes, summary.gain.num_seeds) == (1, 3)


def test_a_pair_of_configurations_counts_once_however_many_printed_errors_stand_beside_it(
    laboratory: Laboratory,
) -> None:
    values = {"a": {"K": 1.0, "S": 1.0}, "b": {"K": 2.0, "S": 2.0}, "c": {"K": 3.0, "S": 3.0}}
    laboratory.study("four", study(values, compare={"K": MAIN, "S": OTHER}))
    laboratory.study("turned", study({"a": 1.0, "b": 2.0}) | {"baseline": "b"})
    run(laboratory, {row: [10.0 * i, 10.0 * i + 1, 10.0 * i + 2] for i, row in enumerate("abc")})
    (summary,) = agreement.summarise(agreement.of_study(load(laboratory.engine, name)) for name in ("four", "turned"))
    assert [c.num_signs for c in summary.comparisons] == [2, 2, 1]
    assert len(counted(summary.comparisons)) == 2 and all(sign.is_same for sign in counted(summary.comparisons))
    assert summary.tau is not None and summary.tau.num_seeds == 1  # the order by the first metric alone


def test_chance_is_what_95_of_100_throws_of_coins_give() -> None:
    assert agreement_page.by_chance(83) == (33, 50) and agreement_page.by_chance(0) == (0, 0)
    low, high = agreement_page.by_chance(20)
    assert scipy_stats.binom.cdf(low - 1, 20, 0.5) <= 0.025 < scipy_stats.binom.cdf(low, 20, 0.5) and high == 20 - low


@pytest.mark.parametrize("num", [0, 1, 5])
def test_signs_so_few_that_coins_fall_alike_are_not_set_beside_chance(num: int) -> None:
    assert agreement_page.beside_chance(num) == "too few to tell from chance"


def test_from_six_signs_on_chance_is_told() -> None:
    assert agreement_page.beside_chance(6) == "by chance 3; coins give 1 to 5"


def test_scales_are_summarised_apart(laboratory: Laboratory) -> None:
    laboratory.study("four", study({"a": 1.0, "b": 2.0}))
    laboratory.study("four@smoke", study({"a": 1.0, "b": 2.0}) | {"base": {"data": "x"}}, "smoke")
    for name in ("four", "four@smoke"):
        run(laboratory, {"a": [1.0, 1.0, 1.0], "b": [2.0, 2.0, 2.0]}, name)
    found = agreement.summarise(agreement.of_study(load(laboratory.engine, name)) for name in ("four", "four@smoke"))
    assert [(s.scale, [c.study for c in s.comparisons]) for s in found] == [
        ("cpu", ["four"]),
        ("smoke", ["four@smoke"]),
    ]


def test_the_page_says_what_differs_and_links_each_table(two_tables: list[Frame]) -> None:
    page = agreement_page.markdown(agreement.summarise(map(agreement.of_study, two_tables)))
    assert "- 2 of 4 differences to the baseline have the printed sign (too few to tell from chance)" in page
    assert "| [back](back.md) | top-1, I-JEPA Table 6 | ridge top-1, digits (%) | 3 | 3 | −1.00 [−1.00, −1.00]" in page
    assert "- back: printed top-1, I-JEPA Table 6; ours back, 300 steps" in page
    assert f"four {two_tables[1].digest}" in page


def test_nothing_to_compare_is_said_and_not_drawn(engine: Engine) -> None:
    summaries = agreement.summarise([agreement.of_study(load(engine, "masking_ratio"))])
    assert summaries == [] and agreement_drawing.images(summaries) == {}
    assert "No table has two rows with all their seeds" in agreement_page.markdown(summaries)


def test_the_figure_has_a_line_a_table_and_the_same_bytes_again(two_tables: list[Frame]) -> None:
    summaries = agreement.summarise(map(agreement.of_study, two_tables))
    images = agreement_drawing.images(summaries)
    assert set(images) == {"svg", "png", "pdf"} and images == agreement_drawing.images(
        agreement.summarise(map(agreement.of_study, two_tables))
    )
    figure = agreement_drawing.draw(summaries)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["back", "four", "I-JEPA"]
    assert [text.get_text().strip() for text in figure.axes[1].texts] == ["0 of 2", "2 of 2"]
