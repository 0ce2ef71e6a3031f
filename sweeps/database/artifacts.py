"""The small files that a run leaves: in its folder, and in the database once the run is done.

Those of at most `INLINE_BYTES` are in the database with their content, so that a capsule or a committed database draws
its pictures without the run's folder; of a larger one it knows name, size and digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, delete

from sweeps.database.tables import Artifact, Blob, insert_new

INLINE_BYTES = 2**20


class Kept(NamedTuple):
    """A file as it was written."""

    name: str
    kind: str
    uri: str  # relative to the results folder
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def write_file(path: Path, kind: str, content: bytes, *, results_dir: Path) -> Kept:
    """Write `path` whole or not at all. Raises OSError (disk full, say) with an earlier file of that name intact."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return Kept(path.name, kind, str(path.relative_to(results_dir)), content)


def store(connection: Connection, run_id: int, attempt: int, files: Sequence[Kept]) -> None:
    """Record what `attempt` kept, in the place of files of the same names of the run's earlier attempts.

    In the caller's transaction, which holds the run's lease: the files are there when the results are.
    """
    names = [file.name for file in files]
    connection.execute(delete(Artifact).where(Artifact.run_id == run_id, Artifact.name.in_(names)))
    for file in files:
        if len(file.content) <= INLINE_BYTES:
            insert_new(connection, Blob, [{"sha256": file.sha256, "content": file.content}])
    rows = [
        {
            "run_id": run_id,
            "attempt": attempt,
            "name": file.name,
            "uri": file.uri,
            "sha256": file.sha256,
            "bytes": len(file.content),
            "kind": file.kind,
        }
        for file in files
    ]
    insert_new(connection, Artifact, rows)
