"""The tables that decide what exists, who may run it and what came out; and how a database is opened.

SQLite (default) and PostgreSQL through one code path. All tables start with ``sw_`` and the Alembic revision sits in
``sw_alembic_version``, so Optuna's tables can live in the same database. Every time is seconds since 1970 by the
*database's* clock (`database_now`), never a worker's. Imports neither torch nor `core`: analysis reads through here.

Run states: queued running done failed diverged collapsed pruned cancelled.
Attempt outcomes: NULL (still running), done preempted lost failed fenced diverged collapsed pruned imported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement

BROKEN = ("diverged", "collapsed")  # a result of the run, though no number: it is not repeated
WITHOUT_NUMBER = ("failed", *BROKEN, "pruned")  # ended
FINAL_STATES = ("done", *WITHOUT_NUMBER, "cancelled")
RUN_STATES = ("queued", "running", *FINAL_STATES)
OUTCOMES = ("done", "preempted", "lost", "failed", "fenced", "diverged", "collapsed", "pruned", "imported")
VERSION_TABLE = "sw_alembic_version"

Json = JSON().with_variant(JSONB(), "postgresql")
# SQLite only auto-numbers a column declared exactly INTEGER PRIMARY KEY.
Id = BigInteger().with_variant(Integer(), "sqlite")


class database_now(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, read when the statement runs (not when its transaction began)."""

    type = Double()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _now_sqlite(element: database_now, compiler: Any, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _now_postgresql(element: database_now, compiler: Any, **kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Config(Base):
    """One resolved configuration: a flat dict of dotted keys without seed and runtime. `hash` is its identity."""

    __tablename__ = "sw_config"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    hash_version: Mapped[int]
    json: Mapped[dict[str, Any]] = mapped_column(Json)
    # The presets that it was first made from; NULL for one that no launch has asked for since they are recorded.
    method: Mapped[str | None] = mapped_column(String(64))
    scale: Mapped[str | None] = mapped_column(String(16))


class Alias(Base):
    """An older identity of a config, so that a new key with a default does not orphan old runs."""

    __tablename__ = "sw_alias"

    old_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    config_id: Mapped[int] = mapped_column(ForeignKey("sw_config.id"), index=True)
    migration: Mapped[str] = mapped_column(Text)


class StudyRow(Base):
    """A study instance (file + scale + overrides). `revision` grows when the file is edited; old runs stay."""

    __tablename__ = "sw_study"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    spec_hash: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    source: Mapped[str | None] = mapped_column(Text)


class CellRow(Base):
    """A place in a study's table. Many cells, of many studies, may share one config: it trains once."""

    __tablename__ = "sw_cell"

    study_id: Mapped[int] = mapped_column(ForeignKey("sw_study.id"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    row_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    col_key: Mapped[str] = mapped_column(String(200), primary_key=True, default="")
    config_id: Mapped[int] = mapped_column(ForeignKey("sw_config.id"), index=True)
    display: Mapped[dict[str, Any]] = mapped_column(Json)


class RunRow(Base):
    """A config and a seed: what is trained once. `attempt` is the fencing token of whoever holds the lease."""

    __tablename__ = "sw_run"
    __table_args__ = (
        Index("uq_sw_run_identity", "config_id", "seed", "code_epoch", unique=True),
        CheckConstraint(f"state IN {RUN_STATES}", name="state"),
        # Partial: a claim walks only what is queued, expiry only what is running, however many runs are done.
        Index(
            "ix_sw_run_queued",
            text("priority DESC"),
            "id",
            sqlite_where=text("state = 'queued'"),
            postgresql_where=text("state = 'queued'"),
        ),
        Index(
            "ix_sw_run_lease",
            "lease_until",
            sqlite_where=text("state = 'running'"),
            postgresql_where=text("state = 'running'"),
        ),
    )

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    config_id: Mapped[int] = mapped_column(ForeignKey("sw_config.id"))
    seed: Mapped[int] = mapped_column(BigInteger)
    code_epoch: Mapped[int]
    state: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int] = mapped_column(default=0)  # larger first
    attempt: Mapped[int] = mapped_column(default=0)  # 0: never claimed
    owner: Mapped[str | None] = mapped_column(String(200))  # worker holding the lease
    lease_until: Mapped[float | None] = mapped_column(Double)
    not_before: Mapped[float] = mapped_column(Double, default=0.0)
    n_fail: Mapped[int] = mapped_column(default=0)
    n_preempt: Mapped[int] = mapped_column(default=0)
    checkpoint: Mapped[str | None] = mapped_column(Text)  # path relative to results_dir
    checkpoint_step: Mapped[int | None] = mapped_column(BigInteger)
    gpu_seconds: Mapped[float] = mapped_column(Double, default=0.0)  # summed over the attempts
    cpu_seconds: Mapped[float] = mapped_column(Double, default=0.0)
    created: Mapped[float] = mapped_column(Double)


class Attempt(Base):
    """One worker's try at a run, with where and with what code it ran."""

    __tablename__ = "sw_attempt"
    __table_args__ = (CheckConstraint(f"outcome IN {OUTCOMES}", name="outcome"),)

    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str | None] = mapped_column(String(200))
    host: Mapped[str | None] = mapped_column(String(200))
    slurm_job: Mapped[str | None] = mapped_column(String(64))
    device: Mapped[str | None] = mapped_column(String(200))
    git_sha: Mapped[str | None] = mapped_column(String(64))
    dirty: Mapped[bool | None]
    env_hash: Mapped[str | None] = mapped_column(String(64))  # -> sw_environment.hash
    started: Mapped[float] = mapped_column(Double)
    ended: Mapped[float | None] = mapped_column(Double)
    outcome: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[str | None] = mapped_column(Text)  # one line: "out_of_memory: ...", "ValueError: ..."
    error_step: Mapped[int | None] = mapped_column(BigInteger)
    resume_step: Mapped[int | None] = mapped_column(BigInteger)  # first step it logged; NULL until it has
    step: Mapped[int | None] = mapped_column(BigInteger)  # last step heard of
    loss: Mapped[float | None] = mapped_column(Double)  # at that step
    heartbeat: Mapped[float | None] = mapped_column(
        Double
    )  # when that was; speed = (step - resume_step) / (it - started)
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes of host memory
    peak_gpu_memory: Mapped[int | None] = mapped_column(BigInteger)  # bytes
    gpu_seconds: Mapped[float | None] = mapped_column(Double)
    cpu_seconds: Mapped[float | None] = mapped_column(Double)
    facts: Mapped[dict[str, Any] | None] = mapped_column(Json)  # what the trainer told: costs, realised ratios
    data: Mapped[dict[str, str] | None] = mapped_column(Json)  # the fingerprint of each set that it read, by group


class Environment(Base):
    """The installed packages behind an attempt's `env_hash`: {"torch": "2.11.0", ...}."""

    __tablename__ = "sw_environment"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    packages: Mapped[dict[str, str]] = mapped_column(Json)


class Result(Base):
    """A number that tables read. `value` is NULL where it was not finite. `agg` says which of a series: final, ..."""

    __tablename__ = "sw_result"
    # Clustered by its key: a table's query reads a run's metrics from one page.
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(200), primary_key=True)
    agg: Mapped[str] = mapped_column(String(16), primary_key=True, default="final")
    value: Mapped[float | None] = mapped_column(Double)
    step: Mapped[int | None] = mapped_column(BigInteger)
    attempt: Mapped[int]


OUTCOMES_FIRST = (Result.metric.startswith("cost/"), Result.metric)  # an order: what came out of a run, then its costs


class EvaluationRow(Base):
    """An evaluation made of a run after it was trained; its numbers are the run's results called `metrics`."""

    __tablename__ = "sw_evaluation"

    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(120), primary_key=True)  # linear@num_layers=4: before the "/" of a metric
    settings: Mapped[dict[str, Any]] = mapped_column(Json)  # its options and its data, under dotted keys
    metrics: Mapped[list[str]] = mapped_column(Json)
    worker: Mapped[str | None] = mapped_column(String(200))
    host: Mapped[str | None] = mapped_column(String(200))
    device: Mapped[str | None] = mapped_column(String(200))
    git_sha: Mapped[str | None] = mapped_column(String(64))
    dirty: Mapped[bool | None]
    env_hash: Mapped[str | None] = mapped_column(String(64))
    ended: Mapped[float] = mapped_column(Double)
    step: Mapped[int | None] = mapped_column(BigInteger)  # of the checkpoint
    seconds: Mapped[float] = mapped_column(Double)  # without encoding the data, which evaluations share
    cpu_seconds: Mapped[float] = mapped_column(Double)
    gpu_seconds: Mapped[float] = mapped_column(Double)
    peak_memory: Mapped[int] = mapped_column(BigInteger)  # bytes
    peak_gpu_memory: Mapped[int] = mapped_column(BigInteger)
    data: Mapped[dict[str, str] | None] = mapped_column(Json)  # the fingerprints of "data" and "eval_data"


