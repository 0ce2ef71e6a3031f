"""A split held as one uint8 array, and the cache that keeps such arrays on disk."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from core.types import Batch, DataError, DataSpec


class ArrayDataset:
    """A split whose clips are one uint8 array [N, C, T, H, W], in memory or memory-mapped.

    Grey clips (C = 1) become `spec.channels` equal channels as they are fetched, so a grey set takes a third of the
    space. `excluded` names the source files that could not be read and are therefore not part of the split.
    `folder` is where `cached_folder` keeps the array, if it does. Raises DataError for clips or labels of another form.
    """

    is_lazy = False  # fetching is a memory copy: loader workers would only add the cost of passing it on

    def __init__(
        self,
        spec: DataSpec,
        clips: np.ndarray,
        labels: Mapping[str, Tensor],
        excluded: tuple[str, ...] = (),
        folder: Path | None = None,
    ) -> None:
        if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[1] not in (1, spec.channels):
            raise DataError(
                f"clips must be uint8 [N, C, T, H, W] with C = {spec.channels} as in the spec, or 1, got {clips.dtype} "
                f"{list(clips.shape)}"
            )
        for name, values in labels.items():
            if len(values) != len(clips):
                raise DataError(f"labels {name!r} are {len(values)}, and clips {len(clips)}")
        self.spec = spec
        self.excluded = excluded
        self._clips, self._folder = clips, folder
        self._labels = {name: values.long() for name, values in labels.items()}

    def __len__(self) -> int:
        return len(self._clips)

    def fetch(self, indices: Tensor) -> Batch:
        clips = torch.from_numpy(self._clips[indices.numpy()])  # fancy indexing copies, so the map stays untouched
        if clips.shape[1] == 1:
            clips = clips.expand(-1, self.spec.channels, -1, -1, -1)
        return Batch(clips, {name: values[indices] for name, values in self._labels.items()})

    def labels(self) -> dict[str, Tensor]:
        return dict(self._labels)

    def fingerprint(self) -> str:
        """The name of the cached folder, which tells its content, or a digest of every pixel in order."""
        if self._folder is not None:
            return self._folder.name
        found = hashlib.sha256(repr((self._clips.shape,)).encode())
        for start in range(0, len(self._clips), 256):
            found.update(np.ascontiguousarray(self._clips[start : start + 256]).data)
        return found.hexdigest()


def resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 [N, C, H, W] at another height and width, antialiased."""
    found = F.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
    return found.round_().clamp_(0, 255).to(torch.uint8)


def cache_key(facts: Any) -> str:
    """A short name for whatever determines the content of a cache folder."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=10).hexdigest()


def cached_folder(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, filled by `write` unless it exists.

    `write` fills a temporary folder beside it that is then renamed, so a folder that exists is complete. Processes
    that come at the same time each write their own; the first rename wins and the others drop theirs, which is
    harmless because the content is a pure function of the folder's name.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(draft)
        draft.chmod(0o755)  # mkdtemp makes it private; a cache may be shared by several users
        try:
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def reserve(path: Path) -> None:
    """Take the room that a file to be written through a map needs: without it a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def check_from_zero(lowest: int, highest: int, where: str) -> None:
    """Raises ValueError for class numbers to learn from that count from 1: a class would be without a sample."""
    if lowest > 0:
        raise ValueError(
            f"{where}: labels start at 0, and these are {lowest} to {highest}; subtract {lowest} from each"
        )


def check_split(split: str, allowed: tuple[str, ...] = ("train", "test")) -> None:
    if split not in allowed:
        raise ValueError(f"split must be one of {', '.join(allowed)}, got {split!r}")
