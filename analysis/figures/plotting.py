"""A study's figures: `points` says what will be drawn, as data; `draw` draws that and computes nothing.

A figure of a study file has `kind`, `x`, `hue`, `metric` and optional `panels`, each overriding some of those.
`x` and `hue` name an axis of the study ("length", "rows", "columns"), a config key ("mask.ratio"), one of `FORMULAS`,
or, for x, a metric ("collapse/rankme"); every x but a metric is a property of the cell, so points average over seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.agreement import pairs
from analysis.numbers.frame import Frame, records
from analysis.numbers.stats import summarise
from sweeps.console.errors import UserError
from sweeps.study.checks import FORMULAS as FORMULA_KEYS
from sweeps.study.metric_words import PER_CENT, describe, metric_words, option_words

# The only arithmetic a study file can ask for, by name, of the frame's tidy columns; `FORMULA_KEYS` is what each needs.
FORMULAS: dict[str, Callable[[pd.DataFrame], pd.Series[float]]] = {
    # In samples' worth of patches: multiply by the patches of one sample for tokens (MAE-ST Figure 6, right).
    "encoded_tokens": lambda t: t["optim.steps"] * t["optim.batch_size"] * (1 - t["mask.ratio"]),
    "samples_seen": lambda t: t["optim.steps"] * t["optim.batch_size"],
    "cpu_hours": lambda t: t["cpu_seconds"] / 3600,
    "gpu_hours": lambda t: t["gpu_seconds"] / 3600,
}
FAR = 3
MOST_DOTS = 5  # seeds: of more their interval says enough
FLAT = ("bar", "point")  # drawn with the values along x, so that long row labels stay readable


@dataclass(frozen=True)
class Panel:
    """One pair of axes, fully resolved."""

    title: str
    kind: str
    x: str
    hue: str | None
    metric: str
    xlabel: str
    ylabel: str
    hue_label: str = ""
    is_log: bool = False
    is_printed: bool = False  # the paper's own numbers, in their own unit and scale
    low: float = -math.inf  # the ends of what the metric can be
    high: float = math.inf


@dataclass(frozen=True)
class Plot:
    """All that is drawn. `points` columns: panel x hue label mean low high num_seeds num_wanted (one row a mark);
    `references`: the random-init estimate of each panel of a metric that it has, same columns, x and hue empty."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    points: pd.DataFrame
    references: pd.DataFrame
    note: str
    seeds: pd.DataFrame  # a row a number that is drawn as a dot: panel x hue label value


def plot(frame: Frame, figure: Mapping[str, Any]) -> Plot:
    """What this figure of the study shows.

    Raises UserError naming the figure and what is allowed when an axis is neither a config key nor a named one.
    """
    panels = _panels(frame, figure)
    tidy = frame.tidy()
    parts = [_panel_points(frame, tidy, panel, number) for number, panel in enumerate(panels)]
    printed = _printed_points(frame, panels[0], len(panels))
    if not printed.empty:
        paper = frame.study.printed
        assert paper is not None
        label = "" if panels[0].kind == "line" and frame.study.columns else panels[0].xlabel
        quantity = "" if frame.study.columns else _printed_quantity(frame, panels[0].metric) or ""
        panels.append(
            replace(
                panels[0],
                title="as printed",
                xlabel=label,
                ylabel=printed_words(paper.metric, quantity, panels[0].metric, float(printed["mean"].max())),
                is_printed=True,
                low=-math.inf,
                high=math.inf,
            )
        )
        parts.append(printed)
    points = pd.concat(parts, ignore_index=True)
    references = points[points["is_random_init"]].drop_duplicates("panel")
    of_encoder = {number for number, panel in enumerate(panels) if describe(panel.metric).is_of_encoder}
    references = references[references["panel"].isin(of_encoder)]
    references, beyond = _within_reach(references, points[~points["is_random_init"]], panels)
    points = points[~points["is_random_init"]].reset_index(drop=True)
    incomplete = points[points["num_seeds"] < points["num_wanted"]]
    ours = points[~points["panel"].isin([n for n, panel in enumerate(panels) if panel.is_printed])]
    note = _about_marks(ours, panels[0].kind) + beyond
    if len(incomplete):
        shares = [f"{row.label}: {row.num_seeds}/{row.num_wanted} seeds" for row in records(incomplete)]
        note += " Hollow or absent: " + "; ".join(dict.fromkeys(shares)) + "."
    title = str(figure.get("title", frame.study.title))
    return Plot(str(figure["name"]), title, tuple(panels), points, references, note.strip(), _seeds(tidy, ours, panels))


