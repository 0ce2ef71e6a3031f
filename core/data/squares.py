"""Pictures that are made squares of one size once, and kept so in the cache, or made so whenever they are used."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, read_all, read_or_reason
from core.types import Batch, Data, DataSpec

_SMALL = 8  # px, of what is decoded only to see that it can be


@dataclass
class Squares(Data):
    """The options of a set of encoded pictures, which is normalised by ImageNet's mean and standard deviation.

    Each picture is resized (antialiased) and cut to a square once, and the squares are kept as uint8 in the cache. A
    split too large for `memory_gb` is decoded as it is used.
    """

    path: str = ""
    size: int = 64  # px, what the model sees
    store_size: int | None = None  # px kept, `size` by default; more gives random crops something to choose from
    crop: float = 1.0  # share of the short side that the square covers
    memory_gb: float = 4.0  # a split that takes more is decoded as it is used

    def __post_init__(self) -> None:
        self.require(8 <= self.size <= 2048, "size", "in [8, 2048] px")
        self.require(
            self.store_size is None or self.size <= self.store_size <= 4096, "store_size", "in [data.size, 4096] px"
        )
        self.require(0 < self.crop <= 1, "crop", "in (0, 1]")
        self.require(self.memory_gb >= 0, "memory_gb", "at least 0")

    def require(self, holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

    @property
    def stored(self) -> int:
        return self.store_size or self.size

    def shape(self) -> DataSpec:
        return self.spec_of(0)

    def spec_of(self, num_classes: int) -> DataSpec:
        """0: of pictures without labels."""
        labels = {"class": num_classes} if num_classes else {}
        return DataSpec(3, 1, self.size, self.size, labels, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def fits(self, number: int) -> bool:
        """Whether the squares of so many pictures are kept."""
        return number * 3 * self.stored**2 <= self.memory_gb * 2**30

    def decode_into(self, folder: Path, pictures: Iterable[Path | BytesIO], number: int) -> None:
        """Decode all of a split into `folder`/clips.npy, or where they do not fit only see that they can be decoded.

        Writes excluded.json: number of each unreadable picture -> why.
        """
        pixels, keep, whole = None, self.fits(number), folder / "all.npy"
        if keep:
            shape = (number, 3, 1, self.stored, self.stored)
            pixels = np.lib.format.open_memmap(whole, mode="w+", dtype=np.uint8, shape=shape)
        reasons: dict[int, str] = {}
        filled = 0
        for place, picture in enumerate(read_all(pictures, self.stored if keep else _SMALL, self.crop)):
            if isinstance(picture, str):
                reasons[place] = picture
            elif pixels is not None:
                pixels[filled, :, 0] = picture
                filled += 1
        if pixels is not None:
            pixels.flush()
            if reasons:
                np.save(folder / "clips.npy", pixels[:filled])
                whole.unlink()
            else:
                whole.rename(folder / "clips.npy")
        (folder / "excluded.json").write_text(json.dumps(reasons))


def unreadable(folder: Path) -> dict[int, str]:
    """What `decode_into` could not read, by number, and why."""
    return {int(number): why for number, why in json.loads((folder / "excluded.json").read_text()).items()}


class LazySquares:
    """A split too large for memory: pictures are decoded as they are fetched.

    `fingerprint` stands for every pixel: the files in order, their sizes and when they were written, and how they are
    read, as the name of the cached folder does.
    """

    is_lazy = True

    def __init__(
        self,
        spec: DataSpec,
        labels: dict[str, Tensor],
        excluded: tuple[str, ...],
        fingerprint: str,
        size: int,
        crop: float,
    ) -> None:
        self.spec, self.excluded = spec, excluded
        self._labels, self._fingerprint, self._size, self._crop = labels, fingerprint, size, crop

    def __len__(self) -> int:
        raise NotImplementedError

    def picture(self, index: int) -> tuple[Path | BytesIO, str]:
        """A picture of the split, and what a message calls it."""
        raise NotImplementedError

    def fetch(self, indices: Tensor) -> Batch:
        clips = torch.empty(len(indices), 3, 1, self._size, self._size, dtype=torch.uint8)
        found = [self.picture(index) for index in indices.tolist()]
        encoded = [picture for picture, _ in found]
        # One of several loader processes has a core; who reads alone takes what there are.
        is_alone = get_worker_info() is None and len(found) > 1
        pictures = (
            read_all(encoded, self._size, self._crop)
            if is_alone
            else (read_or_reason(picture, self._size, self._crop) for picture in encoded)
        )
        for place, ((_, name), picture) in enumerate(zip(found, pictures, strict=True)):
            if isinstance(picture, str):
                raise ValueError(
                    f"data.path: {name} could be read when the data set was first loaded and cannot now ({picture}); "
                    "restore it, or remove it and start again"
                )
            clips[place, :, 0] = torch.from_numpy(np.ascontiguousarray(picture))
        return Batch(clips, {name: values[indices] for name, values in self._labels.items()})

    def labels(self) -> dict[str, Tensor]:
        return dict(self._labels)

    def fingerprint(self) -> str:
        return self._fingerprint
