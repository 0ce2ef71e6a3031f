"""How long the next run in the queue will take, from how long runs like it took.

A pilot job asks before every run but its first whether there is time for one more, and for how many in a stack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, case, func, select

from sweeps.database.tables import Attempt, Config, RunRow, database_now
from sweeps.engine.statements import in_scope


def seconds(
    connection: Connection,
    *,
    study: int | None = None,
    seeds: Sequence[int] | None = None,
    run: int | None = None,
    stack: int = 1,
) -> float | None:
    """Expected wall-clock seconds of the run that would be claimed now, or of `run`, its checkpoint counted in.

    From other seeds of its config, else from the runs in scope by step; None where nothing like it was ever finished,
    or nothing can be claimed. With `stack`, of so many runs like it that are trained together: at most.
    """
    queued = (RunRow.state == "queued", RunRow.not_before <= database_now(), *in_scope(RunRow, study, seeds))
    found = connection.execute(
        select(RunRow.config_id, RunRow.checkpoint_step, Config.json)
        .join(Config, Config.id == RunRow.config_id)
        .where(*(queued if run is None else (RunRow.id == run,)))
        .order_by(RunRow.priority.desc(), RunRow.id)
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    took = _took(connection, stack, RunRow.config_id == found.config_id)
    steps = _steps(found.json)
    left = 1.0 - min(found.checkpoint_step or 0, steps) / steps if steps else 1.0
    if took:
        return left * sum(spent for spent, _ in took) / len(took)
    took = _took(connection, stack, *in_scope(RunRow, study, None))
    num_steps = sum(of_run for _, of_run in took)
    return left * steps * sum(spent for spent, of_run in took if of_run) / num_steps if num_steps else None


def _took(connection: Connection, stack: int, *conditions: Any) -> list[tuple[float, int]]:
    """Seconds under way in a stack of `stack`, over all attempts, and number of steps, of each finished run.

    A stack takes no longer than its runs one after the other, and a part of it no longer than all of it: what took its
    time in a smaller stack is counted so many times longer, in a larger one as it was.
    """
    size = func.coalesce(Attempt.facts["stack"].as_integer(), 1)
    longer = case((size < stack, float(stack) / size), else_=1.0)
    # Not until `ended`: a lost attempt ends with its lease, which may be long after its worker did.
    rows = connection.execute(
        select(func.sum((Attempt.heartbeat - Attempt.started) * longer), func.min(RunRow.config_id))
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