class Chunk(Base):
    """A stretch of one metric's series as logged by one attempt, compressed; read through `sweeps.database.series`."""

    __tablename__ = "sw_chunk"

    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), primary_key=True)
    metric: Mapped[str] = mapped_column(String(200), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    step0: Mapped[int] = mapped_column(BigInteger)
    step1: Mapped[int] = mapped_column(BigInteger)
    n: Mapped[int]
    codec: Mapped[str] = mapped_column(String(32))
    steps: Mapped[bytes] = mapped_column(LargeBinary)
    values: Mapped[bytes] = mapped_column(LargeBinary)


class Artifact(Base):
    """A file a run left behind: a picture's arrays. A small one's content is the `sw_blob` of the same `sha256`."""

    __tablename__ = "sw_artifact"

    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    uri: Mapped[str] = mapped_column(Text)  # relative to results_dir where it is a file of ours
    sha256: Mapped[str | None] = mapped_column(String(64))
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    kind: Mapped[str] = mapped_column(String(32))


class Blob(Base):
    """Content by its digest: what several runs share (the test clips of one data set) is here once."""

    __tablename__ = "sw_blob"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)


class Paper(Base):
    """A number as printed in the paper, for a place in a study's table."""

    __tablename__ = "sw_paper"

    study_id: Mapped[int] = mapped_column(ForeignKey("sw_study.id"), primary_key=True)
    row_key: Mapped[str] = mapped_column(String(200), primary_key=True)
    col_key: Mapped[str] = mapped_column(String(200), primary_key=True, default="")
    value: Mapped[float] = mapped_column(Double)
    source: Mapped[str | None] = mapped_column(Text)


class Search(Base):
    """Which run an Optuna trial asked for; several trials may be told from one run."""

    __tablename__ = "sw_search"

    study_id: Mapped[int] = mapped_column(ForeignKey("sw_study.id"), primary_key=True)
    optuna_study: Mapped[str] = mapped_column(String(200), primary_key=True)
    trial_number: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[int] = mapped_column(ForeignKey("sw_run.id"), index=True)


class Event(Base):
    """Append-only audit: claimed, done, preempted, lost, failed, fenced, requeued, cancelled, ..."""

    __tablename__ = "sw_event"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    time: Mapped[float] = mapped_column(Double)
    kind: Mapped[str] = mapped_column(String(32))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("sw_run.id"), index=True)
    attempt: Mapped[int | None]
    worker: Mapped[str | None] = mapped_column(String(200))
    detail: Mapped[str | None] = mapped_column(Text)


def insert_new(connection: Connection, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert `rows`, passing over those whose key exists; two processes may insert the same ones at once."""
    if rows:
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        connection.execute(insert(table).on_conflict_do_nothing(), rows)
