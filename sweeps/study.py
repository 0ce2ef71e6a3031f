"""A study file: one question, its rows, and the cells of its table at a scale.

Reads and validates the structure of `studies/**/*.yaml`. Whether an option exists and its value is allowed is decided
when `sweeps.expand` sends every cell through `core.config`; nothing here imports core or torch, so analysis can use it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sweeps import leave_out, row_labels
from sweeps.overrides import format_override, format_value, merge
from sweeps.search_space import DEFAULT_ROW, SearchSpec, first_and_further, is_trial, merge_search, parse_search
from sweeps.seed_rule import SeedRule, parse_rule
from sweeps.study_checks import FORMULAS, Checks
from sweeps.study_files import StudyError, close_matches, load_document, names, plain_name

__all__ = [
    "DEFAULT_SCALE", "FORMULAS", "RANDOM_INIT", "SCALES", "Cell", "Level", "Printed", "SearchSpec", "SeedRule",
    "Study", "StudyError", "close_matches", "format_override", "instance_name", "is_trial", "merge", "names", "parse",
    "read",
]  # fmt: skip

LONGEST = 120  # letters that a table's name has beside the study's: names of files have limits
SCALES = ("smoke", "cpu", "gpu", "paper")
DEFAULT_SCALE = "cpu"
RANDOM_INIT = "random_init"
RANDOM_INIT_LABEL = "random init"

_STUDY_KEYS = (
    "title", "question", "source", "base", "scales", "grid", "rows", "leave_out", "columns", "baseline", "random_init",
    "seeds", "metrics", "margin", "varies", "table", "figures", "printed", "notes", "search",
)  # fmt: skip
_LEVEL_KEYS = ("key", "label", "labels", "set", "scales")
_SCALE_KEYS = ("seeds", "metrics", "margin", "varies", "search")
_PRINTED_KEYS = ("metric", "source", "values", "outcomes", "rows", "digits", "compare")


@dataclass(frozen=True)
class Level:
    """One row or one column: a stable key, what the table calls it, and the options it sets."""

    key: str
    label: str
    set: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # by scale, instead of `label`

    def overrides(self, scale: str) -> dict[str, Any]:
        return merge(self.set, self.scales.get(scale, {}))

    def label_at(self, scale: str) -> str:
        """With the values of the options that the label names: `{data.num_train} clips`."""
        return row_labels.at_scale(self.label, self.labels, scale, self.overrides(scale))


@dataclass(frozen=True)
class Cell:
    """A place in the table and the overrides that define its config; `col_key` is "" without a columns axis."""

    row_key: str
    col_key: str
    row_label: str
    col_label: str
    row_order: int
    col_order: int
    overrides: dict[str, Any]
    is_random_init: bool = False


@dataclass(frozen=True)
class Printed:
    """The numbers a paper prints, exactly as in its text.

    `values[row key][column key]`: the column key is one of the study's columns; without columns it names the quantity
    when the paper prints several a row, and is "" when it prints one. `rows` are other people's systems: shown, never
    trained. `digits` are the paper's decimals (0.50), of all numbers or by quantity; None writes them as the file does.
    `compare` says which of our metrics stands against which printed quantity; without it the first quantity stands
    against the main metric. `outcomes` are words that the paper prints in place of a row's numbers ("crashed").
    """

    metric: str
    source: str
    values: dict[str, dict[str, float]]
    rows: tuple[Level, ...] = ()
    digits: int | dict[str, int] | None = None
    compare: dict[str, str] | None = None  # quantity -> a metric, or what follows its "/" ("motion_top1")
    outcomes: dict[str, str] = field(default_factory=dict)  # row key -> the printed word

    def text(self, value: float, quantity: str = "") -> str:
        digits = self.digits.get(quantity) if isinstance(self.digits, dict) else self.digits
        return str(value) if digits is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Study:
    """One question. `spec` is the file's content as JSON; the rest is the same, checked and typed."""

    name: str
    path: Path
    spec: dict[str, Any]
    title: str
    question: str
    source: dict[str, str]
    rows: tuple[Level, ...]
    columns: tuple[Level, ...]  # empty without a columns axis
    row_axis: str  # the grid's first key, "" for `rows:`
    col_axis: str
    baseline: str
    random_init: bool
    table: dict[str, Any]
    figures: tuple[dict[str, Any], ...]
    printed: Printed | None
    notes: str

    def seeds(self, scale: str = DEFAULT_SCALE) -> list[int]:
        """The seeds that every row gets; a rule or a search may give some rows more."""
        return first_and_further(self.seeds_spec(scale), self.search(scale))[0]

    def further_seeds(self, scale: str = DEFAULT_SCALE) -> list[int]:
        return first_and_further(self.seeds_spec(scale), self.search(scale))[1]

    def seeds_spec(self, scale: str = DEFAULT_SCALE) -> Any:
        """`seeds` as the file has it: a list or a rule."""
        return self._scale(scale).get("seeds", self.spec["seeds"])

    def seed_rule(self, scale: str = DEFAULT_SCALE) -> SeedRule | None:
        value = self.seeds_spec(scale)
        return parse_rule(value, "seeds") if isinstance(value, Mapping) else None

    def search(self, scale: str = DEFAULT_SCALE) -> SearchSpec | None:
        section = self.search_section(scale)
        return parse_search(section) if section is not None else None

    def search_section(self, scale: str = DEFAULT_SCALE) -> dict[str, Any] | None:
        """`search` as the file has it at a scale; None for a study of rows."""
        if "search" not in self.spec:
            return None
        return merge_search(self.spec["search"], self._scale(scale).get("search", {}))

    def metrics(self, scale: str = DEFAULT_SCALE) -> list[str]:
        """The metrics the table shows, the main one first. May hold `{label}` and `{labels}`: see `sweeps.expand`."""
        metrics: list[str] = self._scale(scale).get("metrics", self.spec["metrics"])
        return list(metrics)

    def decimals(self, metric: str) -> int:
        """How many the table shows of a metric's numbers: the first of `table.digits` that fits, else 1."""
        fitting = (n for name, n in self.table["digits"].items() if fnmatch(metric, re.sub(r"{labels?}", "*", name)))
        return next(fitting, 1)

    def cells(self, scale: str = DEFAULT_SCALE) -> list[Cell]:
        """Every place of the table, row by row, then the random initialisation of the baseline row.

        Precedence, weakest first: base, the study's scale, the row, the column. The free row trains for no steps, so
        columns that only differ in training resolve to one config and one run.
        """
        shared = merge(self.spec["base"], _without(self._scale(scale), _SCALE_KEYS))
        columns = self.columns or (Level("", ""),)
        cells = [
            Cell(
                row.key, column.key, row.label_at(scale), column.label_at(scale), i, j,
                merge(shared, row.overrides(scale), column.overrides(scale)),
            )
            for i, row in enumerate(self.rows)
            for j, column in enumerate(columns)
        ]  # fmt: skip
        if self.random_init:
            baseline = next(row for row in self.rows if row.key == self.baseline)
            cells += [
                Cell(
                    RANDOM_INIT, column.key, RANDOM_INIT_LABEL, column.label_at(scale), len(self.rows), j,
                    merge(shared, baseline.overrides(scale), column.overrides(scale), {"optim.steps": 0}),
                    is_random_init=True,
                )
                for j, column in enumerate(columns)
            ]  # fmt: skip
        return cells

    def _scale(self, scale: str) -> dict[str, Any]:
        if scale not in SCALES:
            raise StudyError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}{close_matches(scale, SCALES)}")
        overrides: dict[str, Any] = self.spec["scales"].get(scale, {})
        return overrides


