"""What a run's page and a study's list of runs show, read for many runs with a fixed number of queries."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, select

from analysis.site.curves import Curve, Panel, panels
from analysis.site.html import shown
from sweeps.answers import plateau
from sweeps.answers.collapse import shown_facts
from sweeps.answers.run_page import PACKAGES
from sweeps.cells.edited import Shown, label_of
from sweeps.cells.edited import shown as shown_studies
from sweeps.database import series
from sweeps.database.tables import (
    OUTCOMES_FIRST,
    Artifact,
    Attempt,
    Blob,
    CellRow,
    Config,
    Environment,
    Result,
    RunRow,
    StudyRow,
)
from sweeps.study.metric_words import metric_words

SAID = ("step", "peak_memory_bytes", "peak_gpu_memory_bytes")  # facts of an attempt that its columns have
MOST_CURVES = 16  # on one run's page
FEWEST_POINTS = 3  # of a curve; fewer are in the table of results


class Difference(NamedTuple):
    """An option that this run has otherwise than the baseline; a dash where one of them has no such option."""

    option: str
    here: str
    baseline: str


@dataclass(frozen=True)
class Place:
    """A cell that asks for the run's config. `differences` is None where its column has no baseline cell."""

    study: str
    label: str
    is_baseline: bool
    differences: tuple[Difference, ...] | None


@dataclass(frozen=True)
class File:
    """A file the run left; `is_stored`: its content is in the database too."""

    name: str
    uri: str
    kind: str
    num_bytes: int
    is_stored: bool


@dataclass(frozen=True)
class Try:
    """One attempt: how it ended, and where and with what it ran, as (name, words) in reading order."""

    n: int
    outcome: str
    steps: str
    started: float
    seconds: float | None  # None while it runs: a page says nothing that changes with the clock
    code: str
    error: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Run:
    """All of one run but its pictures."""

    run_id: int
    key: str  # the name of its page: of what it is, not of where its row lies
    seed: int
    state: str
    config_hash: str
    num_options: int
    options: str  # a line an option
    cpu_seconds: float
    gpu_seconds: float
    places: tuple[Place, ...]
    results: tuple[tuple[str, float | None, int | None], ...]
    attempts: tuple[Try, ...]
    files: tuple[File, ...]
    curves: tuple[Panel, ...] = field(repr=False)
    num_more_curves: int = 0
    plateau: str = ""  # of its loss: "loss 0.66, left at step 188 of 500"

    @property
    def label(self) -> str:
        return self.places[0].label if self.places else f"config {self.config_hash[:12]}"

    @property
    def error(self) -> str:
        return self.attempts[-1].error if self.attempts else ""

    @property
    def has_pictures(self) -> bool:
        return all(any(f.name == name and f.is_stored for f in self.files) for name in ("clips.npz", "masks.npz"))


def page_key(config_hash: str, seed: int) -> str:
    """A name that is safe in a path and in a URL, whatever somebody's database calls its configs."""
    if not re.fullmatch("[0-9a-f]{64}", config_hash):
        config_hash = hashlib.sha256(config_hash.encode()).hexdigest()
    return f"{config_hash[:12]}-{seed}"


def keys(connection: Connection, run_ids: Sequence[int]) -> dict[int, str]:
    """The page of each run."""
    query = select(RunRow.id, Config.hash, RunRow.seed).join(Config, Config.id == RunRow.config_id)
    return {row.id: page_key(row.hash, row.seed) for row in connection.execute(query.where(RunRow.id.in_(run_ids)))}


def find(connection: Connection, key: str) -> int | None:
    """The run whose page this is: of the newest code epoch. None where there is none."""
    if not re.fullmatch(r"[0-9a-f]{12}-[0-9]{1,18}", key):
        return None
    start, _, seed = key.rpartition("-")
    found: int | None = connection.scalar(
        select(RunRow.id)
        .join(Config, Config.id == RunRow.config_id)
        .where(Config.hash.startswith(start), RunRow.seed == int(seed))
        .order_by(RunRow.code_epoch.desc())
        .limit(1)
    )
    return found


