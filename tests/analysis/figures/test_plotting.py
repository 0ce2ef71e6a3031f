from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from analysis.figures import drawing, plotting, theme
from analysis.numbers.frame import Frame, load
from analysis.numbers.stats import mean_interval
from analysis.tables.latex import ARTICLES, PASTED
from sweeps.database.tables import Config
from tests.analysis.conftest import GRID, MAIN, ROWS, Laboratory, grid_value


@pytest.fixture
def grid(engine: Engine) -> Frame:
    return load(engine, "masking_ratio")


@pytest.fixture
def rows(engine: Engine) -> Frame:
    return load(engine, "ijepa_masking")


def figure_of(frame: Frame, name: str) -> plotting.Plot:
    return plotting.plot(frame, next(figure for figure in frame.study.figures if figure["name"] == name))


def drawn(plot: plotting.Plot) -> Figure:
    with mpl.rc_context(theme.settings()):
        figure = drawing.draw(plot)
        theme.png(figure)  # lays the page out
        return figure


def test_a_point_is_the_mean_and_interval_of_its_cell(grid: Frame) -> None:
    points = figure_of(grid, "curve").points
    point = points[(points["panel"] == 0) & (points["hue"] == "0.75") & (points["x"] == 600)].iloc[0]
    expected = mean_interval([grid_value(0.75, 600, seed) for seed in (0, 1, 2)])
    assert (point["mean"], point["low"], point["high"]) == pytest.approx((expected.mean, expected.low, expected.high))


def test_the_right_panel_of_masking_ratio_counts_encoded_tokens(grid: Frame) -> None:
    points = figure_of(grid, "curve").points
    right = points[points["panel"] == 1].set_index(["row_key", "col_key"])["x"]
    assert right["0.9", "long"] == pytest.approx(600 * 64 * 0.1)
    assert right["0.5", "short"] == pytest.approx(300 * 64 * 0.5)
    assert len(right) == 6


def test_random_init_is_a_reference_and_not_a_point(grid: Frame) -> None:
    plot = figure_of(grid, "curve")
    assert "random_init" not in set(plot.points["row_key"])
    ours = plot.references[plot.references["panel"] == 0]
    assert ours["mean"].tolist() == pytest.approx([49.0])


@pytest.mark.parametrize("values", [[16, 32], [0.5, 0.75], ["block", "random"], [True, False]])
def test_a_random_init_without_an_option_leaves_the_axis_of_that_option_as_it_is(
    laboratory: Laboratory, values: list[Any]
) -> None:
    rows = [{"key": str(value).lower(), "set": {"mask.choice": value}} for value in values]
    figure = {"name": "choice", "kind": "line", "x": "mask.choice", "hue": "mask.choice"}
    plain = {key: value for key, value in ROWS.items() if key != "printed"}
    laboratory.study("choices", {**plain, "rows": rows, "figures": [figure], "seeds": [0]})
    for number, key in enumerate([*(row["key"] for row in rows), "random_init"]):
        laboratory.run("choices", str(key), 0, {MAIN: 50.0 + number})
    with Session(laboratory.engine) as session, session.begin():
        for config in session.query(Config):
            if not config.json["optim.steps"]:
                config.json = {key: value for key, value in config.json.items() if key != "mask.choice"}
    plot = figure_of(load(laboratory.engine, "choices"), "choice")
    assert plot.points["x"].tolist() == values
    assert [str(hue) for hue in plot.points["hue"]] == list(map(str, values))
    assert plot.references["mean"].tolist() == [52.0]


def test_printed_numbers_have_a_panel_of_their_own(grid: Frame, rows: Frame) -> None:
    for plot, expected in ((figure_of(grid, "curve"), [83.1, 84.4]), (figure_of(rows, "bars"), [54.2, 20.2, 17.6])):
        last = len(plot.panels) - 1
        assert [panel.is_printed for panel in plot.panels] == [False] * last + [True]
        assert plot.points.loc[plot.points["panel"] == last, "mean"].tolist() == expected


def test_printed_places_of_a_line_come_in_the_studys_order_whichever_row_has_them(laboratory: Laboratory) -> None:
    values = {"0.5": {"long": 84.4}, "0.9": {"short": 71.4}}
    laboratory.study("grid", {**GRID, "printed": {"metric": "top-1", "values": values}})
    plot = figure_of(load(laboratory.engine, "grid"), "curve")
    printed = plot.points[plot.points["panel"] == 2]
    assert list(dict.fromkeys(printed["x"])) == ["half length", "full length"]
    assert [label.get_text() for label in drawn(plot).axes[2].get_xticklabels()] == ["half\nlength", "full\nlength"]


