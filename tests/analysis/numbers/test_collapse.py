from __future__ import annotations

import pytest

from analysis.numbers.frame import load
from analysis.report import contents
from analysis.tables import building, latex, render
from analysis.tables.parts import Table
from tests.analysis.conftest import GRID, MAIN, ROWS, Laboratory

SPREAD = {"rankme": 1.3, "std": 0.02, "rankme_untrained": 3.6, "std_untrained": 0.11}
COLLAPSED = {"collapse": {**SPREAD, "state": "collapsed", "said": "collapsed: features are nearly the same"}}
UNTRAINED = {"collapse": {**SPREAD, "rankme": 3.62, "state": "untrained", "said": "no different from untrained"}}
HEALTHY = {"collapse": {**SPREAD, "rankme": 9.0, "state": "", "said": ""}}
WORDS = "1 of 3 seeds collapsed (seed 2: RankMe 1.3)"


def fill(laboratory: Laboratory) -> Table:
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row, facts in (("multiblock", HEALTHY), ("block", COLLAPSED if seed == 2 else HEALTHY)):
            laboratory.run("rows", row, seed, {MAIN: 60.0 + seed}, facts=facts)
    return building.build(load(laboratory.engine, "rows"))


def test_a_row_with_a_collapsed_seed_has_a_mark_and_a_note_that_names_it(laboratory: Laboratory) -> None:
    table = fill(laboratory)
    assert [note for note in table.notes if "collapsed" in note] == [f"† block (0.6): {WORDS}."]
    assert [row.label for row in table.rows if row.collapse] == ["block (0.6)"]


def test_collapse_is_said_in_markdown_latex_and_csv(laboratory: Laboratory) -> None:
    table = fill(laboratory)
    markdown, source, csv = render.markdown(table), latex.latex(table, latex.Style("full")), render.to_csv(table)
    assert "| block (0.6) † |" in markdown and WORDS in markdown
    assert r"block (0.6) \dag{}" in source and WORDS in source
    assert r"\dag{}: features collapsed" in latex.latex(table)  # of which short notes say what the mark is
    assert f"† {WORDS}" in next(line for line in csv.splitlines() if ",block," in line)
    assert "†" not in next(line for line in csv.splitlines() if ",multiblock," in line)


def test_collapse_is_on_the_study_s_page_and_the_numbers_on_each_run_s(laboratory: Laboratory) -> None:
    fill(laboratory)
    files = contents(laboratory.engine, ["rows"])
    assert f"† block (0.6): {WORDS}." in files["report/studies/rows.html"].decode()
    pages = [content.decode() for name, content in files.items() if name.startswith("report/runs/")]
    assert len([page for page in pages if "collapsed: features are nearly the same" in page]) == 1
    assert len([page for page in pages if "none (RankMe 9, untrained 3.6; std 0.02, untrained 0.11)" in page]) == 5


def test_a_row_that_is_as_before_training_says_so_in_other_words(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 60.0}, facts=UNTRAINED)
    table = building.build(load(laboratory.engine, "rows"))
    assert "† block (0.6): 1 of 3 seeds is no different from untrained (seed 0: RankMe 3.62)." in table.notes


def test_collapse_is_said_of_the_column_it_happened_in(laboratory: Laboratory) -> None:
    laboratory.study("grid", GRID)
    laboratory.run("grid", "0.5", 2, {MAIN: 60.0}, col_key="short", facts=COLLAPSED)
    notes = building.build(load(laboratory.engine, "grid")).notes
    assert any(note.endswith(f": half length: {WORDS}.") for note in notes)


@pytest.mark.parametrize("facts", [None, {"step": 100}, HEALTHY])
def test_runs_without_a_collapse_change_no_table(laboratory: Laboratory, facts: dict[str, object] | None) -> None:
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 60.0}, facts=facts)
    table = building.build(load(laboratory.engine, "rows"))
    assert "†" not in render.markdown(table) + render.to_csv(table)


def test_a_seed_that_was_stopped_as_collapsed_has_no_number_and_is_named(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    for seed in range(3):
        laboratory.run("rows", "multiblock", seed, {MAIN: 60.0 + seed}, facts=HEALTHY)
        state, facts = ("collapsed", COLLAPSED) if seed == 2 else ("done", HEALTHY)
        laboratory.run("rows", "block", seed, {} if seed == 2 else {MAIN: 90.0 + seed}, state=state, facts=facts)
    table = building.build(load(laboratory.engine, "rows"))
    row = next(row for row in table.rows if row.key == "block")
    assert "1 collapsed" in row.cells[0].note and not row.cells[0].is_best
    assert f"† block (0.6): {WORDS}." in table.notes
    assert "(1 collapsed)" in table.provenance
