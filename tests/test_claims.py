"""What results/README.md says is what the committed tables and runs give, each number and verdict of its own cell.

The same as `python -m analysis.report check_paper=results/README.md`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.tables import claims
from analysis.tables.claim_check import Checker
from sweeps.database.opening import open_database

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(scope="module")
def page() -> claims.Page:
    return claims.read(RESULTS / "README.md")


@pytest.fixture
def checker() -> Iterator[Checker]:
    engine = open_database(f"sqlite:///{RESULTS}/ablations.sqlite", read_only=True)
    yield Checker(engine, RESULTS / "tables", RESULTS / "README.md")
    engine.dispose()


def test_every_claim_is_what_its_table_has(page: claims.Page, checker: Checker) -> None:
    wrong = checker.differences(page)
    assert not wrong, "results/README.md says what the tables do not:\n" + "\n".join(wrong)


def test_every_study_with_a_verdict_is_told_of(page: claims.Page) -> None:
    judged = {
        path.stem
        for path in (RESULTS / "tables").glob("*.csv")
        if any(word in path.read_text(encoding="utf-8") for word in (",better,", ",worse,", ",undecided"))
    }
    told = {cell.study for claim in page.claims for cell in claim.cells}
    assert judged - told == set(), "results/README.md tells nothing of these studies"


def test_every_table_of_trained_runs_is_linked() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    tables = {path.name for path in (RESULTS / "tables").glob("*.md")} - {"index.md"}
    # Of masks alone nothing is trained: their pictures are linked instead.
    drawn = {name for name in tables if name.partition("@")[0].endswith("_masks")}
    assert [name for name in sorted(tables - drawn) if f"(tables/{name})" not in text] == []


def undecided_at_few_seeds(path: Path) -> bool:
    """Whether a row of the table is undecided by the first metric with fewer than six seeds."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = next((name for name in rows[0] if name.endswith(".difference.seeds")), None)
    return seeds is not None and any("undecided" in (row["verdict"] or "") and int(row[seeds] or 0) < 6 for row in rows)


def test_a_study_that_three_seeds_left_undecided_says_why_it_has_no_more() -> None:
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    paragraph = text.partition("**Three seeds stay.**")[2].partition("\n\n")[0]
    few = {path.stem for path in (RESULTS / "tables").glob("*.csv") if undecided_at_few_seeds(path)}
    assert few == set(re.findall(r"`([\w@]+)`", paragraph))
