"""Every committed LaTeX table is one that LaTeX takes; where there is a LaTeX, it is asked."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from analysis.numbers.frame import load
from analysis.tables import building, latex, parts, render
from sweeps.answers.collapse import MARK
from sweeps.answers.plateau import MARK as PLATEAU
from tests.analysis.conftest import MAIN, ROWS, Laboratory
from tests.analysis.latex import assert_latex
from tests.analysis.tables.test_render import HOSTILE, hostile_table

TABLES = sorted((Path(__file__).parents[3] / "results" / "tables").glob("*.tex"))
# What tables are written for, on the paper whose text is the narrower one.
DOCUMENT = r"""\documentclass[twocolumn,a4paper]{article}
\usepackage{booktabs,graphicx,textcomp,xcolor}
\begin{document}
%s
\end{document}
"""


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_a_committed_table_closes_what_it_opens_and_escapes_what_is_special(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert_latex(text)
    assert text.count(r"\caption{") == text.count(r"\label{") == 1  # a float that goes on has neither
    assert len(re.findall(r"\\begin\{table\*?\}", text)) == 1 + text.count(r"\caption[]{")


def test_no_two_committed_tables_have_the_same_label() -> None:
    labels = [re.search(r"\\label\{(.*)\}", path.read_text(encoding="utf-8"))[1] for path in TABLES]
    assert len(labels) == len(set(labels)) == len(TABLES) > 0


@pytest.mark.parametrize(
    "broken", [r"\end{tabular}", r"\end{table}", "}", "$"], ids=["tabular", "table", "brace", "formula"]
)
def test_a_table_that_lacks_an_end_is_found(broken: str) -> None:
    text = TABLES[0].read_text(encoding="utf-8")
    there = next(end for end in (broken, broken.replace("}", "*}")) if end in text)
    with pytest.raises(AssertionError):
        assert_latex(text.replace(there, "", 1))


@pytest.mark.parametrize("added", ["50 % of it", "a_b", "a & b", r"\write18{id}", "#1", "x^2"])
def test_words_that_are_not_escaped_are_found(added: str) -> None:
    text = TABLES[0].read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.endswith(r" \\"))
    with pytest.raises(AssertionError):
        assert_latex(text.replace(row, f"{added} {row}"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_builds_every_table_and_none_is_wider_than_its_page(laboratory: Laboratory, tmp_path: Path) -> None:
    texts = [path.read_text(encoding="utf-8") for path in TABLES]
    texts.append(latex.latex(hostile_table(laboratory, HOSTILE)))
    (tmp_path / "all.tex").write_text(DOCUMENT % "\\clearpage\n".join(texts), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=240)
    assert done.returncode == 0, done.stdout[-3000:]
    assert len(re.findall(r"\[\d+", done.stdout)) >= len(texts)  # the pages
    log = (tmp_path / "all.log").read_text(encoding="utf-8", errors="replace")
    assert "Overfull" not in log and "Float too large" not in log


# ---- what a paper pastes


def wide_table(laboratory: Laboratory, num_metrics: int) -> parts.Table:
    metrics = [MAIN, *(f"mine/score_{number}" for number in range(num_metrics - 1))]
    laboratory.study("wide", {**ROWS, "metrics": metrics})
    for seed in (0, 1, 2):
        for row in ("multiblock", "block", "random"):
            laboratory.run("wide", row, seed, {metric: 60.0 + seed for metric in metrics})
    return building.build(load(laboratory.engine, "wide"))


def test_a_wide_table_is_cut_into_blocks_and_not_shrunk(laboratory: Laboratory) -> None:
    text = latex.latex(wide_table(laboratory, 12))
    assert_latex(text)
    assert text.count(r"\begin{tabular*}{\linewidth}") > 1 and r"\begin{table*}" in text and "resizebox" not in text
    assert text.count("multi-block") == text.count(r"\begin{tabular*}")  # labels stand in every block


def test_an_article_of_one_column_has_no_float_over_two_and_narrower_blocks(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 12)
    text = latex.latex(table, latex.Style(article="one_column"))
    assert r"\begin{table}" in text and "table*" not in text
    assert text.count(r"\begin{tabular*}") > latex.latex(table).count(r"\begin{tabular*}")


def test_blocks_share_the_columns_out_evenly(laboratory: Laboratory) -> None:
    text = latex.latex(wide_table(laboratory, 9))
    sizes = [len(columns) for columns in re.findall(r"\\fill\}\}(\w+)\}", text)]
    assert len(sizes) > 1 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("article", latex.ARTICLES)
def test_columns_too_wide_to_stand_side_by_side_have_a_block_each(laboratory: Laboratory, article: str) -> None:
    table = wide_table(laboratory, 3)
    columns = tuple(replace(column, label=f"{'w' * 90}{number}") for number, column in enumerate(table.columns))
    text = latex.latex(replace(table, columns=columns), latex.Style(article=article))
    assert text.count(r"\begin{tabular*}") >= len(columns) and all(column.label in text for column in columns)


def test_what_both_columns_of_a_paper_have_room_for_is_not_cut(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 12)
    rows = tuple(replace(row, cells=row.cells[:3], verdict="") for row in table.rows)
    text = latex.latex(replace(table, columns=table.columns[:3], rows=rows))
    assert r"\begin{table*}" in text and text.count(r"\begin{tabular") == 1
    narrow = replace(table, columns=table.columns[:1], rows=tuple(replace(row, cells=row.cells[:1]) for row in rows))
    assert r"\begin{table}" in latex.latex(narrow)


@pytest.mark.parametrize("mark", [MARK, PLATEAU, f"{MARK} {PLATEAU}", "*"])
def test_a_mark_never_stands_alone_on_a_line(laboratory: Laboratory, mark: str) -> None:
    table = wide_table(laboratory, 2)
    for length in range(latex.LONGEST - 8, latex.LONGEST + 4):  # of the label without its mark
        label = f"without {'x' * (length - 8)} {mark}"
        text = latex.latex(replace(table, rows=(replace(table.rows[1], label=label),)))
        assert f"x {latex.escape_latex(mark)}" in text


def test_a_mean_and_its_interval_stand_on_one_line(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 2)
    cells = (replace(table.rows[1].cells[0], estimate=None, text="about 12345678 ± 12345678"), *table.rows[1].cells[1:])
    assert r"12345678 $\pm$ 12345678" in latex.latex(replace(table, rows=(replace(table.rows[1], cells=cells),)))


def test_a_table_taller_than_a_page_goes_on_in_a_float_of_the_same_number(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 2)
    rows = tuple(replace(table.rows[0], label=f"row {number}") for number in range(100))
    text = latex.latex(replace(table, rows=rows))
    assert_latex(text)
    assert text.count("(continued)}") == text.count(r"\addtocounter{table}{-1}") == text.count(r"\begin{table") - 1 > 1
    assert [label for label in re.findall(r"^row \d+", text, re.M)] == [row.label for row in rows]


def test_an_untrained_row_is_left_out_of_blocks_that_have_nothing_of_it(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 2)
    empty = replace(table.rows[0], label="untrained", is_random_init=True, verdict="")
    empty = replace(empty, cells=tuple(parts.Cell() for _ in empty.cells))
    assert "untrained" not in latex.latex(replace(table, rows=(*table.rows, empty)))


def test_a_printed_row_is_grey_and_only_where_something_of_it_is_printed(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 12)
    short, full = latex.latex(table), latex.latex(table, latex.Style("full"))
    assert short.count(r"\textcolor{gray}{DINO}") == full.count(r"\textcolor{gray}{DINO (printed only)}") == 1
    assert short.count(r"\begin{tabular*}") > 1 and "printed only)" not in short


def test_short_notes_say_what_each_mark_is(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 2)
    cells = (replace(table.rows[0].cells[0], is_best=True), *table.rows[0].cells[1:])
    text = latex.latex(replace(table, rows=(replace(table.rows[0], cells=cells, collapse="1 of 3"), *table.rows[1:])))
    assert (
        r"Bold: best, no interval overlaps its; \dag{}: features collapsed or as untrained; grey: printed only." in text
    )
    assert "Bold" not in latex.latex(table)


def test_notes_are_a_line_all_or_none(laboratory: Laboratory) -> None:
    table = wide_table(laboratory, 2)
    short, full, none = (latex.latex(table, latex.Style(notes)) for notes in latex.NOTES)
    assert len(none) < len(short) < len(full) and r"\parbox" not in none
    assert "95 \\% t-interval, 3 seeds" in short and "sign-flip" in full and "sign-flip" not in short


def test_a_study_chooses_the_columns_that_latex_has(laboratory: Laboratory) -> None:
    metrics = [MAIN, "collapse/rankme", "knn/digit_top1"]
    laboratory.study("chosen", {**ROWS, "metrics": metrics, "table": {"latex": ["knn/*"]}})
    for row in ("multiblock", "block"):
        laboratory.run("chosen", row, 0, dict.fromkeys(metrics, 60.0))
    table = building.build(load(laboratory.engine, "chosen"))
    text = latex.latex(table).replace(r" \\ ", " ")
    assert_latex(text)
    assert "ridge top-1" in text and "k-NN top-1" in text and "RankMe" not in text and "printed:" not in text
    assert "RankMe" in render.markdown(table) and "collapse/rankme.mean" in render.to_csv(table)