def test_printed_places_of_a_line_are_the_papers_own(laboratory: Laboratory) -> None:
    rows = [
        {"key": key, "label": key, "scales": {"cpu": {"predictor.width": here}, "paper": {"predictor.width": there}}}
        for key, here, there in (("eighth", 16, 128), ("half", 64, 512))
    ]
    figure = {"name": "width", "kind": "line", "x": "predictor.width"}
    printed = {"metric": "top-1", "values": {"eighth": 80.8, "half": 84.4}}
    laboratory.study("width", {**ROWS, "rows": rows, "figures": [figure], "printed": printed})
    plot = figure_of(load(laboratory.engine, "width"), "width")
    places = {panel: own["x"].tolist() for panel, own in plot.points[~plot.points["is_random_init"]].groupby("panel")}
    assert places == {0: [16, 64], 1: [128, 512]}


def test_one_printed_number_is_no_line(laboratory: Laboratory) -> None:
    laboratory.study("grid", {**GRID, "printed": {"metric": "top-1", "values": {"0.9": {"long": 84.4}}}})
    assert len(figure_of(load(laboratory.engine, "grid"), "curve").panels) == 2


def test_a_row_that_the_paper_lacks_keeps_its_place_beside_the_printed_ones(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "printed": {"metric": "top-1", "values": {"block": 20.2, "random": 17.6}}})
    plot = figure_of(load(laboratory.engine, "rows"), "bars")
    printed = plot.points[plot.points["panel"] == 1]
    assert printed["row_key"].tolist() == ["multiblock", "block", "random"]
    figure = drawn(plot)
    assert [axes.get_ylim() for axes in figure.axes] == [(2.5, -0.5)] * 2
    marks = [tuple(point) for marks in figure.axes[1].collections for point in marks.get_offsets().tolist()]
    assert marks == [(20.2, 1), (17.6, 2)]


def test_an_option_that_is_a_list_can_be_an_axis() -> None:
    assert [plotting._place(option) for option in (0.9, [0.5], [0.5, 1.0])] == [0.9, 0.5, "0.5, 1.0"]


def test_what_is_incomplete_is_named_below_the_figure(rows: Frame, grid: Frame) -> None:
    assert figure_of(rows, "bars").note.endswith("Hollow or absent: block (0.6): 1/3 seeds; random (0.6): 0/3 seeds.")
    assert "Hollow" not in figure_of(grid, "curve").note


def test_a_metric_can_be_the_x_axis(grid: Frame) -> None:
    points = plotting.plot(grid, {"name": "f", "kind": "scatter", "x": "collapse/rankme"}).points
    assert points["x"].tolist() == pytest.approx((points["mean"] / 4).tolist())


def test_hours_are_those_of_the_runs(grid: Frame) -> None:
    points = figure_of(grid, "hours").points.set_index(["row_key", "col_key"])
    assert points.loc[("0.5", "long"), "x"] == pytest.approx(60 / 3600)


@pytest.mark.parametrize("name", ["mask.ratioo", "__import__('os')", "optim.steps * 2"])
def test_an_unknown_axis_is_an_error_naming_what_is_allowed(grid: Frame, name: str) -> None:
    with pytest.raises(ValueError, match=r"masking_ratio: figure axis .* allowed beside those: mask.ratio, length"):
        plotting.plot(grid, {"name": "f", "x": name})


def test_a_formula_whose_keys_the_runs_lack_says_which(rows: Frame) -> None:
    with pytest.raises(ValueError, match=r"needs mask\.ratio"):
        plotting.plot(rows, {"name": "f", "x": "encoded_tokens"})


def test_numbers_are_ordered_by_size_and_words_by_the_study() -> None:
    assert plotting.levels([0.9, 0.5, 0.75, 0.5]) == [0.5, 0.75, 0.9]
    assert plotting.levels(["tube", "block", "tube"]) == ["tube", "block"]


# ---- drawing


def test_the_line_drawn_is_the_points(grid: Frame) -> None:
    plot = figure_of(grid, "curve")
    lines = [line for line in drawn(plot).axes[0].lines if line.get_label() == "0.5"]
    points = plot.points[(plot.points["panel"] == 0) & (plot.points["hue"] == "0.5")]
    assert [list(line.get_ydata()) for line in lines] == [points["mean"].tolist()]


COEFFICIENTS = (0.0, 0.01, 0.1, 1.0)


def coefficients(laboratory: Laboratory, *values: float, diverged: float = math.nan) -> Frame:
    """Errors at some values of an option; all seeds of one of them diverged."""
    rows = [{"key": str(value), "set": {"optim.clip": value}} for value in values]
    figure = {"name": "epe", "kind": "line", "x": "optim.clip", "logx": True}
    document = {**ROWS, "rows": rows, "metrics": ["flow/epe"], "figures": [figure], "printed": {}}
    laboratory.study("cycle", document | {"random_init": False})
    for value in values:
        for seed in range(3):
            state = "diverged" if value == diverged else "done"
            laboratory.run("cycle", str(value), seed, {"flow/epe": 3 - value + 0.1 * seed}, state=state)
    return load(laboratory.engine, "cycle")


def ticks(axes: Any) -> list[str]:
    low, high = axes.get_xlim()
    found = [(tick.get_loc(), tick.label1.get_text()) for tick in axes.xaxis.get_major_ticks()]
    return [text for place, text in sorted(found) if low <= place <= high]


def test_log_spaced_coefficients_are_evenly_apart_and_zero_stands_left_of_them(laboratory: Laboratory) -> None:
    axes = drawn(figure_of(coefficients(laboratory, *COEFFICIENTS), "epe")).axes[0]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 4]
    places = axes.transData.transform(np.column_stack([line.get_xdata(), line.get_ydata()]))[:, 0]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 3)
    assert list(line.get_ydata()) == pytest.approx([3.1, 3.09, 3.0, 2.1])
    assert ticks(axes) == ["0", "0.01", "0.1", "1"]


def test_log_spaced_coefficients_without_a_zero_keep_a_plain_log_axis(laboratory: Laboratory) -> None:
    axes = drawn(figure_of(coefficients(laboratory, *COEFFICIENTS[1:]), "epe")).axes[0]
    assert axes.get_xscale() == "log" and ticks(axes) == ["0.01", "0.1", "1"]


def test_a_coefficient_at_which_every_run_diverged_is_named_and_has_a_cross_in_place_of_a_point(
    laboratory: Laboratory,
) -> None:
    plot = figure_of(coefficients(laboratory, *COEFFICIENTS, diverged=1.0), "epe")
    assert plot.note.endswith("Hollow or absent: 1.0: 0/3 seeds.")
    axes = drawn(plot).axes[0]
    (line,) = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1]
    assert list(line.get_ydata()) == pytest.approx([3.1, 3.09, 3.0])
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    assert list(cross.get_xdata()) == [1.0] and ticks(axes)[-1] == "1"


def test_a_bar_of_missing_seeds_is_hollow_and_one_of_none_is_absent(rows: Frame) -> None:
    bars = drawn(figure_of(rows, "bars")).axes[0].containers[0]
    assert [round(bar.get_width(), 2) for bar in bars] == [71.33, 60.0]
    assert [bar.get_facecolor()[:3] == (1.0, 1.0, 1.0) for bar in bars] == [False, True]


def test_a_level_has_one_colour_in_every_panel(grid: Frame) -> None:
    all_axes = drawn(figure_of(grid, "curve")).axes
    colors = [{line.get_color() for line in axes.lines if line.get_label() == "0.9"} for axes in all_axes]
    assert colors[0] == colors[1] == colors[2] and len(colors[0]) == 1


@pytest.mark.parametrize(("study", "name"), [("masking_ratio", "curve"), ("ijepa_masking", "bars")])
def test_no_two_tick_labels_overlap(engine: Engine, study: str, name: str) -> None:
    for axes in drawn(figure_of(load(engine, study), name)).axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high and t.label1.get_visible()]
            boxes = [tick.label1.get_window_extent() for tick in ticks if tick.label1.get_text()]
            assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("kind", ["line", "bar", "point", "scatter"])
