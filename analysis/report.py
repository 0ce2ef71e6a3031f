"""Rewrite every table and figure from the database: `python -m analysis.report study=all`.

The same database gives the same bytes, so `check=true` can say which file is not what the database gives.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from analysis import drawing, figures, landscape, render, search, tables
from analysis.frame import Frame, load, names
from sweeps.db import mask_url, open_database, upgrade

HELP = """usage: python -m analysis.report [key=value ...]

Rewrite tables (Markdown, LaTeX, CSV) and figures (SVG, PNG) of the studies in the database.

  study=all                               a study, several as a,b or all
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     tables/ and figures/ are written in it
  check=false                             true: write nothing; exit 1 naming every file that differs
"""
USER_ERROR = 2
FOLDERS = ("tables", "figures")  # under results_dir: nothing in them is written by hand


@dataclass(frozen=True)
class Options:
    """What the command line may say."""

    study: str = "all"
    db: str = "sqlite:///results/ablations.sqlite"
    results_dir: str = "results"
    check: bool = False


def write(engine: Engine, studies: Sequence[str], results_dir: Path) -> list[Path]:
    """Write the tables and figures of these studies and the index of all; the paths, in a fixed order.

    A file that already holds the right bytes is left alone, so its time says when its content last changed.
    """
    paths = []
    for name, content in contents(engine, studies).items():
        path = results_dir / name
        if not (path.is_file() and path.read_bytes() == content):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(content)
            temporary.replace(path)  # a reader never sees half a table
        paths.append(path)
    return paths


def differences(engine: Engine, studies: Sequence[str], results_dir: Path) -> list[str]:
    """One line a file that is not what the database gives: different, missing or, when all studies are asked, extra."""
    found = []
    wanted = contents(engine, studies)
    for name, content in wanted.items():
        path = results_dir / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif path.read_bytes() != content:
            found.append(f"{path}: differs from the database")
    if set(studies) == set(names(engine)):
        here = {path for folder in FOLDERS for path in (results_dir / folder).glob("*") if path.is_file()}
        extra = sorted(here - {results_dir / name for name in wanted})
        found += [f"{path}: not in the database" for path in extra]
    return found


def contents(engine: Engine, studies: Sequence[str]) -> dict[str, bytes]:
    """Every file's path under the results folder and its bytes: a pure function of the database."""
    found: dict[str, bytes] = {}
    for study in studies:
        frame = load(engine, study)
        files = study_files(frame)
        clash = found.keys() & files.keys()
        if clash:
            raise ValueError(f"study={study}: another study already writes {sorted(clash)[0]}; launch it with name=")
        found |= files
    return found | {"tables/index.md": index([load(engine, name) for name in names(engine)]).encode()}


def study_files(frame: Frame) -> dict[str, bytes]:
    """The files of one study."""
    table = tables.build(frame) if frame.study.search(frame.scale) is None else search.table(frame)
    stem = frame.name
    files = {
        f"tables/{stem}.md": render.markdown(table).encode(),
        f"tables/{stem}.tex": render.latex(table).encode(),
        f"tables/{stem}.csv": render.to_csv(table).encode(),
    }
    for figure in frame.study.figures:
        for suffix, content in pictures(frame, figure).items():
            files[f"figures/{stem}-{figure['name']}.{suffix}"] = content
    return files


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
            f"{int((runs['state'] == 'done').sum())} of {len(runs)}",
            tables.hours(runs["cpu_seconds"]),
            tables.hours(runs["gpu_seconds"]),
            ", ".join(pictures) or " ",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


# ---- command line ------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> Options:
    """Raises ValueError naming the argument and what is allowed."""
    fields = list(Options.__dataclass_fields__)
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument!r} is not of the form key=value; options: {', '.join(fields)}")
        if key not in fields:
            close = difflib.get_close_matches(key, fields)
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            raise ValueError(f"{key}: unknown option{hint}; options: {', '.join(fields)}")
        if key in values:
            raise ValueError(f"{key} is given twice")
        values[key] = value
    check = values.pop("check", "false")
    if check not in ("true", "false"):
        raise ValueError(f"check must be true or false, got {check!r}")
    return Options(**values, check=check == "true")


def run(options: Options) -> int:
    """Write or check; the exit code."""
    engine = open_database(options.db, read_only=True)
    try:
        _check_schema(engine)
        studies = names(engine) if options.study == "all" else options.study.split(",")
        results_dir = Path(options.results_dir)
        if not options.check:
            paths = write(engine, studies, results_dir)
            print(f"{len(paths)} files under {results_dir}: {len(studies)} studies")
            return 0
        found = differences(engine, studies, results_dir)
        print("\n".join(found) if found else f"{results_dir}: every table and figure is what the database gives")
        return 1 if found else 0
    except DBAPIError as error:
        raise ValueError(f"db={mask_url(options.db)}: cannot be read: {' '.join(str(error.orig).split())}") from None
    finally:
        engine.dispose()


def _check_schema(engine: Engine) -> None:
    """Raises ValueError where the tables are a newer program's (they would be misread), an older one's, or absent."""
    try:
        upgrade(engine)  # nothing to do at this program's schema; ValueError at a newer one
    except DBAPIError as error:  # this engine cannot write, so an upgrade that has something to do fails
        reason = " ".join(str(error.orig).split())
        raise ValueError(
            f"db={mask_url(engine.url)}: not of this program's schema ({reason}); launch a study with it first"
        ) from None


def main(arguments: Sequence[str]) -> int:
    if any(argument in ("--help", "-h", "help") for argument in arguments):
        print(HELP)
        return 0
    try:
        return run(parse(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
