from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from analysis.numbers.stats import mean_interval, paired_interval
from analysis.report import main
from analysis.tables import paper_check
from analysis.tables.paper_check import Mark, numbers_of, read
from sweeps.console.errors import UserError
from tests.analysis.conftest import MAIN, ROWS, Laboratory, grid_value

CELL = f"masking_ratio/0.75/long/{MAIN}"
VALUES = {ratio: {seed: grid_value(ratio, 600, seed) for seed in (0, 1, 2)} for ratio in (0.75, 0.9)}
ESTIMATE = mean_interval(list(VALUES[0.75].values()))
DIFFERENCE = paired_interval(VALUES[0.75], VALUES[0.9])


def reasons(engine: Engine, *marks: tuple[str, str, str]) -> list[str]:
    """What is said of marks (kind, key, text), without where they stand."""
    found = paper_check.differences(engine, [Mark("main.tex:1", *mark) for mark in marks])
    return [line.partition("}: ")[2] for line in found]


# ---- reading LaTeX


def test_marks_are_read_with_their_lines_and_the_definition_is_none(tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text(
        "\\newcommand{\\abl}[3][value]{#3}\n\\newcommand\\abl[3][value]{#3}\n\\ablation{a}{1}\n"
        "x \\abl{s/a/m}{61.4} y \\abl[difference] {s/b\\_c/m} {\\textbf{+1.2}}\n100\\% \\abl{s/d/m}{2}\n"
    )
    name = f"{tmp_path}/main.tex"
    assert read(tmp_path / "main.tex") == [
        Mark(f"{name}:4", "value", "s/a/m", "61.4"),
        Mark(f"{name}:4", "difference", "s/b_c/m", "\\textbf{+1.2}"),
        Mark(f"{name}:5", "value", "s/d/m", "2"),
    ]


def test_comments_are_not_read_and_an_escaped_percent_sign_is_none(tmp_path: Path) -> None:
    (tmp_path / "main.tex").write_text(
        "% \\abl{s/a/m}{1}\n5\\% \\abl{s/b/m}{2} % \\abl{s/c/m}{3}\n\\\\% \\abl{s/d/m}{4}"
    )
    assert [mark.key for mark in read(tmp_path / "main.tex")] == ["s/b/m"]


def test_files_that_the_paper_inputs_are_read_in_their_place_and_once(tmp_path: Path) -> None:
    (tmp_path / "sections").mkdir()
    (tmp_path / "main.tex").write_text(
        "\\abl{s/a/m}{1}\\input{sections/one}\\include{two}\\abl{s/d/m}{4}\\input{elsewhere}"
    )
    (tmp_path / "sections/one.tex").write_text("\\abl{s/b/m}{2}\\input{main}")
    (tmp_path / "two.tex").write_text("\n\\abl{s/c/m}{3}")
    marks = read(tmp_path / "main.tex")
    assert [mark.key for mark in marks] == ["s/a/m", "s/b/m", "s/c/m", "s/d/m"]
    assert marks[2].place == f"{tmp_path}/two.tex:2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no marks", "no number is marked; mark one with"),
        ("\\abl{s/a/m", "main.tex:1: a brace of .abl is not closed"),
        ("\n\\abl{s/a/m} 61.4", "main.tex:2: .abl{s/a/m} has no number after it"),
    ],
)
def test_a_source_that_cannot_be_checked_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "main.tex").write_text(text)
    with pytest.raises(UserError, match=message):
        read(tmp_path / "main.tex")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("61.4", ("61.4",)),
        ("$-1.2$", ("-1.2",)),
        ("$-$1.2", ("-1.2",)),
        ("−1.2", ("-1.2",)),
        ("+0.45", ("+0.45",)),
        ("\\textbf{61.4} $\\pm$ 0.8", ("61.4", "0.8")),
        ("61.4 ± .8", ("61.4", ".8")),
        ("96{,}000", ("96000",)),
        ("61.4\\,\\%", ("61.4",)),
        ("61.4--62", None),
        ("best", None),
        ("", None),
    ],
)
def test_a_number_is_read_through_its_typesetting(text: str, numbers: tuple[str, ...] | None) -> None:
    assert numbers_of(text) == numbers


# ---- comparing


@pytest.mark.parametrize("decimals", [0, 1, 3])
def test_a_mean_is_right_at_the_decimals_that_the_paper_gives(engine: Engine, decimals: int) -> None:
    mean, half = f"{ESTIMATE.mean:.{decimals}f}", f"{ESTIMATE.half_width:.1f}"
    assert reasons(engine, ("value", CELL, mean), ("value", CELL, f"{mean} $\\pm$ {half}")) == []


