"""A run's curves: points as compressed chunks in the database, and read back as one line over all attempts.

A row a point would cost 60 bytes and an insert each. Float64 values and int64 step differences are split into byte
planes before zlib, since neighbouring losses share their high bytes and a float32's value has zeros in its low ones:
under 10 bytes a point. Without torch: analysis reads through here.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from sweeps.database.tables import Attempt, Chunk, insert_new

CODEC = "planes-zlib"  # the only one so far; a row names its own, so a later one can be added
Steps = NDArray[np.int64]
Values = NDArray[np.float64]


class Series(NamedTuple):
    """Steps in ascending order and the value at each."""

    steps: Steps
    values: Values


def encode_steps(steps: Sequence[int] | Steps) -> bytes:
    array = np.asarray(steps, dtype="<i8")
    differences = array.copy()  # np.diff with prepend takes four times as long
    differences[1:] -= array[:-1]
    return _pack(differences)


def decode_steps(data: bytes) -> Steps:
    return np.cumsum(_unpack(data, "<i8"), dtype=np.int64)


def encode_values(values: Sequence[float] | Values) -> bytes:
    """Lossless, NaN and infinities included."""
    return _pack(np.asarray(values, dtype="<f8"))


def decode_values(data: bytes) -> Values:
    return _unpack(data, "<f8").astype(np.float64, copy=False)


def _pack(numbers: NDArray[Any]) -> bytes:
    planes = np.ascontiguousarray(numbers.view(np.uint8).reshape(-1, 8).T)
    return zlib.compress(planes.data, level=1)


def _unpack(data: bytes, dtype: str) -> NDArray[Any]:
    planes = np.frombuffer(zlib.decompress(data), dtype=np.uint8).reshape(8, -1)
    return np.ascontiguousarray(planes.T).reshape(-1).view(dtype)


def chunk_row(
    run_id: int, attempt: int, seq: int, metric: str, steps: Sequence[int], values: Sequence[float]
) -> dict[str, Any]:
    """The row of `sw_chunk` for these points, which are not empty and in the order they were logged."""
    (row,) = chunk_rows(run_id, attempt, seq, {metric: (steps, values)})
    return row


def chunk_rows(
    run_id: int, attempt: int, seq: int, points: Mapping[str, tuple[Sequence[int], Sequence[float]]]
) -> list[dict[str, Any]]:
    """One row a metric, for the steps and values of each. Metrics logged together have their steps packed once."""
    rows: list[dict[str, Any]] = []
    packed: dict[str, Any] = {}
    packed_steps: Sequence[int] = ()
    for metric, (steps, values) in points.items():
        assert len(steps) == len(values) > 0
        if not packed or steps != packed_steps:
            array = np.asarray(steps, dtype="<i8")
            packed = {"step0": int(array.min()), "step1": int(array.max()), "steps": encode_steps(array)}
            packed_steps = steps
        key = {"run_id": run_id, "metric": metric, "attempt": attempt, "seq": seq}
        rows.append(key | packed | {"n": len(steps), "codec": CODEC, "values": encode_values(values)})
    return rows


def write(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert chunks; one that is there already (a replay) is passed over."""
    insert_new(connection, Chunk, rows)


def metrics(connection: Connection, run_id: int) -> list[str]:
    """The names of a run's series."""
    return list(
        connection.scalars(select(Chunk.metric).where(Chunk.run_id == run_id).distinct().order_by(Chunk.metric))
    )


def sizes(connection: Connection, run_ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Of each run, its series and how many points were logged to each, over all attempts."""
    found: dict[int, dict[str, int]] = {}
    query = select(Chunk.run_id, Chunk.metric, func.sum(Chunk.n)).where(Chunk.run_id.in_(run_ids))
    for run_id, metric, count in connection.execute(
        query.group_by(Chunk.run_id, Chunk.metric).order_by(Chunk.run_id, Chunk.metric)
    ):
        found.setdefault(run_id, {})[metric] = int(count)
    return found


def read(connection: Connection, run_id: int, metric: str) -> Series:
    """One metric's curve over all attempts of a run; empty when there is none.

    A point of attempt k at step s counts iff s is before the `resume_step` of every later attempt, so what was
    trained twice after a kill is shown once, as it was trained last. Two points at one step: the later logged counts.
    """
    found = read_many(connection, [run_id], [metric])
    return found.get((run_id, metric), Series(np.empty(0, np.int64), np.empty(0)))


def read_many(connection: Connection, run_ids: Sequence[int], metrics: Sequence[str]) -> dict[tuple[int, str], Series]:
    """`read` of several runs and metrics with two queries; a (run, metric) that has no points is left out."""
    resumes: dict[int, list[tuple[int, int]]] = {}
    for run_id, n, step in connection.execute(
        select(Attempt.run_id, Attempt.n, Attempt.resume_step).where(
            Attempt.run_id.in_(run_ids), Attempt.resume_step.is_not(None)
        )
    ):
        resumes.setdefault(run_id, []).append((n, int(step or 0)))
    chunks: dict[tuple[int, str], list[Any]] = {}
    for chunk in connection.execute(
        select(Chunk.run_id, Chunk.metric, Chunk.attempt, Chunk.codec, Chunk.steps, Chunk.values)
        .where(Chunk.run_id.in_(run_ids), Chunk.metric.in_(metrics))
        .order_by(Chunk.run_id, Chunk.metric, Chunk.attempt, Chunk.seq)
    ):
        chunks.setdefault((chunk.run_id, chunk.metric), []).append(chunk)
    unpacked: dict[bytes, Steps] = {}  # a run's metrics have the same steps, and mostly its neighbours too
    return {key: _joined(found, resumes.get(key[0], ()), unpacked) for key, found in chunks.items()}


def _joined(chunks: Sequence[Any], resumes: Sequence[tuple[int, int]], unpacked: dict[bytes, Steps]) -> Series:
    """One curve from the chunks of all attempts, in the order they were logged; `unpacked` keeps steps for others."""
    kept_steps: list[Steps] = []
    kept_values: list[Values] = []
    for run_id, metric, attempt, codec, packed_steps, packed_values in chunks:
        if codec != CODEC:
            raise ValueError(f"run {run_id}, {metric}: chunk codec {codec!r} is not known to this program; update it")
        if (steps := unpacked.get(packed_steps)) is None:
            steps = unpacked[packed_steps] = decode_steps(packed_steps)
            steps.flags.writeable = False
        values = decode_values(packed_values)
        if ends := [resume for n, resume in resumes if n > attempt]:
            counts = steps < min(ends)
            steps, values = steps[counts], values[counts]
        kept_steps.append(steps)
        kept_values.append(values)
    whole = len(kept_steps) == 1
    steps = kept_steps[0] if whole else np.concatenate(kept_steps)
    values = kept_values[0] if whole else np.concatenate(kept_values)
    if (steps[1:] > steps[:-1]).all():  # a run that was never stopped
        return Series(steps, values)
    # Reversed, so that `unique`, which keeps the first of equals, keeps the one logged last.
    unique, first = np.unique(steps[::-1], return_index=True)
    return Series(unique, values[::-1][first])