def _within_reach(
    references: pd.DataFrame, points: pd.DataFrame, panels: Sequence[Panel]
) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """The references to draw, and what the note says of those that would press the marks together at one side.

    Bars begin at 0, and so reach far anyway; elsewhere a reference further than `FAR` times what the marks span is
    told in words.
    """
    kept: list[int] = []
    told: dict[str, None] = {}
    for row in records(references):
        panel, own = panels[row.panel], points[points["panel"] == row.panel]
        lows, highs = own["low"].fillna(own["mean"]), own["high"].fillna(own["mean"])
        low, high = lows.min(), highs.max()
        is_far = low < high and max(low - row.mean, row.mean - high) > FAR * (high - low)
        if is_far and panel.kind != "bar":
            unit = describe(panel.metric).unit
            told[f"{row.mean:.3g}{' ' if unit else ''}{unit}"] = None
        else:
            kept.append(row.panel)
    return references[references["panel"].isin(kept)], f" Random init: {', '.join(told)}, off the axis." if told else ""


def printed_words(printed: str, quantity: str, metric: str, largest: float) -> str:
    """What an axis of printed numbers is called: of all that `printed` names, the `quantity` beside our `metric`.

    "EPE (K15, clean), mIoU (ISeg)" and "K15 train" give "K15 train EPE (px)". `largest` tells per cent from shares.
    """
    parts = re.split(r",\s*(?![^()]*\))| and (?![^()]*\))", printed)
    measure = _squashed(metric.rpartition("/")[2].rpartition("_")[2])
    words = printed
    if len(parts) > 1:
        heads = [part.partition(" (")[0] for part in parts]
        words = next((head for head in heads if measure in _squashed(head)), quantity or printed)
    if quantity and " " not in words and words != quantity:
        words = f"{quantity} {words}"
    elif quantity and len(parts) == 1 and quantity not in words:
        words = f"{words} ({quantity})"
    unit = describe(metric).unit
    is_named = words.endswith(")") or not unit or (unit == PER_CENT and largest <= 1)
    return words if is_named else f"{words} ({unit})"


def _squashed(words: str) -> str:
    return re.sub(r"[^a-z0-9]", "", words.lower())


def _about_marks(points: pd.DataFrame, kind: str) -> str:
    """How many seeds a mark is of, and what the bar through it is: a figure is read without its page."""
    counts = points["num_seeds"][points["num_seeds"] > 0]
    if counts.empty:
        return ""
    fewest, most = int(counts.min()), int(counts.max())
    num = f"n = {most}" if fewest == most else f"n = {fewest} to {most}"
    if most == 1:
        return f"{num} seed: no interval."
    thing = "bar" if kind == "bar" else "mark"
    dots = ", dots are seeds" if fewest <= MOST_DOTS else ""
    band = "band" if kind == "line" and fewest > MOST_DOTS else "whisker"
    return f"{num} seeds: a {thing} is their mean, its {band} the 95 % t-interval{dots}."


def _seeds(tidy: pd.DataFrame, points: pd.DataFrame, panels: Sequence[Panel]) -> pd.DataFrame:
    """The seeds behind marks of two to `MOST_DOTS` of them, at the mark's place."""
    few = points[points["num_seeds"].between(2, MOST_DOTS)]
    few = few.assign(metric=[panels[int(number)].metric for number in few["panel"]])
    shown = ["panel", "row_key", "col_key", "x", "hue", "label", "metric"]
    values = tidy[["row_key", "col_key", "metric", "value"]].dropna(subset="value")
    return few[shown].astype({"metric": "object"}).merge(values, on=["row_key", "col_key", "metric"])


