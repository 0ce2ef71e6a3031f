"""A Markdown page's claims, read, and beside tiny tables that are made here."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from analysis.report import main
from analysis.tables import claims
from analysis.tables.claim_check import Checker
from sweeps.console.errors import UserError
from tests.analysis.conftest import MAIN, ROWS, Laboratory

HEADER = (
    "study,scale,digest,row_key,row,kind,verdict,{m}.mean,{m}.low,{m}.high,{m}.seeds,{m}.note,{m}.difference.mean,"
    "{m}.difference.low,{m}.difference.high,{m}.difference.seeds,{m}.difference.note,flow/epe.mean,flow/epe.low,"
    "flow/epe.high,flow/epe.seeds,flow/epe.note,mask/hidden_share.mean,mask/hidden_share.low,mask/hidden_share.high,"
    "mask/hidden_share.seeds,mask/hidden_share.note,top-1.printed,K15 train.printed"
).replace("{m}", MAIN)
UNDECIDED = "undecided: about 4 more seeds, about 2 minutes"
MASKING = [
    HEADER,
    "masking,cpu,0,block,block (0.6),baseline,,60.0,58.0,62.0,3,,,,,,baseline,1.5,1.4,1.6,3,,0.9,0.9,0.9,3,,54.2,2.67",
    "masking,cpu,0,random,random (0.6),trained,better,66.54,64.0,69.08,3,,6.54,3.0,10.08,3,,1.25,1.2,1.3,3,,0.67,0.67,"
    "0.67,3,,17.6,3.01",
    f'masking,cpu,0,time,time,trained,"{UNDECIDED}",58.2,50.2,66.2,3,,-1.8,-5.0,1.4,3,,1.5,1.4,1.6,3,,0.5,0.5,0.5,3,,,',
    "masking,cpu,0,space,space,trained,worse,50.0,49.0,51.0,2,\"2/3 seeds, 1 diverged\",-10.0,-12.0,-8.0,2,2/3 seeds,"
    "1.5,1.4,1.6,3,,0.5,0.5,0.5,3,,,",
]  # fmt: skip
RATIO = [
    "study,scale,digest,row_key,row,kind,verdict,short.mean,short.low,short.high,short.seeds,short.note,"
    "short.difference.mean,short.difference.low,short.difference.high,short.difference.seeds,short.difference.note,"
    "long.mean,long.low,long.high,long.seeds,long.note,long.difference.mean,long.difference.low,long.difference.high,"
    "long.difference.seeds,long.difference.note",
    f'ratio,cpu,0,0.9,90 %,trained,"half length: {UNDECIDED}; full: length: same within ±2",50,49,51,3,,1,-1,3,3,,60,'
    "59,61,3,,0.5,-1,2,3,",
]
LINES = [
    f"study,scale,digest,row_key,row,kind,verdict,{MAIN}.mean,{MAIN}.low,{MAIN}.high,{MAIN}.seeds,{MAIN}.note",
    'lines,cpu,0,mae,"MAE, half length",baseline,,30,29,31,3,',
    'lines,cpu,0,mae,"MAE, full length",baseline,,40,39,41,3,',
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A results folder with three tables and no page."""
    (tmp_path / "tables").mkdir()
    for name, lines in (("masking", MASKING), ("ratio", RATIO), ("lines", LINES)):
        (tmp_path / f"tables/{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def said(folder: Path, engine: Engine, text: str) -> list[str]:
    """What is said of a page of this text, without the folder's name."""
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    checker = Checker(engine, folder / "tables", path)
    return [line.replace(f"{folder}/", "") for line in checker.differences(claims.read(path))]


# ---- right and wrong


@pytest.mark.parametrize(
    "text",
    [
        "Random has 66.5 ± 2.5<!-- masking: random ridge/digit_top1 -->.",
        "Random (by its label) has 67 %<!-- masking: \"random (0.6)\" -->.",
        "It gains 6.5 ± 3.5<!-- difference masking: random --> points.",
        "Time is 1.8 ± 3.2<!-- below masking: time --> behind.",
        "66.5, 60.0 and 58.2 %<!-- masking: random, block, time ridge/digit_top1 -->, 1.25 px<!-- random flow/epe -->.",
        "It hides 67 %<!-- masking: random mask/hidden_share -->, a share of 0.67<!-- random -->.",
        "Random is better<!-- better masking: random --> and time cannot be told<!-- undecided time -->.",
        "The paper has 54.2<!-- printed masking: block top-1 -->, 36.6 points<!-- printed block - random --> more.",
        "Error 3.01<!-- printed masking: random \"K15 train\" --> there.",
        "It is 8.3 points<!-- masking: random - time --> ahead, 1.2 times<!-- block flow/epe / random --> the error.",
        "Level at full length<!-- same ratio: 0.9 long -->, open at half<!-- undecided 0.9 short -->.",
        "At full length 40.0<!-- lines: \"MAE, full length\" -->.",
        "| random | 66.5<!-- masking: random --> |\n|:--|--:|\n| block | 60.0<!-- masking: block --> |",
        "Frames of 24 px, Table 2a, Figure 5.2 (`x=1.5`, [figure](a/4.5.md)), 3 seeds: 66.5<!-- masking: random -->.",
        "Hiding 75\n% leaves 66.5<!-- masking: random -->.<!-- unchecked: 75 % -->",
    ],
)  # fmt: skip
def test_what_the_tables_have_may_be_said(folder: Path, engine: Engine, text: str) -> None:
    assert said(folder, engine, text) == []


def test_a_wrong_number_is_named_with_what_the_table_has(folder: Path, engine: Engine) -> None:
    assert said(folder, engine, "One.\n\nRandom\nhas 66.9 ± 2.5<!-- masking: random -->.") == [
        'README.md:4: "66.9 ± 2.5" (masking: random): the table has 66.5 ± 2.5'
    ]
    (line,) = said(folder, engine, "It gains 6.5 ± 3.0<!-- difference masking: random -->.")
    assert line.endswith("the table has 6.5 ± 3.5")


def test_a_number_of_another_row_is_wrong(folder: Path, engine: Engine) -> None:
    (line,) = said(folder, engine, "66.5 against 60.0<!-- masking: random, time ridge/digit_top1 -->.")
    assert line.endswith('"60.0" (masking: time ridge/digit_top1): the table has 58.2')


def test_a_difference_of_the_other_sign_is_wrong(folder: Path, engine: Engine) -> None:
    (line,) = said(folder, engine, "Time is 1.8<!-- difference masking: time --> ahead.")
    assert line.endswith("the table has -1.8")


def test_a_changed_verdict_is_named_with_the_tables(folder: Path, engine: Engine) -> None:
    (line,) = said(folder, engine, "Time is better<!-- better masking: time -->.")
    assert line == f'README.md:1: "Time is better" (better masking: time): the table has: {UNDECIDED}'
    (line,) = said(
        folder, engine, "At full length 90 % is ahead<!-- better ratio: 0.9 long --><!-- unchecked: 90 % -->."
    )
    assert line.endswith("the table has: full: length: same within ±2")


def test_a_number_without_a_mark_is_wrong(folder: Path, engine: Engine) -> None:
    text = "60.0<!-- masking: block -->, then 66.5, 5 or 6 % and 61 ± 2.\n"
    lines = said(folder, engine, text)
    assert [line.partition(" names no cell")[0] for line in lines] == [
        'README.md:1: "66.5"',
        'README.md:1: "5"',
        'README.md:1: "6"',
        'README.md:1: "61 ± 2"',
    ]
    assert "add <!-- study: row metric --> behind it" in lines[0]


def test_a_verdict_word_without_a_mark_is_wrong(folder: Path, engine: Engine) -> None:
    (line,) = said(folder, engine, "60.0<!-- masking: block --> is worse.")
    assert '"worse" names no cell' in line and "<!-- worse study: row metric -->" in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("66.5<!-- random -->", "the first mark of a paragraph names its study"),
        ("66.5<!-- maskin: random -->", "has no study 'maskin' (did you mean masking?)"),
        ("66.5<!-- masking: randon -->", "the table has no row 'randon' (did you mean random?)"),
        ("66.5<!-- masking: random ridge/digit -->", "the table has no column 'ridge/digit' (did you mean"),
        ("66.5<!-- masking: random one two -->", "a cell is a row and at most a column, found: random one two"),
        ("66.5<!-- masking: random, -->", "a cell is a row and at most a column, found: nothing"),
        ("66.5<!-- masking: random, block -->", "it names 2 cells, and 1 numbers stand before it"),
        ("40.0<!-- lines: mae -->", "2 rows are called 'mae'; say which by its label: \"MAE, half length\" or"),
        ("50.0<!-- masking: space -->", "the table has no whole number there: 2/3 seeds, 1 diverged"),
        ("6.5<!-- difference masking: random flow/epe -->", "the table has no difference in 'flow/epe'"),
        ("6.5<!-- difference masking: random - time -->", "not behind 'difference'"),
        ("8.3 ± 1.0<!-- masking: random - time -->", "one seed has no interval"),
        ("54.2<!-- printed masking: block -->", "the table has no printed ''; it has: top-1, K15 train"),
        ("54.2<!-- printed masking: time top-1 -->", "the table has no number there: nothing"),
        ("best<!-- better masking: block -->", "the table has no verdict of this row: baseline"),
        ("best<!-- better masking: random flow/epe -->", "the table has no verdict on 'flow/epe'"),
        ("open<!-- undecided ratio: 0.9 -->", "the table has no verdict on ''; it has: short, long"),
        ("is worse<!-- better masking: random -->", '"worse" stands before it'),
        ("66.5<!-- masking: random --><!-- unchecked: 75 % -->", 'unchecked "75 %": the paragraph does not say it'),
        ("61 ± 2<!-- unchecked: 61 ± 2 -->", "an interval is always of a table: name its cell"),
    ],
)
def test_a_mark_that_binds_nothing_is_wrong(folder: Path, engine: Engine, text: str, reason: str) -> None:
    assert reason in said(folder, engine, text)[0]


