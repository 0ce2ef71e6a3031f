"""The lease protocol: which worker may run which run, and what it may still write.

A run is `queued` until a worker claims it, in one statement that raises the run's `attempt` by one and gives it a
lease. The attempt number is the fencing token: every later write first passes `hold`, whose UPDATE carries
``WHERE id AND attempt AND state = 'running'`` and which raises `Fenced` where that matches nothing. Functions take a
`Connection` inside a transaction (``with engine.begin() as connection``) and commit nothing themselves, so a fenced
worker's whole transaction is rolled back, and results, state and audit are written together or not at all. A lease
that is not renewed in time expires: its attempt is closed as `lost` and the run is queued again. All times are the
database's. So whatever is killed or stopped, wherever: no run ends twice, and none stays running for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, literal_column, select, update

from sweeps.database.audit import note
from sweeps.database.registering import parts_of
from sweeps.database.tables import BROKEN, Attempt, Result, RunRow, database_now, insert_new
from sweeps.engine import statements

LEASE_S = 300.0
MAX_FAILURES = 3
MAX_LOST = 10  # attempts in a row that ended without a word and without a new checkpoint
BACKOFF_S = 5.0  # before the second try; doubles with every further one
LONGEST_BACKOFF_S = 3600.0


class Fenced(Exception):
    """The run is no longer this attempt's: another worker has it, or it was cancelled. Stop and write nothing."""


class Claim(NamedTuple):
    """A run that this worker may train, and its fencing token."""

    run_id: int
    attempt: int  # the token; 1 for the first
    seed: int
    config: dict[str, Any]  # flat identity config, for core.configuring.config.from_flat
    config_hash: str
    created: float  # when the run was registered: with run_id it tells runs of different databases apart
    worker: str
    lease_s: float
    checkpoint_step: int | None


class Usage(NamedTuple):
    """What an attempt has used up so far."""

    step: int | None = None  # last step reached
    loss: float | None = None  # at that step; None where it has none, or one that is not finite
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    peak_memory: int | None = None  # bytes
    peak_gpu_memory: int | None = None  # bytes


class Pending(NamedTuple):
    """What is left to do, and in how many seconds something of it could become claimable (inf when nothing will)."""

    num_queued: int
    num_running: int
    wait_s: float


# ---- what there is to run --------------------------------------------------------------------------------------------


def cancel(connection: Connection, run_ids: Sequence[int]) -> list[int]:
    """Stop wanting `run_ids`: queued ones will not start, running ones are fenced; returns those it changed."""
    cancelled: list[int] = []
    for part in parts_of(sorted(run_ids)):
        running = connection.execute(
            select(RunRow.id, RunRow.attempt).where(RunRow.id.in_(part), RunRow.state == "running").with_for_update()
        ).all()
        statement = (
            update(RunRow)
            .where(RunRow.id.in_(part), RunRow.state.in_(("queued", "running")))
            .values(state="cancelled", owner=None, lease_until=None)
            .returning(RunRow.id)
        )
        cancelled += connection.scalars(statement).all()
        for run_id, attempt in running:
            _close(connection, run_id, attempt, "fenced")
    for run_id in cancelled:
        note(connection, "cancelled", run_id)
    return cancelled


# ---- taking and holding a lease --------------------------------------------------------------------------------------


def claim(
    connection: Connection,
    worker: str,
    *,
    lease_s: float = LEASE_S,
    study: int | None = None,
    seeds: Sequence[int] | None = None,
    provenance: Mapping[str, Any] | None = None,
    run: int | None = None,
) -> Claim | None:
    """The next run for `worker`: highest priority, then oldest; None when nothing can be claimed now.

    Expired leases are queued again first. `run` (an id) asks for that run only, `study` (an id) restricts it to configs
    in the cells of that study's current revision, `seeds` to those seeds. `provenance` fills columns of the new
    `sw_attempt` row (see `sweeps.engine.provenance`). Runs of another code epoch are left to the code they were made
    for.
    """
    dialect = connection.dialect
    expire(connection)
    scope = {f"seed_{i}": seed for i, seed in enumerate(seeds or ())}
    scope |= {name: value for name, value in (("study", study), ("run", run)) if value is not None}
    claiming = statements.claiming(
        dialect, is_by_study=study is not None, num_seeds=len(seeds or ()), is_by_run=run is not None
    )
    told = dict.fromkeys(statements.PROVENANCE) | dict(provenance or {})
    taken = claiming.run(connection, {"worker": worker, "lease_s": float(lease_s), **scope, **told})
    if taken is None:
        return None
    config = json.loads(taken.config) if isinstance(taken.config, str) else taken.config
    return Claim(
        taken.run_id, taken.attempt, taken.seed, config, taken.config_hash, taken.created, worker, lease_s,
        taken.checkpoint_step,
    )  # fmt: skip


