"""What a run logged and the database does not have yet, kept on disk so that no kill and no outage loses a point.

Points go to ``points/<attempt>-<generation>.jsonl`` in the run's folder as they are logged. A generation is closed when
it is sent to the database, where it becomes the chunks of that `seq`, and its file is removed once they are committed.
While the database is away generations wait; after a kill the run's next attempt sends them. Sending one twice changes
nothing, because attempt and generation are the chunks' key.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sweeps.database import series

log = logging.getLogger(__name__)


class Generation(NamedTuple):
    """Points that were, or will be, sent together."""

    attempt: int
    seq: int
    points: list[tuple[int, dict[str, float]]]  # step -> metrics, in the order they were logged
    path: Path

    def chunk_rows(self, run_id: int) -> list[dict[str, Any]]:
        """One row of `sw_chunk` a metric."""
        steps: dict[str, list[int]] = {}
        values: dict[str, list[float]] = {}
        for step, metrics in self.points:
            for metric, value in metrics.items():
                steps.setdefault(metric, []).append(step)
                values.setdefault(metric, []).append(value)
        return series.chunk_rows(
            run_id, self.attempt, self.seq, {metric: (steps[metric], values[metric]) for metric in steps}
        )


class Journal:
    """The points of one attempt. Not thread-safe: the recorder's lock guards it."""

    def __init__(self, folder: Path, attempt: int) -> None:
        self.folder, self.attempt = folder / "points", attempt
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open(seq=0)

    def _open(self, seq: int) -> None:
        path = self.folder / f"{self.attempt:05d}-{seq:06d}.jsonl"
        # Unbuffered: a SIGKILL must not take the last points with it. (A power cut may.)
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self.seq, self.path, self.points = seq, path, list[tuple[int, dict[str, float]]]()

    def append(self, step: int, metrics: Mapping[str, float]) -> None:
        """Raises OSError when the disk is full; the journal is then as it was before."""
        point = (step, {name: float(value) for name, value in metrics.items()})
        line = json.dumps(point).encode() + b"\n"
        if (written := os.write(self.file, line)) != len(line):
            os.ftruncate(self.file, os.fstat(self.file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self.points.append(point)

    def rotate(self) -> Generation | None:
        """Close the current generation, if it has points, and begin the next."""
        if not self.points:
            return None
        closed, file = Generation(self.attempt, self.seq, self.points, self.path), self.file
        self._open(self.seq + 1)
        os.close(file)
        return closed

    def close(self) -> None:
        """End the journal. Points not rotated out stay on disk for the next attempt."""
        os.close(self.file)
        if not self.points:
            self.path.unlink(missing_ok=True)


def leftovers(folder: Path, before: int) -> list[Generation]:
    """Generations that attempts earlier than `before` left in a run's folder, in order."""
    found = []
    for path in sorted((folder / "points").glob("*-*.jsonl")):
        attempt, seq = (int(part) for part in path.stem.split("-"))
        if attempt < before:
            found.append(Generation(attempt, seq, _read(path), path))
    return found


def _read(path: Path) -> list[tuple[int, dict[str, float]]]:
    points: list[tuple[int, dict[str, float]]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:  # a last line without its newline was torn by a kill
        try:
            step, metrics = json.loads(line)
        except ValueError:
            log.warning("%s: unreadable from line %d on, as a power cut leaves a file; left out", path, len(points) + 1)
            break
        points.append((int(step), metrics))
    return points
