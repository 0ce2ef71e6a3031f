from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from analysis.figures.search import table as searched
from analysis.numbers.frame import load
from analysis.numbers.stats import Estimate
from analysis.tables import building, latex, parts, render
from tests.analysis.conftest import MAIN, ROWS, Laboratory
from tests.analysis.latex import assert_latex

HOSTILE = "<script>alert(1)</script> \\input{/etc/passwd} | `x` $y$ & 5% #1 _a_ ~ ^ {z}"


def hostile_table(laboratory: Laboratory, label: str) -> parts.Table:
    rows = [
        {"key": "good", "label": "good", "set": {"mask": "a"}},
        {"key": "bad", "label": label, "set": {"mask": "b"}},
    ]
    printed = {"metric": label, "source": label, "values": {"good": 1.0}}
    laboratory.study("hostile", {**ROWS, "title": label, "rows": rows, "printed": printed, "table": {}})
    for seed in (0, 1, 2):
        laboratory.run("hostile", "good", seed, {MAIN: 60.0 + seed})
        laboratory.run("hostile", "bad", seed, {MAIN: 61.0 - seed})
    return building.build(load(laboratory.engine, "hostile"))


@pytest.mark.parametrize(
    ("estimate", "digits", "signed", "text"),
    [
        (Estimate(61.44, 60.64, 62.24, 3), 1, False, "61.4 ± 0.8"),
        (Estimate(1.25, 0.75, 1.75, 3), 2, True, "+1.25 ± 0.50"),
        (Estimate(-1.25, -1.75, -0.75, 3), 1, True, "−1.2 ± 0.5"),
        (Estimate(5.0, math.nan, math.nan, 1), 1, False, "5.0"),
    ],
)
def test_a_number_is_shown_with_its_interval(estimate: Estimate, digits: int, signed: bool, text: str) -> None:
    assert render.format_estimate(estimate, digits=digits, signed=signed) == text


# ---- Markdown


def test_markdown_has_a_line_a_row_and_every_line_the_same_cells(engine: Engine) -> None:
    table = building.build(load(engine, "masking_ratio"))
    lines = [line for line in render.markdown(table).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.columns) + 2 + table.has_verdicts}
    assert "| 0.9 (baseline) | 84.2 ± 7.9 | baseline | 83.1 |" in render.markdown(table)


def test_markdown_ends_with_the_provenance_line(engine: Engine) -> None:
    table = building.build(load(engine, "masking_ratio"))
    assert render.markdown(table).rstrip().endswith(f"<sub>{table.provenance}</sub>")


def test_hostile_strings_are_words_in_markdown(laboratory: Laboratory) -> None:
    text = render.markdown(hostile_table(laboratory, HOSTILE + "\n\n# heading"))
    assert "<script" not in text and "&lt;script&gt;" in text
    assert not re.search(r"(?<!\\)[`$*]", text)
    assert not any(line.startswith("# ") for line in text.splitlines())


def test_marks_are_shown_and_a_star_of_a_label_is_no_mark(laboratory: Laboratory) -> None:
    rows = [{"key": key, "label": key, "set": {"mask": key}} for key in ("base", "a*b")]
    laboratory.study("two", {**ROWS, "rows": rows, "printed": {}, "random_init": False, "seeds": [*range(6)]})
    for seed in range(6):
        laboratory.run("two", "base", seed, {MAIN: 60.0 + 0.1 * seed})
        laboratory.run("two", "a*b", seed, {MAIN: 65.0 + 0.1 * (seed % 3)})
    table = building.build(load(laboratory.engine, "two"))
    assert "| a\\*b | **65.10 ± 0.09** | +4.85 ± 0.17 \\* |" in render.markdown(table)
    assert r"a*b & \textbf{65.10 $\pm$ 0.09} & +4.85 $\pm$ 0.17 * &" in latex.latex(table)
    lines = [*csv.DictReader(io.StringIO(render.to_csv(table)))]
    assert (lines[1][f"{MAIN}.difference.p"], lines[1][f"{MAIN}.difference.p_holm"]) == ("0.03125", "0.03125")
    assert lines[0][f"{MAIN}.difference.p"] == ""


def test_what_a_terminal_obeys_or_a_reader_cannot_see_is_shown_by_its_code_point() -> None:
    assert render.escape_markdown("a\x1b[31mb\u202ec\u200bd") == "aU+001B\\[31mbU+202EcU+200Bd"


# ---- LaTeX


def test_latex_is_a_booktabs_table_with_balanced_braces(engine: Engine) -> None:
    for name in ("masking_ratio", "ijepa_masking"):
        table = building.build(load(engine, name))
        text = latex.latex(table)
        assert_latex(text)
        assert text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")


