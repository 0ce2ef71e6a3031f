"""What one process at a time does for a database: asking for a search's trials, making an evaluation of a run.

Whoever holds a lock and is killed gives it up.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from core.file_lock import take

_SPACES = {"search": 0x5357, "evaluation": 0x5358}  # tell our advisory locks from those of other programs


class DatabaseLock:
    """Of one thing of a kind. Of the file's host on SQLite, which several hosts cannot share anyway; of the server on
    PostgreSQL. `number` has 31 bits."""

    def __init__(self, engine: Engine, kind: str, number: int) -> None:
        self.engine, self.kind, self.number = engine, kind, number
        self._file: IO[bytes] | None = None
        self._session: Connection | None = None

    def take(self) -> bool:
        """Take the lock or see that it is still held; False while somebody else has it."""
        return self._take_file() if self.engine.dialect.name == "sqlite" else self._take_session()

    def _take_file(self) -> bool:
        if self._file is not None:
            return True
        database = Path(str(self.engine.url.database))
        file = database.with_name(f".{database.name}.{self.kind}-{self.number}.lock").open("wb")
        if not take(file, wait=False):
            file.close()
            return False
        self._file = file
        return True

    def _take_session(self) -> bool:
        """An advisory lock lasts as long as its session: a server that was restarted has forgotten it."""
        if self._session is not None:
            try:
                self._session.execute(text("SELECT 1"))
                return True
            except SQLAlchemyError:
                self.close()
        session = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        wanted = {"space": _SPACES[self.kind], "number": self.number}
        if session.scalar(text("SELECT pg_try_advisory_lock(:space, :number)"), wanted):
            self._session = session
            return True
        session.close()
        return False

    def close(self, *, tidy: bool = False) -> None:
        """Give it up. With `tidy` its file goes too: where no harm is done if two hold it for once, one of them having
        opened the file before it went."""
        if self._file is not None:
            if tidy:
                Path(self._file.name).unlink(missing_ok=True)
            self._file.close()
            self._file = None
        if self._session is not None:
            # Closed for good, not returned to the pool: its lock ends with it.
            with suppress(SQLAlchemyError):
                self._session.invalidate()
            with suppress(SQLAlchemyError):
                self._session.close()
            self._session = None
