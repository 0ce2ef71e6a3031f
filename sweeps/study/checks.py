"""Checks of the parts of a study file that need no knowledge of the rest; every error starts with the file's path."""

from __future__ import annotations

import contextlib
import fnmatch
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeps.console.errors import close_matches
from sweeps.study.files import StudyError, several

_SOURCE_KEYS = ("paper", "arxiv", "place")
_TABLE_KEYS = ("caption", "digits", "columns", "latex")
_STOP_KEYS = ("metric", "below", "after")
_FIGURE_KEYS = ("name", "kind", "title", "x", "y", "hue", "metric", "xlabel", "ylabel", "panels", "logx")
_FIGURE_TEXTS = ("title", "xlabel", "ylabel")
_PANEL_KEYS = ("x", "metric", "xlabel", "ylabel", "title", "logx")
_KINDS = ("line", "bar", "point", "scatter")
_SEARCH_KINDS = ("importance", "contour")  # of a study with `search:`

# What an override key must look like: a group ("mask") or a dotted option ("mask.num_targets").
_OPTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


# The only arithmetic that a figure may ask for, and the options each needs; `analysis.figures.plotting` computes it.
FORMULAS: dict[str, tuple[str, ...]] = {
    "encoded_tokens": ("optim.steps", "optim.batch_size", "mask.ratio"),
    "samples_seen": ("optim.steps", "optim.batch_size"),
    "cpu_hours": (),
    "gpu_hours": (),
}


