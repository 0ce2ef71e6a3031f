"""Files and their classes in a few arrays: a million of them as objects take seconds to make, and these do not."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

Entry = tuple[Path, int]  # an image file and its class
_AT_ONCE = 2048  # files that a thread asks for at a time


class Entries(Sequence[Entry]):
    """A sequence of files with their classes; each is made as it is asked for."""

    def __init__(
        self, folders: Sequence[str], folder_of: np.ndarray, names: bytes, ends: np.ndarray, labels: np.ndarray
    ) -> None:
        self.folders = tuple(folders)
        self.folder_of = folder_of  # [N] int32, of `folders`
        self.names, self.ends = names, ends  # all names in a row, and where each ends: [N] int64
        self.labels = labels  # [N] int64

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Entries:
        numbers: dict[str, int] = {}
        folder_of, names, labels = [], [], []
        for file, label in entries:
            folder, name = os.path.split(file)
            folder_of.append(numbers.setdefault(folder or ".", len(numbers)))
            names.append(os.fsencode(name))
            labels.append(label)
        ends = np.cumsum(np.fromiter(map(len, names), np.int64, len(names)), dtype=np.int64)
        return cls(list(numbers), np.array(folder_of, np.int32), b"".join(names), ends, np.array(labels, np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Path(self.path(index % len(self))), int(self.labels[index])

    def path(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return f"{self.folders[self.folder_of[index]]}/{os.fsdecode(self.names[start : self.ends[index]])}"

    def stamp(self, roots: Sequence[Path], facts: np.ndarray) -> str:
        """Stands for the files' names below `roots`, their order, classes and `facts`."""
        found = hashlib.blake2b(self.names, digest_size=16)
        for array in (self.folder_of, self.ends, self.labels, facts):
            found.update(np.ascontiguousarray(array).data)
        starts = [f"{root}/" for root in roots]
        folders = (next((f.removeprefix(start) for start in starts if f.startswith(start)), f) for f in self.folders)
        found.update("\0".join(folders).encode(errors="surrogateescape"))
        return found.hexdigest()


class Listing(NamedTuple):
    """What a split holds."""

    entries: Entries  # sorted by name; of class 0 where there are no labels
    classes: list[str]  # empty: there are no labels
    others: list[Path]  # files in class folders that are no pictures by their names, or links to nothing


def asked(entries: Entries, chosen: np.ndarray | None = None) -> np.ndarray:
    """Size and time of writing (ns) of each file, or of those that are `chosen`: [N, 2] int64; -1 and 0 of one that is
    not there."""
    indices = np.arange(len(entries)) if chosen is None else chosen
    found = np.empty((len(indices), 2), np.int64)

    def ask(start: int) -> None:
        for place in range(start, min(start + _AT_ONCE, len(indices))):
            try:
                stat = os.stat(entries.path(int(indices[place])))  # noqa: PTH116 a Path takes as long as the question
                found[place] = stat.st_size, stat.st_mtime_ns
            except OSError:
                found[place] = -1, 0

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(0, len(indices), _AT_ONCE)))
    return found
