"""Intervals quoted in results/README.md are those of the tables and evaluations that the database gives."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest
from sqlalchemy import select

from analysis.render import format_estimate
from analysis.stats import mean_interval
from sweeps.db import Result, RunRow, open_database

RESULTS = Path(__file__).parents[1] / "results"
INTERVAL = re.compile(r"(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)")


def paragraphs() -> list[str]:
    return re.split(r"\n(?=\*\*|\n|\|)", (RESULTS / "README.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def known() -> set[tuple[str, str]]:
    """Every mean and half-width of the committed tables, and of the evaluations made later (`vos@davis/jf`)."""
    text = "".join(path.read_text(encoding="utf-8") for path in (RESULTS / "tables").glob("*.md"))
    engine = open_database(f"sqlite:///{RESULTS}/ablations.sqlite", read_only=True)
    values: dict[tuple[int, str], list[float]] = defaultdict(list)
    with engine.connect() as connection:
        later = select(RunRow.config_id, Result.metric, Result.value).join(RunRow, RunRow.id == Result.run_id)
        for config, metric, value in connection.execute(
            later.where(Result.metric.like("%@%/%"), RunRow.state == "done")
        ):
            values[config, metric].append(value)
    engine.dispose()
    text += "".join(format_estimate(mean_interval(v), digits=1) + "\n" for v in values.values() if len(v) > 1)
    return set(INTERVAL.findall(text))


def test_every_quoted_interval_is_in_a_table(known: set[tuple[str, str]]) -> None:
    wrong = [
        f"{mean} ± {half} in: {paragraph[:60]}"
        for paragraph in paragraphs()
        for mean, half in INTERVAL.findall(paragraph)
        if (mean, half) not in known
    ]
    assert not wrong, "results/README.md quotes intervals that no table has any more:\n" + "\n".join(wrong)


def test_a_paragraph_with_an_interval_is_about_something() -> None:
    quoted = [paragraph for paragraph in paragraphs() if INTERVAL.search(paragraph)]
    assert quoted, "results/README.md quotes no interval: the check above would hold of anything"
