from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sqlalchemy import Engine

from analysis.numbers.frame import Frame, load
from analysis.numbers.stats import mean_interval
from analysis.site import study_page
from analysis.tables import building, latex, render
from analysis.tables.parts import Table
from analysis.tables.render import cell_text
from sweeps.answers.arms import answer
from sweeps.answers.verdicts import higher_is_better
from sweeps.study.metric_words import describe, metric_words
from tests.analysis.conftest import GRID, MAIN, ROWS, Laboratory, grid_value


def text(table: Table, row: str, column: str) -> str:
    words = metric_words(column) if "/" in column else column
    labels = [c.label.removeprefix(f"{metric_words(MAIN)}: ") if c.col_key else c.label for c in table.columns]
    number = labels.index(words)
    cells = next(r.cells for r in table.rows if r.key == row)
    return cell_text(cells[number], table.columns[number])


@pytest.fixture
def rows_table(engine: Engine) -> Table:
    return building.build(load(engine, "ijepa_masking"))


@pytest.fixture
def grid_table(engine: Engine) -> Table:
    return building.build(load(engine, "masking_ratio"))


def test_a_cell_is_the_mean_and_interval_of_its_seeds(grid_table: Table) -> None:
    expected = mean_interval([grid_value(0.75, 600, seed) for seed in (0, 1, 2)])
    assert text(grid_table, "0.75", "full length") == f"{expected.mean:.1f} ± {expected.half_width:.1f}"


def test_a_difference_is_paired_by_seed_and_within_its_column(grid_table: Table) -> None:
    pairs = [grid_value(0.5, 300, seed) - grid_value(0.9, 300, seed) for seed in (0, 1, 2)]
    expected = mean_interval(pairs)
    assert text(grid_table, "0.5", "Δ half length") == f"−{-expected.mean:.1f} ± {expected.half_width:.1f}"
    assert text(grid_table, "0.9", "Δ half length") == "baseline"


def test_columns_are_the_levels_of_the_second_axis_each_with_difference_and_printed(grid_table: Table) -> None:
    assert [column.label for column in grid_table.columns] == [
        f"{metric_words(MAIN)}: half length", "Δ half length", "printed: half length",
        f"{metric_words(MAIN)}: full length", "Δ full length", "printed: full length",
        "RankMe: half length", "RankMe: full length",
    ]  # fmt: skip
    assert text(grid_table, "0.9", "printed: full length") == "84.4"
    assert text(grid_table, "0.5", "printed: full length") == ""


def test_a_table_of_two_axes_has_a_block_for_every_metric_and_names_both_axes(grid_table: Table) -> None:
    assert grid_table.row_header == "hidden share of patches \\ length"
    assert text(grid_table, "0.9", "RankMe: full length") not in ("", "–")
    assert len({column.key for column in grid_table.columns}) == len(grid_table.columns)
    assert "hidden share of patches \\\\ length" in render.markdown(grid_table)
    source = latex.latex(grid_table).replace(r" \\ \quad", "").replace(r" \\ ", " ")  # lines of a header in one
    assert r"hidden share of patches \textbackslash{} length" in source
    for shown in (render.markdown(grid_table), source):
        assert "RankMe: full length" in shown
    assert "long.collapse/rankme.mean" in render.to_csv(grid_table)


def test_metrics_can_be_the_columns_of_a_grid_with_a_line_a_cell(laboratory: Laboratory) -> None:
    laboratory.study("grid", {**GRID, "table": {"columns": "metrics"}})
    table = building.build(load(laboratory.engine, "grid"))
    assert [c.label for c in table.columns] == [metric_words(MAIN), "Δ baseline", "RankMe", "printed: K400 top-1"]
    assert len(table.rows) == (3 + 1) * 2
    assert table.rows[0].label == "0.5, half length"
    assert table.rows[5].cells[3].text == "84.4"


def test_the_random_init_row_stands_in_every_table(rows_table: Table, grid_table: Table) -> None:
    assert text(rows_table, "random_init", MAIN) == "49.00 ± 2.48"
    assert text(grid_table, "random_init", "half length") == text(grid_table, "random_init", "full length")
    assert [row.is_random_init for row in grid_table.rows] == [False, False, False, True]


