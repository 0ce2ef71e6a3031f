"""CIFAR-10 and CIFAR-100: 32 px pictures, as pickles of Python 2 or as plain binary files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from core.data.downloaded.array_set import ArraySet, check_labels, counted
from core.data.downloaded.probing import Source, probe
from core.data.downloaded.safe_pickle import read_arrays

PAGE = "www.cs.toronto.edu/~kriz/cifar.html"
SIZE = 32
_BYTES = 3 * SIZE * SIZE  # of a picture


@dataclass
class Cifar(ArraySet):
    """What both sets share."""

    source: ClassVar[Source]
    parts: ClassVar[Mapping[str, tuple[str, ...]]]  # split -> its files; those of the binary version end in .bin
    kinds: ClassVar[Mapping[str, tuple[bytes, int]]]  # label -> its key in the pickles and its number of classes

    def files(self, split: str) -> list[Path]:
        names = self.parts[split]
        return probe(self.path, self.source, names, [f"{name}.bin" for name in names])

    def read(self, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        pictures, labels = list[np.ndarray](), {name: list[np.ndarray]() for name in self.kinds}
        for file in self.files(split):
            pixels, found = self._binary(file) if file.suffix == ".bin" else self._pickled(file)
            pictures.append(pixels.reshape(-1, 3, SIZE, SIZE))
            for name, values in found.items():
                check_labels(values, self.kinds[name][1], file, [len(pixels)])
                labels[name].append(values)
        return np.concatenate(pictures), {name: np.concatenate(parts) for name, parts in labels.items()}

    def _pickled(self, file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        content = read_arrays(file)
        found = content if isinstance(content, dict) else {}
        keys = [b"data", *(key for key, _ in self.kinds.values())]
        if missing := [key.decode() for key in keys if key not in found]:
            raise ValueError(f"data.path: {file} is not a file of {self.source.name}: it has no {missing[0]}")
        pixels = found[b"data"]
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_BYTES,):
            raise ValueError(f"data.path: {file}: data must be an array [N, {_BYTES}] of uint8")
        labels = {}
        for name, (key, _) in self.kinds.items():
            values = found[key]
            if not isinstance(values, list) or not all(type(value) is int for value in values):
                raise ValueError(f"data.path: {file}: {key.decode()} must be a list of whole numbers")
            labels[name] = np.array(values, np.int64)
        return pixels, labels

    def _binary(self, file: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        width = len(self.kinds) + _BYTES
        rows = np.fromfile(file, np.uint8).reshape(counted(file, width, "pictures with their labels"), width)
        order = reversed(list(self.kinds))  # the coarse label comes first
        labels = {name: rows[:, place].astype(np.int64) for place, name in enumerate(order)}
        return rows[:, len(self.kinds) :], labels

    def stored_size(self) -> int:
        return SIZE


@dataclass
class Cifar10(Cifar):
    """CIFAR-10 as unpacked: data_batch_1 to data_batch_5 and test_batch, at 32 px.

    The pickles of the python version, which may hold arrays and no other objects, or the .bin files of the binary one.
    `path` is the folder (cifar-10-batches-py, cifar-10-batches-bin) or the one above it.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    source: ClassVar[Source] = Source(
        "CIFAR-10", PAGE, "cifar-10-python.tar.gz", ("cifar-10-batches-py", "cifar-10-batches-bin")
    )
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    }
    kinds: ClassVar[Mapping[str, tuple[bytes, int]]] = {"class": (b"labels", 10)}

    def classes(self) -> dict[str, int]:
        return {"class": 10}


@dataclass
class Cifar100(Cifar):
    """CIFAR-100 as unpacked: train and test, at 32 px; 100 classes, and with `superclass` their 20 groups too.

    The pickles of the python version, which may hold arrays and no other objects, or the .bin files of the binary one.
    `path` is the folder (cifar-100-python, cifar-100-binary) or the one above it.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """

    superclass: bool = False  # a second label, which everything is judged by too

    source: ClassVar[Source] = Source(
        "CIFAR-100", PAGE, "cifar-100-python.tar.gz", ("cifar-100-python", "cifar-100-binary")
    )
    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
    kinds: ClassVar[Mapping[str, tuple[bytes, int]]] = {
        "class": (b"fine_labels", 100),
        "superclass": (b"coarse_labels", 20),
    }

    def classes(self) -> dict[str, int]:
        return {"class": 100} | ({"superclass": 20} if self.superclass else {})
