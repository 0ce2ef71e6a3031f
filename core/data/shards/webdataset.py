"""Pictures in tar archives, as WebDataset keeps them: files of one name are one sample."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from core.data.pictures import SUFFIXES
from core.data.shards.shard_set import Shard, ShardSet, Span


@dataclass
class WebDataset(ShardSet):
    """WebDataset shards: `path`/**/train-000.tar and test-000.tar (or val-), with 0001.jpg and 0001.cls in them.

    What comes before the first dot of a file's name is its sample, and what follows says what it is. The number in the
    text file `label` is the class. Archives are read where they lie, picture by picture, so they may not be compressed.
    """

    image: str = ""  # what a picture's file ends in (jpg); empty: any name of pictures
    label: str = "cls"  # what the file of the class number ends in; without such files there are no labels

    def suffixes(self) -> tuple[str, ...]:
        return (".tar", ".tar.gz", ".tgz")

    def options(self) -> list[str | None]:
        return [self.image, self.label]

    def shard(self, file: Path) -> Shard:
        return self._index(file)[0]

    def spans(self, file: Path) -> list[Span] | None:
        return self._index(file)[1]

    def _index(self, file: Path) -> tuple[Shard, list[Span]]:
        if file.suffix != ".tar":
            raise ValueError(f"data.path: {file} is compressed, and no picture of it can be read alone: gunzip it")
        stat = file.stat()
        return _index(file, stat.st_size, stat.st_mtime_ns, self.image.lstrip("."), self.label.lstrip("."))


@lru_cache(maxsize=4096)
def _index(file: Path, size: int, time_ns: int, image: str, label: str) -> tuple[Shard, list[Span]]:
    """The pictures in the archive's order. Remembered by its size and time: a start asks several times."""
    pictures: dict[str, Span] = {}
    classes: dict[str, Span] = {}
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name, _, kind = _split(member.name)
                if not member.isfile() or member.issparse() or not kind:
                    continue
                span = Span(str(file), member.offset_data, member.size)
                if kind == image or (not image and f".{kind.lower()}" in SUFFIXES):
                    if name in pictures:
                        raise ValueError(f"data.path: {file} has two pictures called {name}; name one in data.image")
                    pictures[name] = span
                elif kind == label:
                    classes[name] = span
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"data.path: {file} cannot be read as a tar archive: {error}") from error
    if not pictures:
        wanted = f"no file of it ends in .{image}" if image else "it has no picture"
        raise ValueError(f"data.path: {file}: {wanted}")
    last = list(pictures.values())[-1]
    if last.start + last.length > size:
        raise ValueError(f"data.path: {file} is cut off: it ends in its last picture")
    if missing := [name for name in pictures if name not in classes] if classes else []:
        raise ValueError(f"data.path: {file}: {missing[0]} has no .{label} file, as other pictures have")
    labels = _labels(file, {name: classes[name] for name in pictures}) if classes else None
    return Shard(len(pictures), labels, list(pictures)), list(pictures.values())


def _split(path: str) -> tuple[str, str, str]:
    """``a/0001.seg.png`` -> ``a/0001``, ``.``, ``seg.png``"""
    folder, slash, name = path.rpartition("/")
    stem, dot, kind = name.partition(".")
    return folder + slash + stem, dot, kind if stem else ""


def _labels(file: Path, spans: Mapping[str, Span]) -> list[int]:
    found: list[int] = []
    with file.open("rb") as opened:
        for name, span in spans.items():
            opened.seek(span.start)
            text = opened.read(span.length).decode("utf-8", "replace").strip()
            try:
                found.append(int(text))
            except ValueError:
                raise ValueError(
                    f"data.path: {file}: the class of {name} must be a whole number, got {text[:40]!r}"
                ) from None
    return found
