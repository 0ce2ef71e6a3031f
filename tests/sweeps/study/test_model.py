import json
from pathlib import Path

import pytest
import yaml

from sweeps.study.files import StudyError, load_document, names
from sweeps.study.model import instance_name
from sweeps.study.overrides import format_override
from sweeps.study.reading import parse, read

MINIMAL = {
    "title": "Ratio",
    "question": "How much?",
    "base": {"method": "mae_st", "mask.ratio": 0.9},
    "rows": [
        {"key": "a", "label": "A", "set": {"mask.ratio": 0.5}},
        {"key": "b", "label": "B", "set": {"optim.steps": 8}, "scales": {"smoke": {"optim.steps": 2}}},
    ],
    "baseline": "b",
    "seeds": [0, 1],
    "metrics": ["ridge/digit_top1"],
}
FILE = Path("studies/ratio.yaml")


def changed(**changes: object) -> dict[str, object]:
    return {key: value for key, value in (MINIMAL | changes).items() if value is not None}


def test_a_row_overrides_the_base_and_the_study_s_scale():
    study = parse(changed(scales={"smoke": {"mask.ratio": 0.75, "seeds": [7]}}), FILE)
    assert [cell.overrides["mask.ratio"] for cell in study.cells("smoke")] == [0.5, 0.75, 0.75]
    assert [cell.overrides["mask.ratio"] for cell in study.cells("gpu")] == [0.5, 0.9, 0.9]
    assert (study.seeds("smoke"), study.seeds("gpu")) == ([7], [0, 1])


def test_a_level_has_its_own_value_at_a_scale():
    study = parse(MINIMAL, FILE)
    assert study.cells("smoke")[1].overrides["optim.steps"] == 2
    assert study.cells("cpu")[1].overrides["optim.steps"] == 8


def test_the_free_row_is_the_baseline_trained_for_no_steps():
    free = parse(MINIMAL, FILE).cells()[-1]
    assert (free.row_key, free.is_random_init) == ("random_init", True)
    assert free.overrides == {"method": "mae_st", "mask.ratio": 0.9, "optim.steps": 0}


def test_the_free_row_can_be_turned_off():
    assert [cell.row_key for cell in parse(changed(random_init=False), FILE).cells()] == ["a", "b"]


def test_a_grid_is_the_product_of_its_axes():
    grid = {"mask.ratio": [0.5, 0.9], "length": [{"key": "short", "label": "1x", "set": {"optim.steps": 3}}]}
    cells = parse(changed(grid=grid, rows=None, baseline=0.9), FILE).cells()
    assert [(cell.row_key, cell.col_key) for cell in cells] == [
        ("0.5", "short"),
        ("0.9", "short"),
        ("random_init", "short"),
    ]
    assert cells[0].overrides == {"method": "mae_st", "mask.ratio": 0.5, "optim.steps": 3}


def test_rows_and_columns_make_one_cell_a_pair():
    columns = [{"key": str(n), "set": {"optim.steps": n}} for n in (1, 2)]
    cells = parse(changed(columns=columns, random_init=False), FILE).cells()
    assert [(cell.row_key, cell.col_key, cell.overrides["optim.steps"]) for cell in cells] == [
        ("a", "1", 1), ("a", "2", 2), ("b", "1", 1), ("b", "2", 2),
    ]  # fmt: skip


def test_printed_numbers_are_kept_by_row_and_column():
    printed = {"metric": "top-1", "source": "Table 1", "values": {"a": 54.2, "b": {"top-1": 1, "share": 0.25}}}
    study = parse(changed(printed=printed), FILE)
    assert study.printed is not None
    assert study.printed.values == {"a": {"": 54.2}, "b": {"top-1": 1.0, "share": 0.25}}


def test_printed_numbers_are_written_with_the_paper_s_decimals():
    texts = [parse(changed(printed=printed), FILE).printed for printed in ({"digits": 2}, {})]
    assert [printed.text(0.5) for printed in texts if printed] == ["0.50", "0.5"]


def test_printed_numbers_of_one_row_may_have_different_decimals():
    values = {"a": {"EPE": 2.8, "mIoU": 67.0, "year": 2023}}
    printed = parse(changed(printed={"values": values, "digits": {"EPE": 2, "mIoU": 1}}), FILE).printed
    assert printed is not None
    assert [printed.text(value, name) for name, value in printed.values["a"].items()] == ["2.80", "67.0", "2023.0"]


