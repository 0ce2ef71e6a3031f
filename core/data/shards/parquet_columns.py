"""The columns of a Parquet file that hold pictures and their classes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.data.shards.shard_set import Shard

_LABELS = ("label", "labels", "class", "fine_label")  # what the column of classes may be called


@contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"data.path: {file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _opened(file: Path) -> pq.ParquetFile:
    with _named(file):
        return pq.ParquetFile(file)


def blobs(file: Path, places: Sequence[int], image: str) -> Iterator[bytes]:
    """The encoded pictures at `places`, which ascend."""
    opened = _opened(file)
    column, wanted, first = _image_column(opened.schema_arrow, image, file), set(places), 0
    with _named(file):
        for batch in opened.iter_batches(batch_size=256, columns=[column]):
            values = batch.column(0)
            if pa.types.is_struct(values.type):
                values = values.field("bytes")
            for place, value in enumerate(values, start=first):
                if place in wanted:
                    yield value.as_py() or b""
            first += len(batch)


@lru_cache(maxsize=4096)
def described(file: Path, size: int, time_ns: int, image: str, label: str) -> Shard:
    """Remembered by the file's size and time: a start asks several times what its columns hold."""
    opened = _opened(file)
    schema = opened.schema_arrow
    _image_column(schema, image, file)
    number = opened.metadata.num_rows
    column = _label_column(schema, label, file)
    if column is None:
        return Shard(number, None)
    with _named(file):
        values = opened.read([column]).column(0)
    if values.null_count:
        raise ValueError(f"data.path: {file}: column {column} has {values.null_count} rows without a value")
    return Shard(number, values.to_pylist(), classes=_class_names(schema, column))


def _image_column(schema: pa.Schema, asked: str, file: Path) -> str:
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if asked and asked not in fitting:
        raise ValueError(f"data.image={asked}: {file} has no such column of bytes; it has {_listed(fitting)}")
    if not asked and len(fitting) != 1:
        raise ValueError(f"data.image must name the column of pictures of {file}; of bytes it has {_listed(fitting)}")
    return asked or fitting[0]


def _label_column(schema: pa.Schema, asked: str, file: Path) -> str | None:
    fitting = [field.name for field in schema if pa.types.is_integer(field.type)]
    if asked and asked not in fitting:
        raise ValueError(f"data.label={asked}: {file} has no such column of whole numbers; it has {_listed(fitting)}")
    return asked or next((name for name in _LABELS if name in fitting), None)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """As `datasets` writes them into the file's head; None where the file does not say."""
    try:
        said: Any = json.loads((schema.metadata or {})[b"huggingface"])
        return tuple(map(str, said["info"]["features"][column]["names"]))
    except (KeyError, TypeError, ValueError):
        return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