def read(connection: Connection, run_ids: Sequence[int]) -> list[Run]:
    """These runs, in order; one that is gone is left out."""
    rows = {
        row.id: row
        for row in connection.execute(
            select(
                RunRow.id, RunRow.seed, RunRow.state, RunRow.config_id, RunRow.cpu_seconds, RunRow.gpu_seconds,
                Config.hash, Config.json,
            ).join(Config, Config.id == RunRow.config_id).where(RunRow.id.in_(run_ids))
        )
    }  # fmt: skip
    # Once a config: its seeds share it.
    configs = {row.config_id: row.json for row in rows.values()}
    options = {
        config_id: "\n".join(f"{name}={shown(config[name])}" for name in sorted(config))
        for config_id, config in configs.items()
    }
    places = _places(connection, configs)
    attempts, results, files = (
        _attempts(connection, run_ids),
        _results(connection, run_ids),
        _files(connection, run_ids),
    )
    curves, done = _curves(connection, run_ids, attempts), [key for key, row in rows.items() if row.state == "done"]
    plateaus = plateau.of_done(connection, done) | plateau.read(connection, sorted(rows.keys() - set(done)))
    return [
        Run(
            run_id=run_id,
            key=page_key(row.hash, row.seed),
            seed=row.seed,
            state=row.state,
            config_hash=row.hash,
            num_options=len(row.json),
            options=options[row.config_id],
            cpu_seconds=row.cpu_seconds,
            gpu_seconds=row.gpu_seconds,
            places=places.get(row.config_id, ()),
            plateau=plateau.described(plateaus[run_id]) if run_id in plateaus else "",
            results=tuple(results.get(run_id, ())),
            attempts=tuple(_try(attempt) for attempt in attempts.get(run_id, ())),
            files=tuple(files.get(run_id, ())),
            curves=tuple(curves.get(run_id, ())[:MOST_CURVES]),
            num_more_curves=max(0, len(curves.get(run_id, ())) - MOST_CURVES),
        )
        for run_id in run_ids
        if (row := rows.get(run_id)) is not None
    ]


# ---- the config and what asks for it ---------------------------------------------------------------------------------


def _places(connection: Connection, configs: Mapping[int, dict[str, Any]]) -> dict[int, tuple[Place, ...]]:
    current = and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision)
    cells = connection.execute(
        select(StudyRow.id, StudyRow.name, CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display)
        .join(CellRow, current)
        .where(CellRow.config_id.in_(list(configs)))
        .order_by(StudyRow.name, CellRow.row_key, CellRow.col_key)
    ).all()
    words = shown_studies(connection, {cell.name for cell in cells})
    baselines = _baselines(connection, words)
    named = [(cell.name, words[cell.name].cell(cell), cell.config_id) for cell in cells]
    found: dict[int, list[Place]] = {}
    # A search's cells, which it adds as it goes, have no second axis.
    for name, cell, config_id in sorted(
        named, key=lambda one: (one[0], one[1].display["row_order"], one[1].display.get("col_order", 0))
    ):
        baseline = baselines.get((name, cell.col_key))
        config = configs[config_id]
        differences = None if baseline is None else compare(config, baseline)
        place = Place(name, label_of(cell.display), baseline == config, differences)
        found.setdefault(config_id, []).append(place)
    return {config_id: tuple(places) for config_id, places in found.items()}


def _baselines(connection: Connection, words: Mapping[str, Shown]) -> dict[tuple[str, str], dict[str, Any]]:
    """(study, column) -> the config of the baseline row there."""
    found: dict[tuple[str, str], int] = {}
    rows = connection.execute(
        select(StudyRow.name, CellRow.row_key, CellRow.col_key, CellRow.display, CellRow.config_id)
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .where(StudyRow.name.in_(words))
    )
    baselines = {name: study.study.baseline for name, study in words.items()}
    for row in rows:
        cell = words[row.name].cell(row)
        if cell.row_key == baselines[row.name]:
            found[row.name, cell.col_key] = row.config_id
    query = select(Config.id, Config.json).where(Config.id.in_(set(found.values())))
    configs = {row.id: row.json for row in connection.execute(query)}
    return {place: configs[config_id] for place, config_id in found.items()}