def _panels(frame: Frame, figure: Mapping[str, Any]) -> list[Panel]:
    panels = []
    for part in figure.get("panels") or [{}]:
        options = {**figure, **part}
        kind = options.get("kind", "line")
        metric = str(options.get("metric", options.get("y", frame.metrics[0])))
        x = str(options.get("x", "rows"))
        # Without a hue a second axis would put several marks of a line at one x.
        default = "rows" if kind == "scatter" else "columns" if frame.study.columns and kind == "line" else None
        hue = options.get("hue", default)
        panels.append(
            Panel(
                title=str(part.get("title", "")),
                kind=kind,
                x=x,
                hue=str(hue) if hue else None,
                metric=metric,
                xlabel=str(options.get("xlabel", option_words(_axis_name(frame, x)))),
                ylabel=str(options.get("ylabel", metric_words(metric))),
                hue_label=option_words(_axis_name(frame, str(hue))) if hue else "",
                is_log=bool(options.get("logx", False)),
                low=describe(metric).low,
                high=describe(metric).high,
            )
        )
    return panels


def _panel_points(frame: Frame, tidy: pd.DataFrame, panel: Panel, number: int) -> pd.DataFrame:
    rows = tidy[tidy["metric"] == panel.metric].reset_index(drop=True)
    rows = rows.assign(x=axis(frame, rows, panel.x, tidy), hue=_hue(frame, rows, panel))
    by = ["row_key", "col_key"]
    label = rows["row_label"].where(rows["col_label"] == "", rows["row_label"] + ", " + rows["col_label"])
    rows = rows.assign(label=label)
    shared = rows.groupby(by, sort=False)[["hue", "label", "is_random_init"]].first().reset_index()
    # Hours and metrics on x differ from seed to seed: their mean places the mark.
    x = rows.groupby(by, sort=False)["x"]
    shared["x"] = (x.mean() if pd.api.types.is_numeric_dtype(rows["x"]) else x.first()).to_numpy()
    shared["num_wanted"] = rows.groupby(by, sort=False)["seed"].nunique().to_numpy()  # a rule gives some rows more
    points = summarise(rows, by).merge(shared, on=by)
    points["low"], points["high"] = (points[end].clip(panel.low, panel.high) for end in ("low", "high"))
    return points.assign(panel=number)


def _hue(frame: Frame, rows: pd.DataFrame, panel: Panel) -> pd.Series[Any] | str:
    """An axis of the study by its labels ("90 %"); anything else by its values."""
    if not panel.hue:
        return ""
    by_label = {frame.study.row_axis or "rows": "rows", frame.study.col_axis or "columns": "columns"}
    return axis(frame, rows, by_label.get(panel.hue, panel.hue), rows)


def axis(frame: Frame, rows: pd.DataFrame, name: str, tidy: pd.DataFrame) -> pd.Series[Any]:
    """The values of a named axis for every row of `rows`. Raises UserError naming what is allowed."""
    if name in ("rows", frame.study.row_axis) and name not in rows.columns:
        return rows["row_label"]
    if name in ("columns", frame.study.col_axis) and name not in rows.columns:
        return rows["col_label"]
    if name in FORMULAS:
        missing = [key for key in FORMULA_KEYS[name] if key not in rows.columns]
        if missing:
            raise UserError(f"{frame.name}: figure axis {name!r} needs {', '.join(missing)}, which its runs lack")
        return FORMULAS[name](rows)
    if "/" in name:
        other = tidy[tidy["metric"] == name].set_index(["row_key", "col_key", "seed"])["value"]
        keys = pd.MultiIndex.from_frame(rows[["row_key", "col_key", "seed"]])
        return pd.Series(other.reindex(keys).to_numpy(), index=rows.index)
    if name in frame.configs.columns:
        return _with_init_beside(rows[name].map(_place), rows["is_random_init"])
    axes = [axis for axis in (frame.study.row_axis, frame.study.col_axis) if axis]
    allowed = ", ".join([*axes, "rows", "columns", *FORMULAS])
    raise UserError(f"{frame.name}: figure axis {name!r} is not a key of its configs; allowed beside those: {allowed}")


