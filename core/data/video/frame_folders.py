"""Frames of a folder of images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from core.data import pictures
from core.data.video.video_reader import CHUNK, Facts, Unreadable


class FrameFolderReader:
    """A folder of frame images; their order is that of their names, with numbers compared as numbers."""

    name = "frames-2"  # part of the cache's keys; the number goes up when the same files would give other pixels
    probing = name

    def files(self, path: Path) -> list[Path]:
        try:
            return sorted(
                (
                    file
                    for file in path.iterdir()
                    if file.suffix.lower() in pictures.SUFFIXES and not file.name.startswith(".")
                ),
                key=lambda file: natural(file.name),
            )
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error

    def fingerprint(self, path: Path) -> str:
        stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files(path)]
        if empty := [name for name, size, _ in stats if size == 0]:
            raise Unreadable(f"frame {empty[0]} is empty")
        return repr(stats)

    def probe(self, path: Path) -> Facts:
        files = self.files(path)
        if not files:
            raise Unreadable("it holds no images")
        if isinstance(reason := pictures.read_or_reason(files[0], 8, 1.0), str):
            raise Unreadable(f"frame {files[0].name}: {reason}")
        with Image.open(files[0]) as image:
            width, height = pictures.to_rgb(image).size
        return Facts(len(files), 0.0, height, width)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        files = self.files(path)
        for start in range(0, len(numbers), CHUNK):
            decoded = []
            for number in numbers[start : start + CHUNK]:
                if number >= len(files):
                    raise Unreadable(f"{len(files)} frames are left of {facts.frames}")
                if isinstance(picture := pictures.read_or_reason(files[number], size, crop), str):
                    raise Unreadable(f"frame {files[number].name}: {picture}")
                decoded.append(picture)
            yield np.stack(decoded)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which frame9 comes before frame10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