def test_a_partial_mean_says_so_and_names_what_happened(rows_table: Table) -> None:
    assert text(rows_table, "block", MAIN) == "60.00 (1/3 seeds, 1 diverged, 1 missing)"
    assert text(rows_table, "block", "Δ baseline") == "– (1 shared seed)"


def test_a_row_that_failed_is_shown_as_failed(rows_table: Table) -> None:
    assert text(rows_table, "random", MAIN) == "failed (3/3 seeds)"
    assert "random (0.6), seed 2: failed" in " ".join(rows_table.notes)


def test_a_study_without_runs_is_shown_as_missing(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    table = building.build(load(laboratory.engine, "rows"))
    assert text(table, "block", MAIN) == "missing (3/3 seeds)"
    assert "0 of 12 runs" in table.provenance and "git unknown" in table.provenance


def test_a_metric_nobody_recorded_is_not_a_blank(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    for seed in (0, 1, 2):
        laboratory.run("rows", "block", seed, {MAIN: 1.0 + seed})
    table = building.build(load(laboratory.engine, "rows"))
    assert text(table, "block", "knn/digit_top1") == "not recorded (3/3 seeds)"


def test_what_training_costs_is_nothing_that_an_untrained_row_lacks(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "metrics": [MAIN, "cost/ms_per_step"]})
    for row in ("block", "random_init"):
        for seed in (0, 1, 2):
            laboratory.run("rows", row, seed, {MAIN: 1.0 + seed})
    table = building.build(load(laboratory.engine, "rows"))
    found = [text(table, row, "cost/ms_per_step") for row in ("block", "random_init")]
    assert found == ["not recorded (3/3 seeds)", "– (untrained)"]


def test_one_seed_has_no_interval_and_says_one_seed(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "seeds": [4]})
    laboratory.run("rows", "block", 4, {MAIN: 61.25})
    assert text(building.build(load(laboratory.engine, "rows")), "block", MAIN) == "61.25 (1 seed)"


def lined_up(laboratory: Laboratory) -> tuple[Frame, Table]:
    """A study whose second axis is in the rows, with printed numbers of both of its lengths."""
    printed = {
        "metric": "top-1",
        "values": {
            "0.5": {"short": 60.0, "long": 70.0},
            "0.9": {"short": 50.0, "long": 80.0},
            "huge": {"short": 1.0, "long": 2.0},
        },
        "rows": [{"key": "huge", "label": "ViT-H"}],
    }
    laboratory.study("lined", GRID | {"table": {"columns": "metrics"}, "figures": [], "printed": printed})
    for column in ("short", "long"):
        for row, value in (("0.5", 60.0), ("0.75", 62.0), ("0.9", 70.0)):
            for seed in range(3):
                laboratory.run("lined", row, seed, {MAIN: value + seed * value / 100}, col_key=column)
    frame = load(laboratory.engine, "lined")
    return frame, building.build(frame)


def test_a_row_that_is_only_printed_has_a_line_for_each_level_that_the_paper_has(laboratory: Laboratory) -> None:
    _, table = lined_up(laboratory)
    own = {row.label: [cell.text for cell in row.cells][-1] for row in table.rows if row.is_printed_only}
    assert own == {"ViT-H, half length": "1.0", "ViT-H, full length": "2.0"}


def test_a_printed_number_is_beside_the_baseline_of_its_own_level(laboratory: Laboratory) -> None:
    frame, table = lined_up(laboratory)
    rows = {row.label: row.cells[-1] for row in study_page.shown_rows(table, frame)}
    assert (rows["0.5, half length"].aside, rows["0.5, half length"].hint) == ("+10.0", study_page.OPPOSITE)
    assert (rows["0.5, full length"].aside, rows["0.5, full length"].hint) == ("−10.0", study_page.AGREES)
    assert rows["0.9, full length (baseline)"].aside == ""


def test_printed_only_rows_come_last_and_hold_no_number_of_ours(rows_table: Table) -> None:
    row = rows_table.rows[-1]
    assert row.is_printed_only and row.label == "DINO"
    assert [cell.text for cell in row.cells] == ["–", "–", "–", "70.0"]


