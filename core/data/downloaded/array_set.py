"""What sets share that come as arrays of pixels of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_split, resized
from core.data.downloaded.probing import NotHere
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD
from core.types import Data, DataSpec

_VERSION = 1  # raise it when the same files would give other pixels
_AT_ONCE = 1024  # pictures that are resized together


@dataclass
class ArraySet(Data):
    """Pictures of one size in a set's own files, whose pixels are kept in the cache as uint8 and mapped into memory.

    Normalised by ImageNet's mean and standard deviation.
    """

    path: str = ""
    size: int | None = None  # px, square; null = as stored

    def __post_init__(self) -> None:
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError(f"data.size must be in [8, 1024] px, or null for the size in the files, got {self.size}")

    def files(self, split: str) -> list[Path]:
        """What a split is read from, labels last where they are in files of their own. Raises ValueError."""
        raise NotImplementedError

    def read(self, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Pictures [N, 3, H, W] uint8, which may be mapped, and labels, name -> [N]. Raises ValueError."""
        raise NotImplementedError

    def classes(self) -> dict[str, int]:
        """Label -> number of classes, of the train split; none of pictures without labels."""
        raise NotImplementedError

    def stored_size(self) -> int:
        """Pixels of a side, as the files have them."""
        raise NotImplementedError

    def is_mapped(self) -> bool:
        """Whether `read` maps the files' own pixels, so that they need no copy unless they are resized."""
        return False

    def spec(self) -> DataSpec:
        return self.shape()  # the options tell it: what a run costs can be said before anything is downloaded

    def shape(self) -> DataSpec:
        size = self.size or self.stored_size()
        return DataSpec(3, 1, size, size, self.classes(), mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def require_files(self) -> None:
        for split in ("train", "test"):
            self.files(split)

    def known_labels(self, split: str) -> dict[str, Tensor] | None:
        try:
            self.files(split)
        except NotHere:
            return None
        labels = self.read(split)[1]
        return {name: torch.from_numpy(labels[name].astype(np.int64)) for name in self.classes()}

    def sources(self) -> list[tuple[str, Path]]:
        return [(f"{split} {file.name}", file) for split in ("train", "test") for file in self.files(split)]

    def load(self, split: str, cache: Path) -> ArrayDataset:
        check_split(split)
        files, spec = self.files(split), self.shape()
        resizes = spec.height != self.stored_size()
        if self.is_mapped() and not resizes:
            pictures, labels = self.read(split)
            return ArrayDataset(spec, pictures[:, :, None], _of(labels, spec))
        facts = [(str(file.resolve()), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
        key = cache_key([_VERSION, type(self).__name__, facts, spec.height])
        folder = cached_folder(
            cache / "arrays" / f"{split}-{key}", lambda draft: _write(draft, *self.read(split), size=spec.height)
        )
        pixels = np.load(folder / "clips.npy", mmap_mode="r")
        with np.load(folder / "labels.npz") as stored:
            return ArrayDataset(spec, pixels, _of(dict(stored), spec), folder=folder)


def _of(labels: dict[str, np.ndarray], spec: DataSpec) -> dict[str, Tensor]:
    """The labels that the spec tells of; a test split may have more."""
    return {name: torch.from_numpy(labels[name].astype(np.int64)) for name in spec.classes}


def _write(folder: Path, pictures: np.ndarray, labels: dict[str, np.ndarray], *, size: int) -> None:
    shape = (len(pictures), 3, 1, size, size)
    pixels = np.lib.format.open_memmap(folder / "clips.npy", mode="w+", dtype=np.uint8, shape=shape)
    for start in range(0, len(pictures), _AT_ONCE):
        part = np.ascontiguousarray(pictures[start : start + _AT_ONCE])
        if part.shape[-1] != size:
            part = resized(torch.from_numpy(part), (size, size)).numpy()
        pixels[start : start + len(part), :, 0] = part
    pixels.flush()
    np.savez(folder / "labels.npz", **labels)  # type: ignore[arg-type]


def counted(file: Path, item: int, what: str) -> int:
    """How many items of `item` bytes a file holds. Raises ValueError where it holds none, or a part of one."""
    size = file.stat().st_size
    if size == 0 or size % item:
        raise ValueError(f"data.path: {file} is cut off: {size} bytes are no whole number of {what} of {item} bytes")
    return size // item


def check_labels(labels: np.ndarray, num_classes: int, file: Path, num_pictures: Sequence[int]) -> None:
    """Raise ValueError where labels are not those of as many pictures, or of no class."""
    if len(labels) != sum(num_pictures):
        raise ValueError(f"data.path: {file} has {len(labels)} labels for {sum(num_pictures)} pictures")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ValueError(f"data.path: {file} has the label {wrong}; its classes are 0 to {num_classes - 1}")
