"""The queue's statements, built once.

Putting one together in Python takes ten times as long as SQLite takes to run it. Those of a claim are compiled once
too (`Prepared`), since even finding what SQLAlchemy has compiled costs more than running it.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Double,
    Executable,
    Select,
    Update,
    bindparam,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import aliased

from sweeps.database.tables import Attempt, CellRow, Config, Event, RunRow, StudyRow, database_now
from sweeps.study.identity import CODE_EPOCH

PROVENANCE = ("host", "slurm_job", "device", "git_sha", "dirty", "env_hash")  # columns of sw_attempt
# A clock that moves is no bound for an index: PostgreSQL would read every running run. A subquery is asked once.
NOW_ONCE = select(database_now()).scalar_subquery()
RENEWAL = (
    update(RunRow)
    .where(RunRow.id == bindparam("run"), RunRow.attempt == bindparam("token"), RunRow.state == "running")
    .values(lease_until=database_now() + bindparam("lease_s", type_=Double()))
)


class Prepared:
    """A statement in the words of the driver, which also gives its rows as it has them: JSON may be a text."""

    def __init__(self, statement: Executable, dialect: Dialect) -> None:
        compiled: Any = statement.compile(dialect=dialect)  # type: ignore[attr-defined]
        self.sql, self.defaults = str(compiled), dict(compiled.params)
        self.order: Sequence[str] | None = compiled.positiontup

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Sequence[tuple[Any, ...]]:
        """Its rows, and SQLAlchemy's errors: a connection that broke is given up, as SQLAlchemy itself would."""
        given = {**self.defaults, **values}
        parameters: Any = given if self.order is None else tuple(given[name] for name in self.order)
        dialect, driver = connection.dialect, connection.connection
        cursor = driver.cursor()
        try:
            cursor.execute(self.sql, parameters)
            return cursor.fetchall() if cursor.description else []
        except dialect.loaded_dbapi.Error as error:
            is_away = dialect.is_disconnect(error, driver, cursor)
            if is_away:
                connection.invalidate(error)
            raise DBAPIError.instance(
                self.sql, None, error, dialect.loaded_dbapi.Error, connection_invalidated=is_away, dialect=dialect
            ) from error
        finally:
            cursor.close()


class Taken(NamedTuple):
    """What claiming a run returns of it."""

    run_id: int
    attempt: int
    seed: int
    created: float
    checkpoint_step: int | None
    config: dict[str, Any] | str
    config_hash: str


class Claiming:
    """What claims a run on one kind of database, within a study and seeds or without."""

    def __init__(self, dialect: Dialect, *, is_by_study: bool, num_seeds: int, is_by_run: bool) -> None:
        """`num_seeds` is 0 where any seed will do. Parameters of `run`: worker, lease_s, study, run, seed_0, ...; and
        what PROVENANCE names."""
        taking = _taking(is_by_study=is_by_study, num_seeds=num_seeds, is_by_run=is_by_run)
        told = {name: bindparam(name, type_=getattr(Attempt, name).type) for name in ("worker", *PROVENANCE)}
        now = database_now()
        if dialect.name == "postgresql":  # one round trip to the server instead of three
            taken = taking.cte("taken")
            run, attempt = taken.c.id, taken.c.attempt
            noted = select(now, literal_column("'claimed'"), run, attempt, told["worker"])
            tried = select(run, attempt, now, now, *told.values())
            attempt_columns = ["run_id", "n", "started", "heartbeat", *told]
            statement = select(taken).add_cte(
                insert(Event).from_select(["time", "kind", "run_id", "attempt", "worker"], noted).cte("noted"),
                insert(Attempt).from_select(attempt_columns, tried).cte("tried"),
            )
            self.steps = [Prepared(statement, dialect)]
        else:
            run, attempt = bindparam("id"), bindparam("attempt")
            event = {"kind": literal_column("'claimed'"), "run_id": run, "attempt": attempt, "worker": told["worker"]}
            self.steps = [
                Prepared(taking, dialect),
                Prepared(insert(Attempt).values(run_id=run, n=attempt, started=now, heartbeat=now, **told), dialect),
                Prepared(insert(Event).values(time=now, **event), dialect),
            ]

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Taken | None:
        rows = self.steps[0].run(connection, values)
        if not rows:
            return None
        taken = Taken(*rows[0])
        for step in self.steps[1:]:
            step.run(connection, {**values, "id": taken.run_id, "attempt": taken.attempt})
        return taken


@functools.cache  # a dialect is its engine's: a process has one or two
def claiming(dialect: Dialect, *, is_by_study: bool, num_seeds: int, is_by_run: bool = False) -> Claiming:
    return Claiming(dialect, is_by_study=is_by_study, num_seeds=num_seeds, is_by_run=is_by_run)


@functools.cache
def prepared_expiry(dialect: Dialect) -> Prepared:
    return Prepared(expiry(is_by_owner=False), dialect)


@functools.cache
def _taking(*, is_by_study: bool, num_seeds: int, is_by_run: bool) -> Update:
    """The one statement that claims."""
    candidate = aliased(RunRow)
    conditions: list[ColumnElement[bool]] = [candidate.code_epoch == CODE_EPOCH]
    if is_by_study:
        # EXISTS, not IN: the queue is walked in its order until a run of the study is met, instead of being sorted.
        configs = _cells_configs(bindparam("study"))
        conditions.append(configs.where(CellRow.config_id == candidate.config_id).exists())
    if is_by_run:
        conditions.append(candidate.id == bindparam("run"))
    if num_seeds:
        conditions.append(candidate.seed.in_([bindparam(f"seed_{i}") for i in range(num_seeds)]))
    found = (
        select(candidate.id)
        # 'queued' is a literal: SQLite uses a partial index only where the query repeats its condition.
        .where(candidate.state == literal_column("'queued'"), candidate.not_before <= NOW_ONCE)
        .where(*conditions)
        .order_by(candidate.priority.desc(), candidate.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # of PostgreSQL; SQLite's BEGIN IMMEDIATE has the whole database
    )
    config = select(Config).where(Config.id == RunRow.config_id)
    return (
        update(RunRow)
        .where(RunRow.id == found.scalar_subquery())
        .values(
            state="running",
            attempt=RunRow.attempt + 1,
            owner=bindparam("worker"),
            lease_until=database_now() + bindparam("lease_s", type_=Double()),
        )
        .returning(
            RunRow.id,
            RunRow.attempt,
            RunRow.seed,
            RunRow.created,
            RunRow.checkpoint_step,
            config.with_only_columns(Config.json).scalar_subquery().label("config"),
            config.with_only_columns(Config.hash).scalar_subquery().label("config_hash"),
        )
    )


@functools.cache
def expiry(*, is_by_owner: bool) -> Update:
    """The statement that queues again what is lost. Parameter: dead, where given owners are."""
    held = aliased(RunRow)
    ended: ColumnElement[bool] = held.lease_until < NOW_ONCE
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
