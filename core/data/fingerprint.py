"""What a data set holds, as 16 hex digits: of its files' contents, not of where they lie or when they were written.

Two runs belong in one table only if they saw the same data, and a path does not say what is in it. Reading every file
at every start would cost what decoding costs, so a file's digest is remembered in the cache beside its size and time,
as git does: a second start asks for those only. What all of them come to is remembered too, by what stands for their
names, sizes and times.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from core.data.arrays import cache_key
from core.data.listings.remembered import SETTLED_NS, kept_in
from core.types import Data

WHOLE = 256 * 2**20  # bytes: of a set up to this size every byte counts; of a larger one each file's size and samples
SAMPLE = 64 * 2**10  # bytes of one sample: the start, two thirds between, the end
_VERSION = 1  # raise it when the same files would have another fingerprint
Known = dict[str, list[str]]  # path -> size and time, how it was read, digest


def fingerprint(data: Data, cache: Path) -> str | None:
    """Stands for the content of `data`, both splits; None for a data set that does not say what it reads.

    Its options are left out (a crop or a size is part of a run's config), and so is where the files are: moved or
    touched files are the same data. Files' names count where they decide order or class (see `Data.sources`).

    Raises ValueError where the data cannot be found, or naming runtime.cache where nothing can be written.
    """
    with kept_in(cache):
        now_ns, stamp = time.time_ns(), data.stamp()
        if stamp is None:
            return _made(data, cache)
        remembered = cache / "fingerprints" / f"{cache_key([_VERSION, data.recipe, stamp.name])}.json"
        if told := _read(remembered).get(stamp.name):
            return told[0]
        found = _made(data, cache)
        if found is not None and stamp.newest_ns < now_ns - SETTLED_NS and data.stamp() == stamp:
            _write(remembered, {stamp.name: [found]}, cache)
        return found


def _made(data: Data, cache: Path) -> str | None:
    """The fingerprint from the files' digests."""
    sources = data.sources()
    if sources is None and not data.recipe:
        return None
    files = list(sources or ())
    found = hashlib.blake2b(data.recipe.encode(), digest_size=8)
    for (name, _), digest in zip(files, digests([file for _, file in files], cache), strict=True):
        found.update(f"{name}\0{digest}\n".encode())
    return found.hexdigest()


def digests(files: Sequence[Path], cache: Path) -> list[str]:
    """Each file's size and digest, "missing" where there is none; from the cache where size and time are as then."""
    stats = [_stat(file) for file in files]
    is_whole = sum(size for size, _ in stats) <= WHOLE
    names = list(map(str, files))
    place = [str(file.absolute()) for file in (files[0], files[-1])] if files else []
    remembered = cache / "fingerprints" / f"{cache_key([place, len(files)])}.json"
    known = _read(remembered)
    now_ns = time.time_ns()
    facts = [f"{size} {time_ns} {'whole' if is_whole else 'sampled'}" for size, time_ns in stats]
    new = [i for i, name in enumerate(names) if known.get(name, [""])[0] != facts[i]]
    with ThreadPoolExecutor(8) as pool:
        read = pool.map(lambda i: _digest(files[i], stats[i][0], is_whole), new)
        fresh = {names[i]: digest for i, digest in zip(new, read, strict=True)}
    told = [fresh.get(name) or known[name][1] for name in names]
    settled: Known = {
        name: [fact, digest]
        for name, fact, digest, (_, time_ns) in zip(names, facts, told, stats, strict=True)
        if time_ns < now_ns - SETTLED_NS
    }
    if settled != known and settled:
        _write(remembered, settled, cache)
    return told


def _stat(file: Path) -> tuple[int, int]:
    """Size and time of writing; (-1, 0) where there is no such file."""
    try:
        stat = file.stat()
    except OSError:
        return -1, 0
    return stat.st_size, stat.st_mtime_ns


def _digest(file: Path, size: int, is_whole: bool) -> str:
    if size < 0:
        return "missing"
    found = hashlib.blake2b(digest_size=16)
    try:
        with file.open("rb") as opened:
            if is_whole or size <= 4 * SAMPLE:
                while part := opened.read(2**20):
                    found.update(part)
            else:
                for start in (0, size // 3, 2 * size // 3, size - SAMPLE):
                    opened.seek(start)
                    found.update(opened.read(SAMPLE))
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return f"{size} {found.hexdigest()}"


def _read(path: Path) -> Known:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):  # none yet, or torn: the files are read again
        return {}


def _write(path: Path, known: Known, cache: Path) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(known), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ValueError(f"runtime.cache={cache}: cannot be written to: {error.strerror}; give another") from error


def numbered(files: Iterable[Path], root: Path) -> list[tuple[str, Path]]:
    """Files below `root`, each by its name from there."""
    return [(file.relative_to(root).as_posix(), file) for file in files]


# ---- several sets, and what a person says of them ------------------------------------------------------------------


def same(found: Mapping[str, str], accepted: Sequence[str]) -> dict[str, str]:
    """`found` with the names that the files go by: `accepted` has pairs ``now-before`` (`runtime.same_data`)."""
    names = dict(pair.split("-", 1) for pair in accepted)
    return {group: names.get(value, value) for group, value in found.items()}
