"""Rewrite every table and figure from the database: `python -m analysis.report study=all`.

The same database gives the same bytes, so `check=true` can say which file is not what the database gives.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from analysis import drawing, figures, files, landscape, render, search, tables
from analysis.frame import Frame, load, names
from sweeps import cli
from sweeps.cli import UserError

USAGE = """usage: python -m analysis.report [key=value ...]

Rewrite tables (Markdown, LaTeX, CSV) and figures (SVG, PNG) of the studies in the database.

  study=all                               a study, several as a,b or all
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     tables/ and figures/ are written in it
  check=false                             true: write nothing; exit 1 naming every file that differs"""

OPTIONS = ("study", "db", "results_dir", "check")
PATTERNS = ("tables/*", "figures/*")  # under results_dir: nothing in them is written by hand


def write(engine: Engine, studies: Sequence[str], results_dir: Path) -> list[Path]:
    """Write the tables and figures of these studies and the index of all; the paths, in a fixed order."""
    return files.write(contents(engine, studies), results_dir)


def differences(engine: Engine, studies: Sequence[str], results_dir: Path) -> list[str]:
    """One line a file that is not what the database gives: different, missing or, when all studies are asked, extra."""
    wanted = contents(engine, studies)
    found = files.differences(wanted, results_dir)
    if set(studies) == set(names(engine)):
        found += files.extra(wanted, results_dir, PATTERNS)
    return found


def contents(engine: Engine, studies: Sequence[str]) -> dict[str, bytes]:
    """Every file's path under the results folder and its bytes: a pure function of the database."""
    found: dict[str, bytes] = {}
    for study in studies:
        frame = load(engine, study)
        own = study_files(frame)
        if clash := found.keys() & own.keys():
            raise UserError(f"study={study}: another study already writes {sorted(clash)[0]}; launch it with name=")
        found |= own
    return found | {"tables/index.md": index([load(engine, name) for name in names(engine)]).encode()}


def study_files(frame: Frame) -> dict[str, bytes]:
    """The files of one study."""
    table = tables.build(frame) if frame.study.search(frame.scale) is None else search.table(frame)
    stem = frame.name
    found = {
        f"tables/{stem}.md": render.markdown(table).encode(),
        f"tables/{stem}.tex": render.latex(table).encode(),
        f"tables/{stem}.csv": render.to_csv(table).encode(),
    }
    for figure in frame.study.figures:
        for suffix, content in pictures(frame, figure).items():
            found[f"figures/{stem}-{figure['name']}.{suffix}"] = content
    return found


def pictures(frame: Frame, figure: Mapping[str, Any]) -> dict[str, bytes]:
    """One figure as svg and png."""
    if figure.get("kind") in search.KINDS:
        return landscape.images(search.plot(frame, figure))
    return drawing.images(figures.plot(frame, figure))


def index(frames: Sequence[Frame]) -> str:
    """A line a study: its question, how much of it is done, and where its table and figures are."""
    lines = [
        "# Tables and figures",
        "",
        "Written by `python -m analysis.report`; do not edit.",
        "",
        "| study | question | scale | runs done | CPU-hours | GPU-hours | figures |",
        "|:--|:--|:--|--:|--:|--:|:--|",
    ]
    for frame in frames:
        runs = frame.runs.drop_duplicates(["config_id", "seed"])
        pictures = [f"[{f['name']}](../figures/{frame.name}-{f['name']}.svg)" for f in frame.study.figures]
        cells = [
            f"[{render.escape_markdown(frame.name)}]({frame.name}.md)",
            render.escape_markdown(frame.study.question),
            frame.scale,
            ", ".join([f"{int((runs['state'] == 'done').sum())} of {len(runs)}", *_lost(runs)]),
            tables.hours(runs["cpu_seconds"]),
            tables.hours(runs["gpu_seconds"]),
            ", ".join(pictures) or " ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _lost(runs: pd.DataFrame) -> list[str]:
    counts = runs["state"].value_counts()
    return [f"{counts[state]} {state}" for state in tables.ENDED_WITHOUT if state in counts]


# ---- command line ------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    is_check, asked = arguments.flag("check"), arguments.text("study", "all")
    results_dir = Path(arguments.text("results_dir", "results"))
    engine = files.open_results(arguments)
    try:
        studies = names(engine) if asked == "all" else asked.split(",")
        if is_check:
            return files.report(differences(engine, studies, results_dir), results_dir)
        paths = write(engine, studies, results_dir)
    finally:
        engine.dispose()
    print(f"{len(paths)} files under {results_dir}: {len(studies)} studies")
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
