"""How a database is opened, read-only or for writing, and brought to this program's schema."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from sqlite3 import Connection as SQLiteConnection
from urllib.parse import quote, unquote

from alembic import command
from alembic.config import Config as AlembicConfig
from alembic.script import ScriptDirectory
from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from sweeps.console.errors import UserError
from sweeps.console.url import is_torn, mask_url
from sweeps.database.sqlite_lock import begin_writing
from sweeps.database.tables import VERSION_TABLE

BUSY_TIMEOUT_S = 60.0


def open_database(url: str | URL, *, read_only: bool = False, with_log: bool = True) -> Engine:
    """An engine on `url`, checked to be reachable. Call `upgrade` once before writing.

    SQLite: WAL, every transaction of a writing engine begins IMMEDIATE (it has the write lock before it reads, so
    no transaction dies of SQLITE_BUSY half-way); a missing folder is made. `read_only` gives an engine whose
    writes the database refuses, and whose transactions neither wait for writers nor hold them up. `with_log=False`
    leaves a file's WAL to whoever trains: one that is opened and in which nothing is written keeps its bytes.
    Do not set isolation_level=AUTOCOMMIT on its connections: the SQLite driver would then begin transactions itself.

    Raises ValueError, naming db and the URL without its password, when it cannot be opened.
    """
    shown = mask_url(url)
    allowed = "a file (sqlite:///results/ablations.sqlite) or a server (postgresql://user@host/name)"
    try:
        parsed = make_url(url)
        backend = parsed.get_dialect().name
    except (ArgumentError, NoSuchModuleError, ValueError):
        if re.fullmatch(r"[\w./~-]+", str(url)):  # a file's name, in which no password can stand
            raise ValueError(f"db={url}: not a database URL; of a file it is db=sqlite:///{url}") from None
        raise ValueError(f"db={shown}: not a database URL; allowed: {allowed}") from None
    if is_torn(url):
        raise ValueError(
            "db: this URL has more than one @, or a # in its host, so part of a password may stand there; in a "
            "password write @ as %40, / as %2F, # as %23 and % as %25 (nothing of the URL is shown here)"
        )
    if backend == "sqlite":
        engine = _open_sqlite(parsed, read_only=read_only, with_log=with_log)
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


def _open_sqlite(url: URL, *, read_only: bool, with_log: bool) -> Engine:
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
        if with_log:
            connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing. A power cut may lose the last commits but never corrupts: a lost `finish`
        # leaves its run leased, so it is claimed again and resumes; FULL would cost an fsync a claim to spare that.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        # With a log only a beginning waits, and `begin_writing` does; without one a commit waits for readers as well.
        connection.execute(f"PRAGMA busy_timeout = {0 if with_log else round(BUSY_TIMEOUT_S * 1000)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if read_only:
            connection.exec_driver_sql("BEGIN")
        else:
            begin_writing(connection, timeout_s=BUSY_TIMEOUT_S)

    return engine


def url_to_share(engine: Engine) -> URL:
    """What `open_database` opens the same database with, in another process."""
    database = str(engine.url.database)
    if not engine.url.query.get("immutable"):
        return engine.url
    return engine.url.set(database=unquote(database.removeprefix("file:")), query={})


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


@functools.cache
def newest_revision() -> str | None:
    """The Alembic revision that this program's tables have; once a process, which reads every migration's file."""
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


def connect(url: str, *, read_only: bool) -> Engine:
    """What a command opens: before it is sure that it has something to write, it changes no byte of a file."""
    try:
        return open_database(url, read_only=read_only, with_log=False)
    except ValueError as error:
        raise UserError(str(error)) from None


def is_absent(url: str) -> bool:
    """Whether the database is a file that is not there yet."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return False  # opening it will say what is wrong
    return parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").exists()
