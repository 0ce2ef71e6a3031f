"""The queue's statements, built once.

Putting one together in Python takes ten times as long as SQLite takes to run it, and a claim needs four of them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Double, Select, Update, bindparam, insert, literal_column, select, update
from sqlalchemy.orm import aliased

from sweeps.db import Attempt, CellRow, Config, Event, RunRow, StudyRow, database_now
from sweeps.identity import CODE_EPOCH

CONFIG_OF_RUN = select(Config.json, Config.hash).where(Config.id == bindparam("config_id"))
NEW_ATTEMPT = insert(Attempt).values(started=database_now(), heartbeat=database_now())
NEW_EVENT = insert(Event).values(time=database_now())
RENEWAL = (
    update(RunRow)
    .where(RunRow.id == bindparam("run"), RunRow.attempt == bindparam("token"), RunRow.state == "running")
    .values(lease_until=database_now() + bindparam("lease_s", type_=Double()))
)


@functools.cache
def taking(*, is_by_study: bool, is_by_seed: bool) -> Update:
    """The one statement that claims. Parameters: worker, lease_s, and study and seeds where restricted by them."""
    candidate = aliased(RunRow)
    conditions: list[ColumnElement[bool]] = [candidate.code_epoch == CODE_EPOCH]
    if is_by_study:
        # EXISTS, not IN: the queue is walked in its order until a run of the study is met, instead of being sorted.
        configs = _cells_configs(bindparam("study"))
        conditions.append(configs.where(CellRow.config_id == candidate.config_id).exists())
    if is_by_seed:
        conditions.append(candidate.seed.in_(bindparam("seeds", expanding=True)))
    found = (
        select(candidate.id)
        # 'queued' is a literal: SQLite uses a partial index only where the query repeats its condition.
        .where(candidate.state == literal_column("'queued'"), candidate.not_before <= database_now())
        .where(*conditions)
        .order_by(candidate.priority.desc(), candidate.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # of PostgreSQL; SQLite's BEGIN IMMEDIATE has the whole database
    )
    return (
        update(RunRow)
        .where(RunRow.id == found.scalar_subquery())
        .values(
            state="running",
            attempt=RunRow.attempt + 1,
            owner=bindparam("worker"),
            lease_until=database_now() + bindparam("lease_s", type_=Double()),
        )
        .returning(RunRow.id, RunRow.attempt, RunRow.seed, RunRow.config_id, RunRow.created, RunRow.checkpoint_step)
    )


@functools.cache
def expiry(*, is_by_owner: bool) -> Update:
    """The statement that queues again what is lost. Parameter: dead, where given owners are."""
    held = aliased(RunRow)
    ended: ColumnElement[bool] = held.lease_until < database_now()
    if is_by_owner:
        ended = ended | held.owner.in_(bindparam("dead", expanding=True))
    found = (
        select(held.id)
        .where(held.state == literal_column("'running'"), ended)
        .order_by(held.lease_until, held.id)  # the order of the index, or SQLite scans the table by id
        .with_for_update(skip_locked=True)
    )
    return (
        update(RunRow)
        .where(RunRow.id.in_(found))
        .values(state="queued", owner=None, lease_until=None)
        .returning(RunRow.id, RunRow.attempt)
    )


def _cells_configs(study: Any) -> Select[Any]:
    """The config ids in the cells of the current revision of `study`."""
    current = (StudyRow.id == CellRow.study_id) & (StudyRow.revision == CellRow.revision)
    return select(CellRow.config_id).join(StudyRow, current).where(CellRow.study_id == study)


def in_scope(run: type[RunRow], study: int | None, seeds: Sequence[int] | None) -> Iterator[ColumnElement[bool]]:
    """Conditions on `run` for counting: they lead SQLite from the study's configs to their runs by index."""
    yield run.code_epoch == CODE_EPOCH
    if study is not None:
        yield run.config_id.in_(_cells_configs(study))
    if seeds is not None:
        yield run.seed.in_(seeds)