def _with_init_beside(places: pd.Series[Any], is_init: pd.Series[Any]) -> pd.Series[Any]:
    """`places` with the first trained row's for a random init that lacks the option: whole numbers stay whole."""
    lacks = places.isna() & is_init
    if not lacks.any() or lacks.all() or places[~lacks].isna().any():
        return places
    trained = pd.Series(places[~lacks].tolist())
    whole = pd.api.types.is_float_dtype(trained) and bool((trained % 1 == 0).all())
    filled = places.astype("object").where(~lacks, trained[0]).infer_objects()
    return filled.astype("int64") if whole else filled


def _place(option: Any) -> Any:
    """A list as what an axis can show: its only entry, or its entries as text."""
    if not isinstance(option, list):
        return option
    return option[0] if len(option) == 1 else ", ".join(map(str, option))


def _axis_name(frame: Frame, name: str) -> str:
    """What to call an axis: `rows` and `columns` by their grid key; "" where they have none."""
    return {"rows": frame.study.row_axis, "columns": frame.study.col_axis}.get(name, name)


def _printed_points(frame: Frame, panel: Panel, number: int) -> pd.DataFrame:
    """The paper's numbers for the figure's cells, for a panel of their own: their unit and scale are not ours."""
    printed = frame.study.printed
    columns = ["row_key", "col_key", "mean", "low", "high", "num_seeds", "hue", "label", "is_random_init", "x", "panel"]
    main = "" if printed is None else _printed_quantity(frame, panel.metric)
    if printed is None or main is None or panel.kind == "scatter":
        return pd.DataFrame(columns=[*columns, "num_wanted"])
    cells = frame.cells.join(frame.configs[frame.configs.columns.difference(frame.cells.columns)], on="config_id")
    cells = cells[~cells["is_random_init"]].reset_index(drop=True)
    col_keys = cells["col_key"] if frame.study.columns else [main] * len(cells)
    places = zip(cells["row_key"], col_keys, strict=True)
    values = [printed.values.get(row, {}).get(column, math.nan) for row, column in places]
    x = axis(frame, cells, panel.x, cells)
    if panel.kind == "line" and frame.study.columns:  # the paper's schedule is not ours: name its places by label
        x = cells["row_label" if panel.hue in ("columns", frame.study.col_axis) else "col_label"]
    elif panel.kind == "line":
        x = _paper_places(frame, cells, panel.x)
    cells = cells.assign(x=x, hue=_hue(frame, cells, panel), mean=np.asarray(values))
    # Bars and points share their rows with our panel beside them: a row that the paper lacks keeps its place, empty.
    # So do a line's, that its places come in the study's order: one row may have only the last.
    if panel.kind == "line":
        of_places, of_lines = (cells.groupby(key)["mean"].transform("count") for key in ("x", "hue"))
        is_line = cells["mean"].count() > 1  # one number is none
        cells = cells[(of_places > 0) & (of_lines > 0) & is_line]
    elif panel.kind not in FLAT or cells["mean"].isna().all():
        cells = cells.dropna(subset="mean")
    label = cells["row_label"].where(cells["col_label"] == "", cells["row_label"] + ", " + cells["col_label"])
    cells = cells.assign(label=label, low=float("nan"), high=float("nan"), num_seeds=1, num_wanted=1, panel=number)
    return cells[[*columns, "num_wanted"]].astype({"mean": "float64"})


def _paper_places(frame: Frame, cells: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Where the paper's own numbers lie along an option, which is rarely where ours do; by label where it says none."""
    sizes = {}
    if "paper" in frame.study.scales:
        sizes = {cell.row_key: cell.overrides.get(name) for cell in frame.study.cells("paper")}
    found = cells["row_key"].map(sizes)
    return cells["row_label"] if found.isna().any() else found


def _printed_quantity(frame: Frame, metric: str) -> str | None:
    """Which printed quantity stands beside our `metric`: the first that is compared with it; None without one."""
    return next((pair.quantity for pair in pairs(frame) if pair.metric == metric), None)


def levels(values: Sequence[Any] | pd.Series[Any]) -> list[Any]:
    """Distinct values: numbers in their own order, words in the study's."""
    distinct = list(dict.fromkeys(value for value in values if not pd.isna(value)))
    is_number = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
    return sorted(distinct) if is_number else distinct