def test_every_kind_gives_the_same_bytes_twice_and_valid_svg(rows: Frame, kind: str) -> None:
    x = {"x": "knn/digit_top1"} if kind == "scatter" else {}
    first, second = (drawing.images(plotting.plot(rows, {"name": "f", "kind": kind, **x})) for _ in range(2))
    assert first == second
    assert first["png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(first["svg"]).tag.endswith("svg")
    assert b"<dc:date>" not in first["svg"]


def test_a_study_without_runs_is_an_empty_figure_that_says_so(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    plot = figure_of(load(laboratory.engine, "rows"), "bars")
    assert "multi-block: 0/3 seeds" in plot.note
    assert drawing.images(plot)["svg"]


def test_a_hostile_label_is_drawn_as_it_is(laboratory: Laboratory) -> None:
    level = {"key": "a", "label": "<script>$x^{</script>", "set": {"mask": "a"}}
    laboratory.study("rows", {**ROWS, "rows": [level], "printed": {"metric": "m"}, "title": "$\\frac{<b>"})
    laboratory.run("rows", "a", 0, {MAIN: 1.0})
    content = drawing.images(figure_of(load(laboratory.engine, "rows"), "bars"))["svg"]
    assert b"<script" not in content and b"<b>" not in content


def test_the_printed_panel_shows_what_the_paper_prints_of_the_panels_own_metric(laboratory: Laboratory) -> None:
    values = {"multiblock": {"lin.": 52.5, "kNN": 77.6}, "block": {"lin.": 56.7, "kNN": 79.1}}
    compare = {"lin.": MAIN, "kNN": "knn/digit_top1"}
    figures = [{"name": "knn", "kind": "bar", "metric": "knn/digit_top1"}]
    study = {**ROWS, "printed": {"metric": "m", "values": values, "compare": compare}, "figures": figures}
    laboratory.study("rows", study)
    plot = figure_of(load(laboratory.engine, "rows"), "knn")
    printed = plot.points[plot.points["panel"] == 1].set_index("row_key")["mean"]
    assert printed.dropna().to_dict() == {"multiblock": 77.6, "block": 79.1}
    assert plot.panels[1].ylabel == "kNN m (%)"


# ---- what a reader sees without the page


def test_up_to_five_seeds_are_dots_at_the_place_of_their_mean(grid: Frame) -> None:
    plot = figure_of(grid, "curve")
    dots = plot.seeds[(plot.seeds["panel"] == 0) & (plot.seeds["hue"] == "0.75") & (plot.seeds["x"] == 600)]
    assert sorted(dots["value"]) == pytest.approx(sorted(grid_value(0.75, 600, seed) for seed in (0, 1, 2)))


def of_seeds(laboratory: Laboratory, num: int, low: float = 60.0) -> plotting.Plot:
    figure = {"name": "line", "kind": "line", "x": "mask"}
    plain = {key: value for key, value in ROWS.items() if key != "printed"}
    laboratory.study("many", {**plain, "figures": [figure], "seeds": list(range(num))})
    for key in ("multiblock", "block", "random"):
        for seed in range(num):
            laboratory.run("many", key, seed, {MAIN: low + seed})
    return figure_of(load(laboratory.engine, "many"), "line")


@pytest.mark.parametrize(("num", "has_band"), [(3, False), (5, False), (6, True)])
def test_a_band_is_drawn_from_six_seeds_on(laboratory: Laboratory, num: int, has_band: bool) -> None:
    plot = of_seeds(laboratory, num)
    (axes,) = drawn(plot).axes
    assert any(isinstance(one, PolyCollection) for one in axes.collections) == has_band
    assert plot.seeds.empty == has_band
    assert f"n = {num} seeds" in plot.note and ("band" if has_band else "whisker") in plot.note


def test_nothing_is_drawn_beyond_what_the_metric_can_be(laboratory: Laboratory) -> None:
    plot = of_seeds(laboratory, 3, low=98.0)
    assert plot.points["high"].max() == 100.0
    assert drawn(plot).axes[0].get_ylim()[1] <= 100.0


def test_a_cost_has_no_line_of_the_random_initialisation(laboratory: Laboratory) -> None:
    figure = {"name": "cost", "kind": "bar", "metric": "cost/train_seconds"}
    laboratory.study("costs", {**ROWS, "figures": [figure], "seeds": [0]})
    for key in ("multiblock", "block", "random", "random_init"):
        laboratory.run("costs", key, 0, {MAIN: 60.0, "cost/train_seconds": 4.0})
    plot = figure_of(load(laboratory.engine, "costs"), "cost")
    assert plot.references.empty and plot.panels[0].ylabel == "training time (s)"


def test_type_is_of_one_size_whatever_the_width(grid: Frame, rows: Frame) -> None:
    for plot in (figure_of(grid, "curve"), figure_of(rows, "bars"), figure_of(rows, "dots")):
        figure = drawn(plot)
        assert figure.get_figwidth() <= theme.TEXTS[theme.PASTED]
        texts = [text for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels())]
        assert {text.get_fontsize() for text in texts} == {theme.TYPE}


def test_a_figure_of_panels_is_as_wide_as_the_text_of_its_article_and_a_single_one_as_a_column(grid, rows) -> None:
    for article, width in theme.TEXTS.items():
        with mpl.rc_context(theme.settings(article)):
            assert drawing.draw(figure_of(grid, "curve")).get_figwidth() == width
            assert (
                drawing.draw(replace(figure_of(rows, "dots"), panels=figure_of(rows, "dots").panels[:1])).get_figwidth()
                == theme.COLUMN
            )
    assert theme.TEXTS.keys() == ARTICLES.keys() and PASTED.article == theme.PASTED
    plot = figure_of(grid, "curve")
    assert drawing.images(plot, "one_column")["pdf"] != drawing.images(plot)["pdf"]
    assert theme.what_decides("one_column") != theme.what_decides()  # or one would be remembered as the other


def test_a_pdf_has_the_same_bytes_twice(rows: Frame) -> None:
    plot = figure_of(rows, "bars")
    assert drawing.images(plot)["pdf"] == drawing.images(plot)["pdf"]


def test_a_figure_of_one_panel_is_as_wide_as_a_column_with_its_legend_above(laboratory: Laboratory) -> None:
    laboratory.study("seen", {**GRID, "figures": [{"name": "curve", "x": "rows", "hue": "columns"}], "printed": {}})
    for row, column in (("0.5", "short"), ("0.9", "short"), ("0.5", "long"), ("0.9", "long")):
        laboratory.run("seen", row, 0, {MAIN: 60.0}, col_key=column)
    figure = drawn(figure_of(load(laboratory.engine, "seen"), "curve"))
    assert figure.get_figwidth() == theme.COLUMN and not figure.legends
    legend, axes = figure.axes[0].get_legend(), figure.axes[0]
    assert legend is not None and legend.get_window_extent().y0 >= axes.get_window_extent().y1


def test_a_random_initialisation_alone_is_named_in_the_note_and_takes_no_legend(rows: Frame) -> None:
    figure = drawn(figure_of(rows, "bars"))
    assert not figure.legends and all(axes.get_legend() is None for axes in figure.axes)
    assert " ".join(figure._supxlabel.get_text().split()).endswith("Dashed: random init, shaded: its interval.")


@pytest.mark.parametrize(
    ("printed", "quantity", "metric", "largest", "expected"),
    [
        ("K400 top-1", "", "ridge/digit_top1", 84.4, "K400 top-1 (%)"),
        ("top-1", "IN1K", "ridge/digit_top1", 74.0, "IN1K top-1 (%)"),
        ("K400 accuracy", "", "ridge/digit_top1", 0.55, "K400 accuracy"),
        ("K400 top-1 and speed", "acc.", "finetune/digit_top1", 84.4, "K400 top-1 (%)"),
        ("EPE (K15, clean), mIoU (ISeg)", "K15 train", "flow/epe", 13.5, "K15 train EPE (px)"),
        ("EPE (K15, clean), mIoU (ISeg)", "ISeg", "seg/miou", 30.0, "ISeg mIoU (%)"),
        ("samples seen (millions)", "", "cost/samples_decoded", 900.0, "samples seen (millions)"),
        ("fine-tuned top-1 and cost", "hours", "cost/train_seconds", 9.0, "hours (s)"),
    ],
)
def test_a_printed_axis_names_what_is_printed_of_it_and_its_unit(printed, quantity, metric, largest, expected):
    assert plotting.printed_words(printed, quantity, metric, largest) == expected


@pytest.mark.parametrize(("kind", "is_drawn"), [("bar", True), ("point", False), ("line", False)])
def test_a_random_initialisation_far_from_all_marks_is_told_in_words(laboratory: Laboratory, kind, is_drawn) -> None:
    figures = [{"name": "f", "kind": kind, "x": "rows", "metric": MAIN}]
    laboratory.study("far", {**ROWS, "figures": figures, "seeds": [0, 1]})
    for number, key in enumerate(("multiblock", "block", "random")):
        for seed in (0, 1):
            laboratory.run("far", key, seed, {MAIN: 60.0 + number + seed / 100})
    for seed in (0, 1):
        laboratory.run("far", "random_init", seed, {MAIN: 20.0})
    plot = figure_of(load(laboratory.engine, "far"), "f")
    assert plot.references.empty != is_drawn
    assert ("Random init: 20 %, off the axis." in plot.note) != is_drawn


def test_a_unit_does_not_stand_alone_on_a_line() -> None:
    assert drawing.wrapped("linear segmentation mIoU (%)", 26).splitlines() == ["linear segmentation", "mIoU\u00a0(%)"]


@pytest.mark.parametrize("kind", ["line", "point"])
def test_no_label_is_taller_than_the_panel_that_it_stands_beside(grid: Frame, kind) -> None:
    words = "quadrant ridge top-1, digits (%)"
    figure = drawn(plotting.plot(grid, {"name": "f", "kind": kind, "x": "rows", "xlabel": words, "ylabel": words}))
    figure.draw_without_rendering()  # `drawn` did so at the file's dots per inch
    for axes in figure.axes:
        assert axes.yaxis.label.get_window_extent().height <= axes.get_window_extent().height
