"""Study files that were edited since their last launch: tables and states are of what was launched, which is said.

What a study's runs are (rows, options, baseline, metrics, search) is compared at the scale of its launch, apart from
what only says how they are shown. Seeds are not: a launch may ask for others than its file has. Imports neither torch
nor core, and reads the file of a study that is shown once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from sweeps import expansion_cache
from sweeps.db import StudyRow, mask_url
from sweeps.expand import LABEL, LABELS
from sweeps.identity import canonical_json
from sweeps.offered import HERE, Place
from sweeps.overrides import format_value
from sweeps.study import DEFAULT_SCALE, Cell, Study, instance_name, parse, read
from sweeps.study_files import StudyError, folders
from sweeps.verdicts import margin_of

LAUNCHED = ("scale", "overrides")  # what a launch adds to the file's content
WORDS = ("title", "question", "source", "notes", "table", "figures", "printed")
_NAMED = 6  # differences that one line names
_STUDIES = "studies/"
_NOTHING = "nothing"


@dataclass(frozen=True)
class Edited:
    """How a file differs from what was launched of it: in the runs it asks for, and in how they are shown."""

    name: str
    file: Path
    runs: tuple[str, ...]
    words: tuple[str, ...]
    command: str  # that launches what the file says now

    def __str__(self) -> str:
        found = self.runs or (f"{', '.join(self.words)} (how its runs are shown)",)
        more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
        costs = "" if self.runs else ", which trains nothing that is done"
        return (
            f"{self.file} was edited since {self.name} was launched: {'; '.join([*found[:_NAMED], *more])}. What is "
            f"shown is as it was launched; launch it again{costs}: {self.command}"
        )


def edited(connection: Connection, names: Sequence[str], place: Place = HERE) -> list[Edited]:
    """Those of the studies whose files say something else today; a study whose file is not here is not among them."""
    rows = connection.execute(
        select(StudyRow.name, StudyRow.source, StudyRow.spec).where(StudyRow.name.in_(names)).order_by(StudyRow.name)
    ).all()
    today: dict[Path, Study | StudyError] = {}
    found = []
    for row in rows:
        file = _file_of(connection, row.name, row.source)
        if file is None:
            continue
        if file not in today:
            today[file] = _read(file)
        runs, words = _differences(today[file], row.name, row.spec)
        if runs or words:
            command = place.command("sweeps.launch", *launch_words(row.name, row.spec, _typed(file)))
            found.append(Edited(row.name, file, tuple(runs), tuple(words), command))
    return found


def launch_words(name: str, spec: Mapping[str, Any], study: str = "") -> list[str]:
    """What is typed to launch this instance, but for its seeds; `study` where its name does not find its file."""
    stem, _, slug = name.partition("@")
    scale, overrides = str(spec.get("scale", DEFAULT_SCALE)), list(spec.get("overrides", []))
    words = [f"study={study or stem}", *([f"scale={scale}"] if scale != DEFAULT_SCALE else []), *overrides]
    if slug and name != instance_name(stem, scale, overrides):
        words.append(f"name={slug.removeprefix('' if scale == DEFAULT_SCALE else f'{scale},')}")
    return words


# ---- files -----------------------------------------------------------------------------------------------------------


def remember(connection: Connection, name: str, file: Path) -> None:
    """Where a study's file lies on this machine, which the database is not told of files outside `studies/`."""
    expansion_cache.write_file(_key(connection, name), file)


def _file_of(connection: Connection, name: str, source: str | None) -> Path | None:
    if source is None:
        return None
    if not source.startswith(_STUDIES):
        file = expansion_cache.read_file(_key(connection, name))
        return file if file is not None and file.name == source and file.is_file() else None
    files = (folder / source.removeprefix(_STUDIES) for folder in folders())
    return next((file for file in files if file.is_file()), None)


def _key(connection: Connection, name: str) -> str:
    url = connection.engine.url
    is_file = url.get_backend_name() == "sqlite" and url.database
    return f"{Path(url.database).resolve() if is_file and url.database else mask_url(url)} {name}"


def _typed(file: Path) -> str:
    return "" if any(file.is_relative_to(folder) for folder in folders()) else str(file)


def _read(file: Path) -> Study | StudyError:
    try:
        return read(file)
    except StudyError as error:
        return error


# ---- differences -----------------------------------------------------------------------------------------------------


def _differences(today: Study | StudyError, name: str, spec: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """In what the runs are, and the names of what only shows them otherwise."""
    if isinstance(today, StudyError):
        return [f"it cannot be read any more ({str(today).splitlines()[0]})"], []
    content = {key: value for key, value in spec.items() if key not in LAUNCHED}
    stored = parse(content, Path(f"{name.partition('@')[0]}.yaml"))
    scale = str(spec.get("scale", DEFAULT_SCALE))
    overrides = [str(word).partition("=")[0] for word in spec.get("overrides", ())]
    runs = _changed_cells(today.cells(scale), stored.cells(scale), overrides)
    if today.baseline != stored.baseline:
        runs.append(f"baseline is {today.baseline}, was {stored.baseline}")
    if not _are_same(today.metrics(scale), stored.metrics(scale)):
        runs.append(f"metrics are {_listed(today.metrics(scale))}, were {_listed(stored.metrics(scale))}")
    runs += _changed_search(today.search_section(scale), stored.search_section(scale))
    words = [key for key in WORDS if not _is_filled(today.spec.get(key), content.get(key))]
    levels = [[(level.key, level.label_at(scale)) for level in (*s.rows, *s.columns)] for s in (today, stored)]
    if levels[0] != levels[1] and sorted(key for key, _ in levels[0]) == sorted(key for key, _ in levels[1]):
        words.append("labels" if sorted(levels[0]) != sorted(levels[1]) else "the order of the rows")
    margins = [margin_of(s.spec, scale, stored.metrics(scale)[0]) for s in (today, stored)]
    return runs, words + (["margin"] if margins[0] != margins[1] else [])


def _changed_cells(today: Sequence[Cell], stored: Sequence[Cell], overridden: Sequence[str]) -> list[str]:
    """What was added, what is gone, and each option that has another value, with the rows that have it."""
    found: list[str] = []
    for what, place in (("row", "row_key"), ("column", "col_key")):
        mine, theirs = ([*dict.fromkeys(getattr(cell, place) for cell in s)] for s in (today, stored))
        found += [f"{what} {key} is new" for key in mine if key and key not in theirs]
        found += [f"{what} {key} is gone" for key in theirs if key and key not in mine]
    before = {(cell.row_key, cell.col_key): cell.overrides for cell in stored}
    common = [cell for cell in today if (cell.row_key, cell.col_key) in before]
    changes: dict[str, list[Cell]] = {}
    for cell in common:
        old = before[cell.row_key, cell.col_key]
        for key in sorted(cell.overrides.keys() | old.keys()):
            values = [format_value(options[key]) if key in options else _NOTHING for options in (cell.overrides, old)]
            if values[0] != values[1] and not _is_among(key, overridden):
                changes.setdefault(f"{key} is {values[0]}, was {values[1]}", []).append(cell)
    for change, cells in changes.items():
        rows = list(dict.fromkeys(cell.row_key for cell in cells))
        columns = list(dict.fromkeys(cell.col_key for cell in cells if cell.col_key))
        trained = {cell.row_key for cell in common if not cell.is_random_init}
        where = (
            "every row"
            if len(trained) > 1 and trained <= set(rows)
            else f"row{'s' if len(rows) > 1 else ''} {_listed(rows)}"
        )
        if len(columns) < len({cell.col_key for cell in common if cell.col_key}):
            where += f", column{'s' if len(columns) > 1 else ''} {_listed(columns)}"
        found.append(f"{where}: {change}")
    return found


def _is_among(key: str, overridden: Sequence[str]) -> bool:
    """Whether the launch's own words decided an option, whatever the file says of it."""
    return key in overridden or any("." not in group and key.startswith(f"{group}.") for group in overridden)


def _changed_search(today: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> list[str]:
    if today is None or stored is None:
        return [] if today is stored else ["search is new" if stored is None else "search is gone"]
    # Without a metric of its own a launch stores the study's main one.
    keys = sorted((today.keys() | stored.keys()) - (set() if "metric" in today else {"metric"}))
    return [f"search.{key}" for key in keys if not _is_filled(today.get(key), stored.get(key))]


def _are_same(asked: Sequence[str], stored: Sequence[str]) -> bool:
    """Whether the metrics of a file are those of a launch, which knew the labels of the data."""
    place = 0
    for metric in asked:
        first = place
        while (
            place < len(stored) and _pattern(metric).fullmatch(stored[place]) and (LABELS in metric or place == first)
        ):
            place += 1
        if place == first:
            return False
    return place == len(stored)


def _is_filled(asked: Any, stored: Any) -> bool:
    """Whether a launch, which puts in the label of its data, stores this of what the file asks."""
    # What is empty may be left out.
    mine, theirs = canonical_json(asked or None), canonical_json(stored or None)
    return mine == theirs or bool(_pattern(mine).fullmatch(theirs))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(re.escape(LABELS), r"\w+").replace(re.escape(LABEL), r"\w+"))


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])