def compare(config: Mapping[str, Any], baseline: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The options that differ, in alphabetical order."""
    both = (
        Difference(key, *(shown(one[key]) if key in one else "–" for one in (config, baseline)))
        for key in sorted(config.keys() | baseline.keys())
    )
    return tuple(difference for difference in both if difference.here != difference.baseline)


# ---- what came out ---------------------------------------------------------------------------------------------------


def _results(connection: Connection, run_ids: Sequence[int]) -> dict[int, list[tuple[str, float | None, int | None]]]:
    found: dict[int, list[tuple[str, float | None, int | None]]] = {}
    query = select(Result.run_id, Result.metric, Result.value, Result.step)
    for row in connection.execute(
        query.where(Result.run_id.in_(run_ids), Result.agg == "final").order_by(Result.run_id, *OUTCOMES_FIRST)
    ):
        found.setdefault(row.run_id, []).append((row.metric, row.value, row.step))
    return found


def _files(connection: Connection, run_ids: Sequence[int]) -> dict[int, list[File]]:
    stored = select(Blob.sha256).where(Blob.sha256 == Artifact.sha256).exists().label("is_stored")
    found: dict[int, list[File]] = {}
    for row in connection.execute(
        select(Artifact.run_id, Artifact.name, Artifact.uri, Artifact.kind, Artifact.bytes, stored)
        .where(Artifact.run_id.in_(run_ids))
        .order_by(Artifact.run_id, Artifact.name, Artifact.attempt)
    ):
        found.setdefault(row.run_id, []).append(File(row.name, row.uri, row.kind, row.bytes or 0, bool(row.is_stored)))
    return found


def _curves(
    connection: Connection, run_ids: Sequence[int], attempts: Mapping[int, Sequence[Any]]
) -> dict[int, list[Panel]]:
    """A drawing for each series of each run, the loss first."""
    sizes = series.sizes(connection, run_ids)
    metrics = sorted({metric for of_run in sizes.values() for metric, n in of_run.items() if n >= FEWEST_POINTS})
    metrics.sort(key=lambda metric: "loss" not in metric)
    found: dict[int, list[Panel]] = {}
    for metric in metrics:  # one at a time: many runs' curves together are large
        for (run_id, _), one in series.read_many(connection, run_ids, [metric]).items():
            resumes = [(a.n, int(a.resume_step)) for a in attempts.get(run_id, ()) if a.n > 1 and a.resume_step]
            found.setdefault(run_id, []).extend(
                panels({metric_words(metric): [Curve(one, 0, metric_words(metric), resumes)]})
            )
    return found


# ---- attempts --------------------------------------------------------------------------------------------------------


def _attempts(connection: Connection, run_ids: Sequence[int]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for row in connection.execute(
        select(Attempt.__table__, Environment.packages)
        .outerjoin(Environment, Environment.hash == Attempt.env_hash)
        .where(Attempt.run_id.in_(run_ids))
        .order_by(Attempt.run_id, Attempt.n)
    ):
        found.setdefault(row.run_id, []).append(row)
    return found


def _try(attempt: Any) -> Try:
    packages = attempt.packages or {}
    dirty = {True: " with uncommitted changes", False: "", None: ""}[attempt.dirty]
    memory = ((attempt.peak_memory, "of memory"), (attempt.peak_gpu_memory, "on the GPU"))
    facts: dict[str, Any] = {
        "host": attempt.host,
        "device": attempt.device,
        "worker": attempt.worker,
        "Slurm job": attempt.slurm_job,
        "packages": ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages),
        "environment": (attempt.env_hash or "")[:12],
        "CPU seconds": attempt.cpu_seconds,
        "GPU seconds": attempt.gpu_seconds or None,
        "peak": ", ".join(f"{size / 2**30:.2f} GiB {where}" for size, where in memory if size),
        **{f"fingerprint of {group}": value for group, value in sorted((attempt.data or {}).items())},
        **dict(_fact(key, value) for key, value in sorted(shown_facts(attempt.facts).items()) if key not in SAID),
    }
    return Try(
        n=attempt.n,
        outcome=attempt.outcome or "running",
        steps=f"{attempt.resume_step or 0:,} to {attempt.step or 0:,}",
        started=attempt.started,
        seconds=attempt.ended - attempt.started if attempt.ended else None,
        code=f"{attempt.git_sha[:12]}{dirty}" if attempt.git_sha else "unknown",
        error=attempt.error or "",
        facts=tuple((name, _words(value)) for name, value in facts.items() if value not in (None, "", [])),
    )


def _fact(key: str, value: Any) -> tuple[str, Any]:
    """`eval_seconds` is "eval": "6.3 s"."""
    is_time = key.endswith("_seconds") and isinstance(value, int | float)
    return key.removesuffix("_seconds").replace("_", " "), f"{value:.4g} s" if is_time else value


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
