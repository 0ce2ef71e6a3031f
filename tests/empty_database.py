"""An empty database of this program's schema: the migrations run once a process, not once a test."""

import functools
import tempfile
from pathlib import Path

from sqlalchemy import Engine

from sweeps.database.opening import open_database, upgrade


@functools.cache
def _empty_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite"
        engine = open_database(f"sqlite:///{path}")
        upgrade(engine)
        engine.dispose()  # the last connection takes the write-ahead log along
        return path.read_bytes()


def opened(path: Path) -> Engine:
    """A new SQLite file at `path`, as `upgrade` leaves one, opened for writing."""
    path.write_bytes(_empty_file())
    return open_database(f"sqlite:///{path}")
