"""A row differs from its baseline in what it sets and what that implies, or the study says in what else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import plan
from sweeps.cells.expand import expand
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.study.fair_rows import differences
from sweeps.study.files import StudyError
from sweeps.study.reading import parse
from tests.sweeps.launched import TWO_ROWS

METHODS = {
    **{key: value for key, value in TWO_ROWS.items() if key not in ("rows", "grid", "baseline")},
    "base": {"method": "mae", "evals": ["collapse", "ridge"]},
    "rows": [
        {"key": "mae", "label": "MAE"},
        {"key": "ijepa", "label": "I-JEPA", "set": {"method": "ijepa"}},
    ],
    "metrics": ["ridge/digit_top1"],
}


def request(document, scale="smoke"):
    return Request(parse(document, Path("s.yaml")), scale)


def told_of(asked):
    return list(plan.compared(asked, expand(asked).cells))


def test_another_method_s_schedule_is_not_told_by_the_method():
    with pytest.raises(
        UserError, match=r"row ijepa differs from the baseline mae in more than it sets: .*optim\.beta2"
    ):
        expand(request(METHODS))


def test_another_method_s_parts_are_told_by_the_method():
    with pytest.raises(UserError) as caught:
        expand(request(METHODS))
    assert "target.decay_start" not in str(caught.value) and "mask.num_targets" not in str(caught.value)


def test_the_error_offers_the_line_that_says_it_is_meant():
    with pytest.raises(UserError) as caught:
        expand(request(METHODS))
    offered = str(caught.value).rpartition("varies: ")[2].strip("[] \n").split(", ")
    expand(request({**METHODS, "varies": offered}))


def of_two(baseline: dict, row: dict) -> dict:
    rows = [{"key": "a", "label": "a", "set": baseline}, {"key": "b", "label": "b", "set": row}]
    return {**METHODS, "rows": rows, "varies": ["augment", "optim"]}


V_JEPA = {"method": "vjepa", "encoder.patch": 4}
SLY = {
    "another method on clips": ({}, V_JEPA, "data.frames"),
    "which names the data that both have": ({}, {**V_JEPA, "data": "moving_digits"}, "data.frames"),
    "whose baseline names the data that both have": ({"data": "moving_digits"}, V_JEPA, "data.frames"),
    "one of its options": ({"data.size": 32}, V_JEPA, "data.frames"),
    "evaluations that both have": ({}, {**V_JEPA, "evals": ["collapse", "ridge"]}, "data.frames"),
    "another encoder, by what its method forgets": ({}, {"method": "vicreg", "encoder": "vit"}, "encoder.depth"),
    "a larger one under the name of both": (
        {"encoder": "vit"},
        {"method": "vicreg", "encoder": "vit"},
        "encoder.width",
    ),
    "an objective that both have": ({"objective": "masked"}, {**V_JEPA, "objective": "masked"}, "data.frames"),
    "a method that is named with the baseline's": ({"method": "mae"}, V_JEPA, "data.frames"),
    "many options beside": ({}, {**V_JEPA, "mask.num_blocks": [8, 2], "target.norm": "layer"}, "data.frames"),
}


@pytest.mark.parametrize(("baseline", "row", "untold"), SLY.values(), ids=SLY)
def test_a_row_that_differs_in_what_neither_it_nor_the_study_says_is_refused(baseline, row, untold):
    with pytest.raises(UserError, match=rf"row b differs from the baseline a in more than it sets: .*{untold}"):
        expand(request(of_two(baseline, row)))
    expand(request({**of_two(baseline, row), "varies": ["augment", "optim", "data", "encoder"]}))


def test_an_evaluation_that_both_have_judges_both_alike():
    """A preset's way to judge (a class token, say) is another's only where the study says so."""
    names = {"evals": ["collapse", "ridge", "knn"]}
    config = {"evals": ["collapse", "ridge"], "evals.ridge.pool": "mean"}
    other = {**names, "evals.ridge.pool": "quadrants", "evals.knn.k": 5}
    study = parse({**TWO_ROWS, "rows": [{"key": "a"}, {"key": "b", "set": names}]}, Path("s.yaml"))
    first, second = study.cells("cpu")[:2]
    found = {d.key: d.is_told for d in differences(study, "cpu", [(first, config), (second, other)])}
    assert found == {"evals": True, "evals.knn.k": True, "evals.ridge.pool": False}


@pytest.mark.parametrize("pattern", ["*", "?*", "o*", "[a-z]*.size"])
def test_varies_that_may_be_any_option_is_refused(pattern):
    with pytest.raises(StudyError, match="may be of any part: begin with the name of one"):
        parse({**TWO_ROWS, "varies": [pattern]}, Path("s.yaml"))


def test_what_varies_takes_groups_and_patterns_at_all_scales_or_one():
    expand(request({**METHODS, "varies": ["augment", "optim.*"]}))
    expand(request({**METHODS, "scales": {"smoke": {"varies": ["augment", "optim"]}}}))


def test_a_row_may_set_what_the_baseline_leaves_as_it_is():
    rows = [{"key": "a", "label": "a"}, {"key": "b", "label": "b", "set": {"optim.lr_peak": 0.01}}]
    expansion = expand(request({**METHODS, "rows": rows}))
    found = list(differences(expansion.request.study, "smoke", expansion.cells))
    assert [(d.row.row_key, d.key, d.value, d.is_told) for d in found] == [("b", "optim.lr_peak", 0.01, True)]


def test_what_a_baseline_sets_alone_is_told_of_every_other_row():
    rows = [{"key": "a", "label": "a", "set": {"optim.lr_peak": 0.01}}, {"key": "b", "label": "b"}]
    expand(request({**METHODS, "rows": rows, "baseline": "a"}))


@pytest.mark.parametrize("value", ["optim", [1], [""], {"a": 1}])
def test_varies_that_is_no_list_of_options_is_named(value):
    with pytest.raises(StudyError, match="varies must be a list of options"):
        parse({**METHODS, "varies": value}, Path("s.yaml"))


def test_what_varies_is_a_part_of_the_study_and_of_no_run():
    plain, told = (parse({**TWO_ROWS, **more}, Path("s.yaml")) for more in ({}, {"varies": ["optim"]}))
    assert [cell.overrides for cell in told.cells("cpu")] == [cell.overrides for cell in plain.cells("cpu")]


def test_a_plan_says_of_each_row_what_differs():
    rows = [{"key": "a", "label": "a"}, {"key": "b", "label": "b", "set": {"optim.lr_peak": 0.01, "mask.ratio": 0.5}}]
    told = told_of(request({**METHODS, "rows": rows}))
    assert told[0].endswith("what differs from the baseline a")
    assert told[1].startswith("  b: mask.ratio 0.5 (baseline 0.75); optim.lr_peak 0.01 (baseline ")


def test_a_plan_leaves_out_the_options_that_only_one_of_two_variants_has():
    told = told_of(request({**METHODS, "varies": ["augment", "optim"]}))
    assert "mask multiblock (baseline random)" in told[1] and "mask.num_targets" not in told[1]


def test_a_misspelt_option_of_what_varies_is_refused_with_the_nearest():
    file = {**TWO_ROWS, "base": {"method": "mae", "optim.steps": 4}, "varies": ["mask.rato", "evals.vissl.pool"]}
    with pytest.raises(UserError, match=r"varies: no run has the option 'mask.rato' \(did you mean mask.ratio\?\)"):
        expand(Request(parse(file, Path("ratio.yaml")), "smoke"))


def test_a_misspelt_key_of_a_scale_is_refused_with_the_nearest():
    with pytest.raises(StudyError, match=r"unknown key scales.smoke.sedes \(did you mean seeds\?\)"):
        parse({**TWO_ROWS, "scales": {"smoke": {"sedes": [0]}}}, Path("ratio.yaml"))
