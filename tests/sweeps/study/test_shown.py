"""Everything that a study file shows is checked before anything trains, and all that is wrong is said at once."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import core.configuring.fitting
from sweeps import launch, plan
from sweeps.cells.expand import expand
from sweeps.cells.request import Request
from sweeps.console.errors import OK, USER_ERROR, UserError
from sweeps.study.files import StudyError
from sweeps.study.reading import parse
from sweeps.study.shown import wrong_figures

FILE = Path("studies/ratio.yaml")
BASE: dict[str, Any] = {
    "title": "Ratio",
    "question": "How much?",
    "base": {"method": "mae", "data.frames": 2},
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}, {"key": "most", "set": {"mask.ratio": 0.75}}],
    "metrics": ["ridge/{labels}_top1"],
    "seeds": [0],
}
COLUMNS = [{"key": "short", "set": {"optim.steps": 1}}, {"key": "long", "set": {"optim.steps": 2}}]


def said(scale: str = "smoke", overrides: tuple[str, ...] = (), **changes: object) -> str:
    """What a study with these changes is refused with; "" where it is not."""
    try:
        expand(Request(parse({**BASE, **changes}, FILE), scale, overrides))
    except (StudyError, UserError) as error:
        return str(error)
    return ""


def of_figure(**options: object) -> str:
    return said(figures=[{"name": "a", **options}], columns=COLUMNS)


@pytest.mark.parametrize(
    "options",
    [
        {"x": "mask.ratio"},
        {"x": "rows", "hue": "columns"},
        {"x": "encoded_tokens"},
        {"x": "ridge/digit_top1", "kind": "scatter", "hue": "rows"},
        {"x": "cost/train_seconds", "y": "ridge/{label}_top1", "kind": "scatter"},
        {"hue": None},
        {"kind": "bar", "panels": [{"metric": "knn/{label}_top1"}, {"x": "optim.steps", "logx": True}]},
        {"x": "mask"},
    ],
)
def test_what_can_be_drawn_is_not_refused(options):
    assert of_figure(**options) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "mask.ratoi"}, "figures[0].x: 'mask.ratoi' is no option of its rows (did you mean mask.ratio?)"),
        ({"hue": "rowss"}, "figures[0].hue: 'rowss' is no option of its rows (did you mean rows"),
        ({"hue": "knn/digit_top1", "kind": "scatter"}, "figures[0].hue: 'knn/digit_top1' is a metric"),
        ({"metric": "top1"}, "figures[0].metric: 'top1' is no metric's name, such as ridge/"),
        ({"y": "rankme"}, "figures[0].y: 'rankme' is no metric's name"),
        ({"metric": "knn/digit_top2"}, "unknown metric 'knn/digit_top2' (did you mean knn/digit_top1"),
        ({"panels": [{"x": "rows"}, {"x": "stepps"}]}, "figures[0].panels[1].x: 'stepps' is no option"),
        ({"x": "optim.steps", "logx": "yes"}, "figures[0].logx must be true or false, got 'yes'"),
    ],
)
def test_what_cannot_be_drawn_is_named_with_its_place(options, message):
    assert message in of_figure(**options)


def test_an_axis_of_columns_needs_columns():
    assert "figures[0].hue: 'columns': the study has none" in said(figures=[{"name": "a", "hue": "columns"}])


def test_a_formula_needs_its_options():
    rows = [{"key": "a", "set": {"method": "vicreg"}}]
    message = said(base={}, rows=rows, figures=[{"name": "a", "x": "encoded_tokens"}])
    assert "'encoded_tokens' needs mask.ratio, which no row has" in message


def test_a_value_below_zero_has_no_place_on_a_logarithmic_axis():
    study, figures = parse(BASE, FILE), [{"name": "a", "x": "x.y", "logx": True}]
    assert not list(wrong_figures(study, figures, [{"x.y": 0.0}], "smoke"))  # 0 stands at the left
    (told,) = wrong_figures(study, figures, [{"x.y": 1}, {"x.y": -1.0}], "smoke")
    assert told.startswith("figures[0].logx: x.y is -1 in a row")


def test_two_figures_of_one_name_are_one_file():
    figures = [{"name": "a"}, {"name": "b"}, {"name": "a", "kind": "bar"}]
    assert "figures[0].name: 'a' is there 2 times" in said(figures=figures)


def test_a_contour_lies_over_two_searched_options():
    search = {"space": {"mask.ratio": {"float": [0.1, 0.9]}}, "budget": 1}
    study = {key: value for key, value in BASE.items() if key != "rows"} | {"search": search}
    figures = [
        {"name": "a", "kind": "contour", "x": "mask.ratio", "y": "mask.rato"},
        {"name": "b", "kind": "importance"},
    ]
    with pytest.raises(UserError, match=r"figures\[0\].y must be one of .* mask.ratio, got 'mask.rato' \(did you mean"):
        expand(Request(parse({**study, "figures": figures}, FILE), "smoke"))


def compared(name: str, scale: str = "cpu", overrides: tuple[str, ...] = ()) -> str:
    return said(scale, overrides, printed={"values": {"half": {"IN1K": 1.0}}, "compare": {"IN1K": name}})


@pytest.mark.parametrize("name", ["ridge/digit_top1", "motion_top1", "{label}_top1", "ridge/{label}_top1"])
def test_a_printed_number_stands_against_a_metric_of_the_table(name):
    assert compared(name) == ""


@pytest.mark.parametrize("name", ["motin_top1", "knn/digit_top1", "ridge", "{labels}_top1"])
def test_a_printed_number_that_stands_against_nothing_is_refused(name):
    assert f"printed.compare.IN1K: '{name}' is no metric of the table" in compared(name)


def test_data_without_a_compared_label_is_not_refused():
    assert compared("motion_top1", "cpu", ("data.frames=1",)) == ""
    assert "is no metric of the table" in compared("motion_topp", "cpu", ("data.frames=1",))


# ---- all at once -----------------------------------------------------------------------------------------------------


def test_all_wrong_rows_are_named_at_once_and_equal_mistakes_together():
    rows = [
        {"key": "good", "set": {"mask.ratio": 0.5}},
        {"key": "a", "set": {"mask.ratoi": 0.5}},
        {"key": "b", "set": {"mask.ratoi": 0.6, "encoder.widht": 8}},
        {"key": "c", "set": {"mask.ratio": 7}},
    ]
    told = said(rows=rows, figures=[{"name": "x", "metric": "top1"}])
    assert told.startswith("studies/ratio.yaml: 4 mistakes:\n")
    assert "\n  rows 'a', 'b': mask.ratoi: unknown; did you mean mask.ratio?" in told
    assert "\n  row 'b': encoder.widht: unknown" in told
    assert "\n  row 'c': mask.ratio must be in (0, 1), got 7" in told
    assert "\n  figures[0].metric: 'top1' is no metric's name" in told


def test_names_of_a_kind_that_nobody_asked_for_are_counted_and_the_near_ones_listed():
    told = said(metrics=["ridge/digit_topp1"])
    assert "'ridge/digit_topp1' (did you mean ridge/digit_top1" in told
    assert re.search(r"give: .*cost/\.\.\. \(\d+ metrics\), .*ridge/digit_top1", told)
    assert "cost/train_seconds" in said(metrics=["cost/train"])


def test_a_key_given_twice_hides_no_other_mistake():
    rows = [{"key": "a", "set": {"mask.ratio": 0.5}}, {"key": "a"}, {"key": "b", "set": {"mask.ratoi": 0.5}}]
    figures = [{"name": "f"}, {"name": "f"}]
    with pytest.raises(StudyError) as refused:
        parse({**BASE, "rows": rows, "figures": figures, "baseline": "c"}, FILE)
    told = str(refused.value)
    assert "the key 'a' appears twice" in told and "'f' is there 2 times" in told and "baseline: no row 'c'" in told
    assert [row.key for row in refused.value.rest.rows] == ["a", "b"]  # core looks at these


def test_rows_that_can_be_read_are_looked_at_beside_one_that_cannot():
    with pytest.raises(StudyError, match=r"unknown key rows\[0\]\.sett") as refused:
        parse({**BASE, "rows": [{"key": "a", "sett": {}}, {"key": "b"}], "baseline": "a"}, FILE)
    assert "baseline" not in str(refused.value)  # the row of that name may be the one
    assert [row.key for row in refused.value.rest.rows] == ["b"]


def test_a_wrong_baseline_hides_no_wrong_axis():
    with pytest.raises(StudyError) as refused:
        parse({**BASE, "baseline": "c", "figures": [{"name": "a", "x": "mask.ratoi"}]}, FILE)
    with pytest.raises(UserError, match=r"figures\[0\]\.x: 'mask\.ratoi' is no option"):
        expand(Request(refused.value.rest, "smoke"))


def test_what_every_row_has_is_said_once():
    told = said(base={"method": "mae", "encoder.widht": 3})
    assert told.startswith("studies/ratio.yaml: every row: encoder.widht: unknown")


def test_one_wrong_column_is_named_with_its_rows():
    columns = [COLUMNS[0], {"key": "long", "set": {"optim.stepps": 2}}]
    rows = "row 'half', column 'long'; row 'most', column 'long'"
    assert f"{rows}: optim.stepps: unknown" in said(columns=columns)


def test_mistakes_of_the_command_line_are_not_the_file_s():
    told = said(overrides=("maks.ratio=1", "encoder.widht=2"))
    assert [line.partition(":")[0] for line in told.splitlines()] == ["maks.ratio", "encoder.widht"]


def test_all_wrong_metrics_are_named_at_once():
    assert "every row: unknown metrics 'ridge/x', 'knn/y'" in said(metrics=["ridge/x", "knn/y"])


def test_all_wrong_keys_of_a_file_are_named_at_once():
    changes = {
        "titel": "x",
        "basse": {},
        "figures": [
            {"name": "a b"},
            {"name": "a", "knd": "line"},
            {"name": "c", "kind": "pie"},
            {"name": "d", "panels": 5},
        ],
        "table": {"columns": "both"},
        "rows": [{"key": "a", "sett": {}}, {"key": "b", "scale": {}}],
    }
    with pytest.raises(StudyError) as caught:
        parse({**BASE, **changes}, FILE)
    for part in (
        "unknown keys titel", "basse", "figures[0].name must be", "unknown key figures[1].knd", "figures[2].kind",
        "figures[3].panels must be a list", "table.columns", "unknown key rows[0].sett", "unknown key rows[1].scale",
    ):  # fmt: skip
        assert part in str(caught.value)


@pytest.mark.parametrize("command", [launch.main, plan.main])
def test_launch_and_plan_refuse_alike_and_write_nothing(command, tmp_path, capsys):
    file = tmp_path / "drawn.yaml"
    file.write_text(
        "{title: T, question: Q, base: {method: mae}, rows: [{key: a, set: {mask.ratio: 0.5}}], "
        "metrics: [ridge/digit_top1], figures: [{name: f, x: mask.ratoi}]}"
    )
    place = [f"db=sqlite:///{tmp_path}/x.sqlite"] + ([f"results_dir={tmp_path}/r"] if command is launch.main else [])
    assert command([f"study={file}", "scale=smoke", *place]) == USER_ERROR
    assert "figures[0].x: 'mask.ratoi'" in capsys.readouterr().err
    assert not (tmp_path / "x.sqlite").exists()


def test_a_plan_looks_at_the_data_of_a_study_that_it_has_planned_before(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for number in range(4):
            (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (number * 9, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    Path("drawn.yaml").write_text(
        "{title: T, question: Q, base: {method: mae, data: image_folder, data.path: photos, data.size: 32}, "
        "rows: [{key: a, set: {mask.ratio: 0.5, evals: [ridge]}}], metrics: ['ridge/{label}_top1']}"
    )
    asked = ["study=drawn.yaml", "scale=smoke", f"db=sqlite:///{tmp_path}/x.sqlite"]
    assert plan.main(asked) == OK
    capsys.readouterr()
    (tmp_path / "photos").rename(tmp_path / "elsewhere")
    core.configuring.fitting.SPECS.clear()  # as in a new process
    assert plan.main(asked) == USER_ERROR
    assert "data.path must be a folder" in capsys.readouterr().err
    assert plan.main([*asked, "runtime.cache=drawn.yaml"]) == USER_ERROR
    assert "runtime.cache=drawn.yaml" in capsys.readouterr().err
