"""A row whose seeds left their plateau late: marked in tables, on the site; no number moves."""

from sqlalchemy import select

from analysis.numbers.frame import load
from analysis.report import contents
from analysis.tables import building, latex, render
from sweeps.database import series
from sweeps.database.tables import RunRow
from tests.analysis.conftest import MAIN, ROWS, Laboratory
from tests.sweeps.answers.test_plateau import curve


def fill(laboratory: Laboratory, *, with_curves: bool = True) -> None:
    laboratory.study("rows", ROWS)
    for seed in range(3):
        for row in ("multiblock", "block"):
            laboratory.run("rows", row, seed, {MAIN: 60.0 + seed})
    if with_curves:
        with laboratory.engine.begin() as connection:
            runs = connection.scalars(select(RunRow.id).order_by(RunRow.id)).all()
            # Rows in turn: of the second one, the last seed leaves late.
            for run_id, left in zip(runs, (120, 130, 125, 120, 130, 420), strict=True):
                line = curve(left)
                steps, values = line.steps.tolist(), line.values.tolist()
                series.write(connection, [series.chunk_row(run_id, 1, 0, "loss", steps, values)])


def test_a_row_of_which_a_seed_left_late_has_a_mark_and_a_note_that_names_the_steps(laboratory: Laboratory) -> None:
    fill(laboratory)
    table = building.build(load(laboratory.engine, "rows"))
    (note,) = (note for note in table.notes if "plateau" in note)
    assert note.startswith("‡ block (0.6): left the plateau (loss 0.6") and "(seed 2, late) of 600" in note
    assert [row.key for row in table.rows if row.plateau] == ["block"]


def test_a_plateau_is_said_in_markdown_latex_csv_and_on_the_site(laboratory: Laboratory) -> None:
    fill(laboratory)
    table = building.build(load(laboratory.engine, "rows"))
    assert "| block (0.6) ‡ |" in render.markdown(table)
    assert r"block (0.6) \ddag{}" in latex.latex(table)
    assert "‡ left the plateau" in next(line for line in render.to_csv(table).splitlines() if ",block," in line)
    files = contents(laboratory.engine, ["rows"])
    assert "‡ block (0.6): left the plateau" in files["report/studies/rows.html"].decode()
    pages = [content.decode() for name, content in files.items() if name.startswith("report/runs/")]
    assert sum("left at step 4" in page for page in pages) == 1


def test_a_plateau_moves_no_number_and_no_digest(laboratory: Laboratory) -> None:
    fill(laboratory, with_curves=False)
    before = building.build(load(laboratory.engine, "rows"))
    with laboratory.engine.begin() as connection:
        for run_id in connection.scalars(select(RunRow.id)).all():
            line = curve(420)
            steps, values = line.steps.tolist(), line.values.tolist()
            series.write(connection, [series.chunk_row(run_id, 1, 0, "loss", steps, values)])
    after = building.build(load(laboratory.engine, "rows"))
    assert any(row.plateau for row in after.rows)
    assert before.digest == after.digest
    assert [row.cells for row in before.rows] == [row.cells for row in after.rows]
