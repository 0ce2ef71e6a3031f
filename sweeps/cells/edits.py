"""What an edit of a study's file changes: the runs that it asks for, or only the words that they are shown with.

Compares the file of today with what was launched of it, at the scale of the launch. Rows are told apart by the options
of their runs: one that got another key, label or place is the same row. Needs no database.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeps.cells.expand import LABEL, LABELS, spec_with
from sweeps.cells.request import Request, by_rule
from sweeps.study.fair_rows import listed
from sweeps.study.identity import canonical_json
from sweeps.study.margin import margin_of
from sweeps.study.model import DEFAULT_SCALE, Cell, Study
from sweeps.study.overrides import format_value
from sweeps.study.seed_rule import IN_FILE, KEYS

LAUNCHED = ("scale", "overrides", IN_FILE)  # what a launch adds to the file's content
WORDS = ("title", "question", "source", "caveat", "notes", "table", "figures", "printed")
_NAMED = 6  # names that one line has
_NOTHING = "nothing"
Place = tuple[str, str]  # a row's key and a column's


@dataclass(frozen=True)
class Edit:
    """`runs`: what asks for other runs, in lines; `words`: the names of what shows the same runs otherwise.

    `metrics` and `inits` ask for other runs too, unless the database has what they ask for: a table may show another
    number of its runs, and another baseline may have the random initialisation that is there.
    """

    runs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    inits: tuple[str, ...] = ()
    cells: Mapping[Place, Cell] = field(default_factory=dict)  # the file's, by the keys that were launched

    @property
    def is_nothing(self) -> bool:
        return not (self.runs or self.words or self.metrics or self.inits)


def scale_of(spec: Mapping[str, Any]) -> str:
    return str(spec.get("scale", DEFAULT_SCALE))


def compare(today: Study, stored: Study, spec: Mapping[str, Any]) -> Edit:
    """`stored` is the study that was launched, `spec` what the database has of it."""
    scale = scale_of(spec)
    overridden = [str(word).partition("=")[0] for word in spec.get("overrides", ())]
    mine, theirs = today.cells(scale), stored.cells(scale)
    asked, known = today.metrics(scale), stored.metrics(scale)
    is_by_rule = isinstance(spec.get("seeds"), Mapping)
    runs = [*_changed_seeds(today, spec), *_changed_search(today.search_section(scale), stored.search_section(scale))]
    words, inits = list(_changed_words(today, stored, scale)), []
    cells = _paired(mine, theirs, overridden)
    if cells is None:
        runs = _changed_cells(mine, theirs, overridden) + runs
        cells = {}
        if today.baseline != stored.baseline:
            runs.append(f"baseline is {today.baseline}, was {stored.baseline}")
    else:
        words += _changed_places(cells, theirs)
        if {place[0] for place, cell in cells.items() if cell.row_key == today.baseline} != {stored.baseline}:
            told = f"baseline is {today.baseline}, was {stored.baseline}"
            # Seeds were spent on the differences to the one that was.
            (runs if is_by_rule else words).append(told if is_by_rule else "baseline")
        free = [cell for cell in theirs if cell.is_random_init]
        inits = _changed_cells([cells[_place(cell)] for cell in free], free, overridden, is_keyed=False)
    is_asked = labels_of(asked, known) is not None
    metrics = [] if is_asked else [f"metrics are {_listed(asked)}, were {_listed(known)}"]
    if metrics and is_by_rule:
        runs, metrics = [*runs, *metrics], []  # likewise of the main metric
    return Edit(tuple(runs), tuple(words), tuple(metrics), tuple(inits), cells)


def spec_today(today: Study, spec: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    """What a launch of the file would store, with the seeds that were launched."""
    seeds, scale = spec["seeds"], scale_of(spec)
    if isinstance(seeds, Mapping) and canonical_json(seeds) != canonical_json(today.seeds_spec(scale)):
        today = by_rule(today, scale, seeds)
    typed = () if isinstance(seeds, Mapping) else tuple(seeds)
    found = spec_with(Request(today, scale, tuple(spec.get("overrides", ())), typed), labels)
    return {key: value for key, value in found.items() if key not in LAUNCHED} | {
        key: spec[key] for key in LAUNCHED if key in spec
    }


# ---- rows ------------------------------------------------------------------------------------------------------------


def _place(cell: Cell) -> Place:
    return cell.row_key, cell.col_key


def _paired(today: Sequence[Cell], stored: Sequence[Cell], overridden: Sequence[str]) -> dict[Place, Cell] | None:
    """Each launched cell's cell of today: the one of the same options. None where some cell has none.

    The random initialisations go with their columns, whatever baseline they are of.
    """
    if len(today) != len(stored):
        return None

    def name(cell: Cell) -> tuple[str, ...]:
        return tuple(
            sorted(f"{key}={format_value(v)}" for key, v in cell.overrides.items() if not _is_among(key, overridden))
        )

    # Of two alike, the one of the same key.
    left = {_place(cell): cell for cell in today if not cell.is_random_init}
    found: dict[Place, Cell] = {}
    for is_same_key in (True, False):
        by_name: dict[tuple[str, ...], list[Cell]] = {}
        for cell in left.values():
            by_name.setdefault(name(cell), []).append(cell)
        for cell in stored:
            if cell.is_random_init or _place(cell) in found:
                continue
            same = [c for c in by_name.get(name(cell), ()) if not is_same_key or _place(c) == _place(cell)]
            if same:
                found[_place(cell)] = left.pop(_place(same[0]))
                by_name[name(cell)].remove(same[0])
    columns = {col_key: cell.col_key for (_, col_key), cell in found.items()}
    free = {cell.col_key: cell for cell in today if cell.is_random_init}
    for cell in stored:
        if cell.is_random_init and (mine := free.get(columns.get(cell.col_key, ""))) is not None:
            found[_place(cell)] = mine
    return found if len(found) == len(stored) and len({_place(c) for c in found.values()}) == len(stored) else None


def _changed_places(cells: Mapping[Place, Cell], stored: Sequence[Cell]) -> Iterator[str]:
    """How rows and columns that are the same are called, and their order."""
    pairs = [(cell, cells[_place(cell)]) for cell in stored]
    if any(_place(old) != _place(new) for old, new in pairs):
        yield "keys"
    if any((old.row_label, old.col_label) != (new.row_label, new.col_label) for old, new in pairs):
        yield "labels"
    if any((old.row_order, old.col_order) != (new.row_order, new.col_order) for old, new in pairs):
        yield "the order of the rows"


def _changed_cells(
    today: Sequence[Cell], stored: Sequence[Cell], overridden: Sequence[str], *, is_keyed: bool = True
) -> list[str]:
    """What was added, what is gone, and each option that has another value, with the rows that have it.

    Cells go by their keys, or (not `is_keyed`) by their order.
    """
    found: list[str] = []
    for what, place in (("row", "row_key"), ("column", "col_key")) if is_keyed else ():
        mine, theirs = ([*dict.fromkeys(getattr(cell, place) for cell in s)] for s in (today, stored))
        found += [f"{what} {key} is new" for key in mine if key and key not in theirs]
        found += [f"{what} {key} is gone" for key in theirs if key and key not in mine]
    before = {_place(cell): cell.overrides for cell in stored}
    if not is_keyed:
        before = {_place(cell): old.overrides for cell, old in zip(today, stored, strict=True)}
    common = [cell for cell in today if _place(cell) in before]
    changes: dict[str, list[Cell]] = {}
    for cell in common:
        old = before[_place(cell)]
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


# ---- the rest of a file ----------------------------------------------------------------------------------------------


def _changed_words(today: Study, stored: Study, scale: str) -> Iterator[str]:
    yield from (key for key in WORDS if not _is_filled(today.spec.get(key), stored.spec.get(key)))
    if (today.row_axis, today.col_axis) != (stored.row_axis, stored.col_axis):
        yield "the names of the axes"
    margins = [margin_of(s.spec, scale, stored.metrics(scale)[0]) for s in (today, stored)]
    if margins[0] != margins[1]:
        yield "margin"
    if listed(today, scale) != listed(stored, scale):
        yield "varies"


def _changed_seeds(today: Study, spec: Mapping[str, Any]) -> list[str]:
    """Other seeds than the file had, whichever a launch was told to take instead; none where it took today's."""
    asked, taken = today.seeds_spec(scale_of(spec)), spec.get("seeds")
    if IN_FILE not in spec and spec.get("overrides"):
        return []  # launched before the file's were recorded, by hand: the seeds may have been typed too
    known = spec.get(IN_FILE, taken)
    if canonical_json(asked) in (canonical_json(known), canonical_json(taken)):
        return []
    return [f"seeds are {_seeds(asked)}, were {_seeds(known)}"]


