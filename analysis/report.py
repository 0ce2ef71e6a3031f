"""Rewrite every table and figure from the database: `python -m analysis.report study=all`.

The same database gives the same bytes, so `check=true` can say which file is not what the database gives.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sqlalchemy import Engine

from analysis import files, one_study
from analysis.figures import agreement_drawing, theme
from analysis.numbers import agreement, remembered
from analysis.numbers.frame import names
from analysis.numbers.provenance import ENDED_WITHOUT, hours
from analysis.site.pages import FOLDER, Site, files_over_all, listing
from analysis.site.summary import Summary
from analysis.tables import agreement_page, claims, paper_check, render
from analysis.tables.claim_check import Checker
from analysis.tables.latex import ARTICLES, NOTES, PASTED, Style
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
  article=two_column                      that LaTeX tables are for: one_column (ICLR, NeurIPS) has no table*
  plugins=[my_lab.masks]                  taken as other commands take it, and not needed: nothing is built
  check=false                             true: write nothing; exit 1 naming every file that differs, also a study's
                                          that asks for other runs than were launched or cannot be read; pages are
                                          looked at where there are some, and are missing once each study has one
  check_paper=main.tex                    write nothing; compare the numbers that a LaTeX source marks with
                                          \\abl{study/row/metric}{61.4}; exit 1 naming every one that differs; of a
                                          page.md what is marked with 61.4<!-- study: row metric -->"""

OPTIONS = ("study", "db", "results_dir", "check", "check_paper", "notes", "article", "plugins")
# Under results_dir, named by a run's identity or by a metric.
RUN_PAGES = tuple(f"{FOLDER}/{name}" for name in ("runs/*.html", "pictures/*.png", "curves/*.js", "explore/*.js"))
PATTERNS = ("tables/*", "figures/*", "report/*", "report/*/*")  # under results_dir: nothing in them is written by hand


def write(
    engine: Engine, studies: Sequence[str], results_dir: Path, place: Place = HERE, style: Style = PASTED
) -> list[Path]:
    """Write the tables and figures of these studies and the index of all; the paths, in a fixed order.

    When all studies are asked, pages of runs that the database does not have, or has under another identity by now, go.
    """
    wanted = contents(engine, studies, place, style)
    is_all = _are_all(engine, studies)
    wanted |= listing([*wanted, *([] if is_all else _pages(results_dir))])
    paths = files.write(wanted, results_dir)
    if is_all:
        files.remove_extra(wanted, results_dir, RUN_PAGES)
    return paths


def differences(
    engine: Engine, studies: Sequence[str], results_dir: Path, place: Place = HERE, style: Style = PASTED
) -> list[str]:
    """One line a file that is not what the database gives: different, missing or, when all studies are asked, extra.

    Pages are looked at where there are some: a results folder may keep its tables and figures only, or the pages of
    the studies that were launched here. None is missing unless every study has its page.
    """
    wanted = contents(engine, studies, place, style)
    pages = {name for name in wanted if name.startswith(f"{FOLDER}/")}
    absent = {name for name in pages if not (results_dir / name).exists()}
    if absent == pages or any(name.startswith(f"{FOLDER}/studies/") for name in absent):
        wanted = {name: content for name, content in wanted.items() if name not in absent}
    found = files.differences(wanted, results_dir)
    if _are_all(engine, studies):
        # What lists the folder's own pages is not of the database.
        found += files.extra(wanted | listing([]), results_dir, PATTERNS)
    return found


def _are_all(engine: Engine, studies: Sequence[str]) -> bool:
    """Whether they are all that the database has: what is said over all of them is written, and what is extra goes."""
    return set(names(engine)) <= set(studies)


def _pages(results_dir: Path) -> list[str]:
    """The pages of studies and runs that the folder holds, as `contents` names them."""
    return [str(path.relative_to(results_dir)) for path in results_dir.glob(f"{FOLDER}/*/*.html")]


