"""Numbers of things in sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweeps.console.tables import counted

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [(0, ("run",), "0 runs"), (1, ("run",), "1 run"), (2, ("run",), "2 runs"), (1, ("study", "studies"), "1 study"),
     (3, ("study", "studies"), "3 studies"), (1200, ("row",), "1,200 rows")],
)  # fmt: skip
def test_one_is_singular(number, words, said) -> None:
    assert counted(number, *words) == said


def test_no_command_counts_by_hand() -> None:
    """`{len(studies)} studies` says "1 studies"; a number that is 2 or more by its nature is named otherwise."""
    pattern = re.compile(
        r"\{(?:len|sum)\([^{}]*\)\} (?:new |finished )?(?:studies|runs|rows|files|trials|pages|configs)\b"
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in ("sweeps", "analysis")
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if pattern.search(line) and "are called" not in line
    ]
    assert not found
