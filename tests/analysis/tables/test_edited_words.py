"""Title, labels, order, figures and the like of a study's file are shown as they are today, with no launch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import Engine

from analysis import report
from analysis.serve import Live
from sweeps import cli, export, query, status
from sweeps.cells import edited
from sweeps.cells.expand import Expansion, spec_with
from sweeps.cells.registry import Registered, launch_hash, register_study
from sweeps.cells.request import Request
from sweeps.database.opening import open_database, upgrade
from sweeps.study.reading import read
from tests.empty_database import opened
from tests.sweeps.launched import finish_next

MAIN, SIDE = "ridge/digit_top1", "knn/digit_top1"
FILE: dict[str, Any] = {
    "title": "Ratio",
    "question": "How much?",
    "base": {"optim.steps": 100},
    "rows": [
        {"key": "a", "label": "half", "set": {"mask.ratio": 0.5}},
        {"key": "b", "label": "most", "set": {"mask.ratio": 0.75}},
    ],
    "columns": [
        {"key": "s", "label": "short", "set": {"optim.steps": 50}},
        {"key": "l", "label": "long", "set": {"optim.steps": 100}},
    ],
    "metrics": [MAIN],
    "random_init": False,
    "seeds": [0, 1],
    "figures": [{"name": "bars", "kind": "bar"}],
}
Write = Callable[..., None]


def file_of(folder: Path, **changes: Any) -> None:
    content = {key: value for key, value in {**FILE, **changes}.items() if value is not None}
    (folder / "studies").mkdir(exist_ok=True)
    (folder / "studies/ratio.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes studies/ratio.yaml in a folder of its own, which is the working one."""
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path)
    return functools.partial(file_of, tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, bytes]]:
    """The study with all its runs done, of whose seeds the second scores one more: its database, and what is shown."""
    folder = tmp_path_factory.mktemp("made")
    file_of(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        engine = opened(folder / "ratio.sqlite")
        launched(engine)
        finish(engine)
        engine.dispose()
        return (folder / "ratio.sqlite").read_bytes(), shown(f"sqlite:///{folder / 'ratio.sqlite'}")


@pytest.fixture
def database(tmp_path: Path, write: Write, made: tuple[bytes, dict[str, bytes]]) -> str:
    (tmp_path / "ratio.sqlite").write_bytes(made[0])
    return f"sqlite:///{tmp_path / 'ratio.sqlite'}"


@pytest.fixture
def before(made: tuple[bytes, dict[str, bytes]]) -> dict[str, bytes]:
    """What is shown of the file as it was launched."""
    return made[1]


def launched(engine: Engine, *overrides: str, name: str = "") -> Registered:
    """As core would expand it for data whose one label is the digit, with the overrides themselves as configs."""
    request = Request(read("ratio"), "cpu", overrides, name=name)
    cells = [(cell, cell.overrides) for cell in request.study.cells(request.scale)]
    spec = spec_with(request, ["digit"])
    with engine.begin() as connection:
        return register_study(connection, Expansion(request, spec, spec["metrics"], cells), launch_hash(request, ""))


def finish(engine: Engine, num: int = 8) -> None:
    for i in range(num):
        finish_next(engine, {MAIN: 50.0 + i, SIDE: 40.0 + i})


def shown(database: str, study: str = "all") -> dict[str, bytes]:
    """Every file of the report, by its path."""
    engine = open_database(database, read_only=True)
    names = [study] if study != "all" else report.names(engine)
    found = report.contents(engine, names)
    engine.dispose()
    return found


def drawn(files: dict[str, bytes]) -> dict[str, bytes]:
    """Tables and figures: pages also have the command that goes on with a study, which the file's seeds decide."""
    return {path: content for path, content in files.items() if not path.startswith("report/")}


def text(database: str, path: str = "tables/ratio.md") -> str:
    return shown(database)[path].decode()


def problems(database: str) -> list[str]:
    engine = open_database(database, read_only=True)
    with engine.connect() as connection:
        found = [str(study) for study in edited.edited(connection, report.names(engine))]
    engine.dispose()
    return found


def swapped(value: list[dict[str, Any]], **first: Any) -> list[dict[str, Any]]:
    return [value[1], {**value[0], **first}]


WORDS: dict[str, dict[str, Any]] = {
    "title": {"title": "How much to hide"},
    "question and notes": {"question": "What ratio?", "notes": "Seen *once*."},
    "source": {"source": {"paper": "MAE-ST", "place": "Table 1"}},
    "a row's label": {"rows": [{**FILE["rows"][0], "label": "a {mask.ratio}"}, FILE["rows"][1]]},
    "a row's label at the scale": {"rows": [{**FILE["rows"][0], "labels": {"cpu": "50 %"}}, FILE["rows"][1]]},
    "a row's key": {"rows": [{**FILE["rows"][0], "key": "halved"}, FILE["rows"][1]]},
    "rows' keys swapped": {"rows": [{**FILE["rows"][0], "key": "b"}, {**FILE["rows"][1], "key": "a"}]},
    "rows' order": {"rows": swapped(FILE["rows"])},
    "rows' order and a label": {"rows": swapped(FILE["rows"], label="a half"), "baseline": "a"},
    "columns' order and a key": {"columns": swapped(FILE["columns"], key="brief", label="brief")},
    "baseline": {"baseline": "b"},
    "margin": {"margin": 20.0},
    "digits and caption": {"table": {"digits": 3, "caption": "Of the clips."}},
    "table by metrics": {"table": {"columns": "columns"}},
    "a figure more": {"figures": [{"name": "dots", "kind": "point"}, {"name": "bars", "kind": "bar", "ylabel": "%"}]},
    "no figure": {"figures": None},
    "printed numbers": {
        "printed": {"metric": "top-1", "source": "Table 2", "values": {"a": {"s": 84.4}}, "digits": 1}
    },
    "another metric that was recorded": {"metrics": [SIDE, MAIN]},
    "a label to be filled in": {"metrics": ["ridge/{label}_top1", "knn/{label}_top1"]},
    "a grid of the same": {
        "rows": None, "columns": None, "base": None,
        "grid": {"mask.ratio": [0.5, 0.75], "optim.steps": [50, 100]},
    },
}  # fmt: skip


def test_what_is_shown_is_the_same_of_a_copy_elsewhere(database: str, before: dict[str, bytes]) -> None:
    assert shown(database) == before


@pytest.mark.parametrize("changes", WORDS.values(), ids=list(WORDS))
def test_what_is_shown_of_an_edit_of_words_is_what_a_launch_of_it_would_show(
    database: str, write: Write, before: dict[str, bytes], changes: dict[str, Any]
) -> None:
    write(**changes)
    now = shown(database)
    assert now != before and problems(database) == []
    engine = open_database(database)
    num_runs = len(launched(engine).run_ids)
    engine.dispose()
    assert num_runs == 8 and shown(database) == now


def test_a_label_that_is_filled_in_is_the_one_of_the_recorded_metrics(database: str, write: Write) -> None:
    figures = [{"name": "bars", "kind": "bar", "metric": "knn/{label}_top1"}]
    write(metrics=["knn/{label}_top1", "ridge/{labels}_top1"], figures=figures)
    table = text(database)
    assert "| row | k-NN top-1, digits (%): short |" in table and "ridge top-1, digits (%): long" in table


def test_other_runs_are_named_and_all_words_stay_as_they_were_launched(
    database: str, write: Write, before: dict[str, bytes]
) -> None:
    write(title="Another", rows=[{**FILE["rows"][0], "set": {"mask.ratio": 0.6}}, FILE["rows"][1]])
    assert drawn(shown(database)) == drawn(before) and "row a: mask.ratio is 0.6, was 0.5" in problems(database)[0]
    write(title="Another", seeds=[0, 1, 2])
    assert drawn(shown(database)) == drawn(before) and "seeds are [0, 1, 2], were [0, 1]" in problems(database)[0]
    write(title="Another", metrics=["linear/digit_top1"])
    assert (
        drawn(shown(database)) == drawn(before) and "metrics are linear/digit_top1, were ridge" in problems(database)[0]
    )


def test_a_file_that_cannot_be_read_or_is_gone_leaves_the_words_of_the_launch(
    database: str, write: Write, before: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("studies/ratio.yaml").write_text("title: [unclosed")
    assert drawn(shown(database)) == drawn(before)
    assert report.main([f"db={database}", "results_dir=out"]) == cli.OK
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "studies/ratio.yaml was edited" in said[0] and "not valid YAML" in said[0]
    assert report.main([f"db={database}", "results_dir=out", "check=true"]) == cli.INCOMPLETE
    assert "table ratio: its file cannot be shown" in capsys.readouterr().out
    Path("studies/ratio.yaml").unlink()
    assert drawn(shown(database)) == drawn(before) and problems(database) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"figures": [{"name": "a", "kind": "line", "x": "mask.ratios"}]}, "figures[0].x: 'mask.ratios' is no option"),
        (
            {"figures": [{"name": "a", "metric": "ridge/digit_top5"}]},
            "no run recorded 'ridge/digit_top5' (did you mean",
        ),
        ({"figures": [{"name": "a", "metric": "knnn/digit_top1"}]}, "no run recorded 'knnn/digit_top1' (did you mean"),
    ],
)
def test_words_that_a_launch_would_refuse_are_named_and_not_shown(
    database: str, write: Write, before: dict[str, bytes], changes: dict[str, Any], said: str
) -> None:
    write(**changes)
    assert drawn(shown(database)) == drawn(before) and said in problems(database)[0]


