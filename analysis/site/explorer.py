"""The runs explorer: all runs of a database as columns that a page filters, scatters, overlays and compares.

A page from a file may fetch nothing, so that what it shows comes as scripts. `explore/runs.js` says what the runs are,
with the options of their configs; `explore/METRIC.js` holds the numbers of one metric and `curves/KEY.js` those of one
run and its curves, loaded when somebody asks for them: a database of 100,000 runs has millions of numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, func, select

from analysis.site.curves import thin
from analysis.site.runs import FEWEST_POINTS, find, page_key
from sweeps.cells.edited import label_of
from sweeps.cells.edited import shown as shown_studies
from sweeps.database import series
from sweeps.database.tables import CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.metric_words import metric_words
from sweeps.study.overrides import format_override

MOST_RUNS = 200_000  # in a page; the newest
POINTS = 240  # of a curve
MOST_POINTS = 1_000_000  # of curves that are read at once
DIGITS = ".6g"  # of a number: a float of JSON has up to 17 digits
AT_ONCE = 10_000  # numbers
PLAIN = frozenset({bool, int, float, str, type(None)})  # values of an option that are shown as they are


@dataclass(frozen=True)
class Explored:
    """What the page is given first. `runs` holds a value a run; `asked`, `key` and `options` one a config."""

    runs: Mapping[str, Sequence[Any]]
    key: Sequence[str]  # of a run's page, but for its seed
    asked: Sequence[Sequence[tuple[str, str]]]  # study and label of each place where a study of today has the config
    options: Mapping[str, Sequence[Any]]
    metrics: Mapping[str, int]  # how many of the runs have each
    left_out: int

    def script(self) -> bytes:
        studies = {study: place for place, study in enumerate(dict.fromkeys(s for one in self.asked for s, _ in one))}
        # Lists of pairs: a script takes an object's key "__proto__" for something else.
        told = {
            "runs": {name: _packed(column) for name, column in self.runs.items() if name != "run"},
            "ids": _spans(self.runs["run"]),
            "keys": self.key,
            "studies": list(studies),
            "asked": [[[studies[study], label] for study, label in one] for one in self.asked],
            "options": [[name, _packed(column)] for name, column in self.options.items()],
            "metrics": [[name, _path(name), num, metric_words(name)] for name, num in self.metrics.items()],
            "leftOut": self.left_out,
        }
        return f"window.explored = {_json(told)};\n".encode()


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
    hashes = {row.config_id: row.hash for row in rows}
    order = {config_id: place for place, config_id in enumerate(hashes)}
    asked = _asked(connection, order)
    counts = select(Result.metric, func.count()).where(*_kept(rows[0].id if rows else 0)).group_by(Result.metric)
    return Explored(
        runs={
            "run": [row.id for row in rows],
            "config": [order[row.config_id] for row in rows],
            "seed": [row.seed for row in rows],
            "state": [row.state for row in rows],
            "seconds": [_short(row.gpu_seconds or row.cpu_seconds) for row in rows],
        },
        key=[page_key(digest, 0).removesuffix("-0") for digest in hashes.values()],
        asked=[asked.get(config_id, []) for config_id in order],
        options=_options(connection, order),
        metrics=dict(sorted((metric, num) for metric, num in connection.execute(counts))),
        left_out=num - len(rows),
    )


def numbers(connection: Connection, most: int = MOST_RUNS) -> dict[str, bytes]:
    """The script of each metric's numbers of these runs, by its path."""
    oldest = connection.scalar(select(RunRow.id).order_by(RunRow.id.desc()).offset(most - 1).limit(1)) or 0
    found: dict[str, tuple[array[int], array[float]]] = {}
    query = select(Result.run_id, Result.metric, Result.value).where(*_kept(oldest))
    rows = connection.execute(query.order_by(Result.run_id, Result.metric).execution_options(yield_per=AT_ONCE))
    for run_id, metric, value in rows:
        if (column := found.get(metric)) is None:
            column = found[metric] = array("q"), array("d")
        assert value is not None  # by the query
        column[0].append(run_id)
        column[1].append(value)
    return {f"{_path(metric)}.js": _numbers_script(metric, *columns) for metric, columns in sorted(found.items())}


def numbers_at(connection: Connection, path: str) -> bytes | None:
    """What `numbers` has at this path; None where there is no such metric."""
    metrics = connection.scalars(select(Result.metric).where(Result.agg == "final").distinct())
    metric = next((one for one in metrics if f"{_path(one)}.js" == path), None)
    if metric is None:
        return None
    query = select(Result.run_id, Result.value).where(*_kept(0), Result.metric == metric).order_by(Result.run_id)
    rows = connection.execute(query).all()
    return _numbers_script(metric, [row.run_id for row in rows], [row.value for row in rows])


