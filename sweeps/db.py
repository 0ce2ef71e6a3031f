"""The tables that decide what exists, who may run it and what came out; and how a database is opened.

SQLite (default) and PostgreSQL through one code path. All tables start with ``sw_`` and the Alembic revision sits in
``sw_alembic_version``, so Optuna's tables can live in the same database. Every time is seconds since 1970 by the
*database's* clock (`database_now`), never a worker's. Imports neither torch nor `core`: analysis reads through here.

Run states: queued running done failed diverged pruned cancelled.
Attempt outcomes: NULL (still running), done preempted lost failed fenced diverged pruned imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from typing import Any
from urllib.parse import quote

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement

from sweeps.database_url import is_torn
from sweeps.database_url import mask_url as mask_url
from sweeps.sqlite_lock import begin_writing

RUN_STATES = ("queued", "running", "done", "failed", "diverged", "pruned", "cancelled")
FINAL_STATES = ("done", "failed", "diverged", "pruned", "cancelled")
OUTCOMES = ("done", "preempted", "lost", "failed", "fenced", "diverged", "pruned", "imported")
VERSION_TABLE = "sw_alembic_version"
BUSY_TIMEOUT_S = 60.0

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
    """A stretch of one metric's series as logged by one attempt, compressed; read through `sweeps.series`."""

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


def open_database(url: str | URL, *, read_only: bool = False) -> Engine:
    """An engine on `url`, checked to be reachable. Call `upgrade` once before writing.

    SQLite: WAL, every transaction of a writing engine begins IMMEDIATE (it has the write lock before it reads, so
    no transaction dies of SQLITE_BUSY half-way); a missing folder is made. `read_only` gives an engine whose
    writes the database refuses, and whose transactions neither wait for writers nor hold them up.
    Do not set isolation_level=AUTOCOMMIT on its connections: the SQLite driver would then begin transactions itself.

    Raises ValueError, naming db and the URL without its password, when it cannot be opened.
    """
    shown = mask_url(url)
    allowed = "a file (sqlite:///results/ablations.sqlite) or a server (postgresql://user@host/name)"
    try:
        parsed = make_url(url)
        backend = parsed.get_dialect().name
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ValueError(f"db={shown}: not a database URL; allowed: {allowed}") from None
    if is_torn(url):
        raise ValueError(
            "db: this URL has more than one @, or a # in its host, so part of a password may stand there; in a "
            "password write @ as %40, / as %2F, # as %23 and % as %25 (nothing of the URL is shown here)"
        )
    if backend == "sqlite":
        engine = _open_sqlite(parsed, read_only=read_only)
    elif backend == "postgresql":
        # Statistics are as old as the last vacuum, and know a queue as empty or full that no longer is: from them the
        # planner would collect and sort all that is queued for every claim. Its index has it in order.
        options = "-c default_transaction_read_only=on" if read_only else "-c enable_bitmapscan=off"
        try:
            engine = create_engine(
                parsed,
                pool_pre_ping=True,
                connect_args={"connect_timeout": 10, "options": options, "client_encoding": "utf8"},
            )
        except ArgumentError:  # its text has what the URL has in the port's place
            raise ValueError(f"db={shown}: host and port cannot be told apart; allowed: {allowed}") from None
    else:
        raise ValueError(f"db={shown}: {backend} is not supported; allowed: {allowed}")
    try:
        with engine.connect():
            pass
    except DBAPIError as error:
        engine.dispose()
        raise ValueError(f"db={shown}: cannot be opened: {_one_line(error)}; allowed: {allowed}") from None
    return engine


def _open_sqlite(url: URL, *, read_only: bool) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise ValueError(
            "db=sqlite:// is in memory, which workers cannot share; give a file: sqlite:///results/a.sqlite"
        )
    path = Path(str(url.database)).expanduser()
    url = url.set(database=str(path))
    if read_only and not path.is_file():
        raise ValueError(f"db={mask_url(url)}: there is no such file; launch a study first or name another db")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"db={mask_url(url)}: its folder cannot be made: {error.strerror}") from None
    locked = [place for place in (path, path.parent) if place.exists() and not os.access(place, os.W_OK)]
    if locked and not read_only:
        raise ValueError(
            f"db={mask_url(url)}: {locked[0]} cannot be written to; allow it (SQLite writes to the file and its "
            "folder), or copy the file elsewhere and give that"
        )
    if path.parent in locked and not path.with_name(f"{path.name}-wal").exists():
        # Even a reader wants a log beside a WAL file; one that nobody can write to does without.
        url = url.set(database=f"file:{quote(str(path.absolute()))}", query={"immutable": "1", "uri": "true"})
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def configure(connection: SQLiteConnection, record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions: `begin` below does
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            return
        connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing. A power cut may lose the last commits but never corrupts: a lost `finish`
        # leaves its run leased, so it is claimed again and resumes; FULL would cost an fsync a claim to spare that.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA busy_timeout = 0")  # `begin_writing` waits instead

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if read_only:
            connection.exec_driver_sql("BEGIN")
        else:
            begin_writing(connection, timeout_s=BUSY_TIMEOUT_S)

    return engine


def _one_line(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split())


def migrations(connection: Connection | None = None) -> AlembicConfig:
    """Alembic's settings for our migrations, to run on `connection`: ``command.check(migrations(connection))``."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def upgrade(engine: Engine) -> None:
    """Bring the database's schema to this program's. Safe to call at any time and from many processes at once.

    Raises ValueError when the schema is newer than this program knows: it would misread it.
    """
    if revision(engine) == newest_revision():
        return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite's BEGIN IMMEDIATE already keeps a second upgrade out
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": VERSION_TABLE})
        refuse_newer(connection)
        command.upgrade(migrations(connection), "head")


def newest_revision() -> str | None:
    """The Alembic revision that this program's tables have."""
    return ScriptDirectory.from_config(migrations()).get_current_head()


def refuse_newer(connection: Connection) -> None:
    """Raises ValueError when the schema is newer than this program knows: it would misread it."""
    current = revision(connection)
    script = ScriptDirectory.from_config(migrations())
    if current is not None and current not in {step.revision for step in script.walk_revisions()}:
        raise ValueError(
            f"db={mask_url(connection.engine.url)}: its schema {current!r} is newer than this program's "
            f"{script.get_current_head()!r}; update the program or use another db"
        )


def revision(bind: Engine | Connection) -> str | None:
    """The Alembic revision of the database's schema; None before the first `upgrade`."""
    if isinstance(bind, Engine):
        with bind.connect() as connection:
            return revision(connection)
    if not inspect(bind).has_table(VERSION_TABLE):
        return None
    return bind.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
