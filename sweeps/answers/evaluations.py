"""Evaluations made of runs after they were trained: which runs there are, what is recorded, what to record.

An evaluation is named by what its metrics begin with, and a run has each name once: ``linear`` is the run's own (or,
where it has none, the one with default settings), ``linear@num_layers=4`` one with other settings. Its numbers are
results of the run like any others, so tables and queries find them; `sw_evaluation` says with what settings, at what
cost and by which code they were made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, insert, select

from core.configuring.config import DEFAULT_METHOD
from sweeps.cells.edited import launched, scale_of
from sweeps.console.errors import UserError, no_such_study
from sweeps.database.tables import CellRow, Config, EvaluationRow, Result, RunRow, StudyRow, database_now
from sweeps.study.search_space import DEFAULT_ROW, is_trial

Settings = Mapping[str, Any]


class Trained(NamedTuple):
    """A run that is done, and where its checkpoints are."""

    id: int
    config: dict[str, Any]
    config_hash: str
    seed: int
    created: float
    checkpoint: str | None  # relative to results_dir
    presets: tuple[str, str] | None = None  # method and scale that its study named; None for a run of no study


class Made(NamedTuple):
    """What an evaluation found, for `record`."""

    results: Mapping[str, float]
    step: int
    costs: Mapping[str, float]  # the columns of sw_evaluation that count
    provenance: Mapping[str, Any]  # those that say who, where and with what code
    data: Mapping[str, str] = {}


# ---- runs --------------------------------------------------------------------------------------------------------


def trained_runs(connection: Connection, *, ids: Sequence[int] | None, study: str | None) -> list[Trained]:
    """The runs with these ids, which must be done, or all done runs of a study's current cells, in order of id.

    Raises UserError naming the ids that are not there or not done.
    """
    query = select(
        RunRow.id,
        RunRow.config_id,
        RunRow.state,
        RunRow.seed,
        RunRow.created,
        RunRow.checkpoint,
        Config.json,
        Config.hash,
    ).join(Config, Config.id == RunRow.config_id)
    if study is not None:
        query = query.where(RunRow.config_id.in_(_configs_of(connection, study)), RunRow.state == "done")
    if ids is not None:
        query = query.where(RunRow.id.in_(ids))
    rows = connection.execute(query.order_by(RunRow.id)).all()
    if missing := sorted(set(ids or ()) - {row.id for row in rows}):
        where = "this database" if study is None else f"study={study}, or not done in it"
        raise UserError(
            f"run={','.join(map(str, missing))}: not in {where}; "
            'python -m sweeps.query "select run_id, state from ab_runs" lists the runs'
        )
    for row in rows:
        if row.state != "done":
            raise UserError(f"run={row.id} is {row.state}: only a run that is done can be evaluated; launch its study")
    if not rows:
        raise UserError(f"study={study}: none of its runs is done; launch it first")
    presets = {config_id: _presets(connection, config_id) for config_id in {row.config_id for row in rows}}
    return [
        Trained(
            row.id, dict(row.json), row.hash, row.seed, row.created, row.checkpoint, presets[row.config_id]
        )
        for row in rows
    ]  # fmt: skip


def _presets(connection: Connection, config_id: int) -> tuple[str, str] | None:
    """Method and scale of the oldest study that has the config in a cell: a config itself is its options in full."""
    place = connection.execute(
        select(StudyRow.name, StudyRow.spec, CellRow.row_key, CellRow.col_key)
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .where(CellRow.config_id == config_id)
        .order_by(StudyRow.id, CellRow.row_key, CellRow.col_key)
        .limit(1)
    ).one_or_none()
    if place is None:
        return None
    scale, words = scale_of(place.spec), place.spec.get("overrides", [])
    study = launched(place.name, place.spec)
    # A trial has no row of its own in the file.
    row_key = DEFAULT_ROW if is_trial(place.row_key) else place.row_key
    cells = {(cell.row_key, cell.col_key): cell.overrides for cell in study.cells(scale)}
    given = dict(word.partition("=")[::2] for word in words)
    method = given.get("method", cells.get((row_key, place.col_key), {}).get("method", DEFAULT_METHOD))
    return str(method), scale


def _configs_of(connection: Connection, study: str) -> Any:
    known = list(connection.scalars(select(StudyRow.name).order_by(StudyRow.name)))
    if study not in known:
        raise UserError(no_such_study(study, known))
    row = connection.execute(select(StudyRow.id, StudyRow.revision).where(StudyRow.name == study)).one()
    return select(CellRow.config_id).where(CellRow.study_id == row.id, CellRow.revision == row.revision)


def checkpoint_folder(run: Trained, results_dir: Path) -> Path:
    """Where the checkpoints of the run are. A run of no steps has none, and its seed is enough.

    Raises UserError, saying what to do, when they are not in `results_dir`, or another run's are in their place.
    """
    if not run.config.get("optim.steps", 1):
        return results_dir
    again = (
        f"run {run.id} cannot be evaluated without its checkpoint: give the results_dir that it was trained in, or "
        f"train it again in another database"
    )
    if run.checkpoint is None:
        raise UserError(f"run={run.id}: its checkpoint is not on this machine (the run came from a capsule); {again}")
    path = results_dir / run.checkpoint
    if not any(path.parent.glob("step-*.pt")):
        raise UserError(f"run={run.id}: results_dir={results_dir} has no checkpoint in {path.parent}; {again}")
    marker = results_dir.joinpath(*Path(run.checkpoint).parts[:2]) / "run.json"
    if marker.exists():
        owner = json.loads(marker.read_text(encoding="utf-8"))
        if (owner["seed"], owner["registered"]) != (run.seed, run.created):
            raise UserError(f"run={run.id}: {path.parent} in results_dir={results_dir} is of another database; {again}")
    return path.parent


# ---- what is recorded --------------------------------------------------------------------------------------------


def recorded(
    connection: Connection, run_id: int, name: str, is_same: Callable[[Settings], bool], *, is_own: bool
) -> dict[str, float | None] | None:
    """The run's results of the evaluation whose settings `is_same` accepts, or None where it was not made.

    `is_own` says that it is one the run was trained with, whose results came with the run. Raises UserError when
    `name` stands for other settings.
    """
    rows = connection.execute(select(EvaluationRow).where(EvaluationRow.run_id == run_id)).all()
    metrics = next((row.metrics for row in rows if is_same(row.settings)), None)
    if metrics is None and any(row.name == name for row in rows):
        raise UserError(
            f"run={run_id}: {name} is recorded with other settings; give this evaluation a name of its own: as=NAME"
        )
    results = {
        row.metric: row.value
        for row in connection.execute(
            select(Result.metric, Result.value).where(Result.run_id == run_id, Result.agg == "final")
        )
    }
    if metrics is not None:
        return {metric: results.get(metric) for metric in metrics}
    own = {metric: value for metric, value in results.items() if is_own and metric.startswith(f"{name}/")}
    return own or None


def record(connection: Connection, run_id: int, name: str, settings: Settings, made: Made) -> None:
    """Write an evaluation and its results, in the caller's transaction; once, however many processes made it."""
    # With the run's row locked, a second process sees what the first wrote.
    attempt = connection.scalar(select(RunRow.attempt).where(RunRow.id == run_id).with_for_update())
    known = connection.scalar(
        select(EvaluationRow.name).where(EvaluationRow.run_id == run_id, EvaluationRow.name == name)
    )
    if known is not None:
        return
    connection.execute(
        insert(EvaluationRow).values(
            run_id=run_id, name=name, settings=dict(settings), metrics=sorted(made.results), ended=database_now(),
            step=made.step, data=dict(made.data), **made.costs, **made.provenance,
        )
    )  # fmt: skip
    rows = [
        {
            "run_id": run_id,
            "metric": metric,
            "agg": "final",
            "value": float(value) if math.isfinite(value) else None,
            "step": made.step,
            "attempt": attempt,
        }
        for metric, value in sorted(made.results.items())
    ]
    connection.execute(insert(Result), rows)