def test_a_metric_s_decimals_are_those_of_the_first_name_or_pattern_that_fits():
    metrics = ["ridge/{labels}_top1", "flow/epe", "flow/epe_occ", "cost/seconds"]
    digits = {"flow/epe": 3, "flow/*": 2, "ridge/{labels}_top1": 0}
    study = parse(changed(metrics=metrics, table={"digits": digits}), FILE)
    shown = ["flow/epe", "flow/epe_occ", "ridge/digit_top1", "cost/seconds"]
    assert [study.decimals(metric) for metric in shown] == [3, 2, 0, 1]
    everywhere = parse(changed(metrics=metrics, table={"digits": 0}), FILE)
    assert {everywhere.decimals(metric) for metric in shown} == {0}


def test_a_word_that_the_paper_prints_for_a_row_is_kept_apart_from_its_numbers():
    printed = parse(changed(printed={"values": {"b": 1.0}, "outcomes": {"a": "crashed"}}), FILE).printed
    assert printed is not None and (printed.outcomes, list(printed.values)) == ({"a": "crashed"}, ["b"])


def test_a_printed_only_row_may_hold_printed_numbers():
    printed = {"values": {"dino": 77.0}, "rows": [{"key": "dino", "label": "DINO"}]}
    study = parse(changed(printed=printed), FILE)
    assert study.printed is not None and study.printed.rows[0].label == "DINO"
    assert "dino" not in {cell.row_key for cell in study.cells()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"basline": "b"}, r"unknown key basline \(did you mean baseline.*\); allowed: title"),
        ({"title": None}, "title is missing"),
        ({"rows": [{"key": "a", "sets": {}}]}, r"unknown key rows\[0\].sets \(did you mean set"),
        ({"rows": [{"key": "a"}, {"key": "a"}]}, "rows: the key 'a' appears twice"),
        ({"rows": []}, "rows must be a list with at least one level"),
        ({"rows": None}, "give one of grid:"),
        ({"grid": {"mask.ratio": [0.5]}}, "give one of grid:"),
        ({"baseline": "c"}, "baseline: no row 'c'; rows: a, b"),
        ({"scales": {"cpuu": {}}}, r"unknown key scales.cpuu \(did you mean cpu\?\)"),
        ({"base": {"scale": "gpu"}}, "scale is chosen when the study is launched"),
        ({"base": {"mask ratio": 1}}, "'mask ratio' is not an option's name"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"seeds": [0.5]}, "seeds must be a list of different whole numbers"),
        ({"metrics": "ridge"}, "metrics must be a list of names"),
        ({"table": {"digits": "one"}}, "table.digits must be a whole number"),
        ({"table": {"digits": {"ridge*": 9}}}, r"table.digits.ridge\* must be a whole number from 0 to 6, got 9"),
        ({"table": {"digits": {"ridg/*": 2}}}, r"table.digits: 'ridg/\*' is none of the metrics ridge/"),
        ({"table": {"latex": "RankMe"}}, "table.latex must be a list of metrics and printed quantities, got 'RankMe'"),
        ({"table": {"latex": ["ridg/*"]}}, r"table.latex: 'ridg/\*' is none of the metrics ridge/"),
        ({"figures": [{"name": "a b"}]}, r"figures\[0\].name must be a word"),
        ({"figures": [{"name": "a", "kind": "pie"}]}, r"figures\[0\].kind must be one of line"),
        ({"printed": {"values": {"c": 1.0}}}, "printed.values: no row 'c'"),
        ({"printed": {"values": {"a": "54.2"}}}, "printed.values.a: must be a number as printed"),
        ({"printed": {"values": {"a": {"EPE": 1}}, "digits": {"EPE": 9}}}, "printed.digits.EPE must be a whole number"),
        ({"printed": {"values": {"a": {"EPE": 1}}, "digits": {"EP": 2}}}, r"unknown key printed.digits.EP \(did you m"),
        ({"printed": {"outcomes": {"c": "crashed"}}}, "printed.outcomes: no row 'c'"),
        ({"printed": {"outcomes": {"a": 3}}}, "printed.outcomes.a must be the printed word, such as crashed, got 3"),
        ({"printed": {"values": {"a": 1.0}, "outcomes": {"a": "crashed"}}}, "printed.outcomes.a: the row has printed"),
        ({"leave_out": {"m": {"mask.ratio": 0.5}}}, "give one of grid:"),
        ({"printed": {"digits": 9}}, "printed.digits must be a whole number from 0 to 6, got 9"),
        ({"rows": [{"key": "random_init"}]}, "taken by the free row"),
    ],
)
def test_a_mistake_in_the_file_names_the_file_the_key_and_what_is_allowed(changes, message):
    with pytest.raises(StudyError, match=rf"(?s)^studies/ratio.yaml: .*{message}"):
        parse(changed(**changes), FILE)