def _seeds(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value[key]}' for key in KEYS if key in value)}}}"
    return str(value)


def _changed_search(today: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> list[str]:
    if today is None or stored is None:
        return [] if today is stored else ["search is new" if stored is None else "search is gone"]
    # Without a metric of its own a launch stores the study's main one.
    keys = sorted((today.keys() | stored.keys()) - (set() if "metric" in today else {"metric"}))
    return [f"search.{key}" for key in keys if not _is_filled(today.get(key), stored.get(key))]


def _listed(names: Sequence[str]) -> str:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more])


# ---- labels of the data ----------------------------------------------------------------------------------------------


def labels_of(asked: Sequence[str], stored: Sequence[str]) -> list[str] | None:
    """The data's labels with which a launch stored these metrics of a file; None where it stored others."""
    place = 0
    found: list[str] = []
    for metric in asked:
        first, pattern = place, _pattern(metric)
        while place < len(stored) and (LABELS in metric or place == first):
            if (filled := pattern.fullmatch(stored[place])) is None:
                break
            found += filled.groups()
            place += 1
        if place == first:
            return None
    return list(dict.fromkeys(found)) if place == len(stored) else None


def labels_among(asked: Sequence[str], names: Sequence[str]) -> list[str]:
    """The labels that fill in some of these metrics as some of these names, in the order of the names."""
    patterns = [_pattern(metric) for metric in asked if LABEL in metric or LABELS in metric]
    found = [match.groups() for name in names for pattern in patterns if (match := pattern.fullmatch(name))]
    return list(dict.fromkeys(label for labels in found for label in labels))


def label_in(asked: Any, stored: Any) -> str:
    """The one with which a launch stored `stored` of this part of a file; "" where it does not tell."""
    filled = _pattern(canonical_json(asked or None)).fullmatch(canonical_json(stored or None))
    return str(filled[1]) if filled is not None and filled.groups() else ""


def _is_filled(asked: Any, stored: Any) -> bool:
    """Whether a launch, which puts in the label of its data, stores this of what the file asks."""
    # What is empty may be left out.
    mine, theirs = canonical_json(asked or None), canonical_json(stored or None)
    return mine == theirs or bool(_pattern(mine).fullmatch(theirs))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(re.escape(LABELS), r"(\w+)").replace(re.escape(LABEL), r"(\w+)"))
