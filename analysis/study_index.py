"""The list of all studies, `studies/README.md`, from the study files alone: `python -m analysis.study_index`.

Needs no database. Nobody edits the list: after adding or changing a study, run the command again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis import files
from analysis.tables.render import escape_markdown
from sweeps import cli
from sweeps.console.tables import counted
from sweeps.study.files import names
from sweeps.study.model import SCALES, Study
from sweeps.study.reading import read

USAGE = """usage: python -m analysis.study_index [folder=studies] [check=false]

Write FOLDER/README.md: a line a study with its question, the printed table it stands for, and its size.

  folder   where the study files lie
  check    true: write nothing; exit 1 when the list is not that of the study files"""

OPTIONS = ("folder", "check")
NAME, SOURCE = "README.md", "the list of studies"
# Folder -> its heading and where its printed numbers come from; any other folder is headed by its name.
HEADINGS = {
    "": "The README's study",
    "ijepa": "I-JEPA (Assran et al., 2023, arXiv:2301.08243)",
    "vjepa": "V-JEPA (Bardes et al., 2024, arXiv:2404.08471)",
    "mae_st": "MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113)",
    "mc_jepa": "MC-JEPA (Bardes et al., 2023, arXiv:2307.12698)",
    "beyond": "Beyond the papers",
    "recipes": "Recipes of small models: what a run costs and gains (docs/recipes.md)",
    "gallery": "Pictures: runs of no or few steps, for `python -m analysis.gallery`",
}
_COLUMNS = (
    "study",
    "title and question",
    "printed as",
    "rows",
    "cells",
    "main metric",
    *(f"runs at `{s}`" for s in SCALES),
)


def contents(folder: Path) -> bytes:
    """The page: a section a folder, in the order of `HEADINGS`, and in it the studies by name."""
    studies = {path: read(path) for path in sorted(folder.rglob("*.yaml"))}
    sections: dict[str, list[Study]] = {}
    for path, study in studies.items():
        sections.setdefault(str(path.parent.relative_to(folder)).replace(".", ""), []).append(study)
    order = [*(key for key in HEADINGS if key in sections), *(key for key in sections if key not in HEADINGS)]
    lines = [
        "# Studies",
        "",
        "Written by `python -m analysis.study_index`; do not edit. One file is one question is one table;",
        "`python -m sweeps.launch study=NAME scale=SCALE` trains what is missing of it and writes it.",
        "Rows and cells without the random initialisation that every table carries; runs with it, at most:",
        "cells that resolve to one configuration share a run, whichever study asks for it.",
    ]
    for key in order:
        lines += ["", f"## {HEADINGS.get(key, key)}", ""]
        lines += ["| " + " | ".join(_COLUMNS) + " |", "|:--|:--|:--|--:|--:|:--|" + "--:|" * len(SCALES)]
        lines += [_line(study, folder) for study in sections[key]]
    return "\n".join([*lines, "", f"{counted(len(studies), 'study', 'studies')}.", ""]).encode()


def _line(study: Study, folder: Path) -> str:
    number = len(study.rows) * max(1, len(study.columns))
    is_search = "search" in study.spec
    fields = [
        f"[{escape_markdown(study.name)}]({study.path.relative_to(folder).as_posix()})",
        escape_markdown(f"{study.title}. {study.question}"),
        escape_markdown(_printed_as(study.source)) or "–",
        "search" if is_search else str(len(study.rows)),
        str(number),
        escape_markdown(study.metrics()[0]),
        *(_num_runs(study, scale) for scale in SCALES),
    ]
    return "| " + " | ".join(fields) + " |"


def _printed_as(source: Mapping[str, str]) -> str:
    return " ".join(filter(None, [source.get("paper"), source.get("place")]))


def _num_runs(study: Study, scale: str) -> str:
    """Cells × seeds, and the trials of a search; "15 to 50" where a rule decides on further seeds."""
    if scale not in study.scales:
        return "–"
    cells, seeds = len(study.cells(scale)), len(study.seeds(scale))
    search, rule = study.search(scale), study.seed_rule(scale)
    if search is not None:
        return str(cells * seeds + search.num_runs)
    return f"{cells * seeds} to {cells * rule.maximum}" if rule else str(cells * seeds)


# ---- command line ----------------------------------------------------------------------------------------------------


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    is_check, folder = arguments.flag("check"), arguments.path("folder", "studies")
    if not folder.is_dir() or not any(folder.rglob("*.yaml")):
        known = ", ".join(names())
        raise cli.UserError(f"folder={folder}: no study files in it; run from the project, whose studies are: {known}")
    again = "python -m analysis.study_index"
    return files.write_or_check({NAME: contents(folder)}, folder, source=SOURCE, command=again, is_check=is_check)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
