"""Rewrite every table and figure from the database: `python -m analysis.report study=all`.

The same database gives the same bytes, so `check=true` can say which file is not what the database gives.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from sqlalchemy import Engine

from analysis import files
from analysis.figures import agreement_drawing, drawing, landscape, plotting, search, theme
from analysis.numbers import agreement, comparing, remembered
from analysis.numbers.frame import Frame, load, names
from analysis.numbers.provenance import ENDED_WITHOUT, hours
from analysis.site.answers import answer
from analysis.site.pages import FOLDER, Content, Site, site_files
from analysis.tables import agreement_page, building, claims, latex, paper_check, render
from analysis.tables.claim_check import Checker
from analysis.tables.parts import Table
from sweeps import cli
from sweeps.cells.edited import edited
from sweeps.console.errors import UserError
from sweeps.console.offered import HERE, Place
from sweeps.console.tables import counted

USAGE = """usage: python -m analysis.report [key=value ...]

Rewrite tables (Markdown, LaTeX, CSV), figures (SVG, PNG, PDF) and the pages of report/index.html from the database.

  study=all                               a study, several as a,b or all
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     tables/, figures/ and report/ are written in it
  notes=short                             below a LaTeX table: one line, full or none
  plugins=[my_lab.masks]                  taken as other commands take it, and not needed: nothing is built
  check=false                             true: write nothing; exit 1 naming every file that differs, also a study's
                                          that asks for other runs than were launched or cannot be read; report/ is
                                          looked at where there is one
  check_paper=main.tex                    write nothing; compare the numbers that a LaTeX source marks with
                                          \\abl{study/row/metric}{61.4}; exit 1 naming every one that differs; of a
                                          page.md what is marked with 61.4<!-- study: row metric -->"""

WORTH_A_PROCESS = 8  # figures: fewer are drawn sooner here than a new process imports matplotlib
OPTIONS = ("study", "db", "results_dir", "check", "check_paper", "notes", "plugins")
# Under results_dir, named by a run's identity or by a metric.
RUN_PAGES = tuple(f"{FOLDER}/{name}" for name in ("runs/*.html", "pictures/*.png", "curves/*.js", "explore/*.js"))
PATTERNS = ("tables/*", "figures/*", "report/*", "report/*/*")  # under results_dir: nothing in them is written by hand


def write(
    engine: Engine, studies: Sequence[str], results_dir: Path, place: Place = HERE, notes: str = "short"
) -> list[Path]:
    """Write the tables and figures of these studies and the index of all; the paths, in a fixed order.

    When all studies are asked, pages of runs that the database does not have, or has under another identity by now, go.
    """
    wanted = contents(engine, studies, place, notes)
    paths = files.write(wanted, results_dir)
    if set(studies) == set(names(engine)):
        files.remove_extra(wanted, results_dir, RUN_PAGES)
    return paths


def differences(
    engine: Engine, studies: Sequence[str], results_dir: Path, place: Place = HERE, notes: str = "short"
) -> list[str]:
    """One line a file that is not what the database gives: different, missing or, when all studies are asked, extra.

    The site is looked at where there is one: a results folder may keep its tables and figures only.
    """
    wanted = contents(engine, studies, place, notes)
    if not (results_dir / FOLDER).is_dir():
        wanted = {name: content for name, content in wanted.items() if not name.startswith(f"{FOLDER}/")}
    found = files.differences(wanted, results_dir)
    if set(studies) == set(names(engine)):
        found += files.extra(wanted, results_dir, PATTERNS)
    return found


@contextmanager
def settled() -> Iterator[None]:
    """What is here by now, a million objects of libraries, stays: Python's collector does not look through it again.

    It would once for each study that is loaded, 0.15 s each.
    """
    if gc.get_freeze_count():  # whoever froze what there is goes on without it
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@settled()
def contents(engine: Engine, studies: Sequence[str], place: Place = HERE, notes: str = "short") -> dict[str, bytes]:
    """Every file's path under the results folder and its bytes: a pure function of database and study files, and of
    where they are, which the commands on pages name.

    With all its studies also what is said over them: their agreement with the papers.
    """
    frames = {name: load(engine, name) for name in dict.fromkeys([*studies, *names(engine)])}
    everything = [frames[name] for name in sorted(frames)]
    found: dict[str, bytes] = {}
    with drawn_ahead([frames[study] for study in studies]) as images:
        made = {study: table_of(frames[study]) for study in studies}
        summaries = agreement.summarise(everything)
        is_all = frames.keys() == set(studies)
        drawn = agreement_images(summaries, for_a_page=not is_all)
        over_all = agreement_files(summaries, drawn) if is_all else {}
        pages = [Content(frames[study], table, partial(images, study)) for study, table in made.items()]
        site = site_files(Site(engine, place=place), everything, pages, summaries, drawn)
        for study, table in made.items():
            own = table_files(table, notes) | {
                f"figures/{study}-{name}.{end}": data
                for name, ends in images(study).items()
                for end, data in ends.items()
            }
            if clash := found.keys() & own.keys():
                raise UserError(f"study={study}: another study already writes {sorted(clash)[0]}; launch it with name=")
            found |= own
    answers = {name: made[name].sentence if name in made else answer(frame) for name, frame in frames.items()}
    return found | {"tables/index.md": index(everything, answers).encode()} | over_all | site


def agreement_images(summaries: Sequence[agreement.Summary], *, for_a_page: bool) -> dict[str, bytes]:
    """As it is remembered, else drawn."""
    key = remembered.key_of("agreement", theme.what_decides(), summaries, for_a_page)
    if (files := remembered.read(key)) is None:
        files = agreement_drawing.images(summaries, for_a_page=for_a_page)
        remembered.write({key: files})
    return files


def agreement_files(summaries: Sequence[agreement.Summary], images: Mapping[str, bytes]) -> dict[str, bytes]:
    drawn = {f"figures/agreement.{end}": data for end, data in images.items()}
    return {"tables/agreement.md": agreement_page.markdown(summaries).encode(), **drawn}


def table_of(frame: Frame) -> Table:
    return building.build(frame) if frame.study.search(frame.scale) is None else search.table(frame)


def table_files(table: Table, notes: str = "short") -> dict[str, bytes]:
    return {
        f"tables/{table.name}.md": render.markdown(table).encode(),
        f"tables/{table.name}.tex": latex.latex(table, notes).encode(),
        f"tables/{table.name}.csv": render.to_csv(table).encode(),
    }


def pictures(frame: Frame, figure: Mapping[str, Any]) -> dict[str, bytes]:
    """One figure as svg, png and pdf."""
    return draw(plot_of(frame, figure))


def plot_of(frame: Frame, figure: Mapping[str, Any]) -> plotting.Plot | search.Landscape:
    return search.plot(frame, figure) if figure.get("kind") in search.KINDS else plotting.plot(frame, figure)


def draw(plot: plotting.Plot | search.Landscape) -> dict[str, bytes]:
    return landscape.images(plot) if isinstance(plot, search.Landscape) else drawing.images(plot)


@contextmanager
def drawn_ahead(frames: Sequence[Frame]) -> Iterator[Callable[[str], dict[str, dict[str, bytes]]]]:
    """Every figure of a study by name, for these studies: as it is remembered, else drawn.

    Drawing is half of a large report's time: many figures are drawn by other processes while this one goes on.
    """
    plots = {(frame.name, f["name"]): plot_of(frame, f) for frame in frames for f in frame.study.figures}
    keys = {place: remembered.key_of("figure", theme.what_decides(), plot) for place, plot in plots.items()}
    known = {place: files for place, key in keys.items() if (files := remembered.read(key)) is not None}
    new = {place: plot for place, plot in plots.items() if place not in known}
    num_processes = min(os.cpu_count() or 1, len(new) // WORTH_A_PROCESS)
    with ExitStack() as stack:
        if num_processes < 2:
            drawn: dict[tuple[str, str], Callable[[], dict[str, bytes]]] = {
                place: partial(dict, draw(plot)) for place, plot in new.items()
            }
        else:
            # Not forked: this process may have threads by now.
            pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))
            stack.enter_context(pool)
            drawn = {place: pool.submit(draw, plot).result for place, plot in new.items()}
        yield lambda study: {
            name: known[of, name] if (of, name) in known else drawn[of, name]() for of, name in plots if of == study
        }
        remembered.write({keys[place]: result() for place, result in drawn.items()})


def index(frames: Sequence[Frame], answers: Mapping[str, str]) -> str:
    """A line a study: its question, the answer so far, how much of it is done, and where its table and figures are."""
    lines = [
        "# Tables and figures",
        "",
        "Written by `python -m analysis.report`; do not edit.",
        "",
        decided(frames),
        "",
        "| study | question | answer | scale | runs done | CPU-hours | GPU-hours | figures |",
        "|:--|:--|:--|:--|--:|--:|--:|:--|",
    ]
    for frame in frames:
        runs = frame.runs.drop_duplicates(["config_id", "seed"])
        pictures = [f"[{f['name']}](../figures/{frame.name}-{f['name']}.svg)" for f in frame.study.figures]
        cells = [
            f"[{render.escape_markdown(frame.name)}]({frame.name}.md)",
            render.escape_markdown(frame.study.question),
            render.escape_markdown(answers[frame.name]) or " ",
            frame.scale,
            ", ".join([f"{int((runs['state'] == 'done').sum())} of {len(runs)}", *_lost(runs)]),
            hours(runs["cpu_seconds"]),
            hours(runs["gpu_seconds"]),
            ", ".join(pictures) or " ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def decided(frames: Sequence[Frame]) -> str:
    """How many rows of all tables are told from their baseline, or found the same."""
    counts = [comparing.kinds_of(frame) for frame in frames if frame.study.search(frame.scale) is None]
    kinds = sum(counts, Counter[str]())
    if not kinds.total():
        return "No row can be compared with a baseline yet."
    num_decided = kinds.total() - kinds["undecided"]
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()) if kind != "undecided")
    return (
        f"Of all rows beside a baseline ({kinds.total()}, by each study's first metric), {num_decided} are decided"
        f"{f' ({told})' if told else ''} and {kinds['undecided']} undecided."
    )


def _lost(runs: pd.DataFrame) -> list[str]:
    counts = runs["state"].value_counts()
    return [f"{counts[state]} {state}" for state in ENDED_WITHOUT if state in counts]


def paper_checked(path: Path, results_dir: Path) -> Callable[[Engine], tuple[list[str], str]]:
    """A LaTeX source or a Markdown page, read; what compares it gives what differs, and what to say if nothing does.

    Raises UserError before a database is opened where it cannot be read or has no mark.
    """
    if path.suffix == ".md":
        page = claims.read(path)
        right = f"{len(page.claims)} claims are what the tables have, {len(page.unchecked)} are not of a table"
        return lambda engine: (Checker(engine, results_dir / "tables", path).differences(page), right)
    marks = paper_check.read(path)
    right = f"{len(marks)} marked numbers are what the database gives"
    return lambda engine: (paper_check.differences(engine, marks), right)


# ---- command line ------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    arguments.plugins()  # a word that names no module is refused here too
    is_check, asked = arguments.flag("check"), arguments.text("study", "all")
    results_dir, place = arguments.path("results_dir", "results"), Place.typed(words)
    paper, notes = arguments.text("check_paper", ""), arguments.text("notes", "short")
    if notes not in latex.NOTES:
        raise UserError(f"notes={notes}: allowed are {', '.join(latex.NOTES)}; full has all that the Markdown says")
    check = paper_checked(arguments.path("check_paper"), results_dir) if paper else None
    engine = files.open_results(arguments)
    try:
        if check:
            found, right = check(engine)
            print("\n".join(found) or f"{paper}: {right}")
            return cli.INCOMPLETE if found else cli.OK
        studies = names(engine) if asked == "all" else asked.split(",")
        found = differences(engine, studies, results_dir, place, notes) if is_check else []
        paths = [] if is_check else write(engine, studies, results_dir, place, notes)
        with engine.connect() as connection:
            changed = edited(connection, studies, place)
    finally:
        engine.dispose()
    for study in changed:
        print(study, file=sys.stderr)
    if is_check:
        # A file that asks for other runs is one more that the database does not give.
        stale = (f"table {study.name}: its file {study.reason}" for study in changed)
        return files.report([*found, *stale], results_dir)
    print(f"{counted(len(paths), 'file')} under {results_dir}: {counted(len(studies), 'study', 'studies')}")
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
