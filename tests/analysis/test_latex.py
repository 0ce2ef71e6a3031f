"""Every committed LaTeX table is one that LaTeX takes; where there is a LaTeX, it is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import render
from tests.analysis.conftest import Laboratory
from tests.analysis.latex import assert_latex
from tests.analysis.test_render import HOSTILE, hostile_table

TABLES = sorted((Path(__file__).parents[2] / "results" / "tables").glob("*.tex"))
DOCUMENT = r"""\documentclass{article}
\usepackage{booktabs,graphicx,textcomp,xcolor}
\begin{document}
%s
\end{document}
"""


def num_columns(text: str) -> int:
    found = re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)
    assert found is not None
    return len(found.group(1))


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_committed_table_closes_what_it_opens_and_escapes_what_is_special(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert_latex(text, num_columns=num_columns(text))
    assert text.count(r"\begin{table}") == text.count(r"\caption{") == text.count(r"\label{") == 1


def test_no_two_committed_tables_have_the_same_label() -> None:
    labels = [re.search(r"\\label\{(.*)\}", path.read_text(encoding="utf-8"))[1] for path in TABLES]
    assert len(labels) == len(set(labels)) == len(TABLES) > 0


@pytest.mark.parametrize(
    "broken", [r"\end{tabular}", r"\end{table}", "}", "$"], ids=["tabular", "table", "brace", "formula"]
)
def test_a_table_that_lacks_an_end_is_found(broken: str) -> None:
    text = TABLES[0].read_text(encoding="utf-8")
    with pytest.raises(AssertionError):
        assert_latex(text.replace(broken, "", 1), num_columns=num_columns(text))


@pytest.mark.parametrize("added", ["50 % of it", "a_b", "a & b", r"\write18{id}", "#1", "x^2"])
def test_words_that_are_not_escaped_are_found(added: str) -> None:
    text = TABLES[0].read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.endswith(r" \\"))
    with pytest.raises(AssertionError):
        assert_latex(text.replace(row, f"{added} {row}"), num_columns=num_columns(text))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_builds_every_table_and_none_is_wider_than_its_page(laboratory: Laboratory, tmp_path: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in TABLES]
    texts.append(render.latex(hostile_table(laboratory, HOSTILE)))
    (tmp_path / "all.tex").write_text(DOCUMENT % "\\clearpage\n".join(texts), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(re.findall(r"\[\d+", done.stdout)) >= len(texts)  # the pages
    assert "Overfull \\hbox" not in done.stdout
