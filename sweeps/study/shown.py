"""Whether what a study shows can be shown, known before anything trains: axes of figures, metrics, printed numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from sweeps.console.errors import close_matches
from sweeps.study.checks import FORMULAS
from sweeps.study.model import Study

SEARCH_KINDS = ("importance", "contour")
Configs = Sequence[Mapping[str, Any]]  # one flat config a cell; none where some cell has no config


def wrong_figures(study: Study, figures: Sequence[Mapping[str, Any]], configs: Configs, scale: str) -> Iterator[str]:
    """What `analysis.figures.plotting` and `analysis.figures.search` could not draw, a line each; `figures` are those
    of the study.

    Whether a metric is recorded is not asked here.
    """
    for i, figure in enumerate(figures):
        where = f"figures[{i}]"
        if figure.get("kind") in SEARCH_KINDS:
            yield from _wrong_landscape(study, figure, where, scale)
            continue
        for j, panel in enumerate(figure.get("panels") or [{}]):
            places = {key: f"{where}.panels[{j}].{key}" if key in panel else f"{where}.{key}" for key in _CHECKED}
            yield from _wrong_panel(study, {**figure, **panel}, places, configs, scale)


_CHECKED = ("x", "hue", "metric", "y", "logx")


def _wrong_panel(
    study: Study, options: Mapping[str, Any], places: Mapping[str, str], configs: Configs, scale: str
) -> Iterator[str]:
    """`options` are those of a panel on top of its figure's, `places` where each of `_CHECKED` is given."""
    if options.get("x") is not None and (wrong := _wrong_axis(study, str(options["x"]), configs)):
        yield f"{places['x']}: {wrong}"
    if hue := str(options.get("hue") or ""):
        if "/" in hue:
            yield f"{places['hue']}: {hue!r} is a metric; marks are told apart by rows, columns or an option"
        elif wrong := _wrong_axis(study, hue, configs):
            yield f"{places['hue']}: {wrong}"
    key = "metric" if "metric" in options else "y"
    if key in options and "/" not in str(options[key]):
        yield f"{places[key]}: {options[key]!r} is no metric's name, such as {study.metrics(scale)[0]}"
    if not isinstance(options.get("logx", False), bool):
        yield f"{places['logx']} must be true or false, got {options['logx']!r}"
    elif options.get("logx") and (low := _lowest(options.get("x"), configs)) is not None and low < 0:
        yield f"{places['logx']}: {options['x']} is {low:g} in a row, which has no place on a logarithmic axis"


def _wrong_landscape(study: Study, figure: Mapping[str, Any], where: str, scale: str) -> Iterator[str]:
    search = study.search(scale)
    if idle := [key for key in ("hue", "panels", "logx") if key in figure]:
        yield f"{where}: {', '.join(idle)}: a figure of kind {figure['kind']} has none; leave it out"
    if "metric" in figure and "/" not in str(figure["metric"]):
        yield f"{where}.metric: {figure['metric']!r} is no metric's name, such as {study.metrics(scale)[0]}"
    if figure["kind"] == "contour" and search is not None:
        for key in ("x", "y"):
            if str(figure.get(key)) not in search.space:
                near = close_matches(str(figure.get(key)), search.space)
                options = ", ".join(search.space)
                yield f"{where}.{key} must be one of the searched options {options}, got {figure.get(key)!r}{near}"


def _wrong_axis(study: Study, name: str, configs: Configs) -> str:
    """What is wrong with the name of an axis, as `analysis.figures.plotting.axis` reads it; "" where nothing is."""
    keys = {key for config in configs for key in config}
    own = [*filter(None, ["rows", study.row_axis, "columns" if study.columns else "", study.col_axis])]
    if name in own or "/" in name:
        return ""
    if name in FORMULAS:
        missing = [key for key in FORMULAS[name] if configs and key not in keys]
        return f"{name!r} needs {', '.join(missing)}, which no row has" if missing else ""
    if name == "columns":
        return "'columns': the study has none"
    if name in keys or not configs:
        return ""
    return (
        f"{name!r} is no option of its rows{close_matches(name, [*own, *FORMULAS, *keys])}; allowed: any option that "
        f"they have, a metric for x, {', '.join([*own, *FORMULAS])}"
    )


def _lowest(x: Any, configs: Configs) -> float | None:
    values = [config.get(str(x)) for config in configs]
    numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return min(numbers, default=None)


# ---- printed numbers ---------------------------------------------------------------------------------------------


def wrong_comparisons(study: Study, labels: Sequence[str], *, is_own_data: bool) -> Iterator[str]:
    """Lines of `printed.compare` that name no metric of the table at any scale: scales have probes of their own.

    With data that the launch chose (not `is_own_data`) a label may be missing which the study's own data has.
    """
    compare = (study.printed.compare if study.printed is not None else None) or {}
    asked = {metric for scale in study.scales for metric in study.metrics(scale)}
    table = {each for metric in asked for each in with_labels(metric, labels)}
    for quantity, name in [(quantity, name) for quantity, names in compare.items() for name in names]:
        wanted = name if "{labels}" in name else with_labels(name, labels)[0]
        if _is_among(wanted, table) or (not is_own_data and any(_may_be(wanted, metric) for metric in asked)):
            continue
        tails = [metric.partition("/")[2] for metric in table]
        yield (
            f"printed.compare.{quantity}: {name!r} is no metric of the table{close_matches(wanted, [*table, *tails])}; "
            f"at all scales it has: {', '.join(sorted(table))}"
        )


def with_labels(metric: str, labels: Sequence[str]) -> list[str]:
    """`{label}` as the first label, `{labels}` as each."""
    named = [metric.replace("{labels}", label) for label in labels] if "{labels}" in metric else [metric]
    return [name.replace("{label}", labels[0] if labels else "") for name in named]


def _is_among(name: str, metrics: set[str]) -> bool:
    return any(name in (metric, metric.partition("/")[2]) for metric in metrics)


def _may_be(name: str, metric: str) -> bool:
    """Whether `metric`, whatever its labels are, is the one called `name`."""
    pattern = metric.replace("{labels}", "*").replace("{label}", "*")
    return fnmatchcase(name, pattern) or fnmatchcase(name, pattern.partition("/")[2])
