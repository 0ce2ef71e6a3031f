"""How long the next run in the queue will take, from how long runs like it took.

A pilot job asks before every run but its first whether there is time for one more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from sweeps.db import Attempt, Config, RunRow, database_now
from sweeps.statements import in_scope


def seconds(connection: Connection, *, study: int | None = None, seeds: Sequence[int] | None = None) -> float | None:
    """Expected wall-clock seconds of the run that would be claimed now, its checkpoint counted in.

    From other seeds of its config, else from the runs in scope by step; None where nothing like it was ever finished,
    or nothing can be claimed.
    """
    run = connection.execute(
        select(RunRow.config_id, RunRow.checkpoint_step, Config.json)
        .join(Config, Config.id == RunRow.config_id)
        .where(RunRow.state == "queued", RunRow.not_before <= database_now(), *in_scope(RunRow, study, seeds))
        .order_by(RunRow.priority.desc(), RunRow.id)
        .limit(1)
    ).one_or_none()
    if run is None:
        return None
    took = _took(connection, RunRow.config_id == run.config_id)
    steps = _steps(run.json)
    left = 1.0 - min(run.checkpoint_step or 0, steps) / steps if steps else 1.0
    if took:
        return left * sum(spent for spent, _ in took) / len(took)
    took = _took(connection, *in_scope(RunRow, study, None))
    num_steps = sum(of_run for _, of_run in took)
    return left * steps * sum(spent for spent, of_run in took if of_run) / num_steps if num_steps else None


def _took(connection: Connection, *conditions: Any) -> list[tuple[float, int]]:
    """Seconds under way, over all attempts, and number of steps, of each finished run."""
    # Not until `ended`: a lost attempt ends with its lease, which may be long after its worker did.
    rows = connection.execute(
        select(func.sum(Attempt.heartbeat - Attempt.started), func.min(RunRow.config_id))
        .join(RunRow, RunRow.id == Attempt.run_id)
        .where(RunRow.state == "done", Attempt.outcome != "imported", *conditions)
        .group_by(Attempt.run_id)
    ).all()
    wanted = {config_id for _, config_id in rows}
    found = connection.execute(select(Config.id, Config.json).where(Config.id.in_(wanted)))
    steps = {row.id: _steps(row.json) for row in found}
    return [(spent or 0.0, steps[config_id]) for spent, config_id in rows]


def _steps(config: Mapping[str, Any]) -> int:
    return int(config.get("optim.steps", 0))
