from pathlib import Path

import pytest

from sweeps.cells.edited import launched
from sweeps.cells.expand import expand, fingerprint, words
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.study.model import Study
from sweeps.study.reading import parse, read

MINIMAL = {
    "title": "Ratio",
    "question": "How much?",
    "base": {"method": "mae"},
    "rows": [{"key": "half", "set": {"mask.ratio": 0.5}}, {"key": "most", "set": {"mask.ratio": 0.75}}],
    "metrics": ["ridge/{label}_top1"],
    "figures": [{"name": "a", "metric": "knn/{label}_top1"}],
    "seeds": [0, 1],
}


def study(**changes: object) -> Study:
    return parse({**MINIMAL, **changes}, Path("studies/ratio.yaml"))


def test_a_cell_becomes_a_config_without_seed_and_runtime():
    cells = expand(Request(study(), "smoke")).cells
    assert [config.get("mask.ratio") for _, config in cells] == [0.5, 0.75, None]
    assert not [key for key in cells[0][1] if key == "seed" or key.startswith("runtime")]


def test_the_free_row_is_not_trained_even_when_the_command_line_says_for_how_long():
    cells = expand(Request(study(), "smoke", ("optim.steps=3",))).cells
    assert [config["optim.steps"] for _, config in cells] == [3, 3, 0]


def test_an_override_reaches_every_cell():
    cells = expand(Request(study(), "smoke", ("encoder.depth=1",))).cells
    assert {config["encoder.depth"] for _, config in cells} == {1}


def test_another_data_set_on_the_command_line_drops_the_options_of_the_file_s_own():
    base = {"method": "mae", "data": "moving_digits", "data.num_train": 7, "evals.ridge.num_layers": 2}
    asked = Request(study(base=base), "smoke", ("data=npz", "data.path=x", "evals=[ridge]"))
    found = words(asked.study.cells("smoke")[0].overrides, asked)
    assert found == [
        "scale=smoke", "method=mae", "evals.ridge.num_layers=2", "mask.ratio=0.5", "data=npz", "data.path=x",
        "evals=[ridge]",
    ]  # fmt: skip


def test_a_metric_is_named_after_the_data_s_own_label():
    expansion = expand(Request(study(), "smoke"))
    assert expansion.metrics == ["ridge/digit_top1"]
    assert expansion.spec["metrics"] == ["ridge/digit_top1"]
    assert expansion.spec["figures"][0]["metric"] == "knn/digit_top1"


def test_a_figure_may_show_what_only_another_scale_is_judged_by():
    asked = study(figures=[{"name": "a", "metric": "seg/miou"}], scales={"cpu": {"evals": ["ridge", "seg"]}})
    for scale in ("smoke", "cpu"):
        assert expand(Request(asked, scale)).spec["figures"][0]["metric"] == "seg/miou"
    with pytest.raises(UserError, match="unknown metric 'seg/mioux'"):
        expand(Request(study(figures=[{"name": "a", "metric": "seg/mioux"}], base={"evals": ["ridge", "seg"]}), "cpu"))


def test_a_metric_of_an_evaluation_made_later_is_known_by_its_kind():
    later = ["ridge/digit_top1", "linear@num_layers=2/digit_top1", "cost/eval_linear@deep_cpu_seconds"]
    assert expand(Request(study(metrics=later), "smoke")).metrics == later
    with pytest.raises(UserError, match="unknown metric 'linnear@deep/digit_top1'"):
        expand(Request(study(metrics=["linnear@deep/digit_top1"]), "smoke"))


def test_a_metric_that_the_runs_are_not_judged_by_is_refused_with_the_ways_to_get_it():
    with pytest.raises(UserError, match=r"add quadrants to evals .*, name it quadrants@later/digit_top1 and make it:"):
        expand(Request(study(metrics=["quadrants/digit_top1"]), "smoke"))


def test_the_way_to_a_metric_can_be_typed_as_it_stands():
    asked = Request(study(metrics=["quadrants/digit_top1"]), "smoke")
    with pytest.raises(UserError) as refused:
        expand(asked)
    command = f"python -m core.evaluate study={asked.instance} evals=[quadrants] as=later"
    assert command in str(refused.value) and "..." not in command


def test_one_metric_can_stand_for_every_label_of_the_data():
    asked = study(metrics=["ridge/{labels}_top1", "collapse/rankme"])
    assert expand(Request(asked, "smoke")).metrics == ["ridge/digit_top1", "collapse/rankme"]
    clips = expand(Request(asked, "smoke", ("data.frames=2",)))
    assert clips.spec["metrics"] == ["ridge/digit_top1", "ridge/motion_top1", "collapse/rankme"]


def test_the_stored_spec_is_a_study_that_resolves_the_same_way():
    request = Request(study(scales={"smoke": {"seeds": [3], "metrics": ["knn/{label}_top1"]}}), "smoke")
    spec = expand(request).spec
    again = launched("ratio", spec)
    assert (again.seeds("smoke"), again.metrics("smoke")) == ([3], ["knn/digit_top1"])
    assert again.cells("smoke") == request.study.cells("smoke")


def test_runtime_options_are_checked_but_no_part_of_a_config():
    plain, here = expand(Request(study(), "smoke")), expand(Request(study(), "smoke", runtime=("runtime.threads=2",)))
    assert here.cells == plain.cells
    assert here.request.instance == plain.request.instance
    with pytest.raises(UserError, match=r"^runtime.thraeds: unknown; did you mean runtime.threads"):
        expand(Request(study(), "smoke", runtime=("runtime.thraeds=2",)))


def test_seeds_of_the_command_line_replace_the_study_s():
    request = Request(study(), "smoke", seeds=(5, 6))
    assert request.wanted_seeds == [5, 6]
    assert request.spec()["seeds"] == [5, 6]
    assert request.instance == "ratio@smoke"


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        (
            {"metrics": ["ridge/top-1"]},
            (),
            r"ratio.yaml: every row: unknown metric 'ridge/top-1'.*evals \[.*ridge.*\] give: .*rid",
        ),
        ({"metrics": ["linear/{label}_top1"]}, (), r"unknown metric 'linear/digit_top1'"),
        ({"figures": [{"name": "a", "metric": "x/y"}]}, (), "unknown metric 'x/y'"),
        ({"base": {"method": "mea"}}, (), r"ratio.yaml: every row: method=mea: unknown; did you mean mae"),
        ({"base": {"maks": "random"}}, (), r"ratio.yaml: every row: maks: unknown; did you mean mask"),
        ({}, ("maks.ratio=0.5",), r"^maks.ratio: unknown"),
        ({}, ("encoder.widht=3",), r"^encoder.widht: unknown; did you mean encoder.width"),
        ({}, ("encoder.patch=5",), r"encoder.patch"),
        ({}, ("mask.ratio=0.6",), "varies mask.ratio from row to row"),
        ({}, ("seed=1",), r"give seeds=\[0,1,2\]"),
    ],
)
def test_a_study_that_cannot_run_dies_in_one_line(changes, overrides, message):
    with pytest.raises(UserError, match=message):
        expand(Request(study(**changes), "smoke", overrides))


def test_the_fingerprint_is_the_same_while_core_is():
    assert fingerprint() == fingerprint()


@pytest.mark.parametrize("name", ["masking_ratio", "ijepa_targets"])
def test_a_shipped_study_resolves(name):
    expansion = expand(Request(read(name), "cpu"))
    assert "ridge/digit_top1" in expansion.metrics
    assert len(expansion.cells) == len(read(name).cells("cpu"))
