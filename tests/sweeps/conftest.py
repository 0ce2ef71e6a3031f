"""Databases to test with: a fresh SQLite file, or one of a private PostgreSQL server."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect

from sweeps.database.opening import newest_revision, open_database, revision, upgrade
from sweeps.database.tables import VERSION_TABLE, Base
from tests.empty_database import opened
from tests.sweeps.installed import missing
from tests.sweeps.postgres import PostgresServer, find_programs

BOTH = pytest.mark.parametrize("url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    programs = find_programs()
    if programs is None:
        missing("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql)")
    # Not below pytest's temporary folder: only its owner may enter that, and a socket's path has at most 107 letters.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = PostgresServer(programs, folder)
    yield server
    server.stop()
    shutil.rmtree(folder)


def emptied(server: PostgresServer) -> str:
    """The server's one shared database, its schema at head and its tables empty.

    A database a test would be 900 files each: making and removing them takes longer than the tests.
    """
    engine = open_database(server.url())
    with engine.begin() as connection:
        connection.exec_driver_sql("SET lock_timeout = '10s'")  # a connection left open is an error, not a hang
        is_ours = {*inspect(connection).get_table_names()} <= {*Base.metadata.tables, VERSION_TABLE}
        if is_ours and revision(connection) == newest_revision():
            connection.exec_driver_sql(f"TRUNCATE {', '.join(Base.metadata.tables)} RESTART IDENTITY")
        else:  # the first test, or one before it took the schema apart or searched, with Optuna's tables
            connection.exec_driver_sql("DROP SCHEMA public CASCADE")
            connection.exec_driver_sql("CREATE SCHEMA public")
    upgrade(engine)
    engine.dispose()
    return server.url()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, a SQLite file unless the test asks for ``@BOTH``."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:///{tmp_path / 'sweep.sqlite'}"
    return emptied(request.getfixturevalue("postgres"))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    is_file = url.startswith("sqlite:///")
    engine = opened(Path(url.removeprefix("sqlite:///"))) if is_file else open_database(url)
    yield engine
    engine.dispose()