def test_status_query_and_pages_have_the_words_of_the_table(
    database: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(title="Another", rows=[{**FILE["rows"][0], "key": "halved", "label": "one half"}, FILE["rows"][1]])
    files = shown(database)
    pages = [content.decode() for name, content in files.items() if "/runs/" in name]
    assert sum("one half, short" in page for page in pages) == 2 and not any(
        "half, short" in p.replace("one half", "") for p in pages
    )
    assert "Another" in files["tables/ratio.tex"].decode() and "one half" in files["tables/ratio.tex"].decode()
    assert ",halved,one half," in files["tables/ratio.csv"].decode()
    assert status.main([f"db={database}", "run=1"]) == cli.OK
    assert "ratio: one half, " in capsys.readouterr().out
    assert status.main([f"db={database}", "study=ratio"]) == cli.OK
    assert "one half" in (out := capsys.readouterr().out) and "edited" not in out
    assert query.main(["study=ratio", f"db={database}", "format=csv"]) == cli.OK
    rows = capsys.readouterr().out.splitlines()[1:]
    assert {row.split(",")[1] for row in rows} == {"halved", "b"}


def test_a_capsule_has_the_words_of_the_table_wherever_it_is_read(database: str, write: Write) -> None:
    write(
        title="Another",
        rows=[{**FILE["rows"][0], "key": "halved", "label": "one half"}, FILE["rows"][1]],
        printed={"metric": "top-1", "source": "Table 2", "values": {"halved": {"s": 84.4}}, "digits": 1},
    )
    before = drawn(shown(database))
    assert export.main(["to=capsule.sqlite", f"db={database}"]) == cli.OK
    Path("studies/ratio.yaml").unlink()
    assert drawn(shown("sqlite:///capsule.sqlite")) == before
    assert "Another" not in text(database)


def test_a_study_under_a_name_of_its_own_and_another_database_have_the_words_too(
    database: str, write: Write, tmp_path: Path
) -> None:
    engine = open_database(database)
    launched(engine, "optim.batch_size=8", name="small")
    engine.dispose()
    other = f"sqlite:///{tmp_path / 'other.sqlite'}"
    engine = open_database(other)
    upgrade(engine)
    launched(engine)
    engine.dispose()
    write(title="Another")
    assert "Another" in text(database) and "Another" in text(database, "tables/ratio@small.md")
    assert "Another" in text(other)


def test_a_served_page_takes_an_edit_while_it_is_looked_at(database: str, write: Write) -> None:
    engine = open_database(database, read_only=True)
    live = Live(engine)
    before = live.state()
    assert b"How much?" in live.answer("studies/ratio.html").body
    write(question="What ratio?")
    assert live.state() != before
    assert b"What ratio?" in live.answer("studies/ratio.html").body
    engine.dispose()


@pytest.mark.parametrize(("option", "is_shared"), [("mask.ratio", True), ("encoder.depth", False)])
def test_another_baseline_needs_no_launch_where_its_random_initialisation_is_there(
    tmp_path: Path, write: Write, option: str, is_shared: bool
) -> None:
    rows = [{"key": key, "set": {option: value}} for key, value in (("a", 2), ("b", 3))]
    changes = {"rows": rows, "columns": None, "random_init": True, "base": {"evals": ["ridge"], "optim.steps": 9}}
    write(**changes)
    url = f"sqlite:///{tmp_path / 'inits.sqlite'}"
    engine = open_database(url)
    upgrade(engine)
    launched(engine)
    finish(engine, 6)
    engine.dispose()
    write(**changes, baseline="b")
    assert ("b (baseline)" in text(url)) is is_shared
    named = [] if is_shared else ["row random_init: encoder.depth is 3, was 2"]
    assert [word for line in problems(url) for word in named if word in line] == named
    assert bool(problems(url)) is not is_shared