def test_a_wrong_mean_or_half_width_is_named_with_the_right_one(engine: Engine) -> None:
    right = f"{ESTIMATE.mean:.1f}"
    wrong = f"{ESTIMATE.mean + 0.1:.1f}"
    assert reasons(engine, ("value", CELL, wrong)) == [f"the database gives {right}"]
    assert reasons(engine, ("value", CELL, f"{right} ± 0.0")) == [
        f"the database gives {right} ± {ESTIMATE.half_width:.1f}"
    ]


def test_a_difference_is_the_paired_one_to_the_baseline(engine: Engine) -> None:
    assert reasons(engine, ("difference", CELL, f"{DIFFERENCE.mean:+.2f} ± {DIFFERENCE.half_width:.2f}")) == []
    baseline = CELL.replace("0.75", "0.9")
    assert "has no difference to itself" in reasons(engine, ("difference", baseline, "0"))[0]


def test_a_printed_number_is_the_study_files(engine: Engine) -> None:
    assert reasons(engine, ("printed", "masking_ratio/0.9/long", "84.40")) == []
    assert reasons(engine, ("printed", "masking_ratio/0.9/long", "84.5")) == ["the study file says 84.4 is printed"]
    assert reasons(engine, ("printed", "ijepa_masking/dino", "70")) == []


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        (("value", "masking_ration/0.9/long/m", "1"), "no study 'masking_ration' (did you mean masking_ratio?)"),
        (("value", "other", "1"), "no study 'other'; it has: ijepa_masking, masking_ratio"),
        (("value", f"masking_ratio/0.7/long/{MAIN}", "1"), "(did you mean 0.75/long/ridge/digit_top1"),
        (("printed", "masking_ratio/0.5/long", "1"), "no printed number '0.5/long'"),
        (("best", CELL, "1"), "[best] must be one of value, difference, printed"),
        (("value", CELL, "many"), "not a number, nor a number ± a half-width"),
        (("value", f"ijepa_masking/block/{MAIN}", "60"), "it has 1 of 3 seeds (diverged, missing)"),
        (("difference", f"ijepa_masking/random/{MAIN}", "0"), "it has 0 of 3 seeds (failed)"),
    ],
)
def test_a_mark_without_a_whole_number_behind_it_is_wrong(
    engine: Engine, mark: tuple[str, str, str], reason: str
) -> None:
    assert reason in reasons(engine, mark)[0]


def test_one_seed_has_a_mean_but_no_interval_or_difference(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**ROWS, "seeds": [4]})
    for row in ("multiblock", "block"):
        laboratory.run("rows", row, 4, {MAIN: 61.25})
    cell = f"rows/block/{MAIN}"
    assert reasons(laboratory.engine, ("value", cell, "61.25")) == []
    assert reasons(laboratory.engine, ("value", cell, "61.25 ± 0")) == ["one seed has no interval"]
    assert reasons(laboratory.engine, ("difference", cell, "0")) == ["a difference needs two shared seeds"]


def test_zero_has_no_sign(laboratory: Laboratory) -> None:
    assert paper_check.compare(("0.0",), mean_interval([-0.01, -0.02])) == ""
    assert paper_check.compare(("-0.0",), mean_interval([0.01, 0.02])) == ""


# ---- the command


def test_the_command_exits_1_naming_each_mark_that_differs_and_writes_nothing(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = tmp_path / "main.tex"
    paper.write_text(f"\\abl{{{CELL}}}{{{ESTIMATE.mean:.1f}}}\n\\abl{{{CELL}}}{{1.0}}\n")
    words = [f"db=sqlite:///{filled}", f"results_dir={tmp_path / 'r'}", f"check_paper={paper}"]
    assert main(words) == 1
    assert capsys.readouterr().out == f"{paper}:2: \\abl{{{CELL}}}{{1.0}}: the database gives {ESTIMATE.mean:.1f}\n"
    paper.write_text(f"\\abl{{{CELL}}}{{{ESTIMATE.mean:.1f}}}\n")
    assert main(words) == 0
    assert not (tmp_path / "r").exists()


def test_a_paper_that_is_not_there_is_a_mistake(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"db=sqlite:///{filled}", f"check_paper={tmp_path}/none.tex"]) == 2
    assert "none.tex: cannot be read: No such file" in capsys.readouterr().err