def pending(connection: Connection, *, study: int | None = None, seeds: Sequence[int] | None = None) -> Pending:
    """How much in scope is queued or running; while `num_queued + num_running > 0` the work is not over.

    `wait_s` is the time to the next back-off or lease that ends, 0.0 when something can be claimed now.
    """
    now = database_now()
    rows = connection.execute(
        select(RunRow.state, func.count(), func.min(func.coalesce(RunRow.lease_until, RunRow.not_before) - now))
        .where(RunRow.state.in_(("queued", "running")), *statements.in_scope(RunRow, study, seeds))
        .group_by(RunRow.state)
    ).all()
    counts = {state: count for state, count, _ in rows}
    return Pending(
        counts.get("queued", 0), counts.get("running", 0), max(0.0, min((row[2] for row in rows), default=math.inf))
    )


def expire(connection: Connection, *, dead: Sequence[str] = ()) -> list[int]:
    """Queue again every running run whose lease has ended, or whose worker is one of `dead`; returns them.

    Their attempts are closed as `lost`, which is no failure: the run goes on from its checkpoint. Only a run that lost
    MAX_LOST workers in a row without coming any further is `failed`: it kills them.
    """
    if dead:
        rows = connection.execute(statements.expiry(is_by_owner=True), {"dead": list(dead)})
        lost: Sequence[tuple[int, ...]] = [(row.id, row.attempt) for row in rows]
    else:
        lost = statements.prepared_expiry(connection.dialect).run(connection, {})
    return [run_id for run_id, attempt in lost if _lose(connection, run_id, attempt)]


def _lose(connection: Connection, run_id: int, attempt: int) -> bool:
    """Close an attempt of a run that was just queued again; False when there were so many that the run has failed."""
    before = [] if attempt < MAX_LOST else connection.execute(
        select(Attempt.outcome, Attempt.resume_step).where(
            Attempt.run_id == run_id, Attempt.n > attempt - MAX_LOST, Attempt.n < attempt
        )
    ).all()  # fmt: skip
    is_stuck = bool(before) and all(row.outcome == "lost" for row in before)
    if not is_stuck or len({row.resume_step for row in before if row.resume_step is not None}) > 1:
        _close(connection, run_id, attempt, "lost")
        return True
    error = f"lost: {MAX_LOST} workers in a row died or went silent before it reached a new checkpoint"
    connection.execute(update(RunRow).where(RunRow.id == run_id).values(state="failed", n_fail=RunRow.n_fail + 1))
    _close(connection, run_id, attempt, "failed", error=error)
    return False


def hold(connection: Connection, claim: Claim, usage: Usage | None = None) -> None:
    """Renew the lease and record what was used so far. Raises Fenced when the run is no longer this attempt's.

    First in every transaction that writes for a claim: what follows is committed only by the lease's holder.
    """
    token = {"run": claim.run_id, "token": claim.attempt, "lease_s": float(claim.lease_s)}
    if connection.execute(statements.RENEWAL, token).rowcount == 0:
        raise Fenced(f"run {claim.run_id} is no longer attempt {claim.attempt}'s")
    if usage is not None:
        connection.execute(
            update(Attempt)
            .where(Attempt.run_id == claim.run_id, Attempt.n == claim.attempt)
            .values(heartbeat=database_now(), **usage._asdict())
        )


def checkpointed(connection: Connection, claim: Claim, step: int, path: str) -> None:
    """Record the newest checkpoint; `path` is relative to the results folder."""
    hold(connection, claim)
    connection.execute(update(RunRow).where(RunRow.id == claim.run_id).values(checkpoint=path, checkpoint_step=step))


# ---- giving a lease up -----------------------------------------------------------------------------------------------


def finish(
    connection: Connection,
    claim: Claim,
    outcome: str,
    *,
    results: Mapping[str, float] | None = None,
    step: int | None = None,
    facts: Mapping[str, Any] | None = None,
    usage: Usage | None = None,
) -> None:
    """End the run as done, diverged, collapsed or pruned, its results and its state in the caller's one transaction.

    The fact `why`, of a run that diverged, is the attempt's error.

    Writing the same ending again does nothing: a commit whose answer was lost on the way may be repeated.
    """
    assert outcome in ("done", *BROKEN, "pruned"), outcome
    if not _still_mine(connection, claim, outcome, usage):
        return
    rows = [
        {
            "run_id": claim.run_id,
            "metric": metric,
            "agg": "final",
            "value": float(value) if math.isfinite(value) else None,
            "step": step,
            "attempt": claim.attempt,
        }
        for metric, value in (results or {}).items()
    ]
    insert_new(connection, Result, rows)
    told = dict(facts or {})
    why = told.pop("why", None)
    error_step = None if why is None else told.get("step", step)
    _end(
        connection, claim.run_id, claim.attempt, outcome, state=outcome, facts=told, error=why, error_step=error_step
    )  # fmt: skip


