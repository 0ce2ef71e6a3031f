"""What each recipe of a small model costs and gains, `docs/recipes.md`: `python -m analysis.recipes`.

From the stored runs of the studies under `studies/recipes`, whose rows are recipes of one method.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from sqlalchemy import Engine

from analysis import files
from analysis.numbers import collapse
from analysis.numbers.frame import Frame, load, names, records
from analysis.numbers.stats import mean_interval, paired_interval
from analysis.tables.render import escape_markdown, format_estimate
from sweeps import cli
from sweeps.answers.verdicts import higher_is_better
from sweeps.study.metric_words import metric_words
from sweeps.study.model import RANDOM_INIT

USAGE = """usage: python -m analysis.recipes [key=value ...]

Write the page of recipes: for each study named recipe_*, a line a recipe with its spread over seeds, its gain over the
randomly initialised encoder and its cost.

  page=docs/recipes.md                    the file to write
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  check=false                             true: write nothing; exit 1 when the page is not what the database gives"""

OPTIONS = ("page", "db", "check")
PREFIX = "recipe_"
PAGE = "docs/recipes.md"
_COLUMNS = (
    "recipe",
    "sets",
    "metric",
    "seeds",
    "mean",
    "SD of seeds",
    "gain over random init",
    "gain / SD",
    "CPU s a run",
)


def contents(engine: Engine) -> bytes:
    """The page: a section a study, in it a line for each recipe and metric."""
    lines = [
        "# Recipes of small models",
        "",
        "Written by `python -m analysis.recipes` from the stored runs; do not edit. Rows of a study can only be told",
        "apart when the seeds of a row agree: a recipe is good where its gain over the randomly initialised encoder is",
        "large beside the spread of its seeds, at a cost that a laptop can pay. Means and gains have 95 % intervals",
        "over seeds; gains are paired by seed; costs are the training machine's and compare within a table only.",
        "",
        "To try one of your own: add a row to the study's file, `python -m sweeps.launch study=NAME`, then",
        "`python -m analysis.recipes`.",
    ]
    for name in names(engine):
        if name.partition("@")[0].startswith(PREFIX):
            lines += _section(load(engine, name))
    return "\n".join([*lines, ""]).encode()


def _section(frame: Frame) -> list[str]:
    lines = [
        "",
        f"## {frame.study.title}",
        "",
        f"{frame.study.question} Study `{frame.name}`, scale `{frame.scale}`.",
        "",
    ]
    lines += ["| " + " | ".join(_COLUMNS) + " |", "|:--|:--|:--|" + "--:|" * (len(_COLUMNS) - 3)]
    notes: list[str] = []
    options = {row.key: row.overrides(frame.scale) for row in frame.study.rows}
    for cell in records(frame.cells):
        told = ", ".join(f"{key}={value}" for key, value in options.get(cell.row_key, {}).items())
        for metric in frame.metrics:
            is_first = metric == frame.metrics[0]
            fields = [
                escape_markdown(cell.row_label) if is_first else "",
                f"`{told}`" if told and is_first else "",
                escape_markdown(metric_words(metric)),
                *_figures(frame, cell.row_key, cell.col_key, metric),
                _cost(frame, cell.config_id) if is_first else "",
            ]
            lines.append("| " + " | ".join(fields) + " |")
        if told_of := collapse.of_row(frame, cell.row_key, cell.col_key):
            notes += ["", escape_markdown(collapse.note(cell.row_label, told_of))]
    return [*lines, *notes]


def _figures(frame: Frame, row: str, column: str, metric: str) -> list[str]:
    """How many seeds, their mean and spread, and what they gain; a dash where there is nothing to say."""
    runs, untrained = frame.runs_of(row, column, metric), frame.runs_of(RANDOM_INIT, column, metric)
    values = dict(runs.values) if runs else {}
    wanted = runs.num_wanted if runs else 0
    seeds = str(len(values)) if len(values) == wanted else f"{len(values)} of {wanted}"
    if len(values) < 2:
        return [seeds, "–", "–", "–", "–"]
    digits, spread = frame.study.decimals(metric), stdev(values.values())
    told = [seeds, format_estimate(mean_interval([*values.values()]), digits=digits), f"{spread:.{digits + 1}f}"]
    if row == RANDOM_INIT or untrained is None or len(values.keys() & untrained.values.keys()) < 2:
        return [*told, "–", "–"]
    gain = paired_interval(values, untrained.values)
    better = gain.mean if higher_is_better(metric) is not False else -gain.mean  # an error that falls is a gain
    ratio = f"{better / spread:.1f}".replace("-", "−") if spread else "–"
    return [*told, format_estimate(gain, digits=digits, signed=True), ratio]


def _cost(frame: Frame, config_id: int) -> str:
    done = frame.runs[(frame.runs["config_id"] == config_id) & (frame.runs["state"] == "done")]
    spent = done["cpu_seconds"].dropna().tolist()
    return f"{mean(spent):.0f}" if spent else "–"


# ---- command line ----------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    is_check, page = arguments.flag("check"), Path(arguments.path("page", PAGE))
    engine = files.open_results(arguments)
    try:
        found = {page.name: contents(engine)}
    finally:
        engine.dispose()
    again = "python -m analysis.recipes"
    return files.write_or_check(found, page.parent, command=again, is_check=is_check)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
