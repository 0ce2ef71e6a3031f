"""Study files edited since their launch are named, with what differs and what to type."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine, select, update

from analysis import report
from sweeps import cli, launch, status
from sweeps.cells import edited
from sweeps.cells.request import Request
from sweeps.console.errors import INCOMPLETE, OK
from sweeps.console.offered import Place
from sweeps.database.opening import open_database
from sweeps.database.tables import StudyRow
from sweeps.study.files import names
from sweeps.study.reading import read
from tests.sweeps.launched import TWO_ROWS, finish_next, register

COMMITTED = Path(__file__).parents[3] / "results/ablations.sqlite"
Edit = Callable[..., None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Writes studies/ratio.yaml in a folder of its own, which is the working one."""
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)

    def write(**changes: Any) -> None:
        (tmp_path / "studies/ratio.yaml").write_text(yaml.safe_dump({**TWO_ROWS, **changes}))

    write()
    return write


def launched(engine: Engine, scale: str = "cpu", *overrides: str, name: str = "") -> None:
    register(engine, Request(read("ratio"), scale, overrides, name=name))


def found(engine: Engine) -> list[edited.Edited]:
    with engine.connect() as connection:
        return edited.edited(connection, list(connection.scalars(select(StudyRow.name))))


def rows(*sets: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "set": options} for key, options in zip("abc", sets, strict=False)]


def test_no_committed_study_is_edited():
    engine = open_database(f"sqlite:///{COMMITTED}", read_only=True)
    assert [str(study) for study in found(engine)] == []
    engine.dispose()


def test_every_committed_study_has_its_file_here():
    engine = open_database(f"sqlite:///{COMMITTED}", read_only=True)
    with engine.connect() as connection:
        sources = set(connection.scalars(select(StudyRow.source)))
    engine.dispose()
    assert {Path(source).stem for source in sources} <= set(names())


def test_a_study_as_it_was_launched_is_not_named(engine: Engine, edit: Edit):
    launched(engine)
    launched(engine, "smoke", "optim.steps=2")
    assert found(engine) == []


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"rows": rows({"mask.ratio": 0.6}, {"mask.ratio": 0.75})}, ["row a: mask.ratio is 0.6, was 0.5"]),
        ({"rows": rows({"mask.ratio": 0.5})}, ["row b is gone"]),
        ({"rows": rows({"mask.ratio": 0.5}, {"mask.ratio": 0.75}, {"mask.ratio": 0.9})}, ["row c is new"]),
        ({"base": {"optim.steps": 200}}, ["every row: optim.steps is 200, was 100"]),
        ({"base": {}}, ["every row: optim.steps is nothing, was 100"]),
        ({"scales": {"cpu": {"optim.lr_peak": 0.1}}}, ["every row: optim.lr_peak is 0.1, was nothing"]),
        ({"random_init": True}, ["row random_init is new"]),
        ({"metrics": ["ridge/digit_top1", "knn/digit_top1"]},
         ["metrics are ridge/digit_top1, knn/digit_top1, were ridge/digit_top1"]),
        ({"columns": [{"key": "long", "set": {"optim.steps": 9}}]}, ["column long is new"]),
    ],
)  # fmt: skip
def test_what_asks_for_other_runs_is_named(engine: Engine, edit: Edit, changes: dict[str, Any], runs: list[str]):
    launched(engine)
    edit(**changes)
    (study,) = found(engine)
    assert list(study.runs) == runs


def test_an_edit_of_words_alone_is_not_named(engine: Engine, edit: Edit):
    launched(engine)
    edit(title="Another", notes="Seen once.", margin=1.5, table={"digits": 2}, baseline="b")
    assert found(engine) == []