def test_hostile_strings_are_words_in_latex(laboratory: Laboratory) -> None:
    table = hostile_table(laboratory, HOSTILE + " \x07 中 ą é ħ \u202e \" ' ` ±")
    text = latex.latex(table)
    assert_latex(text)
    assert r"\input" not in text and r"\textbackslash{}input\{/etc/passwd\}" in text
    assert r"\texttt{U+4E2D}" in text and r"\texttt{U+0007}" in text and r"\texttt{U+202E}" in text
    assert "é" in text and "ą" not in text and "ħ" not in text


@pytest.mark.parametrize("label", ["[.15, .2]", "*", "[1ex]"])
def test_a_label_is_no_argument_of_the_line_break_before_it(laboratory: Laboratory, label: str) -> None:
    text = latex.latex(hostile_table(laboratory, label))
    assert not re.search(r"\\\\\s*[\[*]", text)
    assert "\n{}" + label in text


def test_a_header_is_no_argument_of_the_rule_above_it(laboratory: Laboratory) -> None:
    table = replace(hostile_table(laboratory, "a"), row_header="[2pt] row")
    assert "\\toprule\n{}[2pt] row &" in latex.latex(table)


# ---- CSV


def test_csv_holds_full_precision_and_names_what_is_missing(engine: Engine) -> None:
    frame = load(engine, "ijepa_masking")
    lines = {line["row_key"]: line for line in csv.DictReader(io.StringIO(render.to_csv(building.build(frame))))}
    values = frame.runs.groupby("row_key")["value"].mean()
    assert float(lines["multiblock"][f"{MAIN}.mean"]) == values["multiblock"]
    assert lines["block"][f"{MAIN}.seeds"] == "1"
    assert lines["block"][f"{MAIN}.note"] == "1/3 seeds, 1 diverged, 1 missing"
    assert lines["random"][f"{MAIN}.mean"] == "" and lines["random"][f"{MAIN}.note"] == "failed (3/3 seeds)"
    assert lines["dino"]["kind"] == "printed_only" and lines["dino"][".printed"] == "70.0"
    assert {line["digest"] for line in lines.values()} == {frame.digest}


def test_no_csv_field_is_a_formula(laboratory: Laboratory) -> None:
    table = hostile_table(laboratory, '=HYPERLINK("http://x","y"), z')
    fields = [field for line in csv.reader(io.StringIO(render.to_csv(table))) for field in line]
    assert '\'=HYPERLINK("http://x","y"), z' in fields
    assert all(field[:1] not in "=+@\t\r" for field in fields if field)
    assert float(next(f for f in fields if f.startswith("-"))) < 0  # a negative number stays a number


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "  =1", "＝1+1"])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert render.escape_csv(text) == "'" + text


@pytest.mark.parametrize("text", ["-1.5", "+2", "-1e-05", "plain", "a=b", "", "–"])
def test_numbers_and_plain_words_are_left_alone(text: str) -> None:
    assert render.escape_csv(text) == text


# ---- what a run's config and record may hold


def test_a_hostile_option_that_a_search_chose_is_words_in_every_format(laboratory: Laboratory) -> None:
    text = '=cmd|"/C calc"!A0 <img src=x onerror=alert(1)> \\write18{rm} | `id`'
    search = {"space": {"mask": {"categorical": [text, "block"]}}, "budget": 2, "metric": MAIN}
    document = {k: ROWS[k] for k in ("title", "question", "metrics")} | {"search": search, "seeds": [0]}
    laboratory.study("found", {**document, "base": {"mask": text}})
    laboratory.run("found", "default", 0, {MAIN: 60.0})
    table = searched(load(laboratory.engine, "found"))
    assert text in [cell.text for cell in table.rows[0].cells]
    page = render.markdown(table)
    assert "<img" not in page and "&lt;img" in page and not re.search(r"(?<!\\)`", page)
    assert_latex(latex.latex(table))
    assert r"\write" not in latex.latex(table)
    fields = [field for line in csv.reader(io.StringIO(render.to_csv(table))) for field in line]
    assert "'" + text in fields and text not in fields


def test_a_hostile_commit_is_words_in_the_provenance_line(laboratory: Laboratory) -> None:
    laboratory.study("rows", ROWS)
    laboratory.run("rows", "block", 0, {MAIN: 1.0}, git_sha="<b>|\\end{x}")
    table = building.build(load(laboratory.engine, "rows"))
    assert "git <b>|" in table.provenance
    assert "<b>" not in render.markdown(table) and r"\end{x}" not in latex.latex(table)


def test_latex_names_an_undecided_row_and_leaves_what_it_takes_to_the_sentence(engine: Engine) -> None:
    table = building.build(load(engine, "masking_ratio"))
    rows = tuple(replace(row, verdict="a: undecided: about 4 more seeds; b: worse") for row in table.rows)
    text = latex.latex(replace(table, rows=rows, sentence="0.5 takes 4 more seeds."), latex.Style("full"))
    assert "& a: undecided; b: worse" in text and "about 4" not in text and "0.5 takes 4 more seeds." in text
    assert "a: undecided: about 4 more seeds; b: worse" in render.markdown(replace(table, rows=rows))
