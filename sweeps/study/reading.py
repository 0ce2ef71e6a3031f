"""A study's file, read and checked: every mistake that can be known without core is found here, all of them at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import plugin_source
from sweeps.study import leave_out
from sweeps.study.checks import Checks, not_finite
from sweeps.study.files import StudyError, load_document, plain_name
from sweeps.study.model import RANDOM_INIT, SCALE_KEYS, SCALES, Level, Printed, Study, offered, without
from sweeps.study.overrides import format_value
from sweeps.study.search_space import DEFAULT_ROW, is_trial, merge_search, parse_search
from sweeps.study.seed_rule import parse_rule

_STUDY_KEYS = (
    "title", "question", "source", "base", "scales", "grid", "rows", "leave_out", "columns", "baseline", "random_init",
    "stop", "seeds", "metrics", "margin", "varies", "table", "figures", "printed", "caveat", "notes", "search",
    "plugins",
)  # fmt: skip
_LEVEL_KEYS = ("key", "label", "labels", "set", "scales")
_PRINTED_KEYS = ("metric", "source", "values", "outcomes", "rows", "digits", "compare")


def read(name_or_path: str | Path) -> Study:
    """The study of that name under `studies/`, or in that file. StudyError names file, key and what is allowed."""
    document, path = load_document(name_or_path)
    return parse(document, path)


def parse(document: Any, path: Path) -> Study:
    """A study from a file's content. Raises StudyError naming `path`."""
    return _Reader(path).study(document)