def test_another_baseline_of_a_rule_for_seeds_is_named(engine: Engine, edit: Edit):
    edit(seeds={"start": 2, "until": "decided", "max": 3})
    launched(engine)
    edit(seeds={"start": 2, "until": "decided", "max": 3}, baseline="b")
    assert found(engine)[0].runs == ("baseline is b, was a",)


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"seeds": [0, 1, 2]}, "seeds are [0, 1, 2], were [0, 1]"),
        ({"seeds": [0]}, "seeds are [0], were [0, 1]"),
        ({"scales": {"cpu": {"seeds": [5]}}}, "seeds are [5], were [0, 1]"),
        ({"seeds": {"start": 2, "until": "decided", "max": 9}},
         "seeds are {start: 2, until: decided, max: 9}, were [0, 1]"),
    ],
)  # fmt: skip
def test_edited_seeds_are_named_with_the_launch_that_brings_them(
    engine: Engine, edit: Edit, changes: dict[str, Any], runs: str
):
    launched(engine)
    edit(**changes)
    (study,) = found(engine)
    assert study.runs == (runs,) and study.command == "python -m sweeps.launch study=ratio"
    launched(engine)
    assert found(engine) == []


def test_seeds_that_were_typed_are_no_edit_and_hide_none(engine: Engine, edit: Edit):
    register(engine, Request(read("ratio"), "cpu", seeds=(7,)))
    assert found(engine) == []
    edit(seeds=[0, 1, 2])
    assert found(engine)[0].runs == ("seeds are [0, 1, 2], were [0, 1]",)
    edit(seeds=[7])
    assert found(engine) == []


def test_a_rule_that_was_typed_is_no_edit(engine: Engine, edit: Edit):
    words = ["study=ratio", "seeds={start: 2, until: decided, max: 3}"]
    register(engine, cli.asked(read("ratio"), cli.parse(words, launch.OPTIONS)))
    assert found(engine) == []
    edit(seeds=[0, 1, 2])
    assert found(engine)[0].runs == ("seeds are [0, 1, 2], were [0, 1]",)


def test_of_what_was_typed_before_the_files_seeds_were_recorded_nothing_is_said(engine: Engine, edit: Edit):
    for asked in (Request(read("ratio"), "cpu"), Request(read("ratio"), "cpu", ("optim.steps=2",), (7,))):
        forget_seeds_in_file(engine, register(engine, asked).name)
    assert found(engine) == []
    edit(seeds=[0, 1, 2])
    assert [study.name for study in found(engine)] == ["ratio"]


def forget_seeds_in_file(engine: Engine, name: str) -> None:
    with engine.begin() as connection:
        spec = connection.scalar(select(StudyRow.spec).where(StudyRow.name == name))
        kept = edited.without_file(spec)
        connection.execute(update(StudyRow).where(StudyRow.name == name).values(spec=kept))


def test_a_row_that_got_another_key_is_the_same_row(engine: Engine, edit: Edit):
    launched(engine)
    edit(rows=[{**TWO_ROWS["rows"][1], "key": "most"}, {**TWO_ROWS["rows"][0], "key": "b"}])
    assert found(engine) == []


def test_an_edit_of_another_scale_or_of_an_option_that_was_typed_changes_nothing(engine: Engine, edit: Edit):
    launched(engine, "smoke", "optim.steps=2")
    edit(scales={"gpu": {"optim.lr_peak": 0.1}}, base={"optim.steps": 300})
    assert found(engine) == []


def test_a_metric_with_the_labels_filled_in_is_the_one_of_the_file(engine: Engine, edit: Edit):
    launched(engine)
    edit(metrics=["ridge/{label}_top1"])
    assert found(engine) == []
    edit(metrics=["ridge/{labels}_top1"])
    assert found(engine) == []


def test_a_study_whose_file_is_gone_is_not_named(engine: Engine, edit: Edit):
    launched(engine)
    Path("studies/ratio.yaml").unlink()
    assert found(engine) == []