def test_a_paper_that_prints_two_numbers_a_row_has_two_printed_columns(laboratory: Laboratory) -> None:
    values = {"block": {"top-1": 20.2, "context ratio": 0.4}}
    laboratory.study("rows", {**ROWS, "printed": {"metric": "linear", "values": values}})
    table = building.build(load(laboratory.engine, "rows"))
    assert text(table, "block", "printed: top-1") == "20.2"
    assert text(table, "block", "printed: context ratio") == "0.4"


def test_printed_numbers_keep_the_paper_s_decimals(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "printed": {"metric": "accuracy", "values": {"block": 0.5}, "digits": 2}})
    assert text(building.build(load(laboratory.engine, "rows")), "block", "printed: accuracy") == "0.50"


def test_provenance_counts_distinct_runs_seeds_code_and_cost(rows_table: Table, grid_table: Table) -> None:
    assert f"database digest {grid_table.digest}" in grid_table.provenance
    assert "21 of 21 runs" in grid_table.provenance  # 18 trained, 3 random-init shared by both columns
    assert "seeds 0, 1, 2" in grid_table.provenance and "scale cpu" in grid_table.provenance
    hours = (9 * 30 + 9 * 60 + 3 * 60) / 3600
    assert f"{hours:.3f} CPU-hours · 0 GPU-hours" in grid_table.provenance
    assert "(mixed)" not in grid_table.provenance
    assert f"git {'a' * 12}, {'b' * 12} (mixed)" in rows_table.provenance


def test_two_scales_are_two_tables(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    laboratory.study("rows@smoke", {**ROWS, "scales": {"smoke": {"optim.batch_size": 2}}}, "smoke")
    laboratory.run("rows@smoke", "block", 0, {MAIN: 1.0})
    assert "0 of 12 runs" in building.build(load(laboratory.engine, "rows")).provenance
    table = building.build(load(laboratory.engine, "rows@smoke"))
    assert table.scale == "smoke" and "1 of 12 runs" in table.provenance


# ---- marks


def two_rows(laboratory: Laboratory, num_seeds: int, gain: float = 5.0, metric: str = MAIN) -> Table:
    """A baseline about 60 and a row whose every seed is about `gain` above it."""
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in ("base", "other")]
    laboratory.study(
        "two",
        {**ROWS, "rows": rows, "printed": {}, "random_init": False, "seeds": [*range(num_seeds)], "metrics": [metric]},
    )
    for seed in range(num_seeds):
        laboratory.run("two", "base", seed, {metric: 60.0 + 0.1 * seed})
        laboratory.run("two", "other", seed, {metric: 60.0 + gain + 0.1 * (seed % 3)})
    return building.build(load(laboratory.engine, "two"))


def test_six_seeds_that_agree_give_one_difference_a_star(laboratory: Laboratory) -> None:
    table = two_rows(laboratory, 6)
    cell = table.rows[1].cells[1]
    assert (cell.p, cell.p_holm, cell.is_significant) == (2 / 64, 2 / 64, True)
    assert text(table, "other", "Δ baseline").endswith(" *")
    assert any(note.endswith("Holm's correction over the table's one difference: * p < .05.") for note in table.notes)


def test_five_seeds_give_no_star_however_clear_the_difference_and_the_note_says_so(laboratory: Laboratory) -> None:
    table = two_rows(laboratory, 5)
    cell = table.rows[1].cells[1]
    assert cell.estimate is not None and cell.estimate.excludes_zero
    assert (cell.p, cell.is_significant) == (0.0625, False)
    note = next(note for note in table.notes if "sign-flip" in note)
    assert "5 seeds give no p below 0.0625 (2/2^5)" in note and "here it takes 6 seeds" in note
    assert "*" not in note and not text(table, "other", "Δ baseline").endswith("*")


def test_every_difference_of_the_table_is_in_holms_family(grid_table: Table) -> None:
    cells = [cell for row in grid_table.rows for cell in row.cells if cell.p is not None]
    assert len(cells) == 3 * 2  # two ratios and the random initialisation, at two lengths
    assert all(cell.p_holm == min(1.0, 6 * 0.25) for cell in cells if cell.p == 0.25)
    assert any("the table's 6 differences" in note and "takes 8 seeds" in note for note in grid_table.notes)


