from __future__ import annotations

from typing import Any

from analysis.numbers.comparing import ROWS_DIFFER, about_rows, sentence_of
from analysis.numbers.frame import load
from analysis.tables.building import build
from analysis.tables.latex import latex
from sweeps.answers.arms import answer
from tests.analysis.conftest import MAIN, ROWS, Laboratory

SHARE = "mask/context_share"
OURS = {key: value for key, value in ROWS.items() if key not in ("printed", "figures")} | {"rows": ROWS["rows"][:2]}


def trained(laboratory: Laboratory, name: str, document: dict[str, Any], scale: str = "cpu") -> str:
    """The sentence of a study whose two rows have a run of each seed, 30 apart."""
    laboratory.study(name, document, scale)
    for seed in document["seeds"]:
        for row, value in (("multiblock", 70.0), ("block", 40.0)):
            laboratory.run(name, row, seed, {document["metrics"][0]: value * (1 + seed / 50)})
    return sentence_of(load(laboratory.engine, name))


def test_rows_of_one_seed_are_said_to_have_no_verdict(laboratory: Laboratory) -> None:
    told = trained(laboratory, "one", {**OURS, "seeds": [0]})
    assert told.endswith("one seed a row tells no row from another, so that there is no verdict.")


def test_a_gallery_of_masks_is_told_no_verdict_that_it_never_asked_for(laboratory: Laboratory) -> None:
    gallery = {**OURS, "seeds": [0], "metrics": [SHARE], "random_init": False}
    assert trained(laboratory, "masks", gallery) == ""


def test_one_seed_without_a_finished_run_is_told_nothing(laboratory: Laboratory) -> None:
    laboratory.study("none", {**OURS, "seeds": [0]})
    assert sentence_of(load(laboratory.engine, "none")) == ""


def test_a_verdict_at_scale_smoke_says_that_its_runs_only_show_that_they_run(laboratory: Laboratory) -> None:
    told = trained(laboratory, "rows@cpu", OURS)
    laboratory.study("rows@smoke", OURS, "smoke")  # of the same runs
    only = "Scale smoke tells that it runs, not what is better."
    assert sentence_of(load(laboratory.engine, "rows@smoke")) == f"{told} {only}"
    assert told


def test_what_a_file_says_against_its_verdicts_stands_behind_them_wherever_they_do(laboratory: Laboratory) -> None:
    told = trained(laboratory, "rows", {**OURS, "caveat": "Unlike\n  labels.\n"})
    assert told.endswith("is worse. Unlike labels.")
    with laboratory.engine.connect() as connection:
        assert answer(connection, "rows") == told  # the terminal's
    table = build(load(laboratory.engine, "rows"))
    assert table.sentence == told
    assert "Unlike labels." in latex(table) and "is worse" not in latex(table)


def test_a_caveat_without_a_verdict_is_not_said(laboratory: Laboratory) -> None:
    laboratory.study("rows", {**OURS, "caveat": "Unlike labels."})
    assert sentence_of(load(laboratory.engine, "rows")) == ""


def test_what_a_row_of_another_mask_trains_longer_is_told_beside_the_table(laboratory: Laboratory) -> None:
    rows = [ROWS["rows"][0], {"key": "block", "label": "block", "set": {"mask": "block", "optim.steps": 900}}]
    laboratory.study("longer", {**OURS, "rows": rows})
    laboratory.run("longer", "multiblock", 0, {MAIN: 70.0})
    told = about_rows(load(laboratory.engine, "longer"))
    assert told == [f"{ROWS_DIFFER} block: optim.steps 900 (baseline 300)."]


def test_rows_that_are_about_their_length_are_told_nothing_else(laboratory: Laboratory) -> None:
    rows = [{"key": str(steps), "label": str(steps), "set": {"optim.steps": steps}} for steps in (300, 900)]
    laboratory.study("length", {**OURS, "rows": rows})
    laboratory.run("length", "300", 0, {MAIN: 70.0})
    assert about_rows(load(laboratory.engine, "length")) == []
