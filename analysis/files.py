"""What the commands of analysis share: a database of this program's schema, and files that are written or checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine

from sweeps import cli
from sweeps.cli import Arguments
from sweeps.console.errors import UserError
from sweeps.console.url import mask_url
from sweeps.database.opening import revision


def open_results(arguments: Arguments, *, is_live: bool = False) -> Engine:
    """The database that `db=` names, read-only, with this program's tables: see `sweeps.cli.open_for_reading`.

    Raises UserError where the tables are absent.
    """
    engine = cli.open_for_reading(arguments, is_live=is_live)
    if revision(engine) is None:
        shown = mask_url(engine.url)
        engine.dispose()
        raise UserError(f"db={shown}: it holds no runs of this program; launch a study with it first")
    return engine


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
            try:
                temporary.write_bytes(content)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                error.filename = str(path)  # a full disk names no file
                raise
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


def write_or_check(
    page: Mapping[str, bytes], folder: Path, *, command: str, is_check: bool, source: str = "the database"
) -> int:
    """A generated page of a repository, written, or checked against what `command` would write; the exit code."""
    if is_check:
        return report(
            [f"{line}; run: {command}" for line in differences(page, folder, source=source)], folder, source=source
        )
    print("\n".join(map(str, write(page, folder))))
    return cli.OK


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