def test_a_mark_goes_on_where_the_one_before_it_in_the_paragraph_was(folder: Path, engine: Engine) -> None:
    assert said(folder, engine, "1.25<!-- masking: random flow/epe -->, 1.5<!-- block -->.") == []
    (line,) = said(folder, engine, "1.25<!-- masking: random flow/epe -->.\n\n1.5<!-- block -->.")
    assert "README.md:3" in line and "the first mark of a paragraph" in line


def test_what_is_unchecked_is_so_in_its_own_paragraph_only(folder: Path, engine: Engine) -> None:
    text = "60.0<!-- masking: block --> at 75 % and 75 %.<!-- unchecked: 75 % -->\n\nThen 75 %."
    assert [line.partition(" names")[0] for line in said(folder, engine, text)] == ['README.md:3: "75"']


# ---- elsewhere than in the tables


def test_numbers_may_be_those_of_a_line_of_another_file(folder: Path, engine: Engine) -> None:
    (folder / "tables/agreement.md").write_text(
        "- Mean of τ\\_b over 18 tables: 0.07 [−0.09, 0.23].\n", encoding="utf-8"
    )
    mark = "<!-- in tables/agreement.md: Mean of τ_b -->"
    assert said(folder, engine, f"Over 18 tables 0.07, from -0.09 to 0.23{mark}.") == []
    (line,) = said(folder, engine, f"Over 19 tables 0.07{mark}.")
    assert '"19"' in line
    assert "tables/agreement.md has: - Mean of τ_b over 18 tables" in line
    assert "no line of" in said(folder, engine, "0.07<!-- in tables/agreement.md: Median -->.")[0]
    assert "is not there" in said(folder, engine, "0.07<!-- in tables/none.md: Mean -->.")[0]