def contents(engine: Engine, studies: Sequence[str], place: Place = HERE, style: Style = PASTED) -> dict[str, bytes]:
    """Every file's path under the results folder and its bytes: a pure function of database and study files, and of
    where they are, which the commands on pages name.

    With all its studies also what is said over them: their agreement with the papers.
    """
    everything = sorted({*studies, *names(engine)})
    site = Site(engine, place=place)
    explorer, parts = one_study.made(site, {name: name in studies for name in everything}, style)
    summaries = agreement.summarise(part.agreement for part in parts)
    is_all = _are_all(engine, studies)
    drawn = agreement_images(summaries, style.article, for_a_page=not is_all)
    found: dict[str, bytes] = {}
    for part in parts:
        if clash := found.keys() & part.files.keys():
            name = part.summary.name
            raise UserError(f"study={name}: another study already writes {sorted(clash)[0]}; launch it with name=")
        found |= part.files
    launched = [part.summary for part in parts]
    found["tables/index.md"] = index(launched).encode()
    if is_all:
        found |= agreement_files(summaries, drawn)
    found |= files_over_all(site, launched, summaries, drawn) | explorer
    return found | {path: page for part in parts for path, page in part.pages.items()}


def agreement_images(summaries: Sequence[agreement.Summary], article: str, *, for_a_page: bool) -> dict[str, bytes]:
    """As it is remembered, else drawn."""
    key = remembered.key_of("agreement", theme.what_decides(article), summaries, for_a_page)
    if (files := remembered.read(key)) is None:
        files = agreement_drawing.images(summaries, for_a_page=for_a_page, article=article)
        remembered.write({key: files})
    return files


def agreement_files(summaries: Sequence[agreement.Summary], images: Mapping[str, bytes]) -> dict[str, bytes]:
    drawn = {f"figures/agreement.{end}": data for end, data in images.items()}
    return {"tables/agreement.md": agreement_page.markdown(summaries).encode(), **drawn}


def index(studies: Sequence[Summary]) -> str:
    """A line a study: its question, the answer so far, how much of it is done, and where its table and figures are."""
    lines = [
        "# Tables and figures",
        "",
        "Written by `python -m analysis.report`; do not edit.",
        "",
        decided(studies),
        "",
        "| study | question | answer | scale | runs done | CPU-hours | GPU-hours | figures |",
        "|:--|:--|:--|:--|--:|--:|--:|:--|",
    ]
    for study in studies:
        pictures = [f"[{figure}](../figures/{study.name}-{figure}.svg)" for figure in study.figures]
        cells = [
            f"[{render.escape_markdown(study.name)}]({study.name}.md)",
            render.escape_markdown(study.question),
            render.escape_markdown(study.answer) or " ",
            study.scale,
            ", ".join([f"{study.num_done} of {study.num_wanted}", *_lost(study)]),
            hours(study.cpu_seconds),
            hours(study.gpu_seconds),
            ", ".join(pictures) or " ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def decided(studies: Sequence[Summary]) -> str:
    """How many rows of all tables are told from their baseline, or found the same."""
    kinds = sum((Counter(study.kinds) for study in studies if not study.is_search), Counter[str]())
    if not kinds.total():
        return "No row can be compared with a baseline yet."
    num_decided = kinds.total() - kinds["undecided"]
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()) if kind != "undecided")
    return (
        f"Of all rows beside a baseline ({kinds.total()}, by each study's first metric), {num_decided} are decided"
        f"{f' ({told})' if told else ''} and {kinds['undecided']} undecided."
    )


def _lost(study: Summary) -> list[str]:
    return [f"{study.counts[state]} {state}" for state in ENDED_WITHOUT if state in study.counts]


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
    paper, style = arguments.text("check_paper", ""), _style(arguments)
    if is_check and paper:
        raise UserError(f"check=true check_paper={paper}: one compares the results folder, one a paper; ask twice")
    check = paper_checked(arguments.path("check_paper"), results_dir) if paper else None
    engine = files.open_results(arguments)
    try:
        if check:
            found, right = check(engine)
            print("\n".join(found) or f"{paper}: {right}")
            return cli.INCOMPLETE if found else cli.OK
        studies = names(engine) if asked == "all" else asked.split(",")
        found = differences(engine, studies, results_dir, place, style) if is_check else []
        paths = [] if is_check else write(engine, studies, results_dir, place, style)
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


def _style(arguments: cli.Arguments) -> Style:
    style = Style(arguments.text("notes", PASTED.notes), arguments.text("article", PASTED.article))
    if style.notes not in NOTES:
        raise UserError(f"notes={style.notes}: allowed are {', '.join(NOTES)}; full has all that the Markdown says")
    if style.article not in ARTICLES:
        raise UserError(
            f"article={style.article}: allowed are {', '.join(ARTICLES)}; two_column puts wide tables over both columns"
        )
    return style


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
