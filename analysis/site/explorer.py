"""The runs explorer: all runs of a database as columns that a page filters, scatters, overlays and compares.

A page from a file may fetch nothing, so that what it shows comes as scripts: `explore/runs.js` holds the columns, and
`curves/KEY.js` the curves of one run, loaded when somebody asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, func, select

from analysis.site.curves import thin
from analysis.site.runs import FEWEST_POINTS, find, page_key
from sweeps.cells.edited import label_of
from sweeps.cells.edited import shown as shown_studies
from sweeps.database import series
from sweeps.database.tables import CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.metric_words import metric_words
from sweeps.study.overrides import format_override

MOST_RUNS = 20_000  # in a page; the newest
POINTS = 240  # of a curve
MOST_POINTS = 1_000_000  # of curves that are read at once
DIGITS = 6  # of a number: a float of JSON has up to 17


@dataclass(frozen=True)
class Explored:
    """What the page is given. `runs` and `metrics` hold a value a run, `options` a value a config."""

    runs: Mapping[str, Sequence[Any]]
    options: Mapping[str, Sequence[Any]]
    metrics: Mapping[str, Sequence[float | None]]
    left_out: int

    def script(self) -> bytes:
        told = {"runs": self.runs, "options": self.options, "metrics": self.metrics, "leftOut": self.left_out}
        words = {metric: metric_words(metric) for metric in self.metrics}
        return f"window.explored = {_json({**told, 'words': words})};\n".encode()


def read(connection: Connection, most: int = MOST_RUNS) -> Explored:
    """All runs of the database, or the newest; a config's options only where two configs differ in them."""
    num = connection.scalar(select(func.count()).select_from(RunRow)) or 0
    rows = connection.execute(
        select(
            RunRow.id, RunRow.seed, RunRow.state, RunRow.config_id, RunRow.cpu_seconds, RunRow.gpu_seconds, Config.hash
        )
        .join(Config, Config.id == RunRow.config_id)
        .order_by(RunRow.id.desc())
        .limit(most)
    ).all()[::-1]
    order = {config_id: place for place, config_id in enumerate(dict.fromkeys(row.config_id for row in rows))}
    asked = _asked(connection, order)
    return Explored(
        runs={
            "run": [row.id for row in rows],
            "key": [page_key(row.hash, row.seed) for row in rows],
            "config": [order[row.config_id] for row in rows],
            "seed": [row.seed for row in rows],
            "state": [row.state for row in rows],
            "seconds": [_short(row.gpu_seconds or row.cpu_seconds) for row in rows],
            "asked": [asked.get(config_id, []) for config_id in order],  # a config: [study, label] of each place
        },
        options=_options(connection, order),
        metrics=_metrics(connection, [row.id for row in rows]),
        left_out=num - len(rows),
    )


def curves_of(connection: Connection, run_ids: Sequence[int]) -> dict[str, bytes]:
    """The script of each of these runs' curves, by its path."""
    rows = connection.execute(
        select(RunRow.id, RunRow.seed, Config.hash).join(Config).where(RunRow.id.in_(run_ids)).order_by(RunRow.id)
    ).all()
    sizes = series.sizes(connection, run_ids)
    wanted = {
        row.id: [metric for metric, size in sizes.get(row.id, {}).items() if size >= FEWEST_POINTS] for row in rows
    }
    lines: dict[int, dict[str, Any]] = {row.id: {} for row in rows}
    for ids in _batches(sizes):
        metrics = sorted({metric for run_id in ids for metric in wanted[run_id]})
        for (run_id, metric), whole in series.read_many(connection, ids, metrics).items():
            if metric in wanted[run_id] and len((one := thin(whole, POINTS)).steps):
                lines[run_id][metric] = {"steps": one.steps.tolist(), "values": _shorts(one.values)}
    found = {}
    for row in rows:
        key = page_key(row.hash, row.seed)
        found[f"curves/{key}.js"] = f"window.curves({_json(key)}, {_json(lines[row.id])});\n".encode()
    return found


def _batches(sizes: Mapping[int, Mapping[str, int]]) -> Iterator[list[int]]:
    """Runs whose curves are read together: a query each takes longer than its few points, and all need much memory."""
    batch: list[int] = []
    num_points = 0
    for run_id, of_run in sizes.items():
        batch.append(run_id)
        num_points += sum(of_run.values())
        if num_points > MOST_POINTS:
            yield batch
            batch, num_points = [], 0
    if batch:
        yield batch


def curve_of(connection: Connection, key: str) -> bytes | None:
    """The script of the run whose page has this key; None where there is none."""
    run_id = find(connection, key)
    return None if run_id is None else next(iter(curves_of(connection, [run_id]).values()), None)


def _asked(connection: Connection, configs: Mapping[int, int]) -> dict[int, list[list[str]]]:
    """Where each config stands in a study of today."""
    current = and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision)
    rows = connection.execute(
        select(StudyRow.name, CellRow.row_key, CellRow.col_key, CellRow.display, CellRow.config_id)
        .join(CellRow, current)
        .order_by(StudyRow.name, CellRow.row_key, CellRow.col_key)
    ).all()
    words = shown_studies(connection, {row.name for row in rows})
    found: dict[int, list[list[str]]] = {}
    for row in rows:
        if row.config_id in configs:
            label = label_of(words[row.name].cell(row).display)
            found.setdefault(row.config_id, []).append([row.name, label])
    return found


def _options(connection: Connection, configs: Mapping[int, int]) -> dict[str, list[Any]]:
    """By option, its value in each config; those that all configs have alike are left out."""
    columns: dict[str, list[Any]] = {}
    rows = connection.execute(select(Config.id, Config.json).order_by(Config.id))
    for row in rows:
        if row.id not in configs:
            continue
        for name, value in row.json.items():
            columns.setdefault(name, [None] * len(configs))[configs[row.id]] = _plain(name, value)
    return {name: column for name, column in sorted(columns.items()) if _varies(column)}


def _varies(column: Iterable[Any]) -> bool:
    first, *others = column
    return any(type(other) is not type(first) or other != first for other in others)


def _plain(name: str, value: Any) -> Any:
    """A number or truth as it is; anything else as it would be typed."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return format_override(name, value).removeprefix(f"{name}=")


def _metrics(connection: Connection, run_ids: Sequence[int]) -> dict[str, list[float | None]]:
    places = {run_id: place for place, run_id in enumerate(run_ids)}
    found: dict[str, list[float | None]] = {}
    query = select(Result.run_id, Result.metric, Result.value).where(Result.agg == "final")
    if run_ids:
        query = query.where(Result.run_id >= min(run_ids))
    for row in connection.execute(query.order_by(Result.metric, Result.run_id)):
        if row.run_id in places:
            found.setdefault(row.metric, [None] * len(run_ids))[places[row.run_id]] = _short(row.value)
    return found


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.{DIGITS}g}")


def _shorts(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _json(value: Any) -> str:
    """Safe in a script whatever it holds: no tag can end it, and not a number is null."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