def test_the_best_mean_is_bold_where_it_is_clear_of_every_other(laboratory: Laboratory) -> None:
    table = two_rows(laboratory, 3)
    assert [row.cells[0].is_best for row in table.rows] == [False, True]
    assert "Bold: the best mean of its column; its interval overlaps no other row's." in table.notes


def test_the_best_mean_is_not_bold_within_anothers_interval_and_the_note_says_which(laboratory: Laboratory) -> None:
    table = two_rows(laboratory, 3, gain=0.1)
    assert not any(cell.is_best for row in table.rows for cell in row.cells)
    assert table.notes[-1].endswith("the best mean, other with base.")


def test_a_row_without_its_number_keeps_the_best_from_being_bold(rows_table: Table) -> None:
    assert not any(cell.is_best for row in rows_table.rows for cell in row.cells)
    assert rows_table.notes[-1].endswith("the best mean, multi-block with block (0.6), random (0.6).")


def test_the_smallest_error_is_the_best_and_a_share_has_no_best(laboratory: Laboratory) -> None:
    assert [row.cells[0].is_best for row in two_rows(laboratory, 3, metric="flow/epe").rows] == [True, False]
    assert higher_is_better("flow/epe_noc") is False and higher_is_better("vos/jf") is True
    assert higher_is_better("mask/context_share") is None


def test_runs_that_failed_or_diverged_are_counted_in_the_provenance(rows_table: Table) -> None:
    assert "7 of 12 runs (3 failed, 1 diverged)" in rows_table.provenance


# ---- errors, and runs that diverge

EPE = "flow/epe"
FLOW = {
    "title": "Estimator",
    "question": "Which?",
    "rows": [{"key": key, "label": key, "set": {"mask": key}} for key in ("plain", "norm", "wide")],
    "baseline": "norm",
    "random_init": False,
    "metrics": [EPE],
    "printed": {
        "metric": "EPE",
        "source": "Table 3",
        "values": {"norm": {"K15": 2.68, "final": 3.57}, "wide": {"K15": 2.67, "final": 3.51}},
        "outcomes": {"plain": "crashed"},
    },
}


def estimators(laboratory: Laboratory, plain: str, *more: float) -> Table:
    """Errors of three rows; the first row's first run diverged, its others are in the state `plain` or done."""
    laboratory.study("estimator", FLOW)
    laboratory.run("estimator", "plain", 0, {EPE: 0.001}, state="diverged")
    for seed in (1, 2):
        values = {EPE: more[seed - 1]} if more else {}
        laboratory.run("estimator", "plain", seed, values, state="done" if more else plain)
    for seed in range(3):
        laboratory.run("estimator", "norm", seed, {EPE: 2.0 + 0.01 * seed})
        laboratory.run("estimator", "wide", seed, {EPE: 1.0 + 0.01 * seed})
    return building.build(load(laboratory.engine, "estimator"))


def test_a_row_of_which_all_runs_diverged_says_so_and_leaves_the_best_clear(laboratory: Laboratory) -> None:
    table = estimators(laboratory, "diverged")
    assert text(table, "plain", EPE) == "diverged (3/3 seeds)"
    assert [row.cells[0].is_best for row in table.rows] == [False, False, True]
    assert "0 of" not in table.provenance and "(3 diverged)" in table.provenance


def test_a_row_of_which_a_run_diverged_is_not_the_best_however_small_its_other_errors(laboratory: Laboratory) -> None:
    table = estimators(laboratory, "", 0.1, 0.1)
    assert [row.cells[0].is_best for row in table.rows] == [False, False, True]
    assert text(table, "plain", EPE).endswith("(2/3 seeds, 1 diverged)")


def test_a_row_that_may_still_get_a_number_keeps_the_best_from_being_bold(laboratory: Laboratory) -> None:
    assert not any(row.cells[0].is_best for row in estimators(laboratory, "queued").rows)


