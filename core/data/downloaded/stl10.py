"""STL-10: 96 px pictures of ten classes, few with labels and many without."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from core.data.downloaded.array_set import ArraySet, check_labels, counted
from core.data.downloaded.probing import Source, probe

SOURCE = Source("STL-10", "cs.stanford.edu/~acoates/stl10", "stl10_binary.tar.gz", ("stl10_binary",))
SIZE, NUM_CLASSES = 96, 10
_BYTES = 3 * SIZE * SIZE  # of a picture


class Part(Enum):
    train = "train"
    unlabeled = "unlabeled"
    both = "both"


@dataclass
class Stl10(ArraySet):
    """STL-10 as unpacked: train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin, at 96 px.

    `train` says which pictures are learned from: the 5,000 with labels, the 100,000 of `unlabeled`, which have none, or
    both, without labels. To learn from `unlabeled` and be judged by the labels of the others, give eval_data=stl10 too.
    The ten folds of fold_indices.txt are not read. `path` is the folder stl10_binary or the one above it.

    Source: Coates, Ng and Lee, AISTATS 2011.
    """

    train: Part = Part.train  # or unlabeled, both

    def files(self, split: str) -> list[Path]:
        names = ["test_X.bin", "test_y.bin"]
        if split == "train":
            names = [] if self.train is Part.unlabeled else ["train_X.bin"]
            names += [] if self.train is Part.train else ["unlabeled_X.bin"]
            names += ["train_y.bin"] if self.train is Part.train else []
        files = probe(self.path, SOURCE, names)
        for file in files:
            counted(file, _BYTES if file.name.endswith("_X.bin") else 1, "pictures")
        return files

    def read(self, split: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        files = self.files(split)
        pictures = [_mapped(file) for file in files if file.name.endswith("_X.bin")]
        labels = {}
        if files[-1].name.endswith("_y.bin"):
            labels["class"] = np.fromfile(files[-1], np.uint8).astype(np.int64) - 1  # in the file they are 1 to 10
            check_labels(labels["class"], NUM_CLASSES, files[-1], [len(part) for part in pictures])
        return pictures[0] if len(pictures) == 1 else np.concatenate(pictures), labels

    def classes(self) -> dict[str, int]:
        return {"class": NUM_CLASSES} if self.train is Part.train else {}

    def stored_size(self) -> int:
        return SIZE

    def is_mapped(self) -> bool:
        return self.train is not Part.both


def _mapped(file: Path) -> np.ndarray:
    """[N, 3, 96, 96]: a picture's channels follow one another, each column by column."""
    pixels = np.memmap(file, np.uint8, "r").reshape(-1, 3, SIZE, SIZE)
    return pixels.transpose(0, 1, 3, 2)