class Checks:
    """Of the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.wrong: list[str] = []

    def error(self, message: str) -> StudyError:
        return StudyError(f"{self.path}: {message}")

    @contextlib.contextmanager
    def collected(self) -> Iterator[None]:
        """What is wrong here is told by `settle`, so that the rest of the file is looked at too."""
        try:
            yield
        except StudyError as error:
            self.wrong.append(str(error).removeprefix(f"{self.path}: "))

    def settle(self, rest: Any = None) -> None:
        """Raises one StudyError of all that was collected, if anything was; `rest` as StudyError has it."""
        if self.wrong:
            raise StudyError(several(str(self.path), self.wrong), rest)

    # ---- overrides

    def refuse_near(self, options: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
        """Of a mapping that holds options beside our own `keys`: core, which knows the options, does not know those."""
        for key in options:
            if isinstance(key, str) and key not in keys and "." not in key and (near := close_matches(key, keys)):
                raise self.error(f"unknown key {where}.{key}{near}")

    def overrides(self, value: Any, where: str) -> dict[str, Any]:
        overrides, known = self.mapping(value, where), {}
        for key in overrides:
            with self.collected():
                self.option(key, where)
                known[key] = overrides[key]
        return known

    def option(self, key: Any, where: str) -> None:
        if not isinstance(key, str) or not _OPTION.fullmatch(key):
            raise self.error(f"{where}: {key!r} is not an option's name such as mask or mask.num_targets")
        if key in ("scale", "seed") or key.startswith("runtime"):
            raise self.error(f"{where}: {key} is chosen when the study is launched, not in the file")

    def stop(self, value: Any) -> dict[str, Any]:
        """`stop: {metric: collapse/rankme, below: 2, after: 500}` as the options of its runs."""
        stop = self.mapping(value, "stop")
        self.keys(stop, _STOP_KEYS, "stop")
        return {f"stop.{key}": option for key, option in stop.items()}

    def metrics(self, value: Any, where: str) -> None:
        if not isinstance(value, list) or not value or not all(isinstance(metric, str) for metric in value):
            raise self.error(f"{where} must be a list of names such as [ridge/digit_top1], got {value!r}")

    # ---- what is shown

    def compared(self, spec: Mapping[str, Any]) -> None:
        """At all scales, or one. `margin`: how far apart rows may be and still be called the same, in the main metric's
        unit. `varies`: the options in which rows may differ although none sets them.
        """
        scales = spec.get("scales", {})
        by_scale = {f"scales.{name}.": part for name, part in scales.items()} if isinstance(scales, Mapping) else {}
        for where, part in {"": spec, **by_scale}.items():
            if isinstance(part, Mapping) and "margin" in part:
                value = part["margin"]
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if not is_number or not 0 < value < float("inf"):
                    raise self.error(f"{where}margin must be a number above 0, such as 2.0 points, got {value!r}")
            if isinstance(part, Mapping) and "varies" in part:
                value = part["varies"]
                if not isinstance(value, list) or not all(isinstance(key, str) and key for key in value):
                    raise self.error(
                        f"{where}varies must be a list of options such as [optim, data.size], got {value!r}"
                    )
                if vague := [key for key in value if re.match(r"\w*[*?\[]", key)]:
                    raise self.error(
                        f"{where}varies: {vague[0]!r} may be of any part: begin with the name of one, "
                        "such as optim.* or data.size"
                    )

    def against(self, value: Any, quantities: Sequence[str]) -> dict[str, list[str]]:
        """`printed.compare`: a metric, or several of which the first that a scale's table has stands against it."""
        compare = self.mapping(value, "printed.compare")
        found: dict[str, list[str]] = {}
        for quantity, metrics in compare.items():
            self.keys({quantity: ""}, quantities, "printed.compare")
            found[str(quantity)] = metrics if isinstance(metrics, list) else [str(metrics)]
            if not found[str(quantity)] or not all(isinstance(metric, str) for metric in found[str(quantity)]):
                raise self.error(
                    f"printed.compare.{quantity} must be a metric such as digit_top1, or a list of which the first "
                    f"that the scale's table has is taken, got {metrics!r}"
                )
        return found

    def source(self, value: Any) -> dict[str, str]:
        source = self.mapping(value, "source")
        self.keys(source, _SOURCE_KEYS, "source")
        return {key: self.word(text, f"source.{key}") for key, text in source.items()}

    def table(self, value: Any, metrics: Sequence[str]) -> dict[str, Any]:
        """`digits` are decimals of every metric's numbers, or by name or pattern ({"*_seconds": 3}), else 1."""
        table = self.mapping(value, "table")
        self.keys(table, _TABLE_KEYS, "table")
        self.texts(table, ("caption",), "table.")
        if table.get("columns", "metrics") not in ("metrics", "columns"):
            raise self.error(f"table.columns must be metrics or columns, got {table['columns']!r}")
        shown = table.get("latex", [])
        if not isinstance(shown, list) or not all(isinstance(name, str) for name in shown):
            raise self.error(f"table.latex must be a list of metrics and printed quantities, got {shown!r}")
        for name in shown:
            if "/" in name and not fnmatch.filter(metrics, name):
                raise self.error(f"table.latex: {name!r} is none of the metrics {', '.join(dict.fromkeys(metrics))}")
        digits = table.get("digits", {})
        for metric, number in digits.items() if isinstance(digits, Mapping) else [("", digits)]:
            self.digits(number, ".".join(filter(None, ["table.digits", str(metric)])))
            if metric != "" and not fnmatch.filter(metrics, str(metric)):
                raise self.error(f"table.digits: {metric!r} is none of the metrics {', '.join(dict.fromkeys(metrics))}")
        return {**table, "digits": dict(digits) if isinstance(digits, Mapping) else {"*": digits}}

    def digits(self, value: Any, where: str) -> None:
        if type(value) is not int or not 0 <= value <= 6:
            raise self.error(f"{where} must be a whole number from 0 to 6, got {value!r}")

    def figures(self, value: Any, *, has_search: bool) -> tuple[dict[str, Any], ...]:
        kinds = (*_KINDS, *_SEARCH_KINDS) if has_search else _KINDS
        if not isinstance(value, list):
            raise self.error(f"figures must be a list, got {value!r}")
        for i, figure in enumerate(value):
            with self.collected():
                self.figure(figure, f"figures[{i}]", kinds)
        return tuple(dict(figure) for figure in value if isinstance(figure, Mapping))

    def named_once(self, figures: Sequence[Mapping[str, Any]]) -> None:
        names = [str(figure["name"]) for figure in figures]
        for i, name in enumerate(names):
            if names.count(name) > 1 and names.index(name) == i:
                with self.collected():
                    raise self.error(
                        f"figures[{i}].name: {name!r} is there {names.count(name)} times: each names a file of its own"
                    )

    def figure(self, value: Any, where: str, kinds: Sequence[str]) -> None:
        figure = self.mapping(value, where)
        with self.collected():
            self.keys(figure, _FIGURE_KEYS, where)
        self.texts(figure, _FIGURE_TEXTS, f"{where}.")
        if not re.fullmatch(r"\w{1,60}", str(figure.get("name", ""))):
            raise self.error(f"{where}.name must be a word (it names a file), got {figure.get('name')!r}")
        if (kind := figure.get("kind", "line")) not in kinds:
            raise self.error(
                f"{where}.kind must be one of {', '.join(kinds)}, got {kind!r}{close_matches(str(kind), kinds)}"
            )
        panels = figure.get("panels", [])
        if not isinstance(panels, list):
            raise self.error(f"{where}.panels must be a list, got {panels!r}")
        for j, panel in enumerate(panels):
            with self.collected():
                self.keys(self.mapping(panel, f"{where}.panels[{j}]"), _PANEL_KEYS, f"{where}.panels[{j}]")
                self.texts(panel, _FIGURE_TEXTS, f"{where}.panels[{j}].")

    # ---- shapes

    def texts(self, options: Mapping[str, Any], names: Sequence[str], where: str = "") -> None:
        """Of `options` that are sentences. YAML reads many an unquoted one as something else: `notes: {a: b}`."""
        for name in names:
            if not isinstance(value := options.get(name, ""), str):
                with self.collected():
                    raise self.error(f"{where}{name} must be text, got {_kind(value)}; put quotes around it")

    def word(self, value: Any, where: str) -> str:
        """A name or a label, which may look like a number (`arxiv: 2301.08243`)."""
        if isinstance(value, Mapping | list) or value is None:
            raise self.error(f"{where} must be text, got {_kind(value)}; put quotes around it")
        return str(value)

    def mapping(self, value: Any, where: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self.error(f"{where} must be a mapping of names to values, got {value!r}")
        return value

    def keys(self, value: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
        unknown = [key for key in value if key not in allowed]
        if unknown:
            names = [f"{where}.{key}{close_matches(str(key), allowed)}".removeprefix(".") for key in unknown]
            many = "s" if len(unknown) > 1 else ""
            raise self.error(f"unknown key{many} {', '.join(names)}; allowed: {', '.join(allowed)}")


def not_finite(tree: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """Every NaN and infinity of a file with its place: no config, and no database, holds them."""
    if isinstance(tree, float) and not math.isfinite(tree):
        yield where, tree
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from not_finite(value, f"{where}.{key}".removeprefix("."))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from not_finite(value, f"{where}[{i}]")


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return f"{kinds[type(value)]} ({value!r})" if type(value) in kinds else repr(value)