def test_a_difference_of_errors_below_the_baseline_is_negative(laboratory: Laboratory) -> None:
    assert text(estimators(laboratory, "diverged"), "wide", "Δ baseline") == "−1.0 ± 0.0"


def test_a_word_that_the_paper_prints_stands_in_the_row_beside_what_became_of_ours(laboratory: Laboratory) -> None:
    table = estimators(laboratory, "diverged")
    assert [text(table, "plain", f"printed: {name}") for name in ("K15", "final")] == ["crashed", "crashed"]
    assert text(table, "norm", "printed: K15") == "2.68"
    assert 'Printed as "crashed": plain; of its 3 runs here: 3 diverged.' in table.notes


# ---- intervals of all rows together


def four_rows(laboratory: Laboratory, wild: float = 1.0, **spoilt: str) -> Table:
    """Rows of 60, 65, 70 and 75 over four seeds; the last one's spread is `wild` times the others'."""
    keys = ("base", "other", "third", "last")
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in keys]
    laboratory.study(
        "four", {**ROWS, "rows": rows, "printed": {}, "random_init": False, "seeds": [0, 1, 2, 3], "baseline": "base"}
    )
    offsets = ((0.0, 1.0, -1.0, 0.2), (0.3, 0.8, -0.5, -0.9), (1.0, -1.0, 0.1, 0.4), (-0.6, 0.7, 1.0, -1.0))
    for i, (key, moved) in enumerate(zip(keys, offsets, strict=True)):
        for seed, offset in enumerate(moved):
            factor = wild if key == "last" else 1.0
            facts = {"collapse": {"state": spoilt[key], "rankme": 1.0}} if key in spoilt else None
            value = 60.0 + 5 * i + factor * offset
            laboratory.run("four", key, seed, {MAIN: value, "knn/digit_top1": value}, facts=facts)
    return building.build(load(laboratory.engine, "four"))


def test_a_table_of_more_rows_says_what_its_intervals_are_made_of(laboratory: Laboratory) -> None:
    note = next(note for note in four_rows(laboratory).notes if "all rows together" in note)
    assert "9 degrees of freedom, seed correlation −0." in note and "Bartlett's p 0." in note


def test_a_row_that_varies_otherwise_or_collapsed_is_named_with_its_own_interval(laboratory: Laboratory) -> None:
    notes = " ".join(four_rows(laboratory, 30.0, third="collapsed").notes)
    assert "rows do not vary alike, the wider of both holds" in notes
    assert "Own paired interval instead: third (collapsed); last (rows do not vary alike)." in notes


def test_a_table_of_two_rows_has_no_word_of_the_model(laboratory: Laboratory) -> None:
    assert "all rows together" not in " ".join(two_rows(laboratory, 6).notes)


# ---- verdicts


def test_every_trained_row_has_a_verdict_and_the_table_a_sentence(laboratory: Laboratory) -> None:
    table = four_rows(laboratory)
    assert [row.verdict for row in table.rows] == ["", "better", "better", "better"]
    assert table.sentence == f"{describe(MAIN).words} beside base: other, third and last are better."
    shown = render.markdown(table)
    assert shown.split("\n")[2] == table.sentence
    assert "| verdict |" in shown and "& verdict" in latex.latex(table) and table.sentence.split(":")[1] in shown
    lines = [line.split(",") for line in render.to_csv(table).splitlines()]
    assert [line[lines[0].index("verdict")] for line in lines[1:]] == ["", "better", "better", "better"]


def test_a_verdict_says_how_many_seeds_of_its_row_collapsed_and_the_terminal_says_the_same(
    laboratory: Laboratory,
) -> None:
    table = four_rows(laboratory, third="collapsed")
    assert [row.verdict for row in table.rows] == ["", "better", "better, but 4 of 4 seeds collapsed", "better"]
    assert "other, third (4 of 4 seeds collapsed) and last are better." in table.sentence
    with laboratory.engine.connect() as connection:
        assert answer(connection, "four") == table.sentence


