"""Images in one array file: NumPy archives, and the IDX files of MNIST and its relatives."""

from __future__ import annotations

import gzip
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.arrays import ArrayDataset, check_from_zero, check_split, resized
from core.types import Data, DataSpec


@dataclass
class _ArrayFiles(Data):
    path: str = ""
    size: int | None = None  # px, square; as stored by default
    label: str = "class"  # what the label is called in the names of results

    def __post_init__(self) -> None:
        if self.size is not None and not 8 <= self.size <= 1024:
            raise ValueError(f"data.size must be in [8, 1024] px, or null for the size in the file, got {self.size}")
        if not self.label.isidentifier():
            raise ValueError(f"data.label must be a name of letters, digits and _, got {self.label!r}")

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, H, W] or [N, H, W, C] uint8 and labels [N] of "train" or "test"."""
        raise NotImplementedError

    def spec(self) -> DataSpec:
        images, labels = self._checked("train")
        height, width = (self.size, self.size) if self.size else images.shape[-2:]
        mean, std = _statistics(images)
        return DataSpec(3, 1, height, width, {self.label: int(labels.max()) + 1}, mean, std)

    def known_labels(self, split: str) -> dict[str, Tensor]:
        return {self.label: torch.from_numpy(self._checked(split)[1].astype(np.int64))}

    def load(self, split: str, cache: Path) -> ArrayDataset:
        """The split, in memory; both splits are normalised by the train split's mean and standard deviation."""
        check_split(split)
        spec = self.spec()
        num_classes = spec.classes[self.label]
        images, labels = self._checked(split)
        if labels.max() >= num_classes:
            raise ValueError(f"data.path={self.path}: test has label {labels.max()}, train only 0 to {num_classes - 1}")
        return ArrayDataset(
            spec, self._resized(images)[:, :, None], {self.label: torch.from_numpy(labels.astype(np.int64))}
        )

    def _checked(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images [N, C, H, W] uint8, C = 1 or 3, and labels [N]."""
        images, labels = self.read(split)
        where = f"data.path={self.path}, split {split}"
        if images.dtype != np.uint8:
            raise ValueError(f"{where}: images must be uint8, got {images.dtype}")
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
            raise ValueError(f"{where}: images must be [N, H, W] or [N, H, W, 1 or 3], got {list(images.shape)}")
        if labels.shape != images.shape[:1] or len(labels) == 0:
            raise ValueError(f"{where}: needs one label an image, got {len(images)} images and labels {labels.shape}")
        if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            least = labels.min() if np.issubdtype(labels.dtype, np.number) else labels[0]  # text has no least
            raise ValueError(f"{where}: labels must be integers from 0, got {labels.dtype} such as {least}")
        if split == "train":
            check_from_zero(int(labels.min()), int(labels.max()), where)
        return (images[:, None] if images.ndim == 3 else np.moveaxis(images, -1, 1)), labels

    def _resized(self, images: np.ndarray) -> np.ndarray:
        if self.size is None or images.shape[-2:] == (self.size, self.size):
            return np.ascontiguousarray(images)
        parts = torch.split(torch.from_numpy(np.ascontiguousarray(images)), 1024)
        return torch.cat([resized(part, (self.size, self.size)) for part in parts]).numpy()


def _statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each of three channels over [N, C, H, W] pixels in [0, 1]."""
    counts = [np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(images.shape[1])]
    levels = np.arange(256) / 255
    means = [float((count * levels).sum() / count.sum()) for count in counts]
    squares = [float((count * levels**2).sum() / count.sum()) for count in counts]
    stds = [max(square - mean**2, 1e-6) ** 0.5 for mean, square in zip(means, squares, strict=True)]
    copies = 3 // len(means)  # a grey set is shown as three equal channels
    return tuple(round(mean, 4) for mean in means * copies), tuple(round(std, 4) for std in stds * copies)


@dataclass
class Npz(_ArrayFiles):
    """A NumPy archive: x_train, x_test, uint8 [N, H, W] or [N, H, W, 3], and integer labels y_train, y_test."""

    def sources(self) -> list[tuple[str, Path]]:
        return [("archive", Path(self.path))]

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        file = Path(self.path)
        if not self.path or not file.is_file():
            raise ValueError(
                f"data.path must be a .npz file with x_train, y_train, x_test, y_test, got {self.path!r}: no such file"
            )
        names = (f"x_{split}", f"y_{split}")
        if not zipfile.is_zipfile(file):
            raise ValueError(f"data.path={self.path} is not a whole .npz file")
        try:
            with np.load(file, allow_pickle=False) as archive:
                if missing := [name for name in names if name not in archive.files]:
                    raise ValueError(
                        f"data.path={self.path} has no {missing[0]}; it has {', '.join(archive.files)}, and needs "
                        "x_train, y_train, x_test and y_test"
                    )
                return archive[names[0]], archive[names[1]]
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f"data.path={self.path} is not a whole .npz file: {error}") from error


@dataclass
class Idx(_ArrayFiles):
    """A folder with MNIST's four files, gzipped or not: train-images-idx3-ubyte, t10k-labels-idx1-ubyte, ..."""

    def read(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        prefix = "train" if split == "train" else "t10k"
        return self._read_one(f"{prefix}-images-idx3-ubyte"), self._read_one(f"{prefix}-labels-idx1-ubyte")

    def sources(self) -> list[tuple[str, Path]]:
        names = [f"{prefix}-{kind}-ubyte" for prefix in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        return [(name, self._file(name)) for name in names]

    def _file(self, name: str) -> Path:
        folder = Path(self.path)
        names = (name, f"{name}.gz", name.replace("-idx", ".idx"), name.replace("-idx", ".idx") + ".gz")
        file = next((folder / candidate for candidate in names if (folder / candidate).is_file()), None)
        if not self.path or file is None:
            raise ValueError(
                f"data.path must be a folder with the IDX file {name}, gzipped or not; {self.path!r} has none"
            )
        return file

    def _read_one(self, name: str) -> np.ndarray:
        file = self._file(name)
        try:
            content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        except (OSError, EOFError) as error:
            raise ValueError(f"data.path: {file} cannot be read: {error}") from error
        if len(content) < 4 or content[:3] != b"\0\0\x08":
            raise ValueError(f"data.path: {file} is not an IDX file of unsigned bytes")
        num_axes = content[3]
        shape = struct.unpack_from(f">{num_axes}I", content, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes)
        if len(values) != np.prod(shape):
            raise ValueError(f"data.path: {file} is cut off: {len(values)} bytes for an array of {list(shape)}")
        return values.reshape(shape)
