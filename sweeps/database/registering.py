"""Configs and runs that are wanted: registered, and queued again. Who trains them is the queue's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, select, update

from sweeps.database.audit import note
from sweeps.database.tables import Alias, Config, RunRow, database_now, insert_new
from sweeps.study.identity import CODE_EPOCH, HASH_VERSION, canonical, digest

T = TypeVar("T")
NUM_PER_STATEMENT = 500  # SQLite and PostgreSQL bound the number of parameters


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
    for part in parts_of(sorted(known.values())):
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
    for part in parts_of(sorted(run_ids)):
        statement = (
            update(RunRow)
            .where(RunRow.id.in_(part), RunRow.state.in_(states))
            .values(state="queued", n_fail=0, not_before=0.0)
            .returning(RunRow.id)
        )
        again += connection.scalars(statement).all()
    for run_id in again:
        note(connection, "requeued", run_id)
    return again


def _config_ids(connection: Connection, hashes: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for part in parts_of(sorted(set(hashes))):
        aliases = select(Alias.old_hash, Alias.config_id).where(Alias.old_hash.in_(part))
        current = select(Config.hash, Config.id).where(Config.hash.in_(part))
        for statement in (aliases, current):  # a config's own hash beats an alias
            ids |= {h: config_id for h, config_id in connection.execute(statement)}
    return ids


def _run_ids(connection: Connection, wanted: Sequence[tuple[int, int]], code_epoch: int) -> dict[tuple[int, int], int]:
    ids: dict[tuple[int, int], int] = {}
    for part in parts_of(sorted({config_id for config_id, _ in wanted})):
        rows = connection.execute(
            select(RunRow.config_id, RunRow.seed, RunRow.id).where(
                RunRow.config_id.in_(part), RunRow.code_epoch == code_epoch
            )
        )
        ids |= {(config_id, seed): run_id for config_id, seed, run_id in rows}
    asked = set(wanted)
    return {pair: run_id for pair, run_id in ids.items() if pair in asked}


def parts_of(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), NUM_PER_STATEMENT):
        yield items[start : start + NUM_PER_STATEMENT]