def test_an_unknown_scale_lists_the_scales():
    with pytest.raises(StudyError, match="scale must be one of smoke, cpu, lab, gpu, paper, got 'cpuu'"):
        parse(MINIMAL, FILE).cells("cpuu")


def test_an_unknown_study_lists_the_close_ones():
    with pytest.raises(StudyError, match=r"study=masking_ration: no such study \(did you mean masking_ratio"):
        read("masking_ration")


def test_a_study_is_read_from_a_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert read(path).name == "mine"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StudyError, match=r"cannot read .*gone.yaml: No such file"):
        read(tmp_path / "gone.yaml")


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("title: a\ntitle: b\n")
    with pytest.raises(StudyError, match="the key 'title' is given twice"):
        read(path)


def test_broken_yaml_is_named(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("title: [a\n")
    with pytest.raises(StudyError, match=r"broken.yaml: not valid YAML"):
        read(path)


def test_what_is_broken_is_quoted_with_its_line(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("title: here\nquestion: [what: it, is\nmetrics: []\n")
    with pytest.raises(StudyError, match=r"line 3, column 8: metrics: \[\] \^$"):
        read(path)


def test_yaml_of_too_many_levels_is_named(tmp_path):
    path = tmp_path / "deep.yaml"
    path.write_text("title: " + "[" * 30_000)
    with pytest.raises(StudyError, match=r"deep.yaml: not valid YAML.*nested too deeply"):
        read(path)


@pytest.mark.parametrize("text", ["title:\ta", "title: [a\tb, c]"])
def test_tabs_are_taken_or_refused_by_every_way_to_read_yaml_alike(tmp_path, text):
    path = tmp_path / "tab.yaml"
    path.write_text(text)
    with pytest.raises(StudyError, match="not valid YAML"):
        read(path)


def test_files_are_read_as_the_loader_without_libyaml_reads_them(monkeypatch):
    fast = {name: load_document(name)[0] for name in list(names())[:20]}
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    assert all(repr(load_document(name)[0]) == repr(content) for name, content in fast.items())


def test_an_exponent_without_a_dot_is_a_number(tmp_path):
    path = tmp_path / "exponent.yaml"
    path.write_text(yaml.safe_dump(MINIMAL).replace("mask.ratio: 0.9", "optim.lr_peak: 1e-3"))
    assert read(path).cells()[0].overrides["optim.lr_peak"] == 0.001


def test_studies_of_the_working_folder_are_found_beside_the_installed_ones(tmp_path, monkeypatch):
    (tmp_path / "studies" / "mine").mkdir(parents=True)
    (tmp_path / "studies" / "mine" / "own_question.yaml").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    assert "own_question" in names()
    assert "masking_ratio" in names()


def test_two_files_of_one_name_are_refused(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / "studies" / folder).mkdir(parents=True)
        (tmp_path / "studies" / folder / "same.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match="share the name 'same'"):
        names()


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), (None, "null"), (0.5, "0.5"), (1e-6, "1e-06"), ([0, "a"], "[0,a]"), ("a b", "'a b'"), ("", "''")],
)
def test_an_override_is_written_as_the_command_line_reads_it(value, text):
    assert format_override("k", value) == f"k={text}"


def test_an_instance_is_named_after_what_differs_from_the_default():
    assert instance_name("loss") == "loss"
    assert instance_name("loss", "smoke") == "loss@smoke"
    assert instance_name("loss", overrides=["data.path=/data/clothing", "data=image_folder"]) == (
        "loss@data.path=clothing,data=image_folder"
    )
    assert instance_name("loss", "gpu", ["mask.ratio=0.5"], name="half") == "loss@gpu,half"


def test_an_instance_name_is_a_file_name():
    assert "/" not in instance_name("loss", overrides=["evals=[ridge, knn]", "name='a/b c'"])


def test_choosing_another_variant_drops_the_options_of_the_old_one():
    base = {"mask": "multiblock", "mask.num_targets": 2}
    rows = [{"key": "random", "set": {"mask": "random", "mask.ratio": 0.6}}]
    cells = parse(changed(base=base, rows=rows, baseline=None), FILE).cells()
    assert cells[0].overrides == {"mask": "random", "mask.ratio": 0.6}


def test_the_order_of_a_grid_s_axes_survives_a_store_that_sorts_keys():
    columns = [{"key": "short", "set": {"optim.steps": 3}}]
    study = parse(changed(grid={"mask.ratio": [0.5], "a": columns}, rows=None, baseline=None), FILE)
    stored = json.loads(json.dumps(study.spec, sort_keys=True))
    assert parse(stored, FILE).row_axis == "mask.ratio"
    assert parse(stored, FILE).cells() == study.cells()