def test_a_verdict_says_how_many_seeds_of_its_row_diverged(laboratory: Laboratory) -> None:
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in ("base", "other")]
    told = {"rows": rows, "printed": {}, "random_init": False, "seeds": [0, 1, 2, 3], "baseline": "base"}
    laboratory.study("two", ROWS | told)
    looked = {"collapse": {"state": "", "rankme": 9.0, "said": ""}}
    for seed in range(3):
        laboratory.run("two", "base", seed, {MAIN: 50.0 + 0.1 * seed}, facts=looked)
        laboratory.run("two", "other", seed, {MAIN: 60.0 + 0.11 * seed}, facts=looked)
    laboratory.run("two", "other", 3, {}, state="diverged")
    table = building.build(load(laboratory.engine, "two"))
    assert table.rows[1].verdict == "better, but 1 of 4 seeds diverged" and "(1 of 4 seeds diverged)" in table.sentence


def test_seeds_that_nobody_looked_at_are_not_counted_as_sound_beside_collapsed_ones(laboratory: Laboratory) -> None:
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in ("base", "other")]
    laboratory.study("two", ROWS | {"rows": rows, "printed": {}, "random_init": False, "baseline": "base"})
    collapsed = {"collapse": {"state": "collapsed", "rankme": 1.3, "said": "collapsed"}}
    for seed in range(3):
        laboratory.run("two", "base", seed, {MAIN: 50.0 + 0.1 * seed}, facts=collapsed)
        laboratory.run("two", "other", seed, {MAIN: 60.0 + 0.11 * seed}, facts=None if seed else collapsed)
    table = building.build(load(laboratory.engine, "two"))
    assert table.rows[1].verdict == "better, but 1 of 3 seeds collapsed, 2 not looked at"
    assert table.rows[1].collapse == "1 of 3 seeds collapsed (seed 0: RankMe 1.3); 2 were not looked at"
    assert "beside base (3 of 3 seeds collapsed): other (1 of 3 seeds collapsed, 2 not looked at)" in table.sentence


def test_a_row_has_a_verdict_in_every_column_and_the_random_initialisation_none(grid_table: Table) -> None:
    verdicts = {row.key: row.verdict for row in grid_table.rows}
    assert verdicts["0.5"].startswith("half length: ") and "; full length: " in verdicts["0.5"]
    assert verdicts["0.9"] == verdicts["random_init"] == ""
    assert "half length: " in grid_table.sentence and "random init" not in grid_table.sentence


def test_rows_that_lack_runs_have_no_verdict_and_no_sentence(rows_table: Table) -> None:
    assert not rows_table.has_verdicts and rows_table.sentence == ""
    assert "verdict" not in render.markdown(rows_table) and ",verdict," in render.to_csv(rows_table)


def test_the_terminal_says_what_the_table_does(laboratory: Laboratory) -> None:
    table = four_rows(laboratory, 30.0, third="collapsed")
    with laboratory.engine.connect() as connection:
        assert answer(connection, "four") == table.sentence != ""


def test_a_rule_for_seeds_widens_the_differences_for_its_looks_and_the_notes_say_so(laboratory: Laboratory) -> None:
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in ("base", "other")]
    rule = {"start": 3, "until": "decided", "max": 12}
    document = {**ROWS, "rows": rows, "printed": {}, "random_init": False, "seeds": rule, "metrics": [MAIN]}
    laboratory.study("ruled", document)
    moved = (5.0, 5.4, 4.9)
    for seed in range(3):
        laboratory.run("ruled", "base", seed, {MAIN: 60.0})
        laboratory.run("ruled", "other", seed, {MAIN: 60.0 + moved[seed]})
    table = building.build(load(laboratory.engine, "ruled"))
    estimate = table.rows[1].cells[1].estimate
    assert estimate is not None
    low, high = scipy_stats.t.interval(0.99, 2, np.mean(moved), scipy_stats.sem(moved))
    assert (estimate.low, estimate.high) == pytest.approx((low, high))
    notes = " ".join(table.notes)
    assert "judged at 3, 4, 6, 9, 12 seeds" in notes and "with its 99 % interval" in notes
    assert table.rows[1].verdict == "better"
    assert r"3 seeds; $\Delta$: to the baseline, $\pm$ its 99 \% interval." in latex.latex(table)
