"""What the commands of analysis share: a database of this program's schema, and files that are written or checked."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError

from sweeps import cli
from sweeps.cli import Arguments, UserError
from sweeps.db import mask_url, newest_revision, open_database, revision, upgrade


def open_results(arguments: Arguments, *, is_live: bool = False) -> Engine:
    """The database that `db=` names, read-only, with this program's tables.

    An older program's SQLite file, an archived capsule say, is read through an upgraded copy and stays as it is; not
    where `is_live`, as a copy would show nothing new. Raises UserError where the tables are a newer program's (they
    would be misread), an older one's that is not copied, or absent.
    """
    engine = cli.open_for_reading(arguments)
    shown = mask_url(engine.url)
    found = revision(engine)
    if found is None:
        engine.dispose()
        raise UserError(f"db={shown}: it holds no runs of this program; launch a study with it first")
    if found != newest_revision() and engine.dialect.name == "sqlite" and not is_live:
        return _upgraded_copy(engine)
    try:
        upgrade(engine)  # nothing to do at this program's schema; this engine cannot write, so anything else fails
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise UserError(f"db={shown}: of an older schema ({reason}); launch a study with it first") from None
    return engine


def _upgraded_copy(engine: Engine) -> Engine:
    """A read-only engine on a temporary copy of an SQLite database at this program's schema, which goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="ablations-")
    url = f"sqlite:///{folder.name}/copy.sqlite"
    writable = open_database(url)
    with engine.connect() as source, writable.connect() as copy:
        driver, target = source.connection.driver_connection, copy.connection.driver_connection
        assert driver is not None and target is not None
        driver.backup(target)
    engine.dispose()
    upgrade(writable)
    writable.dispose()
    opened = open_database(url, read_only=True)
    event.listen(opened, "engine_disposed", lambda _: folder.cleanup())
    return opened


def write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write `files` (paths under `folder` and their bytes); the paths, in the same order.

    A file that already holds the right bytes is left alone, so its time says when its content last changed.
    """
    paths = []
    for name, content in files.items():
        path = folder / name
        if not _holds(path, content):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_bytes(content)
            temporary.replace(path)  # a reader never sees half a table
        paths.append(path)
    return paths


def differences(files: Mapping[str, bytes], folder: Path, *, source: str = "the database") -> list[str]:
    """One line a file that is not what `source` gives: missing or different."""
    paths = {folder / name: content for name, content in files.items()}
    return [
        f"{path}: differs from {source}" if path.is_file() else f"{path}: missing"
        for path, content in paths.items()
        if not _holds(path, content)
    ]


def extra(files: Mapping[str, bytes], folder: Path, patterns: tuple[str, ...]) -> list[str]:
    """One line a file under `folder` that matches one of the `patterns` and that the database does not give."""
    return [f"{path}: not in the database" for path in _extra(files, folder, patterns)]


def remove_extra(files: Mapping[str, bytes], folder: Path, patterns: tuple[str, ...]) -> None:
    """Remove the files that `extra` names, for folders whose every file is generated and may be made again."""
    for path in _extra(files, folder, patterns):
        path.unlink()


def _extra(files: Mapping[str, bytes], folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    here = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(here - {folder / name for name in files})


def report(differing: list[str], folder: Path, *, source: str = "the database") -> int:
    """Print what a check found; its exit code."""
    print("\n".join(differing) or f"{folder}: every file is what {source} gives")
    return cli.INCOMPLETE if differing else cli.OK


def _holds(path: Path, content: bytes) -> bool:
    return path.is_file() and path.read_bytes() == content
