"""Labelled image sets of torchvision, by the name of their class."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_split
from core.data.fingerprint import numbered
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, squared, to_rgb
from core.types import Batch, Data, DataSpec, generator_for

log = logging.getLogger(__name__)

_VERSION = 2  # raise it when the same files would be decoded to other pixels
_TEST_NAMES = ("test", "val", "valid", "validation")


class _Pairs(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, Any]: ...


@dataclass
class Torchvision(Data):
    """`torchvision.datasets.<name>`, for classification: name=CIFAR10, STL10, SVHN, Flowers102, Food101, EuroSAT, ...

    A set with neither a `train` nor a `split` argument is divided at random, by `test_share` and `split_seed`. Images
    are cut to squares and kept as uint8 as in `image_folder`. Normalised by ImageNet's mean and standard deviation.
    """

    name: str = "CIFAR10"
    path: str = ""  # torchvision's `root`
    download: bool = False
    size: int = 32  # px, square
    crop: float = 1.0  # share of the short side that the square covers
    test_share: float = 0.2
    split_seed: int = 0
    memory_gb: float = 4.0  # a split that takes more is decoded as it is used
    label: str = "class"

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

        require(8 <= self.size <= 2048, "size", "in [8, 2048] px")
        require(0 < self.crop <= 1, "crop", "in (0, 1]")
        require(0 < self.test_share < 1, "test_share", "in (0, 1)")
        require(self.memory_gb >= 0, "memory_gb", "at least 0")
        require(self.label.isidentifier(), "label", "a name of letters, digits and _")

    def spec(self) -> DataSpec:
        pairs, _ = self._open("train")
        return dataclasses.replace(self.shape(), classes={self.label: _num_classes(pairs)})

    def shape(self) -> DataSpec:
        return DataSpec(3, 1, self.size, self.size, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def load(self, split: str, cache: Path) -> ArrayDataset | LazyPairs:
        check_split(split)
        pairs, members = self._open(split)
        if not members:
            raise ValueError(f"data.name={self.name}: the split {split} is empty")
        in_memory = len(members) * 3 * self.size**2 <= self.memory_gb * 2**30
        root = Path(self.path)
        # torchvision checks what it downloads; the top of the folder shows that it was downloaded again.
        listing = sorted((item.name, item.stat().st_mtime_ns) for item in root.iterdir()) if root.is_dir() else []
        facts = [_VERSION, self.name, str(root.resolve()), listing, split, len(members)]
        key = cache_key([*facts, self.size, self.crop, self.test_share, self.split_seed, in_memory])
        folder = cache / "torchvision" / f"{self.name}-{split}-{key}"
        cached_folder(folder, lambda draft: self._write(draft, pairs, members, keep=in_memory))

        with np.load(folder / "index.npz") as index:
            kept, targets, bad = index["kept"].tolist(), torch.from_numpy(index["targets"]), index["bad"].tolist()
        for number in bad:
            log.warning("data.path: left out image %d of %s (%s), which cannot be read", number, self.name, split)
        excluded = tuple(f"{self.name} {split} {number}" for number in bad)
        if len(targets) == 0:
            raise ValueError(f"data.path={self.path}: no image of {self.name} ({split}) can be read")
        spec = self.spec()
        if in_memory:
            clips = np.load(folder / "clips.npy", mmap_mode="r")
            return ArrayDataset(spec, clips, {self.label: targets}, excluded, folder)
        return LazyPairs(spec, pairs, kept, {self.label: targets}, excluded, self.crop)

    def sources(self) -> list[tuple[str, Path]]:
        """Every file of the folder that torchvision keeps the set in, by its name there."""
        pairs, _ = self._open("train")
        root = Path(self.path)
        inner = getattr(pairs, "base_folder", None) or getattr(pairs, "raw_folder", None)
        folder = root / inner if isinstance(inner, str | Path) and (root / inner).is_dir() else root
        return numbered(sorted(file for file in folder.rglob("*") if file.is_file()), folder) if self.path else []

    def _class(self) -> Any:
        # Importing torchvision takes several seconds, which only those who use it should wait for.
        from torchvision import datasets

        if self.name not in datasets.__all__:
            raise ValueError(f"data.name must be a class of torchvision.datasets, such as CIFAR10, got {self.name!r}")
        return getattr(datasets, self.name)

    def _open(self, split: str) -> tuple[_Pairs, list[int]]:
        """torchvision's data set, and which of its samples are the split's."""
        create = self._class()
        accepted = inspect.signature(create.__init__).parameters
        options: dict[str, Any] = {"root": self.path} if "root" in accepted else {}
        if "root" in accepted and not self.path:
            raise ValueError(f"data.path must be the folder that {self.name} is in (or is downloaded to), got ''")
        if "download" in accepted:
            options["download"] = self.download
        attempts: list[dict[str, Any]] = [{}]
        if "train" in accepted:
            attempts = [{"train": split == "train"}]
        elif "split" in accepted:
            attempts = [{"split": name} for name in (("train",) if split == "train" else _TEST_NAMES)]
        reasons = []
        for attempt in attempts:
            try:
                pairs = create(**options, **attempt)
            # ValueError: no such split, try the next name. The others: nothing there, or it needs an argument that
            # `Torchvision` does not give.
            except (ValueError, RuntimeError, OSError, TypeError) as error:
                reasons.append(f"{attempt or self.name}: {error}")
                continue
            return pairs, self._hold_out(split, len(pairs)) if attempt == {} else list(range(len(pairs)))
        hint = "; set data.download=true to fetch it" if "download" in accepted and not self.download else ""
        raise ValueError(
            f"data.name={self.name} cannot be opened in data.path={self.path!r}{hint}. torchvision says: "
            + " | ".join(reasons)
        )

    def _hold_out(self, split: str, length: int) -> list[int]:
        order = torch.randperm(length, generator=generator_for(self.split_seed, "split", self.name)).tolist()
        num_test = min(max(round(self.test_share * length), 1), length - 1)
        return sorted(order[:num_test] if split == "test" else order[num_test:])

    def _write(self, folder: Path, pairs: _Pairs, members: list[int], *, keep: bool) -> None:
        pixels = np.empty((len(members), 3, 1, self.size, self.size), np.uint8) if keep else None
        kept: list[int] = []
        targets: list[int] = []
        bad: list[int] = []
        for number in members:
            try:
                picture, target = pairs[number]
            # As in `pictures.read_or_reason`: the sample is named, so nothing is hidden.
            except (OSError, SyntaxError, ValueError, EOFError):
                bad.append(number)
                continue
            if not isinstance(picture, Image.Image) or not isinstance(target, int | np.integer):
                raise ValueError(
                    f"data.name={self.name}: its samples are ({type(picture).__name__}, {type(target).__name__}); "
                    "data=torchvision takes sets of (image, class number)"
                )
            try:
                square = squared(to_rgb(picture), self.size, self.crop)
            except ValueError:  # its values do not tell their scale
                bad.append(number)
                continue
            if pixels is not None:
                pixels[len(kept), :, 0] = square
            kept.append(number)
            targets.append(int(target))
        if pixels is not None:
            np.save(folder / "clips.npy", pixels[: len(kept)])
        index = {"kept": kept, "targets": targets, "bad": bad}
        arrays: dict[str, Any] = {name: np.array(values, dtype=np.int64) for name, values in index.items()}
        np.savez(folder / "index.npz", **arrays)


def _num_classes(pairs: _Pairs) -> int:
    """From the names or the list of labels that most sets carry; else from every sample, which decodes it."""
    if isinstance(classes := getattr(pairs, "classes", None), Sequence):
        return len(classes)
    labels = next((getattr(pairs, name) for name in ("targets", "labels", "_labels") if hasattr(pairs, name)), None)
    return 1 + int(max(labels if labels is not None else (pairs[number][1] for number in range(len(pairs)))))


class LazyPairs:
    """A split too large for memory: torchvision decodes as samples are fetched."""

    is_lazy = True

    def __init__(
        self,
        spec: DataSpec,
        pairs: _Pairs,
        members: list[int],
        labels: dict[str, Tensor],
        excluded: tuple[str, ...],
        crop: float,
    ) -> None:
        self.spec, self.excluded = spec, excluded
        self._pairs, self._members, self._labels, self._crop = pairs, members, labels, crop

    def __len__(self) -> int:
        return len(self._members)

    def fetch(self, indices: Tensor) -> Batch:
        pictures = (self._pairs[self._members[index]][0] for index in indices.tolist())
        clips = np.stack([squared(to_rgb(picture), self.spec.height, self._crop) for picture in pictures])
        labels = {name: values[indices] for name, values in self._labels.items()}
        return Batch(torch.from_numpy(clips)[:, :, None], labels)

    def labels(self) -> dict[str, Tensor]:
        return dict(self._labels)