def release(
    connection: Connection, claim: Claim, *, usage: Usage | None = None, facts: Mapping[str, Any] | None = None
) -> None:
    """Give the run back because this worker was asked to stop: no failure, claimable at once."""
    if _still_mine(connection, claim, "preempted", usage):
        _end(
            connection,
            claim.run_id,
            claim.attempt,
            "preempted",
            state="queued",
            facts=dict(facts or {}),
            n_preempt=RunRow.n_preempt + 1,
        )


def fail(
    connection: Connection,
    claim: Claim,
    error: str,
    *,
    step: int | None = None,
    usage: Usage | None = None,
    is_final: bool = False,
    max_failures: int = MAX_FAILURES,
    backoff_s: float = BACKOFF_S,
) -> str:
    """Record an error; returns the run's state after it: `queued` (to be tried again later) or `failed`.

    The same `error` (one line, without addresses and amounts) at the same `step` as an earlier attempt's is not going
    away: `failed`. So is the `max_failures`-th error of any kind, and one that `is_final`. Otherwise the run waits
    `backoff_s`, doubled with every failure.
    """
    if not _still_mine(connection, claim, "failed", usage):
        return str(connection.scalar(select(RunRow.state).where(RunRow.id == claim.run_id)))
    return _fail(
        connection, claim.run_id, claim.attempt, error, step, is_final=is_final, max_failures=max_failures,
        backoff_s=backoff_s,
    )  # fmt: skip


def fail_held(connection: Connection, owner: str, error: str) -> list[int]:
    """Record `error` for the runs that `owner` held when it died of it, as `fail` would have; returns them."""
    held = connection.execute(
        select(RunRow.id, RunRow.attempt, Attempt.step)
        .join(Attempt, (Attempt.run_id == RunRow.id) & (Attempt.n == RunRow.attempt))
        .where(RunRow.state == literal_column("'running'"), RunRow.owner == owner)
        .with_for_update(of=RunRow)
    ).all()
    for row in held:
        _fail(connection, row.id, row.attempt, error, row.step)
    return [row.id for row in held]


def _fail(
    connection: Connection,
    run_id: int,
    attempt: int,
    error: str,
    step: int | None,
    *,
    is_final: bool = False,
    max_failures: int = MAX_FAILURES,
    backoff_s: float = BACKOFF_S,
) -> str:
    same_step = Attempt.error_step.is_(None) if step is None else Attempt.error_step == step
    seen = connection.scalar(
        select(func.count()).where(
            Attempt.run_id == run_id, Attempt.outcome == "failed", Attempt.error == error, same_step
        )
    )
    n_fail = 1 + int(connection.scalar(select(RunRow.n_fail).where(RunRow.id == run_id)) or 0)
    state = "failed" if is_final or seen or n_fail >= max_failures else "queued"
    wait_s = min(backoff_s * 2 ** (n_fail - 1), LONGEST_BACKOFF_S)
    _end(
        connection,
        run_id,
        attempt,
        "failed",
        state=state,
        error=error,
        error_step=step,
        n_fail=n_fail,
        not_before=database_now() + wait_s,
    )
    return state


def is_ended(connection: Connection, claim: Claim, outcome: str) -> bool:
    """Whether this very attempt has this very outcome already: a commit whose answer was lost on the way."""
    written = connection.scalar(
        select(Attempt.outcome).where(Attempt.run_id == claim.run_id, Attempt.n == claim.attempt)
    )
    return written == outcome


def _still_mine(connection: Connection, claim: Claim, outcome: str, usage: Usage | None) -> bool:
    """False when this very ending is already written; raises Fenced when the run is another's."""
    try:
        hold(connection, claim, usage)
    except Fenced:
        if is_ended(connection, claim, outcome):
            return False
        raise
    return True


def _end(
    connection: Connection,
    run_id: int,
    attempt: int,
    outcome: str,
    *,
    state: str,
    facts: dict[str, Any] | None = None,
    error: str | None = None,
    error_step: int | None = None,
    **run: Any,
) -> None:
    connection.execute(
        update(RunRow).where(RunRow.id == run_id).values(state=state, owner=None, lease_until=None, **run)
    )
    told = {} if facts is None else {"facts": facts}  # without any, what was told at the start stays
    _close(connection, run_id, attempt, outcome, error=error, error_step=error_step, **told)


def _close(
    connection: Connection, run_id: int, attempt: int, outcome: str, *, error: str | None = None, **values: Any
) -> None:
    """Give an attempt its outcome and add its costs to the run's."""
    this = (Attempt.run_id == run_id, Attempt.n == attempt)
    row = connection.execute(
        update(Attempt)
        .where(*this)
        .values(outcome=outcome, ended=database_now(), error=error, **values)
        .returning(Attempt.worker, Attempt.cpu_seconds, Attempt.gpu_seconds)
    ).one()
    connection.execute(
        update(RunRow)
        .where(RunRow.id == run_id)
        .values(
            cpu_seconds=RunRow.cpu_seconds + (row.cpu_seconds or 0.0),
            gpu_seconds=RunRow.gpu_seconds + (row.gpu_seconds or 0.0),
        )
    )
    note(connection, outcome, run_id, attempt, row.worker, error)