class _Reader(Checks):
    """Makes a study of one file's content."""

    offered: Sequence[str] = ()  # its scales, once they are read
    num_doubled: int = 0  # rows and columns that have another's key

    def study(self, document: Any) -> Study:
        spec = dict(self.mapping(document, "the file"))
        with self.collected():
            self.keys(spec, _STUDY_KEYS, "")
        self.wrong += [
            f"{required} is missing" for required in ("title", "question", "metrics") if required not in spec
        ]
        infinite = [f"{where} must be a finite number, got {value}" for where, value in not_finite(spec)]
        self.wrong += infinite
        self.texts(spec, ("title", "question", "caveat", "notes"))
        if isinstance(spec.get("caveat"), str):
            spec["caveat"] = " ".join(spec["caveat"].split())  # it ends a sentence, whatever lines the file has
        spec.setdefault("seeds", [0] if "search" in spec else [0, 1, 2])
        with self.collected():
            self.compared(spec)
        with self.collected():
            if not isinstance(spec.get("random_init", True), bool):
                raise self.error(f"random_init must be true or false, got {spec['random_init']!r}")
        shown = self.shown(spec)
        base, spec["base"] = spec.get("base", {}), {}
        with self.collected():
            spec["base"] = self.overrides(base, "base")
        with self.collected():
            spec["base"] |= self.stop(spec.get("stop", {}))
        with self.collected():
            self.plugins(spec)
        seeds, spec["seeds"] = spec["seeds"], [0]
        with self.collected():
            self.seeds(seeds, "seeds")
            spec["seeds"] = seeds
        num_wrong = len(self.wrong)
        with self.collected():
            self.metrics(spec.get("metrics", [""]), "metrics")
        with self.collected():
            spec["scales"] = self.scales(spec.get("scales", {}), "scales", special=True)
            self.offered = offered(spec["scales"])
            self.search(spec)
        is_readable = len(self.wrong) == num_wrong and "metrics" in spec
        axes: tuple[tuple[Level, ...], tuple[Level, ...], str, str] = (), (), "", ""
        num_wrong = len(self.wrong)
        with self.collected():
            axes = self.axes(spec)
        rows, columns, row_axis, col_axis = axes
        # What follows is about rows that can be read, and so are the mistakes that only core can find.
        if not is_readable or not rows:
            self.settle()
        are_all = len(self.wrong) == num_wrong + self.num_doubled  # else the baseline may be one that cannot be read
        baseline, printed = str(spec.get("baseline", rows[0].key)), None
        with self.collected():
            if are_all and baseline not in {row.key for row in rows}:
                raise self.error(f"baseline: no row {baseline!r}; rows: {', '.join(row.key for row in rows)}")
        with self.collected():
            printed = self.printed(spec["printed"], rows, columns) if are_all and "printed" in spec else None
        if self.wrong:
            spec = without(spec, [key for key in spec if key not in _STUDY_KEYS])
            # What cannot be read is left out; without a readable `varies` rows would seem unlike for no reason.
            left_out = ["varies"] if any("varies" in line for line in self.wrong) else []
            spec = without(spec, ["printed", "table", "margin", "stop", *left_out])
            spec |= {"baseline": rows[0].key, "random_init": False, "figures": list(shown["figures"])}
            baseline, printed = rows[0].key, None
            shown |= {"source": {}, "table": {"digits": {}}}
        study = Study(
            name=plain_name(self.path.stem),
            path=self.path,
            spec=json.loads(json.dumps(spec)),
            title=str(spec.get("title", "")),
            question=str(spec.get("question", "")),
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
        self.settle(rest=None if infinite else study)  # core would name these again
        return study

    def plugins(self, spec: dict[str, Any]) -> None:
        if "plugins" in spec:
            try:
                spec["plugins"] = plugin_source.names_in(spec.pop("plugins"))
            except ValueError as error:
                raise self.error(str(error)) from None

    def shown(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The source, the table's looks and the figures."""
        scales = spec.get("scales", {})
        parts = [spec, *(scales.values() if isinstance(scales, Mapping) else [])]
        lists = [part.get("metrics") for part in parts if isinstance(part, Mapping)]
        metrics = [metric for some in lists if isinstance(some, list) for metric in some if isinstance(metric, str)]
        found: dict[str, Any] = {"source": {}, "table": {}, "figures": ()}
        with self.collected():
            found["source"] = self.source(spec.get("source", {}))
        with self.collected():
            found["table"] = self.table(spec.get("table", {}), metrics)
        num_wrong = len(self.wrong)
        with self.collected():
            found["figures"] = self.figures(spec.get("figures", []), has_search="search" in spec)
        if len(self.wrong) > num_wrong:  # the others' axes can be looked at once these can be read
            found["figures"] = ()
        self.named_once(found["figures"])
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
        if isinstance(values, Mapping) and values:
            first, example = next(iter(values)), f"{axis}: value" if axis else "mask.ratio: 0.5"
            raise self.error(
                f"{where} must be a list, got a mapping of {', '.join(map(str, values))}; write each as an entry with "
                f"its key, such as: - {{key: {first}, set: {{{example}}}}}"
            )
        if not isinstance(values, list) or not values:
            raise self.error(f"{where} must be a list with at least one level, got {values!r}")
        levels: tuple[Level, ...] = ()
        for i, value in enumerate(values):
            with self.collected():
                levels += (self.level(value, f"{where}[{i}]", axis),)
        known: dict[str, Level] = {}
        for level in levels:
            with self.collected():
                if known.setdefault(level.key, level) is not level:
                    self.num_doubled += 1
                    raise self.error(f"{where}: the key {level.key!r} appears twice; every level needs its own")
        return tuple(known.values())

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
            label=self.word(value.get("label", _key(value["key"])), f"{where}.label"),
            set=self.overrides(value.get("set", {}), f"{where}.set"),
            scales=self.scales(value.get("scales", {}), f"{where}.scales", special=False),
            labels=self.labels(value.get("labels", {}), f"{where}.labels"),
        )
        for scale in self.offered:
            try:
                found.label_at(scale)
            except ValueError as error:
                raise self.error(f"{where}.label: {error}") from None
        return found

    def labels(self, value: Any, where: str) -> dict[str, str]:
        labels = self.mapping(value, where)
        self.keys(labels, SCALES, where)
        return {str(scale): self.word(label, f"{where}.{scale}") for scale, label in labels.items()}

    # ---- overrides

    def scales(self, value: Any, where: str, *, special: bool) -> dict[str, dict[str, Any]]:
        scales = self.mapping(value, where)
        self.keys(scales, SCALES, where)
        for scale, overrides in scales.items():
            options = self.mapping({} if overrides is None else overrides, f"{where}.{scale}")
            for name, check in (("seeds", self.seeds), ("metrics", self.metrics)) if special else ():
                if name in options:
                    check(options[name], f"{where}.{scale}.{name}")
            self.overrides(without(options, SCALE_KEYS) if special else options, f"{where}.{scale}")
            self.refuse_near(options if special else {}, SCALE_KEYS, f"{where}.{scale}")
        # Keys that are no text are named above, and would end whoever reads on.
        return {
            scale: {key: value for key, value in (overrides or {}).items() if isinstance(key, str)}
            for scale, overrides in scales.items()
        }

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
        is_list = isinstance(value, list) and all(type(seed) is int and 0 <= seed < 2**63 for seed in value)
        if not is_list or not value or len(set(value)) != len(value):
            raise self.error(
                f"{where} must be a list of different whole numbers in [0, 2**63) such as [0, 1, 2], or a rule such as "
                f'{{start: 3, stop_when: "half_width < 1.0", max: 10}}, got {value!r}'
            )

    # ---- what the paper prints

    def printed(self, value: Any, rows: Sequence[Level], columns: Sequence[Level]) -> Printed:
        printed = self.mapping(value, "printed")
        self.keys(printed, _PRINTED_KEYS, "printed")
        self.texts(printed, ("metric", "source"), "printed.")
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
        compare = self.against(printed.get("compare", {}), [key for cells in values.values() for key in cells])
        if compare and columns:
            raise self.error("printed.compare: with columns every printed number stands against the main metric")
        return Printed(
            metric=str(printed.get("metric", "")),
            source=str(printed.get("source", "")),
            values=values,
            rows=extra,
            digits=dict(digits) if isinstance(digits, Mapping) else digits,
            compare=compare or None,
            outcomes=outcomes,
        )


def _key(value: Any) -> str:
    return format_value(value) if isinstance(value, bool | float | list) or value is None else str(value)