# ---- reading a study -------------------------------------------------------------------------------------------------


def read(name_or_path: str | Path) -> Study:
    """The study of that name under `studies/`, or in that file. StudyError names file, key and what is allowed."""
    document, path = load_document(name_or_path)
    return parse(document, path)


def parse(document: Any, path: Path) -> Study:
    """A study from a file's content. Raises StudyError naming `path`."""
    return _Reader(path).study(document)


# ---- names of instances -----------------------------------------------------------------------------------


def instance_name(stem: str, scale: str = DEFAULT_SCALE, overrides: Sequence[str] = (), name: str = "") -> str:
    """What a study at a scale with command-line overrides is called in the database and under results/.

    The study itself at the default scale, else "<stem>@<slug>": `masking_ratio@smoke`,
    `ijepa_targets@data=image_folder`. Paths in overrides keep their last part only, so that results do not name a
    machine's folders. `name` replaces what is said of the overrides; two scales never share a name.
    """
    parts = [] if scale == DEFAULT_SCALE else [scale]
    if name:
        overrides = ()
        parts.append(name)
    for override in sorted(overrides):
        key, _, value = override.partition("=")
        parts.append(f"{key}={Path(value).name if '/' in value else value}")
    slug = ",".join(parts)
    if len(slug) > LONGEST:
        if name:
            raise StudyError(f"name={name[:20]}...: {len(name)} letters; a table's name has at most {LONGEST}")
        digest = hashlib.sha256(slug.encode()).hexdigest()[:8]
        slug = f"{slug[: LONGEST - 30].rsplit(',', 1)[0]},{len(parts)}-overrides-{digest}"
    return stem + ("@" + re.sub(r"[^\w.,=+-]+", "_", slug) if slug else "")


