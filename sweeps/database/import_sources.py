"""What other programs have recorded, read without changing it: an Optuna study, a Hydra multirun folder."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import OptunaError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeps.console.errors import UserError, close_matches
from sweeps.console.url import mask_url
from sweeps.database.opening import connect, is_absent

STEP_COLUMNS = ("step", "global_step", "iteration", "epoch")  # the first that is there counts
Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Item:
    """One trial or job: what it was told, what it measured."""

    key: str  # stable in its source: a trial's number, a job's folder
    params: dict[str, Any]
    results: dict[str, float] = field(default_factory=dict)
    series: dict[str, Points] = field(default_factory=dict)
    state: str = "done"  # or pruned
    started: float | None = None  # seconds since 1970
    ended: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """`left_out` says what of it is no finished run, and why."""

    name: str
    items: list[Item]
    left_out: list[str]
    notes: str


# ---- Optuna ----------------------------------------------------------------------------------------------------------


def optuna_study(url: str, name: str) -> Source:
    """Complete and pruned trials. Raises UserError when there is no such database or study."""
    if is_absent(url):
        raise UserError(f"optuna={mask_url(url)}: there is no such file")
    connect(url, read_only=True).dispose()  # a wrong URL is told without its password
    try:
        # Optuna formats the URL with str.format, so braces are doubled. Its tables are read, never made.
        storage = optuna.storages.RDBStorage(url.replace("{", "{{").replace("}", "}}"), skip_table_creation=True)
        names = optuna.get_all_study_names(storage)
    except (OptunaError, SQLAlchemyError, RuntimeError) as error:  # no tables of Optuna, or another version's
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(f"optuna={mask_url(url)}: not a database of this Optuna: {reason}") from None
    if name not in names:
        raise UserError(
            f"study_name={name}: this database has no such Optuna study{close_matches(name, names)}; "
            f"it has: {', '.join(names) or 'none'}"
        )
    study = optuna.load_study(study_name=name, storage=storage)
    count = len(study.directions)
    metrics = study.metric_names or (["value"] if count == 1 else [f"value_{i}" for i in range(count)])
    trials = study.get_trials(deepcopy=False)
    items = [_trial(t, metrics) for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    others = [f"trial {t.number} ({t.state.name.lower()})" for t in trials if not t.state.is_finished()]
    others += [f"trial {t.number} (failed)" for t in trials if t.state == TrialState.FAIL]
    aims = ", ".join(f"{d.name.lower()} {metric}" for d, metric in zip(study.directions, metrics, strict=True))
    return Source(name, items, others, aims)


def _trial(trial: optuna.trial.FrozenTrial, metrics: Sequence[str]) -> Item:
    is_complete = trial.state == TrialState.COMPLETE
    curve = sorted(trial.intermediate_values.items())
    return Item(
        key=str(trial.number),
        params=dict(trial.params),
        results=dict(zip(metrics, trial.values, strict=True)) if is_complete else {},
        series={metrics[0]: curve} if curve else {},
        state="done" if is_complete else "pruned",
        started=_seconds(trial.datetime_start),
        ended=_seconds(trial.datetime_complete),
        facts={key: value for key, value in trial.user_attrs.items() if isinstance(value, str | int | float | bool)},
    )


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


# ---- Hydra -----------------------------------------------------------------------------------------------------------


def hydra_multirun(folder: Path, metrics: str) -> Source:
    """Every job below `folder` (a folder with `.hydra/` in it) that left the file `metrics`."""
    if not folder.is_dir():
        raise UserError(f"multirun={folder}: there is no such folder")
    jobs = sorted((path.parent for path in folder.rglob(".hydra") if path.is_dir()), key=_natural)
    if not jobs:
        raise UserError(f"multirun={folder}: no job in it: a job's folder has a .hydra folder")
    if Path(metrics).suffix not in (".json", ".jsonl", ".csv"):
        raise UserError(f"metrics={metrics}: must be a .json, .jsonl or .csv file in every job's folder")
    there = [job for job in jobs if (job / metrics).is_file()]
    if not there:
        raise UserError(f"metrics={metrics}: none of the {len(jobs)} jobs below {folder} has this file")
    items = [_job(job, job.relative_to(folder).as_posix(), job / metrics) for job in there]
    left_out = [f"job {job.relative_to(folder).as_posix()} (no {metrics})" for job in jobs if job not in there]
    return Source(folder.resolve().name, items, left_out, f"metrics of {metrics}")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.as_posix())]


def _job(job: Path, key: str, metrics: Path) -> Item:
    results, series, ignored = read_metrics(metrics)
    return Item(
        key=key,
        params=read_params(job / ".hydra"),
        results=results,
        series=series,
        started=(job / ".hydra").stat().st_mtime,
        ended=metrics.stat().st_mtime,
        facts={"not numbers": ", ".join(ignored)} if ignored else {},
    )


def read_params(folder: Path) -> dict[str, Any]:
    """The job's overrides; where it has none, its whole config, flat. Nothing in either is executed or resolved."""
    # core.configuring.config imports torch: not for --help or a mistake in the command.
    from core.configuring.config import ConfigError, parse

    overrides = _yaml(folder / "overrides.yaml") if (folder / "overrides.yaml").is_file() else None
    if not overrides:
        return dict(_flat(_yaml(folder / "config.yaml"), "."))
    if not isinstance(overrides, list) or not all(isinstance(word, str) for word in overrides):
        raise UserError(f"{folder / 'overrides.yaml'}: not a list of key=value")
    try:
        return parse([word.lstrip("+") for word in overrides])  # + and ++: Hydra's "add", "add or replace"
    except ConfigError as error:
        raise UserError(f"{folder / 'overrides.yaml'}: {error}") from None


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent}: neither overrides.yaml nor config.yaml says what this job was told") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None


def _flat(value: Any, separator: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, separator, f"{prefix}{separator}{key}" if prefix else str(key))
    elif prefix:
        yield prefix, value


# ---- metrics files ---------------------------------------------------------------------------------------------------


def read_metrics(path: Path) -> tuple[dict[str, float], dict[str, Points], list[str]]:
    """Last values, curves, and the names of what is no number.

    A JSON object is one row, nested names joined by "/". A CSV, a list of objects or JSON lines are one row a step.
    """
    try:
        text = path.read_text(encoding="utf-8")
        rows = _rows(path, text)
    except (json.JSONDecodeError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UserError(f"{path}: no metrics in it: an object, a list of objects, or a header with rows is expected")
    flat = [dict(_flat(row, "/")) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    step_name = next((name for name in STEP_COLUMNS if name in names), None)
    series: dict[str, Points] = {}
    ignored = []
    for name in names:
        if name == step_name:
            continue
        points = [
            (_step(row, step_name, i), row[name]) for i, row in enumerate(flat) if row.get(name) not in (None, "")
        ]
        numbers = [(step, number) for step, text in points if (number := _number(text)) is not None]
        if len(numbers) < len(points):
            ignored.append(name)
        elif numbers:
            series[name] = sorted(numbers)
    if not series:
        raise UserError(f"{path}: no numbers in it; it has: {', '.join(names) or 'nothing'}")
    results = {name: points[-1][1] for name, points in series.items()}
    return results, {name: points for name, points in series.items() if len(rows) > 1}, ignored


def _rows(path: Path, text: str) -> list[Any]:
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    document = json.loads(text)
    return document if isinstance(document, list) else [document]


def _step(row: Mapping[str, Any], name: str | None, index: int) -> int:
    step = _number(row.get(name)) if name else None
    return index + 1 if step is None or not math.isfinite(step) else int(step)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