def test_results_that_no_table_shows_are_those_of_the_runs(folder: Path, laboratory: Laboratory) -> None:
    laboratory.study("masking", {**ROWS, "seeds": [0, 1]})
    for seed in (0, 1):
        laboratory.run("masking", "random", seed, {MAIN: 60.0 + seed, "vos@davis/jf": 40.0 + 2 * seed})
    text = "J&F 41.0 ± 12.7<!-- masking: random vos@davis/jf -->, seed 1 61.0<!-- random ridge/digit_top1 seed=1 -->."
    assert said(folder, laboratory.engine, text) == []
    (line,) = said(folder, laboratory.engine, "40.5<!-- masking: random vos@davis/jf seed=1 -->")
    assert line.endswith("the table has 42.0")


# ---- the command


def test_the_command_checks_a_page_against_the_tables_of_the_results_folder(
    folder: Path, filled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = folder / "README.md"
    words = [f"db=sqlite:///{filled}", f"results_dir={folder}", f"check_paper={page}"]
    page.write_text("66.5<!-- masking: random --> at 75 %.<!-- unchecked: 75 % -->")
    assert main(words) == 0
    assert capsys.readouterr().out == f"{page}: 1 claims are what the tables have, 1 are not of a table\n"
    page.write_text("66.9<!-- masking: random -->")
    assert main(words) == 1
    assert capsys.readouterr().out == f'{page}:1: "66.9" (masking: random): the table has 66.5\n'


@pytest.mark.parametrize(("text", "message"), [("Nothing.", "no number is marked"), (None, "cannot be read: No such")])
def test_a_page_that_claims_nothing_or_is_not_there_is_a_mistake(
    tmp_path: Path, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    with pytest.raises(UserError, match=message):
        claims.read(tmp_path / "README.md")