# ---- reading ---------------------------------------------------------------------------------------------------------


class _Reader(Checks):
    """Makes a study of one file's content."""

    def study(self, document: Any) -> Study:
        spec = dict(self.mapping(document, "the file"))
        with self.collected():
            self.keys(spec, _STUDY_KEYS, "")
        self.wrong += [
            f"{required} is missing" for required in ("title", "question", "metrics") if required not in spec
        ]
        spec.setdefault("seeds", [0] if "search" in spec else [0, 1, 2])
        with self.collected():
            spec["base"] = self.overrides(spec.get("base", {}), "base")
        with self.collected():
            self.seeds(spec["seeds"], "seeds")
        with self.collected():
            self.metrics(spec.get("metrics", [""]), "metrics")
        with self.collected():
            self.compared(spec)
        with self.collected():
            if not isinstance(spec.get("random_init", True), bool):
                raise self.error(f"random_init must be true or false, got {spec['random_init']!r}")
        shown = self.shown(spec)
        spec["scales"] = self.scales(spec.get("scales", {}), "scales", special=True)
        self.search(spec)
        num_wrong = len(self.wrong)
        rows, columns, row_axis, col_axis = self.axes(spec)
        if len(self.wrong) > num_wrong:  # what follows is about rows that could not be read
            self.settle()
        baseline, printed = str(spec.get("baseline", rows[0].key)), None
        with self.collected():
            if baseline not in {row.key for row in rows}:
                raise self.error(f"baseline: no row {baseline!r}; rows: {', '.join(row.key for row in rows)}")
        with self.collected():
            printed = self.printed(spec["printed"], rows, columns) if "printed" in spec else None
        self.settle()
        return Study(
            name=plain_name(self.path.stem),
            path=self.path,
            spec=json.loads(json.dumps(spec)),
            title=str(spec["title"]),
            question=str(spec["question"]),
            rows=rows,
            columns=columns,
            row_axis=row_axis,
            col_axis=col_axis,
            baseline=baseline,
            random_init=spec.get("random_init", True),
            printed=printed,
            notes=str(spec.get("notes", "")),
            **shown,
        )

    def shown(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The source, the table's looks and the figures."""
        scales = spec.get("scales", {})
        parts = [spec, *(scales.values() if isinstance(scales, Mapping) else [])]
        metrics = [m for part in parts if isinstance(part, Mapping) for m in part.get("metrics") or []]
        found: dict[str, Any] = {"source": {}, "table": {}, "figures": ()}
        with self.collected():
            found["source"] = self.source(spec.get("source", {}))
        with self.collected():
            found["table"] = self.table(spec.get("table", {}), metrics)
        with self.collected():
            found["figures"] = self.figures(spec.get("figures", []), has_search="search" in spec)
        return found

    # ---- rows and columns

    def axes(self, spec: dict[str, Any]) -> tuple[tuple[Level, ...], tuple[Level, ...], str, str]:
        if "search" in spec:
            if taken := [key for key in ("grid", "rows", "leave_out", "columns", "baseline") if key in spec]:
                raise self.error(f"{taken[0]}: a study has rows or a search:, not both")
            return (Level(DEFAULT_ROW, "not searched"),), (), "", ""
        if sum(key in spec for key in ("grid", "rows", "leave_out")) != 1:
            raise self.error(
                "give one of grid: (one or two axes), rows: and leave_out: (both also with columns:), not several and "
                "not none"
            )
        if "grid" in spec:
            if "columns" in spec:
                raise self.error("columns: goes with rows:; a grid's second axis is its columns")
            axes = self.grid(spec["grid"])
            # As a list: PostgreSQL's JSONB does not keep the order of a mapping's keys, which says what is a row.
            spec["grid"] = [{axis: values} for axis, values in axes]
            levels = [self.levels(values, f"grid.{axis}", axis) for axis, values in axes]
            names = [axis for axis, _ in axes]
        else:
            given = self.left_out(spec) if "leave_out" in spec else self.levels(spec["rows"], "rows", "")
            levels = [given] + ([self.levels(spec["columns"], "columns", "")] if "columns" in spec else [])
            names = ["", ""]
        rows, columns = levels[0], levels[1] if len(levels) == 2 else ()
        if RANDOM_INIT in {row.key for row in rows}:
            raise self.error(f"rows: the key {RANDOM_INIT!r} is taken by the free row; see random_init")
        if trials := [row.key for row in rows if is_trial(row.key)]:
            raise self.error(f"rows: the key {trials[0]!r} is taken: so are the trials of a search called")
        return rows, columns, names[0], names[1] if len(names) == 2 else ""

    def left_out(self, spec: dict[str, Any]) -> tuple[Level, ...]:
        try:
            entries = leave_out.entries(spec["leave_out"])
            spec["leave_out"] = [{name: entry} for name, entry in entries]  # a list for the reason that a grid is one
            rows = {name: leave_out.row(name, entry) for name, entry in entries}
        except ValueError as error:
            raise self.error(str(error)) from None
        without = [self.level(row, f"leave_out.{name}", "") for name, row in rows.items()]
        return (Level(leave_out.ALL, leave_out.ALL), *without)

    def grid(self, value: Any) -> list[tuple[str, Any]]:
        """The axes in order, from a mapping or from a list of one-key mappings."""
        parts = value if isinstance(value, list) else [value]
        axes = [axis for part in parts for axis in self.mapping(part, "grid").items()]
        if len(axes) not in (1, 2):
            raise self.error(f"grid: one axis (rows) or two (rows, columns), got {len(axes)}")
        return axes

    def levels(self, values: Any, where: str, axis: str) -> tuple[Level, ...]:
        if not isinstance(values, list) or not values:
            raise self.error(f"{where} must be a list with at least one level, got {values!r}")
        levels: tuple[Level, ...] = ()
        for i, value in enumerate(values):
            with self.collected():
                levels += (self.level(value, f"{where}[{i}]", axis),)
        keys = [level.key for level in levels]
        for key in keys:
            if keys.count(key) > 1:
                raise self.error(f"{where}: the key {key!r} appears twice; every level needs its own")
        return levels

    def level(self, value: Any, where: str, axis: str) -> Level:
        if not isinstance(value, dict):
            if not axis:
                raise self.error(f"{where} must have key, label and set, got {value!r}")
            self.option(axis, where)
            return Level(key=_key(value), label=_key(value), set={axis: value})
        self.keys(value, _LEVEL_KEYS, where)
        if "key" not in value:
            raise self.error(f"{where}.key is missing")
        found = Level(
            key=_key(value["key"]),
            label=str(value.get("label", _key(value["key"]))),
            set=self.overrides(value.get("set", {}), f"{where}.set"),
            scales=self.scales(value.get("scales", {}), f"{where}.scales", special=False),
            labels=self.labels(value.get("labels", {}), f"{where}.labels"),
        )
        for scale in SCALES:
            try:
                found.label_at(scale)
            except ValueError as error:
                raise self.error(f"{where}.label: {error}") from None
        return found

    def labels(self, value: Any, where: str) -> dict[str, str]:
        labels = self.mapping(value, where)
        self.keys(labels, SCALES, where)
        return {str(scale): str(label) for scale, label in labels.items()}

    # ---- overrides

    def scales(self, value: Any, where: str, *, special: bool) -> dict[str, dict[str, Any]]:
        scales = self.mapping(value, where)
        self.keys(scales, SCALES, where)
        for scale, overrides in scales.items():
            options = self.mapping(overrides or {}, f"{where}.{scale}")
            if special and "seeds" in options:
                self.seeds(options["seeds"], f"{where}.{scale}.seeds")
            if special and "metrics" in options:
                self.metrics(options["metrics"], f"{where}.{scale}.metrics")
            self.overrides(_without(options, _SCALE_KEYS) if special else options, f"{where}.{scale}")
        return {scale: dict(overrides or {}) for scale, overrides in scales.items()}

    def search(self, spec: Mapping[str, Any]) -> None:
        """The section itself and what it is at every scale that changes it."""
        if "search" not in spec:
            if scales := [scale for scale, options in spec["scales"].items() if "search" in options]:
                raise self.error(f"scales.{scales[0]}.search: the study has no search: of its own")
            return
        sections = {"": {}} | {f"scales.{name}: ": s["search"] for name, s in spec["scales"].items() if "search" in s}
        for where, section in sections.items():
            try:
                if not isinstance(spec["search"], Mapping) or not isinstance(section, Mapping):
                    raise ValueError(f"search must be a mapping of names to values, got {section or spec['search']!r}")
                for key in parse_search(merge_search(spec["search"], section)).space:
                    self.option(key, "search.space")
            except StudyError:
                raise
            except ValueError as error:
                raise self.error(f"{where}{error}") from None
        for seeds in (spec["seeds"], *(s["seeds"] for s in spec["scales"].values() if "seeds" in s)):
            if not isinstance(seeds, list) or len(seeds) != 1:
                raise self.error(f"seeds: a search counts its seeds from one, such as [0], got {seeds!r}; search.seeds")

    def seeds(self, value: Any, where: str) -> None:
        if isinstance(value, Mapping):
            try:
                parse_rule(value, where)
            except ValueError as error:
                raise self.error(str(error)) from None
            return
        is_list = isinstance(value, list) and all(type(seed) is int and seed >= 0 for seed in value)
        if not is_list or not value or len(set(value)) != len(value):
            raise self.error(
                f"{where} must be a list of different whole numbers such as [0, 1, 2], or a rule such as "
                f'{{start: 3, stop_when: "half_width < 1.0", max: 10}}, got {value!r}'
            )

    # ---- what the paper prints

    def printed(self, value: Any, rows: Sequence[Level], columns: Sequence[Level]) -> Printed:
        printed = self.mapping(value, "printed")
        self.keys(printed, _PRINTED_KEYS, "printed")
        extra = self.levels(printed["rows"], "printed.rows", "") if "rows" in printed else ()
        row_keys = [row.key for row in (*rows, *extra)]
        col_keys = [column.key for column in columns]
        values: dict[str, dict[str, float]] = {}
        for row, cell in self.mapping(printed.get("values", {}), "printed.values").items():
            if _key(row) not in row_keys:
                raise self.error(f"printed.values: no row {_key(row)!r}; rows: {', '.join(row_keys)}")
            cells = {_key(column): number for column, number in cell.items()} if isinstance(cell, dict) else {"": cell}
            for column, number in cells.items():
                if columns and column not in col_keys:
                    raise self.error(
                        f"printed.values.{_key(row)}: no column {column!r}; columns: {', '.join(col_keys)}"
                    )
                if isinstance(number, bool) or not isinstance(number, int | float):
                    raise self.error(f"printed.values.{_key(row)}: must be a number as printed, got {number!r}")
            values[_key(row)] = {column: float(number) for column, number in cells.items()}
        digits = printed.get("digits")
        for quantity, number in digits.items() if isinstance(digits, Mapping) else [("", digits)]:
            if quantity:
                self.keys({quantity: ""}, [key for cells in values.values() for key in cells], "printed.digits")
            if quantity or digits is not None:
                self.digits(number, ".".join(filter(None, ["printed.digits", str(quantity)])))
        outcomes = {
            _key(row): word for row, word in self.mapping(printed.get("outcomes", {}), "printed.outcomes").items()
        }
        for row, word in outcomes.items():
            if row not in row_keys:
                raise self.error(f"printed.outcomes: no row {row!r}; rows: {', '.join(row_keys)}")
            if row in values:
                raise self.error(f"printed.outcomes.{row}: the row has printed numbers: give one or the other")
            if not isinstance(word, str) or not word.strip():
                raise self.error(f"printed.outcomes.{row} must be the printed word, such as crashed, got {word!r}")
        compare = self.mapping(printed.get("compare", {}), "printed.compare")
        if compare and columns:
            raise self.error("printed.compare: with columns every printed number stands against the main metric")
        for quantity in compare:
            self.keys({quantity: ""}, [key for cells in values.values() for key in cells], "printed.compare")
        return Printed(
            metric=str(printed.get("metric", "")),
            source=str(printed.get("source", "")),
            values=values,
            rows=extra,
            digits=dict(digits) if isinstance(digits, Mapping) else digits,
            compare={str(key): str(metric) for key, metric in compare.items()} or None,
            outcomes=outcomes,
        )


def _key(value: Any) -> str:
    return format_value(value) if isinstance(value, bool | float | list) or value is None else str(value)


def _without(mapping: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
