"""Where a public set lies, told by the files that it must have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Source(NamedTuple):
    """What a set is called, and where a person gets it."""

    name: str  # "STL-10"
    page: str  # of the web, where its makers offer it
    archive: str  # the file to unpack
    folders: tuple[str, ...]  # what the archives unpack to


class NotHere(ValueError):
    """The files of a set are not where they were looked for."""


def probe(path: str, source: Source, *ways: Sequence[str]) -> list[Path]:
    """The files of a set in the first of `ways` that is there: in `path` itself, or in the set's own folder in it.

    A name that ends in / is a folder's. Raises NotHere naming what is missing of the first way, and how to get it.
    """
    root = Path(path)
    places = [root, *(root / name for name in source.folders)] if path else []
    for way in ways:
        for place in places:
            if all(_is_there(place, name) for name in way):
                return [place / name for name in way]
    needed = ways[0]
    begun = [place for place in places if any(_is_there(place, name) for name in needed)]
    if begun:
        found = f"{begun[0]} has no {next(name for name in needed if not _is_there(begun[0], name))}"
    else:
        found = f"got {path!r}" + (f", which {_state(root)}" if path else "")
    raise NotHere(
        f"data.path must be the folder of {source.name} ({' or '.join(source.folders)}) or the one above it, with "
        f"{', '.join(needed)}; {found}: download {source.archive} from {source.page} and unpack it"
        + (f" into {root}" if path else "")
    )


def _is_there(place: Path, name: str) -> bool:
    return (place / name).is_dir() if name.endswith("/") else (place / name).is_file()


def _state(root: Path) -> str:
    return "does not exist" if not root.exists() else "has none of them" if root.is_dir() else "is not a folder"
