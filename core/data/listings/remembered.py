"""Listings that are kept in the cache between starts, and how it is seen that one no longer holds.

To list ImageNet takes a minute, and every process of every start would do it. A kept listing counts as long as every
folder that was looked into is the one that it was and was not written to since: a file that is added, removed, renamed
or put in the place of another changes its folder. One that is written to in its place does not: files are asked for
their sizes and times as well, each at every start, or of a large set some, others at each start.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from core.data.arrays import cache_key
from core.data.listings.entries import Entries, Listing, asked

EVERY = 50_000  # of a set up to this size each file is asked at every start
SOME = 10_000  # of a larger one
SETTLED_NS = 2 * 10**9  # what was written this short ago may change once more without another time
_VERSION = 1  # raise it when the same folders would be listed otherwise
_ARRAYS = ("folder_of", "ends", "labels", "facts")
State = list[int] | None  # of a folder: device, inode, times of writing and of change; None: not there


@dataclass(frozen=True)
class Keeping:
    cache: Path
    writes: bool


_KEEPING: ContextVar[Keeping | None] = ContextVar("keeping", default=None)


@contextmanager
def kept_in(cache: Path, *, writes: bool = False) -> Iterator[None]:
    """Listings are taken from `cache` where they are there, and put there by the one that loads the set."""
    token = _KEEPING.set(Keeping(cache, writes))
    try:
        yield
    finally:
        _KEEPING.reset(token)


class Watched:
    """The folders that a listing depends on."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """`roots`, and the folders in them, by whose names splits and classes are found."""
        self.states: dict[str, State] = {}
        for root in roots:
            self.add(root)
            for child in root.iterdir() if root.is_dir() else ():
                if not child.name.startswith(".") and (child.is_symlink() or child.is_dir()) and not child.is_file():
                    self.add(child)

    def add(self, folder: Path) -> None:
        self.states[str(folder)] = state(str(folder))


def state(folder: str) -> State:
    try:
        found = os.stat(folder)  # noqa: PTH116 a Path takes as long as the question
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


@dataclass
class Known:
    """A listing, and what its files said when they were last asked."""

    listing: Listing
    facts: np.ndarray  # [N, 2] int64: size, time of writing
    states: dict[str, State]

    def holds(self) -> bool:
        links = (file for file in self.listing.others if file.is_symlink())
        return all(state(folder) == before for folder, before in self.states.items()) and not any(
            link.is_file() for link in links
        )

    def refreshed(self, every: int = EVERY, some: int = SOME) -> np.ndarray:
        """What the files say now; of more than `every` what they said, if `some` say the same."""
        entries = self.listing.entries
        if len(entries) <= every:
            return asked(entries)
        chosen = np.random.default_rng().integers(len(entries), size=some)
        is_same = np.array_equal(asked(entries, chosen), self.facts[chosen])
        return self.facts if is_same else asked(entries)


_LAST: dict[Path, tuple[State, Known]] = {}  # what this process has read of each kept listing


def listed(facts: object, roots: Sequence[Path], make: Callable[[Watched], Listing]) -> Listing:
    """The listing that `facts` name, below `roots`: a kept one that still holds, or what `make` gives."""
    return _known(facts, roots, make).listing


def listed_with_facts(
    facts: object, roots: Sequence[Path], make: Callable[[Watched], Listing]
) -> tuple[Listing, np.ndarray]:
    """`listed`, and the size and time of writing of each file."""
    known = _known(facts, roots, make)
    if len(known.facts):
        now = known.refreshed()
        if np.array_equal(now, known.facts) or (now[:, 0] >= 0).all():
            return known.listing, _noted(facts, known, now)
        known = _made(roots, make)  # a file is gone, or a link to it leads nowhere
    return known.listing, _noted(facts, known, asked(known.listing.entries))


def _known(facts: object, roots: Sequence[Path], make: Callable[[Watched], Listing]) -> Known:
    path = _path(facts)
    if path is not None and (known := _read(path)) is not None and known.holds():
        return known
    return _made(roots, make)


def _made(roots: Sequence[Path], make: Callable[[Watched], Listing]) -> Known:
    watched = Watched(roots)
    return Known(make(watched), np.empty((0, 2), np.int64), watched.states)


def _noted(facts: object, known: Known, now: np.ndarray) -> np.ndarray:
    """`now`, which is kept if this process keeps listings and it is not what is kept already."""
    keeping, path = _KEEPING.get(), _path(facts)
    if keeping is None or not keeping.writes or path is None or now is known.facts:
        return now
    newest = max((times[2] for times in known.states.values() if times is not None), default=0)
    if newest < time.time_ns() - SETTLED_NS and not np.array_equal(now, known.facts):
        _write(path, Known(known.listing, now, known.states))
    return now


def _path(facts: object) -> Path | None:
    keeping = _KEEPING.get()
    return None if keeping is None else keeping.cache / "listings" / f"{cache_key([_VERSION, facts])}.npz"


def _read(path: Path) -> Known | None:
    """None where there is none, or one that is torn."""
    now = state(str(path))
    if now is None:
        return None
    if path in _LAST and _LAST[path][0] == now:
        return _LAST[path][1]
    try:
        with np.load(path, allow_pickle=False) as kept:
            folder_of, ends, labels, facts = (kept[name] for name in _ARRAYS)
            names, about = kept["names"].tobytes(), json.loads(kept["about"].tobytes())
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
    entries = Entries(about["folders"], folder_of, names, ends, labels)
    listing = Listing(entries, about["classes"], [Path(file) for file in about["others"]])
    known = Known(listing, facts, about["states"])
    _LAST[path] = now, known
    return known


def _write(path: Path, known: Known) -> None:
    entries, classes, others = known.listing
    about = {
        "folders": entries.folders,
        "classes": classes,
        "others": [str(file) for file in others],
        "states": known.states,
    }
    arrays = {name: getattr(entries, name) for name in _ARRAYS[:-1]} | {"facts": known.facts}
    arrays["names"] = np.frombuffer(entries.names, np.uint8)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}.", suffix=".npz", delete=False) as draft:
        try:
            np.savez(draft, **arrays)
            Path(draft.name).chmod(0o644)  # a cache may be shared by several users
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise
