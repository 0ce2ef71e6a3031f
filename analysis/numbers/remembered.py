"""What was computed or drawn before, remembered in `.cache/analysis`: a second report over the same runs does neither.

An entry is named by everything that decides what is in it: the values it is made of, our code and all libraries. So it
is never out of date, and what is damaged is made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers.versions import code, digest, libraries

FOLDER = Path(".cache/analysis")
MOST_BYTES = 256_000_000  # of all entries: the one that was asked for longest ago goes first
OURS = ("analysis", "sweeps")  # no part of core makes a number or a figure of what is stored


def read(key: str) -> dict[str, bytes] | None:
    """What `write` was given under `key`, a digest of all that decides it; None where it is not here whole."""
    path = FOLDER / key
    try:
        head, _, content = path.read_bytes().partition(b"\n")
        os.utime(path)  # asked for today
    except OSError:
        return None
    checksum, _, names = head.partition(b" ")
    if checksum.decode("latin-1") != _checksum(names, content):
        return None
    found, start = {}, 0
    for name, size in json.loads(names):
        found[name] = content[start : start + size]
        start += size
    return found


def write(entries: Mapping[str, Mapping[str, bytes]]) -> None:
    """Remember files by name under each of these keys, and forget the oldest where all together are too many."""
    if not entries:
        return
    with contextlib.suppress(OSError):  # where nothing can be written, the next report makes them again
        FOLDER.mkdir(parents=True, exist_ok=True)
        for key, files in entries.items():
            names = json.dumps([(name, len(content)) for name, content in files.items()]).encode()
            content = b"".join(files.values())
            temporary = FOLDER / f"{key}.{os.getpid()}"
            temporary.write_bytes(f"{_checksum(names, content)} ".encode() + names + b"\n" + content)
            temporary.replace(FOLDER / key)
        _forget()


def _checksum(names: bytes, content: bytes) -> str:
    return hashlib.sha256(names + b"\n" + content).hexdigest()


def _forget() -> None:
    stats = [(path, path.stat()) for path in FOLDER.iterdir()]
    too_many = sum(stat.st_size for _, stat in stats) - MOST_BYTES
    for path, stat in sorted(stats, key=lambda one: (one[1].st_mtime_ns, one[0].name)):
        if too_many <= 0:
            return
        path.unlink(missing_ok=True)  # another report may forget it too
        too_many -= stat.st_size


# ---- what decides ----------------------------------------------------------------------------------------------------


def key_of(*values: Any) -> str:
    """The name of what our code, with the libraries of today, makes of these values: one that tells any two apart.

    Of plain values, mappings, sequences, sets of what can be sorted, dataclasses, arrays and frames. Raises TypeError
    for what has no such words.
    """
    words = (word for value in values for word in _words(value))
    return digest([code(OURS), libraries(), platform.machine(), *words])


def _words(value: Any) -> Iterator[str]:
    """Types are among them: 1, 1.0 and True are drawn differently. Floats are told to their last bit."""
    if value is None or isinstance(value, bool | int | float | str | np.generic):
        yield repr(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__name__
        yield from _words({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        yield f"mapping of {len(value)}"
        for name, one in value.items():
            yield from _words(name)
            yield from _words(one)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} of {len(value)}"
        for one in value:
            yield from _words(one)
    elif isinstance(value, frozenset):
        yield from _words(sorted(value))
    elif isinstance(value, np.ndarray):
        yield f"array {value.dtype} {value.shape}"
        yield from _words(value.tolist())
    elif isinstance(value, pd.DataFrame):
        yield f"frame {value.shape}"
        for place, name in enumerate(value.columns):
            column = value.iloc[:, place]
            yield f"{name!r} {column.dtype}"
            yield from _words(column.tolist())
        yield from _words(value.index.tolist())
    else:
        raise TypeError(f"no words tell a {type(value).__name__} from another one")
