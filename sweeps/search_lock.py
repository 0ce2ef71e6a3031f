"""One launcher at a time asks for trials of a search; whoever holds the lock and is killed gives it up."""

from __future__ import annotations

import fcntl
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

_SPACE = 0x5357  # tells our advisory locks from those of other programs on the server


class SearchLock:
    """A lock of the file's host on SQLite, which several hosts cannot share anyway; of the server on PostgreSQL."""

    def __init__(self, engine: Engine, study_id: int) -> None:
        self.engine, self.study_id = engine, study_id
        self._file: IO[bytes] | None = None
        self._session: Connection | None = None

    def take(self) -> bool:
        """Take the lock or see that it is still held; False while somebody else has it."""
        return self._take_file() if self.engine.dialect.name == "sqlite" else self._take_session()

    def _take_file(self) -> bool:
        if self._file is not None:
            return True
        database = Path(str(self.engine.url.database))
        file = database.with_name(f".{database.name}.search-{self.study_id}.lock").open("wb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
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
        wanted = {"space": _SPACE, "study": self.study_id}
        if session.scalar(text("SELECT pg_try_advisory_lock(:space, :study)"), wanted):
            self._session = session
            return True
        session.close()
        return False

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._session is not None:
            # Closed for good, not returned to the pool: its lock ends with it.
            with suppress(SQLAlchemyError):
                self._session.invalidate()
            with suppress(SQLAlchemyError):
                self._session.close()
            self._session = None