def _kept(oldest: int) -> list[Any]:
    """Conditions on the numbers that a page shows, of this run and newer ones."""
    return [Result.agg == "final", Result.value.is_not(None), Result.run_id >= oldest]


def _numbers_script(metric: str, run_ids: Sequence[int], values: Iterable[float]) -> bytes:
    told = {"ids": _spans(run_ids), "values": _packed(_shorts(values))}
    return f"window.told({_json(_path(metric))}, {_json(told)});\n".encode()


def _path(metric: str) -> str:
    """Of its script, without its ending: a metric may be called what no file can."""
    return f"explore/{hashlib.sha256(metric.encode()).hexdigest()[:12]}"


def curves_of(connection: Connection, run_ids: Sequence[int]) -> dict[str, bytes]:
    """The script of each of these runs' curves and numbers, by its path."""
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
    values: dict[int, list[tuple[str, float | None]]] = {row.id: [] for row in rows}
    query = select(Result.run_id, Result.metric, Result.value).where(*_kept(0), Result.run_id.in_(run_ids))
    for run_id, metric, value in connection.execute(query.order_by(Result.run_id, Result.metric)):
        values[run_id].append((metric, _short(value)))
    found = {}
    for row in rows:
        path = f"curves/{page_key(row.hash, row.seed)}"
        told = {"curves": lines[row.id], "numbers": values[row.id]}
        found[f"{path}.js"] = f"window.told({_json(path)}, {_json(told)});\n".encode()
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


def _asked(connection: Connection, configs: Mapping[int, int]) -> dict[int, list[tuple[str, str]]]:
    """Where each config stands in a study of today."""
    current = and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision)
    rows = connection.execute(
        select(StudyRow.name, CellRow.row_key, CellRow.col_key, CellRow.display, CellRow.config_id)
        .join(CellRow, current)
        .order_by(StudyRow.name, CellRow.row_key, CellRow.col_key)
    ).all()
    words = shown_studies(connection, {row.name for row in rows})
    found: dict[int, list[tuple[str, str]]] = {}
    for row in rows:
        if row.config_id in configs:
            label = label_of(words[row.name].cell(row).display)
            found.setdefault(row.config_id, []).append((row.name, label))
    return found


def _options(connection: Connection, configs: Mapping[int, int]) -> dict[str, list[Any]]:
    """By option, its value in each config; those that all configs have alike are left out. `method` and `scale`, which
    a launch is asked for and a config does not hold, are among them."""
    columns: dict[str, list[Any]] = {}
    rows = connection.execute(select(Config.id, Config.json, Config.method, Config.scale).order_by(Config.id))
    for row in rows:
        if row.id not in configs:
            continue
        place = configs[row.id]
        for name, value in ({"method": row.method, "scale": row.scale} | row.json).items():
            if (column := columns.get(name)) is None:
                column = columns[name] = [None] * len(configs)
            column[place] = value if type(value) in PLAIN else _plain(name, value)
    return {name: column for name, column in sorted(columns.items()) if _varies(column)}


def _varies(column: Iterable[Any]) -> bool:
    first, *others = column
    return any(type(other) is not type(first) or other != first for other in others)


def _plain(name: str, value: Any) -> Any:
    """What is not `PLAIN`, as it would be typed."""
    return format_override(name, value).removeprefix(f"{name}=")


def _spans(numbers: Iterable[int]) -> list[list[int]]:
    """Ascending whole numbers as the first ones of what follows without a gap, and how many follow each, itself among
    them."""
    groups = [[n for _, n in group] for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return [[group[0] for group in groups], [len(group) for group in groups]]


def _packed(column: Sequence[Any]) -> Any:
    """A column as it is, or, where most values are the one before, as values and how often each is repeated."""
    groups = [(value, len(list(group))) for (_, value), group in groupby(column, lambda value: (type(value), value))]
    if 2 * len(groups) > len(column):
        return list(column)
    return {"values": [value for value, _ in groups], "times": [times for _, times in groups]}


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(format(value, DIGITS))


def _shorts(values: Iterable[float]) -> list[float | None]:
    return [_short(float(value)) for value in values]


def _json(value: Any) -> str:
    """Safe in a script whatever it holds: no tag can end it, and not a number is null."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
