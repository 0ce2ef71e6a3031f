"""docs/notebook.ipynb: its cells run in their order, in one namespace, beside the reported runs' database."""

import json
import shutil

import matplotlib
import pandas as pd
import pytest

from tests.docs.blocks import DOCS

PATH = DOCS / "notebook.ipynb"
CELLS = json.loads(PATH.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the notebook is started: the results are copied, so that reading them cannot touch the committed file."""
    (tmp_path / "results").mkdir()
    shutil.copy(DOCS.parent / "results" / "ablations.sqlite", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    backend = matplotlib.get_backend()
    matplotlib.use("agg")
    yield tmp_path
    matplotlib.pyplot.close("all")
    matplotlib.use(backend)


def test_the_notebook_runs_and_ends_in_a_figure_and_a_table(folder):
    before = (folder / "results" / "ablations.sqlite").read_bytes()
    names = {}
    for number, source in enumerate(CODE):
        exec(compile(source, f"docs/notebook.ipynb, code cell {number}", "exec"), names)
    table = names["table"]
    assert isinstance(table, pd.DataFrame) and table.shape == (5, 2) and "±" in table.iloc[0, 0]
    assert (folder / "masking_ratio_mine.png").stat().st_size > 5000
    assert [len(axes.get_lines()) > 1 for axes in names["figure"].axes] == [True, True]
    assert (folder / "results" / "ablations.sqlite").read_bytes() == before


def test_the_notebook_is_kept_without_what_it_printed():
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
