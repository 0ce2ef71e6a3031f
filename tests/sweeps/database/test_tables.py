import os
import sqlite3
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, inspect, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from sweeps.console.url import mask_url
from sweeps.database import opening, registering
from sweeps.database.opening import migrations, open_database, upgrade
from sweeps.database.tables import VERSION_TABLE, Base, Config, Result, RunRow, database_now
from sweeps.engine import queue
from tests.sweeps.conftest import BOTH
from tests.sweeps.postgres import PostgresServer


@BOTH
def test_upgrade_makes_every_table_from_nothing(engine: Engine) -> None:
    assert set(inspect(engine).get_table_names()) == {*Base.metadata.tables, VERSION_TABLE}


@BOTH
def test_the_migrations_make_what_the_tables_say(engine: Engine) -> None:
    with engine.begin() as connection:
        command.check(migrations(connection))  # raises when a revision is missing


@BOTH
def test_the_migrations_can_be_undone(engine: Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "base")
    assert inspect(engine).get_table_names() == [VERSION_TABLE]


@BOTH
def test_a_populated_database_of_the_schema_before_is_upgraded_with_its_rows(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(Config.__table__.insert().values(hash="a", hash_version=1, json={}))
        config = connection.execute(select(Config.id)).scalar_one()
        run = {"config_id": config, "seed": 0, "code_epoch": 1, "state": "done", "created": 0.0}
        connection.execute(RunRow.__table__.insert().values(run))
        run_id = connection.execute(select(RunRow.id)).scalar_one()
        connection.execute(Result.__table__.insert().values(run_id=run_id, metric="a/b", value=1.0, attempt=1))
        command.downgrade(migrations(connection), "0002")
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(select(Result.metric, Result.value)).all() == [("a/b", 1.0)]
        assert inspect(connection).has_table("sw_evaluation")


@BOTH
def test_upgrading_twice_changes_nothing(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(Config.__table__.insert().values(hash="a", hash_version=1, json={}))
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(select(Config.hash)).scalars().all() == ["a"]


@BOTH
def test_a_database_of_a_newer_schema_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(ValueError, match=r"db=(sqlite|postgresql):.*schema '9999' is newer"):
        upgrade(engine)


def test_tables_of_others_in_the_same_database_are_left_alone(url: str) -> None:
    engine = open_database(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num TEXT)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('v3.0.0.d')"))  # as Optuna leaves it
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "v3.0.0.d"


def test_four_processes_may_open_and_upgrade_at_once(url: str) -> None:
    failures: list[Exception] = []

    def start() -> None:
        try:
            engine = open_database(url)
            upgrade(engine)
            engine.dispose()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]  # each its own engine and connection
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert inspect(open_database(url)).has_table("sw_run")


def test_processes_may_open_and_upgrade_an_empty_server_database_at_once(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    threads = [threading.Thread(target=lambda: upgrade(open_database(url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # pytest turns an exception in a thread into a failure
    assert inspect(open_database(url)).has_table("sw_run")


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_read_only_engine_of_a_server_refuses_writes(url: str) -> None:
    reader = open_database(url, read_only=True)
    with reader.begin() as connection, pytest.raises(DBAPIError, match="read-only transaction"):
        connection.execute(Config.__table__.insert().values(hash="a", hash_version=1, json={}))
    reader.dispose()


def test_a_read_only_engine_refuses_writes(url: str, engine: Engine) -> None:
    reader = open_database(url, read_only=True)
    with reader.begin() as connection, pytest.raises(OperationalError, match="readonly"):
        connection.execute(Config.__table__.insert().values(hash="a", hash_version=1, json={}))


def test_a_reader_does_not_wait_for_an_open_write_transaction(url: str, engine: Engine) -> None:
    reader = open_database(url, read_only=True)
    with engine.begin() as writing:
        writing.execute(Config.__table__.insert().values(hash="a", hash_version=1, json={}))
        with reader.connect() as connection:
            assert connection.execute(select(Config.hash)).all() == []


def test_a_write_transaction_takes_the_lock_before_it_reads(
    url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = open_database(url)
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 0.1)
    with (
        engine.begin() as first,
        pytest.raises(OperationalError, match="locked"),
        impatient.begin() as second,
    ):
        first.execute(select(Config.id))
        second.execute(select(Config.id))


def test_sqlite_keeps_its_write_ahead_log(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_the_clock_is_the_databases_and_moves_within_a_transaction(engine: Engine) -> None:
    with engine.begin() as connection:
        before = connection.scalar(select(database_now()))
        epoch = connection.scalar(text("SELECT strftime('%s', 'now')"))
        after = connection.scalar(select(database_now()))
    assert before <= after
    assert abs(before - float(epoch)) < 2


def test_reading_a_database_that_is_not_there_makes_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"db=sqlite.*there is no such file"):
        open_database(f"sqlite:///{tmp_path / 'none.sqlite'}", read_only=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("results/a.sqlite", "not a database URL"),
        ("postgresql+nothing://host/x", "not a database URL"),
        ("mysql://host/x", "mysql is not supported"),
        ("sqlite://", "in memory"),
        ("postgresql://me:secret@127.0.0.1:1/none", "cannot be opened: .*[Cc]onnection"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_without_its_password(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


@BOTH
def test_what_an_older_schema_holds_is_kept_by_an_upgrade(url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "base")
        command.upgrade(migrations(connection), "0001")
        connection.execute(text("INSERT INTO sw_config (id, hash, hash_version, json) VALUES (1, 'a', 1, '{}')"))
        connection.execute(
            text(
                "INSERT INTO sw_run (id, config_id, seed, code_epoch, state, priority, attempt, not_before, n_fail, "
                "n_preempt, gpu_seconds, cpu_seconds, created) VALUES (5, 1, 0, 1, 'done', 0, 1, 0, 0, 0, 0, 2.5, 9)"
            )
        )
        connection.execute(text("INSERT INTO sw_attempt (run_id, n, started, outcome) VALUES (5, 1, 9, 'done')"))
        connection.execute(
            text("INSERT INTO sw_result (run_id, metric, agg, value, attempt) VALUES (5, 'top1', 'final', 0.5, 1)")
        )
    upgrade(engine)
    with engine.begin() as connection:
        command.check(migrations(connection))
        assert connection.execute(select(RunRow.id, RunRow.state, RunRow.cpu_seconds)).one() == (5, "done", 2.5)
        assert connection.scalar(select(Result.value)) == 0.5


def as_nobody(action: Callable[[], str]) -> str:
    """What `action` returns in a process that is not root, which may write everywhere."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            os.write(writer, action().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A database that nobody may write to, in a folder that everybody may read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sqlite"
        engine = open_database(f"sqlite:///{path}")
        upgrade(engine)
        engine.dispose()  # the last connection takes the write-ahead log along
        path.chmod(0o444)
        path.parent.chmod(0o555)
        yield path
        path.parent.chmod(0o755)


def test_a_file_that_cannot_be_written_to_is_named(locked: Path) -> None:
    def refused() -> str:
        try:
            open_database(f"sqlite:///{locked}")
        except ValueError as error:
            return str(error)
        return "opened"

    assert f"{locked} cannot be written to" in as_nobody(refused)


def test_a_file_that_cannot_be_written_to_can_be_read(locked: Path) -> None:
    def read() -> str:
        with open_database(f"sqlite:///{locked}", read_only=True).connect() as connection:
            return str(connection.execute(select(Config.hash)).all())

    assert as_nobody(read) == "[]"


def test_a_masked_url_shows_no_password() -> None:
    assert mask_url("postgresql://me:se{cret@host/db?password=more") == "postgresql://me:***@host/db?password=%2A%2A%2A"
    assert "secret" not in mask_url("me:secret@host")


def test_a_writer_waits_its_turn(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'turns.sqlite'}")
    upgrade(engine)
    held = engine.connect()
    held.begin()
    said = []

    def let_go():
        said.append("the first is done")
        held.commit()

    threading.Timer(0.2, let_go).start()
    with engine.begin():
        said.append("the second writes")
    assert said == ["the first is done", "the second writes"]


def test_a_writer_who_waits_too_long_is_told_that_the_database_is_locked(tmp_path, monkeypatch):
    engine = open_database(f"sqlite:///{tmp_path / 'turns.sqlite'}")
    monkeypatch.setattr(opening, "BUSY_TIMEOUT_S", 0.1)
    with engine.begin(), pytest.raises(OperationalError, match="locked"), engine.begin():
        pass


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:topsecret@127.0.0.1:1/x",
        "postgresql://me@127.0.0.1:1/x",
        "postgresql://me:topsecret@127.0.0.1:1/x?sslmode=bogus",
        "postgresql://me:topsecret@/x?host=/nowhere",
        "postgresql://me:topsecret@127.0.0.1:1/x?unknown=1",
    ],
)
def test_a_drivers_error_in_a_log_holds_no_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers log what the driver says, and keep tracebacks of what goes wrong."""
    monkeypatch.setenv("PGPASSWORD", "hushhush")
    engine = create_engine(url)
    with pytest.raises(DBAPIError) as caught:
        engine.connect()
    said = "".join(traceback.format_exception(caught.value)) + repr(engine) + str(caught.value.orig)
    assert "topsecret" not in said and "hushhush" not in said


@BOTH
def test_runs_may_end_as_collapsed_in_a_database_of_before(engine: Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(migrations(connection), "0004")
    with engine.begin() as connection:
        registering.register(connection, [({"optim.steps": 1}, seed) for seed in (0, 1)])
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(update(RunRow).values(state="collapsed"))
    upgrade(engine)
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker")
        assert claim is not None
        queue.finish(connection, claim, "collapsed")
        assert connection.scalars(select(RunRow.state).order_by(RunRow.id)).all() == ["collapsed", "queued"]
        if engine.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(update(RunRow).values(state="silly"))


def test_a_commit_to_a_file_without_a_log_waits_for_its_readers(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'a.sqlite'}", with_log=False)
    reader = sqlite3.connect(tmp_path / "a.sqlite", isolation_level=None, check_same_thread=False)
    with engine.begin() as connection:
        connection.execute(text("create table t (x)"))
    reader.execute("begin")
    assert reader.execute("select count(*) from t").fetchone() == (0,)
    timer = threading.Timer(0.3, reader.execute, ["commit"])
    timer.start()
    with engine.begin() as connection:
        connection.execute(text("insert into t values (1)"))
    timer.join()
    assert reader.execute("select count(*) from t").fetchone() == (1,)
    reader.close()
    engine.dispose()