@pytest.mark.parametrize("name", ["mine.yml", "mine.YAML", "mine.Yml"])
def test_a_study_file_may_end_in_any_way_that_yaml_does(name, tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / name).write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    assert read(f"studies/{name}").name == read("mine").name == "mine"


def test_a_study_is_found_by_its_file_s_name_and_by_its_table_s(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "my study.yaml").write_text(yaml.safe_dump(MINIMAL))
    monkeypatch.chdir(tmp_path)
    assert read("my study").name == read("my_study").name == "my_study"
    (tmp_path / "studies" / "my_study.yaml").write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(StudyError, match="share the name 'my_study'; rename one of them"):
        read("my_study")


def test_a_study_file_with_a_name_that_its_tables_cannot_have_is_refused(tmp_path):
    file = tmp_path / f"{'ä' * 31}.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(StudyError, match="the name is too long for those of its tables: rename it, to 60 bytes"):
        read(file)


def test_a_study_file_called_as_all_studies_are_is_refused(tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(StudyError, match=r"all\.yaml: study=all is every study, so that none can be called so"):
        read(file)


@pytest.mark.parametrize("value", [{"a": "b"}, ["a"], 3, None, True])
@pytest.mark.parametrize("key", ["title", "question", "notes", "table.caption", "printed.source", "figures.title"])
def test_a_sentence_that_yaml_reads_as_something_else_is_refused_by_name(key, value):
    first, _, rest = key.partition(".")
    document = MINIMAL | {first: {rest: value} if rest else value}
    if first == "figures":
        document["figures"] = [{"name": "drawn", "x": "mask.ratio", rest: value}]
    named = key.replace("figures", r"figures\[0\]")
    with pytest.raises(StudyError, match=rf"{named} must be text, got .*put quotes around it"):
        parse(document, FILE)


@pytest.mark.parametrize("value", [{"a": "b"}, ["a"], None])
def test_a_label_is_a_word_or_a_number(value):
    with pytest.raises(StudyError, match=r"rows\[0\].label must be text, got"):
        parse(changed(grid=None, rows=[{"key": "a", "label": value}], baseline=None), FILE)
    with pytest.raises(StudyError, match=r"source.arxiv must be text, got"):
        parse(changed(source={"arxiv": value}), FILE)
    assert parse(changed(source={"arxiv": 2301.08243}), FILE).source == {"arxiv": "2301.08243"}


def test_rows_as_a_mapping_are_answered_by_how_to_write_them():
    said = (
        r"rows must be a list, got a mapping of half, most; write each as an entry with its key, such as: "
        r"- \{key: half, set: \{mask.ratio: 0.5\}\}"
    )
    with pytest.raises(StudyError, match=said):
        parse(changed(grid=None, rows={"half": {"mask.ratio": 0.5}, "most": {}}, baseline=None), FILE)
    with pytest.raises(StudyError, match=r"columns must be a list, got a mapping of short"):
        parse(changed(grid=None, rows=[{"key": "a"}], columns={"short": {}}, baseline=None), FILE)


def test_a_file_with_mistakes_beside_its_rows_still_gives_its_rows_to_look_at():
    with pytest.raises(StudyError) as refused:
        parse(changed(grid=None, rows=[{"key": "a", "set": {"mask.ratio": 0.5}}], baseline="b", notes=[1]), FILE)
    assert [row.key for row in refused.value.rest.rows] == ["a"]
    with pytest.raises(StudyError) as refused:
        parse(changed(grid=None, rows=[{"key": "a", "sett": {}}], baseline="b", notes=[1]), FILE)
    assert refused.value.rest is None  # no row can be read


def test_a_stop_is_an_option_of_every_run():
    study = parse(changed(stop={"metric": "collapse/rankme", "below": 2, "after": 500}), FILE)
    told = {"stop.metric": "collapse/rankme", "stop.below": 2, "stop.after": 500}
    assert all(cell.overrides.items() >= told.items() for cell in study.cells("smoke"))
    assert parse(study.spec, FILE).cells("smoke") == study.cells("smoke")  # as it is read from the database


@pytest.mark.parametrize(
    ("stop", "told"),
    [
        ({"metrics": "collapse/rankme"}, r"unknown key stop.metrics \(did you mean metric\?\)"),
        ("collapse/rankme", "stop must be a mapping of names to values"),
    ],
)
def test_a_stop_that_cannot_be_read_is_named(stop, told):
    with pytest.raises(StudyError, match=told):
        parse(changed(stop=stop), FILE)
