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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, func, literal_column, select, update

from sweeps import statements
from sweeps.db import Alias, Attempt, Config, Result, RunRow, database_now, insert_new
from sweeps.identity import CODE_EPOCH, HASH_VERSION, canonical, digest

T = TypeVar("T")
LEASE_S = 300.0
MAX_FAILURES = 3
MAX_LOST = 10  # attempts in a row that ended without a word and without a new checkpoint
BACKOFF_S = 5.0  # before the second try; doubles with every further one
LONGEST_BACKOFF_S = 3600.0
NUM_PER_STATEMENT = 500  # SQLite and PostgreSQL bound the number of parameters


class Fenced(Exception):
    """The run is no longer this attempt's: another worker has it, or it was cancelled. Stop and write nothing."""


class Claim(NamedTuple):
    """A run that this worker may train, and its fencing token."""

    run_id: int
    attempt: int  # the token; 1 for the first
    seed: int
    config: dict[str, Any]  # flat identity config, for core.config.from_flat
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


def known_configs(connection: Connection, configs: Sequence[Mapping[str, Any]]) -> set[int]:
    """The ids of those identity configs that the database has, under today's identity or an older one."""
    return set(_config_ids(connection, [digest(config) for config in configs]).values())


def register_configs(connection: Connection, configs: Sequence[Mapping[str, Any]]) -> list[int]:
    """The id of each identity config (flat, without seed and runtime), in order; new ones are inserted.

    A config known under an older identity (`sw_alias`) keeps its id.
    """
    hashes = [digest(config) for config in configs]
    known = _config_ids(connection, hashes)
    new = {h: config for h, config in zip(hashes, configs, strict=True) if h not in known}
    # Sorted: two launchers inserting the same rows in different orders would deadlock on PostgreSQL.
    rows = [{"hash": h, "hash_version": HASH_VERSION, "json": canonical(new[h])} for h in sorted(new)]
    insert_new(connection, Config, rows)
    known |= _config_ids(connection, sorted(new))
    return [known[h] for h in hashes]


def register_runs(
    connection: Connection,
    wanted: Sequence[tuple[int, int]],
    *,
    code_epoch: int = CODE_EPOCH,
    priority: int = 0,
) -> list[int]:
    """The run id of each (config id, seed), in order; those not there are queued, cancelled ones are queued again.

    Whatever else is there (done, running, failed) stays as it is. `priority` (larger first) only ever raises a run's.
    """
    now = connection.scalar(select(database_now()))
    rows = [
        {"config_id": c, "seed": s, "code_epoch": code_epoch, "state": "queued", "priority": priority, "created": now}
        for c, s in sorted(set(wanted))
    ]
    known = _run_ids(connection, wanted, code_epoch)
    insert_new(connection, RunRow, [row for row in rows if (row["config_id"], row["seed"]) not in known])
    ids = _run_ids(connection, wanted, code_epoch)
    for part in _parts(sorted(known.values())):
        connection.execute(
            update(RunRow).where(RunRow.id.in_(part), RunRow.priority < priority).values(priority=priority)
        )
        requeue(connection, part, states=("cancelled",))
    return [ids[pair] for pair in wanted]


def register(
    connection: Connection, wanted: Sequence[tuple[Mapping[str, Any], int]], *, priority: int = 0
) -> list[int]:
    """The run id of each (identity config, seed), in order. Safe to repeat, and from two launchers at once."""
    configs = register_configs(connection, [config for config, _ in wanted])
    pairs = [(config, seed) for config, (_, seed) in zip(configs, wanted, strict=True)]
    return register_runs(connection, pairs, priority=priority)


def requeue(connection: Connection, run_ids: Sequence[int], *, states: Sequence[str] = ("failed",)) -> list[int]:
    """Queue again those of `run_ids` that are in one of `states`, their failures forgiven; returns them."""
    assert "running" not in states, "a running run is somebody's: let its lease expire or cancel it"
    again: list[int] = []
    for part in _parts(sorted(run_ids)):
        statement = (
            update(RunRow)
            .where(RunRow.id.in_(part), RunRow.state.in_(states))
            .values(state="queued", n_fail=0, not_before=0.0)
            .returning(RunRow.id)
        )
        again += connection.scalars(statement).all()
    for run_id in again:
        _note(connection, "requeued", run_id)
    return again


def cancel(connection: Connection, run_ids: Sequence[int]) -> list[int]:
    """Stop wanting `run_ids`: queued ones will not start, running ones are fenced; returns those it changed."""
    cancelled: list[int] = []
    for part in _parts(sorted(run_ids)):
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
        _note(connection, "cancelled", run_id)
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
    `sw_attempt` row (see `sweeps.provenance`). Runs of another code epoch are left to the code they were made for.
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
    """End the run as `done`, `diverged` or `pruned`, its results and its state in the caller's one transaction.

    Writing the same ending again does nothing: a commit whose answer was lost on the way may be repeated.
    """
    assert outcome in ("done", "diverged", "pruned"), outcome
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
    _end(connection, claim.run_id, claim.attempt, outcome, state=outcome, facts=dict(facts or {}))


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
    _note(connection, outcome, run_id, attempt, row.worker, error)


def _note(
    connection: Connection,
    kind: str,
    run_id: int,
    attempt: int | None = None,
    worker: str | None = None,
    detail: str | None = None,
) -> None:
    connection.execute(
        statements.NEW_EVENT, {"kind": kind, "run_id": run_id, "attempt": attempt, "worker": worker, "detail": detail}
    )


def _config_ids(connection: Connection, hashes: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for part in _parts(sorted(set(hashes))):
        aliases = select(Alias.old_hash, Alias.config_id).where(Alias.old_hash.in_(part))
        current = select(Config.hash, Config.id).where(Config.hash.in_(part))
        for statement in (aliases, current):  # a config's own hash beats an alias
            ids |= {h: config_id for h, config_id in connection.execute(statement)}
    return ids


def _run_ids(connection: Connection, wanted: Sequence[tuple[int, int]], code_epoch: int) -> dict[tuple[int, int], int]:
    ids: dict[tuple[int, int], int] = {}
    for part in _parts(sorted({config_id for config_id, _ in wanted})):
        rows = connection.execute(
            select(RunRow.config_id, RunRow.seed, RunRow.id).where(
                RunRow.config_id.in_(part), RunRow.code_epoch == code_epoch
            )
        )
        ids |= {(config_id, seed): run_id for config_id, seed, run_id in rows}
    asked = set(wanted)
    return {pair: run_id for pair, run_id in ids.items() if pair in asked}


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), NUM_PER_STATEMENT):
        yield items[start : start + NUM_PER_STATEMENT]
