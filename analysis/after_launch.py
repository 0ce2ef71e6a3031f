"""What a launch shows at its end, made anew only where something changed since this machine made it last.

Every file is a function of the database, the study files, our code and the libraries. Where these are what they were,
and the files hold what was written then, nothing is loaded, drawn or written.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine

from analysis import files
from analysis.numbers import versions
from sweeps.cells.edited import content_of, digest_of_files
from sweeps.console.offered import HERE, Place
from sweeps.console.url import mask_url
from sweeps.study.files import find

FOLDER = Path(".cache/reports")
OURS = ("core", "sweeps", "analysis")


def write(engine: Engine, studies: Sequence[str], results_dir: Path, place: Place = HERE) -> list[Path]:
    """As `analysis.report.write`: the paths of the files of these studies and of what is said over all."""
    memory = FOLDER / f"{versions.digest([_url(engine), str(results_dir.absolute()), *studies])}.json"
    state = _state(engine, place)
    if state and (paths := _kept(memory, state, results_dir)):
        return paths
    from analysis import report  # 1.3 s of matplotlib, seaborn and scipy, which a launch with nothing to say saves

    paths = report.write(engine, studies, results_dir, place)
    if state and state == _state(engine, place):  # else somebody wrote while the files were made
        _keep(memory, state, paths, results_dir)
    return paths


def _kept(memory: Path, state: str, results_dir: Path) -> list[Path]:
    """The paths that were written for this state, where each still holds that; else none."""
    known = json.loads(memory.read_bytes()) if memory.exists() else {}
    if known.get("state") != state:
        return []
    digests = {results_dir / name: digest for name, digest in known["files"]}
    return list(digests) if all(content_of(path) == digest for path, digest in digests.items()) else []


def _keep(memory: Path, state: str, paths: Sequence[Path], results_dir: Path) -> None:
    written = [(str(path.relative_to(results_dir)), content_of(path)) for path in paths]
    content = json.dumps({"state": state, "files": written}).encode()
    with contextlib.suppress(OSError):  # where nothing can be written, the next launch makes them again
        files.write({memory.name: content}, memory.parent)


# ---- what the files are made of --------------------------------------------------------------------------------------


def _state(engine: Engine, place: Place) -> str:
    """Another one when anything is changed that a file may show; empty where that cannot be told."""
    content = _database(engine)
    if not content:
        return ""
    studies = [f"{name} {content_of(path)}" for name, path in find().items()]
    with engine.connect() as connection:
        studies.append(digest_of_files(connection))
    return versions.digest([content, *studies, place.db, place.results_dir, versions.code(OURS), versions.libraries()])


def _database(engine: Engine) -> str:
    """The digest of an SQLite file that holds all that was committed; empty of a server, or where others read or write.

    A log is copied into the file first, as the last to close it would do.
    """
    if engine.url.get_backend_name() != "sqlite":
        return ""
    with contextlib.closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("PRAGMA wal_checkpoint")  # -1 pages without a log
        [(is_busy, num_pages, num_copied)] = cursor.fetchall()
    if is_busy or num_pages != num_copied:
        return ""
    return content_of(Path(str(engine.url.database)))


def _url(engine: Engine) -> str:
    database = engine.url.database
    is_file = engine.url.get_backend_name() == "sqlite" and database
    return str(Path(str(database)).absolute()) if is_file else mask_url(engine.url)
