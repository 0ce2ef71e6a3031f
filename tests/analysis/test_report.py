from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, text

from analysis import report
from analysis.numbers import comparing
from analysis.numbers.frame import Frame, load, names
from analysis.numbers.stats import Comparison
from analysis.report import OPTIONS, contents, decided, main, write
from analysis.site.pages import Site
from sweeps.console.offered import Place
from sweeps.database.opening import migrations, open_database
from tests.analysis.conftest import GRID, MAIN, ROWS, Laboratory

RESULTS = Path(__file__).parents[2] / "results"
_PLACE = re.compile(rb" (?:db|results_dir)=[\w:/.-]+")


@pytest.fixture(scope="module")
def written(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder as the command leaves it; do not edit it."""
    folder = tmp_path_factory.mktemp("results")
    assert main([f"db=sqlite:///{filled}", f"results_dir={folder}"]) == 0
    return folder


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_study_has_its_tables_figures_and_a_line_in_the_index(written: Path) -> None:
    names = [*(f"tables/ijepa_masking.{s}" for s in ("csv", "md", "tex")), "tables/index.md", "tables/agreement.md"]
    names += [f"tables/masking_ratio.{s}" for s in ("csv", "md", "tex")]
    for figure in ("ijepa_masking-bars", "ijepa_masking-dots", "masking_ratio-curve", "masking_ratio-hours"):
        names += [f"figures/{figure}.{end}" for end in ("pdf", "png", "svg")]
    found = snapshot(written)
    assert sorted(name for name in found if not name.startswith("report/")) == sorted(names)
    assert {f"report/{name}" for name in ("index.html", "studies/ijepa_masking.html", "style.css")} <= found.keys()
    index = (written / "tables/index.md").read_text()
    line = next(line for line in index.splitlines() if "(ijepa_masking.md)" in line)
    assert "| Which mask? |" in line and "| cpu | 7 of 12, 3 failed, 1 diverged |" in line
    assert "[curve](../figures/masking_ratio-curve.svg)" in index


def test_the_index_gives_each_study_the_sentence_of_its_table(written: Path) -> None:
    table = (written / "tables/masking_ratio.md").read_text().splitlines()
    (sentence,) = [line for line in table if " beside " in line]
    line = next(ln for ln in (written / "tables/index.md").read_text().splitlines() if "(masking_ratio.md)" in ln)
    assert f"| {sentence} | cpu |" in line


def test_the_index_counts_the_rows_that_are_decided(written: Path) -> None:
    index = (written / "tables/index.md").read_text()
    # Seeds move all rows alike here, and three differences by one number tell nothing of the next seed's.
    assert "Of all rows beside a baseline (4, by each study's first metric), 0 are decided and 4 undecided." in index


def test_what_is_decided_is_counted_as_the_tables_say_it() -> None:
    engine = open_database(f"sqlite:///{RESULTS}/ablations.sqlite", read_only=True)
    found = ("masking_ratio", "mc_jepa_balance", "mc_jepa_flow_start")
    told = decided([Site(engine).summary(load(engine, name)) for name in found])
    engine.dispose()
    files = [(RESULTS / f"tables/{name}.csv").read_text(encoding="utf-8").splitlines() for name in found]
    verdicts = [line["verdict"] for file in files for line in csv.DictReader(file)]
    counts = {
        kind: sum(verdict.count(kind) for verdict in verdicts) for kind in ("better", "same", "undecided", "worse")
    }
    parts = ", ".join(f"{counts[kind]} {kind}" for kind in ("better", "same", "worse"))
    assert min(counts.values()) > 0 and f" are decided ({parts}) and {counts['undecided']} undecided." in told


@pytest.fixture(scope="module")
def elsewhere(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a copied database by a process of its own, which fails if it loaded torch or core."""
    folder = tmp_path_factory.mktemp("elsewhere")
    shutil.copy(filled, folder / "copy.sqlite")
    code = "import sys; from analysis.report import main; code = main(sys.argv[1:]); "
    code += "found = {name for name in sys.modules if name.split('.')[0] in ('torch', 'core')}; "
    code += "sys.exit(code or bool(found - {'core', 'core.terminal', 'core.process_list', 'core.plugin_source'}))"
    command = [sys.executable, "-c", code, "db=sqlite:///copy.sqlite", "results_dir=results"]
    environment = {**os.environ, "PYTHONPATH": str(Path(report.__file__).parent.parent), "PYTHONHASHSEED": "7"}
    subprocess.run(command, cwd=folder, env=environment, check=True)
    return folder / "results"


def test_a_copied_database_gives_the_same_bytes_without_torch(written: Path, elsewhere: Path) -> None:
    # A page's commands name the place they are about, so words of a place are all that may differ.
    here, there = snapshot(elsewhere), snapshot(written)
    assert here.keys() == there.keys()
    assert {name: _PLACE.sub(b"", here[name]) for name in here} == {
        name: _PLACE.sub(b"", there[name]) for name in there
    }


def test_check_passes_on_what_was_written_and_names_a_hand_edit(
    filled: Path, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(written, tmp_path / "results")
    shutil.rmtree(tmp_path / "results/report")  # its pages name the database and folder that they were made of
    arguments = [f"db=sqlite:///{filled}", f"results_dir={tmp_path / 'results'}", "check=true", "study=ijepa_masking"]
    assert main(arguments) == 0
    edited = tmp_path / "results/tables/ijepa_masking.md"
    edited.write_text(edited.read_text().replace("71.33", "81.33"))
    (tmp_path / "results/figures/ijepa_masking-dots.svg").unlink()
    before = snapshot(tmp_path / "results")
    capsys.readouterr()
    assert main(arguments) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"{edited}: differs from the database",
        f"{tmp_path / 'results/figures/ijepa_masking-dots.svg'}: missing",
    ]
    assert snapshot(tmp_path / "results") == before  # check writes nothing


def test_check_of_all_names_a_file_that_no_study_gives(
    laboratory: Laboratory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    arguments = [f"db={laboratory.engine.url}", f"results_dir={tmp_path / 'results'}"]
    assert main(arguments) == 0
    stray = tmp_path / "results/tables/renamed.md"
    stray.write_text("old")
    capsys.readouterr()
    assert main([*arguments, "check=true"]) == 1
    assert capsys.readouterr().out == f"{stray}: not in the database\n"


def test_check_looks_at_the_site_where_there_is_one(
    laboratory: Laboratory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    arguments = [f"db={laboratory.engine.url}", f"results_dir={tmp_path / 'results'}"]
    assert main(arguments) == 0
    page = tmp_path / "results/report/studies/rows.html"
    page.write_text(page.read_text().replace("Masking strategy", "Masking"))
    stray = tmp_path / "results/report/runs/gone.html"
    stray.parent.mkdir()
    stray.write_text("old")
    capsys.readouterr()
    assert main([*arguments, "check=true"]) == 1
    expected = [f"{page}: differs from the database", f"{stray}: not in the database"]
    assert capsys.readouterr().out.splitlines() == expected
    shutil.rmtree(tmp_path / "results/report")
    assert main([*arguments, "check=true"]) == 0


def test_check_takes_pages_for_missing_once_every_study_has_one(
    laboratory: Laboratory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A launch makes those of its own study only."""
    for study in ("one", "two"):
        laboratory.study(study, {**ROWS, "figures": []})
    arguments = [f"db={laboratory.engine.url}", f"results_dir={tmp_path / 'results'}"]
    assert main(arguments) == 0
    pages = tmp_path / "results/report"
    (pages / "studies/two.html").rename(tmp_path / "two.html")
    assert main([*arguments, "check=true"]) == 0
    (tmp_path / "two.html").rename(pages / "studies/two.html")
    (pages / "agreement.html").unlink()
    capsys.readouterr()
    assert main([*arguments, "check=true"]) == 1
    assert capsys.readouterr().out == f"{pages / 'agreement.html'}: missing\n"


@pytest.mark.parametrize("name", ["runs/0123-0.html", "pictures/0123-0.png", "curves/0123-0.js", "explore/0123.js"])
def test_writing_removes_what_is_of_runs_and_metrics_that_the_database_lacks(
    laboratory: Laboratory, tmp_path: Path, name: str
) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    stray, other = tmp_path / "report" / name, tmp_path / "report/notes.html"
    stray.parent.mkdir(parents=True)
    stray.write_text("old")
    other.write_text("mine")
    write(laboratory.engine, ["rows"], tmp_path)
    assert not stray.exists()
    assert other.read_text() == "mine"


def test_writing_again_leaves_unchanged_files_alone(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.study("rows", {**ROWS, "figures": ROWS["figures"][:1]})
    paths = write(laboratory.engine, ["rows"], tmp_path)
    times = [path.stat().st_mtime_ns for path in paths]
    assert write(laboratory.engine, ["rows"], tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == times


def test_a_report_compares_the_rows_of_a_column_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []
    compare = comparing._of_column

    def counted(frame: Frame, col_key: str, metric: str) -> Comparison:
        asked.append((frame.name, col_key, metric))
        return compare(frame, col_key, metric)

    monkeypatch.setattr(comparing, "_of_column", counted)
    contents(engine, names(engine))
    assert {study for study, _, _ in asked} == set(names(engine))
    assert len(asked) == len(set(asked))  # table, indexes, pages and the agreement with the papers all ask


def test_what_is_said_over_all_studies_is_not_rewritten_for_one(laboratory: Laboratory) -> None:
    for name in ("one", "two"):
        laboratory.study(name, {**ROWS, "figures": []})
    assert "tables/agreement.md" not in contents(laboratory.engine, ["one"])
    assert "tables/agreement.md" in contents(laboratory.engine, ["two", "one"])


def test_a_study_with_an_instance_name_is_written_under_it(laboratory: Laboratory) -> None:
    laboratory.study("rows@data=image_folder", {**ROWS, "figures": []})
    assert "tables/rows@data=image_folder.tex" in contents(laboratory.engine, ["rows@data=image_folder"])


def test_a_new_run_changes_the_table(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    write(laboratory.engine, ["rows"], tmp_path)
    assert "61.00 (1/3 seeds" not in (tmp_path / "tables/rows.md").read_text()
    laboratory.run("rows", "block", 0, {MAIN: 61.0})
    write(laboratory.engine, ["rows"], tmp_path)
    assert "61.00 (1/3 seeds" in (tmp_path / "tables/rows.md").read_text()


def test_a_folder_says_which_pages_it_holds(filled: Path, tmp_path: Path) -> None:
    words = [f"db=sqlite:///{filled}", f"results_dir={tmp_path}"]

    def told() -> dict[str, list[str]]:
        return json.loads((tmp_path / "report/pages.js").read_text().removeprefix("window.pages = ").rstrip(";\n"))

    assert main([*words, "study=ijepa_masking"]) == 0 and told()["studies"] == ["ijepa_masking"]
    first = told()["runs"]
    assert main([*words, "study=masking_ratio"]) == 0 and told()["studies"] == ["ijepa_masking", "masking_ratio"]
    assert set(first) < set(told()["runs"]) == {path.stem for path in (tmp_path / "report/runs").iterdir()}
    assert main([*words, "study=masking_ratio", "check=true"]) == 0


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "studdy=all",
            "studdy: unknown option (did you mean study?); options: study, db, results_dir, check, check_paper, notes, "
            "article, plugins",
        ),
        (
            "all",
            "'all' is not of the form key=value; options: study, db, results_dir, check, check_paper, notes, article, "
            "plugins",
        ),
        ("notes=long", "notes=long: allowed are short, full, none; full has all that the Markdown says"),
        (
            "article=iclr",
            "article=iclr: allowed are two_column, one_column; two_column puts wide tables over both columns",
        ),
        ("check=yes", "check must be one of true, false, got 'yes'"),
        (
            "study=ijepa_targets",
            "study=ijepa_targets: the database has no such study (did you mean ijepa_masking?); make its runs with: "
            "python -m sweeps.launch study=ijepa_targets; it has: ijepa_masking, masking_ratio",
        ),
        ("study=nothing", "study=nothing: the database has no such study; it has: ijepa_masking, masking_ratio"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], argument: str, message: str
) -> None:
    assert main([f"db=sqlite:///{filled}", f"results_dir={tmp_path / 'r'}", argument]) == 2
    place = Place(f"sqlite:///{filled}", str(tmp_path / "r"))
    assert capsys.readouterr().err == f"error: {place.complete(message)}\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", [None, "not a database, but long enough to be taken for one" * 20, ""])
def test_a_database_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "none.sqlite"
    if content is not None:
        path.write_text(content)
    assert main([f"db=sqlite:///{path}", f"results_dir={tmp_path / 'r'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: db=sqlite:///{path}: ") and error.count("\n") == 1
    assert not (tmp_path / "r").exists()


def test_help_says_what_each_option_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name}=" in shown for name in OPTIONS)


def test_a_database_of_a_newer_program_is_refused(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "newer.sqlite"
    shutil.copy(filled, path)
    engine = open_database(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.exec_driver_sql("update sw_alembic_version set version_num = '9999'")
    engine.dispose()
    assert main([f"db=sqlite:///{path}", f"results_dir={tmp_path / 'r'}"]) == 2
    assert "newer" in capsys.readouterr().err


def test_a_database_of_an_older_schema_is_read_and_left_as_it_is(
    filled: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    path = tmp_path / "older.sqlite"
    shutil.copy(filled, path)
    engine = open_database(f"sqlite:///{path}")
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "0001")
    with engine.connect() as connection:  # all of it in one file, whose bytes can then be compared
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    before = path.read_bytes()
    assert main([f"db=sqlite:///{path}", f"results_dir={tmp_path / 'r'}"]) == 0
    assert (tmp_path / "r/tables/masking_ratio.md").read_bytes() == (written / "tables/masking_ratio.md").read_bytes()
    assert path.read_bytes() == before
    assert not list((tmp_path / "copies").iterdir())


def test_a_database_of_another_program_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("create table photos (name text)")
    assert main([f"db=sqlite:///{tmp_path}/other.sqlite", f"results_dir={tmp_path / 'r'}"]) == 2
    assert "it holds no runs of this program" in capsys.readouterr().err


# ---- what a database may hold


def test_a_study_without_runs_gets_its_table_and_figures(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.study("rows", ROWS)
    laboratory.study("grid", GRID)
    assert main([f"db={laboratory.engine.url}", f"results_dir={tmp_path}"]) == 0
    assert "missing (3/3 seeds)" in (tmp_path / "tables/rows.md").read_text()
    assert (tmp_path / "figures/grid-hours.svg").read_bytes().startswith(b"<?xml")
    assert "No table has two rows" in (tmp_path / "tables/agreement.md").read_text()


def test_a_metric_that_no_run_logged_is_said_in_table_and_figure(laboratory: Laboratory, tmp_path: Path) -> None:
    figure = {"name": "bars", "kind": "bar", "metric": "knn/digit_top1"}
    laboratory.study("rows", {**ROWS, "figures": [figure]})
    for row in ("multiblock", "block", "random", "random_init"):
        for seed in (0, 1, 2):
            laboratory.run("rows", row, seed, {MAIN: 60.0 + seed})
    assert main([f"db={laboratory.engine.url}", f"results_dir={tmp_path}"]) == 0
    assert "not recorded (3/3 seeds)" in (tmp_path / "tables/rows.md").read_text()
    assert (tmp_path / "figures/rows-bars.svg").exists()


def test_two_scales_of_a_study_are_two_tables_and_no_table_holds_both(laboratory: Laboratory, tmp_path: Path) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    laboratory.study("rows@smoke", {**ROWS, "figures": [], "base": {"optim.batch_size": 2}}, "smoke")
    laboratory.run("rows", "block", 0, {MAIN: 61.0})
    laboratory.run("rows@smoke", "block", 0, {MAIN: 11.0})
    assert main([f"db={laboratory.engine.url}", f"results_dir={tmp_path}"]) == 0
    cpu, smoke = ((tmp_path / f"tables/{name}.md").read_text() for name in ("rows", "rows@smoke"))
    assert "61.00" in cpu and "11.00" not in cpu and "scale cpu" in cpu
    assert "11.00" in smoke and "61.00" not in smoke and "scale smoke" in smoke


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "a/b", "..", "x](javascript:alert(1))", ""])
def test_a_capsule_cannot_write_outside_the_results_folder(
    laboratory: Laboratory, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    laboratory.study("rows", {**ROWS, "figures": []})
    with laboratory.engine.begin() as connection:
        connection.execute(text("update sw_study set name = :name"), {"name": name})
    assert main([f"db={laboratory.engine.url}", f"results_dir={tmp_path}/deep/results"]) == 2
    assert f"study={name!r} cannot name a file" in capsys.readouterr().err
    assert not (tmp_path / "deep").exists()