def test_a_file_that_is_no_study_any_more_says_why(engine: Engine, edit: Edit):
    launched(engine)
    edit(metricss=[])
    said = str(found(engine)[0])
    assert "cannot be read any more (unknown key metricss" in said and "mend the file" in said
    Path("studies/ratio.yaml").write_text("title: [")
    assert "cannot be read any more (not valid YAML" in str(found(engine)[0]) and "\n" not in str(found(engine)[0])


def test_the_command_launches_the_same_instance(engine: Engine, edit: Edit):
    launched(engine, "smoke", "optim.steps=2", name="short")
    edit(rows=rows({"mask.ratio": 0.6}, {"mask.ratio": 0.75}))
    with engine.connect() as connection:
        (study,) = edited.edited(connection, ["ratio@smoke,short"], Place(db="sqlite:///x.sqlite", results_dir="out"))
    assert study.command == (
        "python -m sweeps.launch study=ratio scale=smoke optim.steps=2 name=short db=sqlite:///x.sqlite results_dir=out"
    )


def test_a_study_of_ones_own_of_a_shipped_ones_name_is_not_held_against_that(engine: Engine, edit: Edit):
    Path("elsewhere").mkdir()
    own = Path("elsewhere/ratio.yaml")
    own.write_text(yaml.safe_dump(copy.deepcopy(TWO_ROWS) | {"title": "My own"}))
    register(engine, Request(read(own), "cpu"))
    assert found(engine) == []
    with engine.connect() as connection:
        edited.remember(connection, "ratio", own)
    own.write_text(yaml.safe_dump(TWO_ROWS | {"base": {"optim.steps": 200}}))
    (study,) = found(engine)
    assert study.runs == ("every row: optim.steps is 200, was 100",)
    assert f"study={own}" in study.command


def test_status_and_report_name_an_edited_study_and_a_check_fails(
    engine: Engine, url: str, edit: Edit, capsys: pytest.CaptureFixture[str]
):
    launched(engine)
    for _ in range(4):
        finish_next(engine, {"ridge/digit_top1": 50.0})
    words = [f"db={url}", "results_dir=out"]
    assert report.main(words) == OK
    assert "edited" not in capsys.readouterr().err
    edit(title="Another")
    assert report.main([*words, "check=true"]) == INCOMPLETE
    said = capsys.readouterr()
    assert "ratio.md: differs from the database" in said.out and "edited" not in said.err
    edit(rows=rows({"mask.ratio": 0.6}, {"mask.ratio": 0.75}))
    assert report.main(words) == OK
    assert "row a: mask.ratio is 0.6, was 0.5" in capsys.readouterr().err
    assert report.main([*words, "check=true"]) == INCOMPLETE
    assert "table ratio: its file asks for other runs" in capsys.readouterr().out
    assert status.main([f"db={url}", "study=ratio"]) == OK
    said = " ".join(capsys.readouterr().out.split())
    assert "row a: mask.ratio is 0.6, was 0.5" in said and f"python -m sweeps.launch study=ratio db={url}" in said


def test_a_launch_remembers_where_a_study_of_ones_own_lies(edit: Edit, tmp_path: Path):
    own = tmp_path / "mine.yaml"
    base = {"method": "mae", "evals": ["ridge"], "data.num_train": 48, "data.num_test": 32, "optim.steps": 2}
    own.write_text(yaml.safe_dump({**TWO_ROWS, "base": base, "rows": TWO_ROWS["rows"][:1], "seeds": [0]}))
    url = f"sqlite:///{tmp_path / 'own.sqlite'}"
    words = [f"study={own}", f"db={url}", "results_dir=out", "executor=inline", "scale=smoke"]
    assert launch.main(words) == OK
    opened = open_database(url, read_only=True)
    assert found(opened) == []
    own.write_text(own.read_text().replace("0.5", "0.6"))
    (study,) = found(opened)
    opened.dispose()
    assert study.runs == ("row a: mask.ratio is 0.6, was 0.5",)
