"""Images whose pixels have classes: Pascal VOC, Cityscapes and ADE20k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data import split_folders
from core.data.arrays import cache_key, cached_folder, check_split
from core.data.dense.placing import Fit, placing, require_mask_size, to_nearest
from core.data.flow.frame_pairs import file_facts, folder_in, folder_of, frame_size, read_frame
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, named_faults
from core.types import Batch, Data, DataError, DataSpec

_VERSION = 2  # raise it when the same files would give other values, or when more of them is checked


class Labelled(NamedTuple):
    """An image and its mask."""

    image: Path
    mask: Path


@dataclass
class Segmented(Data):
    """What the segmentation sets share. Void pixels, and padding, are -1. Masks are resized to the nearest id.

    Normalised by ImageNet's mean and standard deviation.
    """

    path: str = ""
    height: int = 512  # px
    width: int = 512
    fit: Fit = Fit.resize  # or cover, crop, pad
    resize_masks: bool = False  # take masks of another size than their images', to the nearest pixel; else refuse them

    num_classes: ClassVar[int]
    layout: ClassVar[str]  # what `path` must hold

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 8 <= getattr(self, name) <= 4096:
                raise ValueError(f"data.{name} must be in [8, 4096] px, got {getattr(self, name)}")

    def entries(self, split: str) -> list[Labelled]:
        """The images of a split ("train"; "test" is the set's own val), sorted. Raises ValueError."""
        raise NotImplementedError

    def class_of(self) -> Mapping[int, int]:
        """Id in a mask -> class, -1 for void; other ids are refused."""
        raise NotImplementedError

    def spec(self) -> DataSpec:
        self.entries("train")
        self.entries("test")  # a missing split is better known before training than after
        return self._spec()

    def shape(self) -> DataSpec:
        return self._spec()

    def _spec(self) -> DataSpec:
        shape = (3, 1, self.height, self.width)
        return DataSpec(*shape, mean=IMAGENET_MEAN, std=IMAGENET_STD, segment_classes=self.num_classes)

    def load(self, split: str, cache: Path) -> SegmentedImages:
        """Look at the head of every file, once; pixels are read as they are used."""
        check_split(split)
        entries = self.entries(split)
        folder = cache / "segmented" / f"{split}-{cache_key([_VERSION, file_facts(entries), self.resize_masks])}"
        cached_folder(folder, lambda draft: _check(entries, draft, resize=self.resize_masks))
        return SegmentedImages(self, self._spec(), entries)

    def sources(self) -> list[tuple[str, Path]]:
        return [
            (f"{split} {number} {part}", file)
            for split in ("train", "test")
            for number, entry in enumerate(self.entries(split))
            for part, file in enumerate(entry)
        ]

    def opened(self, create: str, **options: Any) -> Any:
        """The data set that torchvision has of that name."""
        # Importing torchvision takes several seconds, which only those who use it should wait for.
        from torchvision import datasets

        try:
            return getattr(datasets, create)(self.path, **options)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).partition(" You can use download")[0]  # no option of ours
            raise ValueError(f"data.path={self.path} must hold {self.layout}. torchvision says: {reason}") from error

    def require(self, entries: Sequence[Labelled]) -> list[Labelled]:
        if not entries:
            raise ValueError(f"data.path={self.path} must hold {self.layout}; it has no image")
        return sorted(entries)


@dataclass
class Voc(Segmented):
    """Pascal VOC: `path`/VOCdevkit/VOC2012/JPEGImages, SegmentationClass and ImageSets/Segmentation/train.txt, val.txt.

    21 classes, 0 is background; 255 (the objects' outlines) is void.

    Source: Everingham et al., IJCV 2010.
    """

    year: int = 2012

    num_classes: ClassVar[int] = 21
    layout: ClassVar[str] = "VOCdevkit/VOC<year>/JPEGImages, SegmentationClass and ImageSets/Segmentation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2007 <= self.year <= 2012:
            raise ValueError(f"data.year must be in [2007, 2012], got {self.year}")

    def entries(self, split: str) -> list[Labelled]:
        folder_of(self.path, f"the folder that holds {self.layout}")
        found = self.opened("VOCSegmentation", year=str(self.year), image_set="train" if split == "train" else "val")
        return self.require([Labelled(Path(i), Path(m)) for i, m in zip(found.images, found.masks, strict=True)])

    def class_of(self) -> Mapping[int, int]:
        return {number: number for number in range(self.num_classes)} | {255: -1}


@dataclass
class Cityscapes(Segmented):
    """Cityscapes: `path`/leftImg8bit/train/<city>/*_leftImg8bit.png and gtFine/train/<city>/*_gtFine_labelIds.png.

    The 19 classes that are evaluated; the other ids are void.

    Source: Cordts et al., CVPR 2016.
    """

    width: int = 1024

    num_classes: ClassVar[int] = 19
    layout: ClassVar[str] = "leftImg8bit and gtFine, with train and val in each"

    def entries(self, split: str) -> list[Labelled]:
        part = "train" if split == "train" else "val"
        for name in ("leftImg8bit", "gtFine"):  # else torchvision unpacks archives that it finds beside them
            folder_in(self.path, f"{name}/{part}", self.layout)
        found = self.opened("Cityscapes", split=part, mode="fine", target_type="semantic")
        return self.require([Labelled(Path(i), Path(m)) for i, (m,) in zip(found.images, found.targets, strict=True)])

    def class_of(self) -> Mapping[int, int]:
        from torchvision import datasets  # seconds to import

        known = {label.id: label.train_id for label in datasets.Cityscapes.classes if label.id >= 0}
        return {number: -1 if train_id in (-1, 255) else train_id for number, train_id in known.items()}


@dataclass
class Ade20k(Segmented):
    """ADE20k: `path`/images/training|validation/*.jpg and annotations/training|validation/*.png.

    As the scene parsing challenge has it, with 150 classes: id 1 is class 0; id 0 (everything else) is void.

    Source: Zhou et al., IJCV 2019.
    """

    num_classes: ClassVar[int] = 150
    layout: ClassVar[str] = "images and annotations, with training and validation in each"

    def entries(self, split: str) -> list[Labelled]:
        images, masks = (self._part(name, split) for name in ("images", "annotations"))
        files = [file for file in images.iterdir() if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
        return self.require([Labelled(file, masks / f"{file.stem}.png") for file in files])

    def _part(self, name: str, split: str) -> Path:
        """images/training, or what else that split may be called."""
        found = split_folders.find(
            folder_in(self.path, name, self.layout), "train" if split == "train" else "validation"
        )
        part = "training" if split == "train" else "validation"
        return found or folder_in(self.path, f"{name}/{part}", self.layout)

    def class_of(self) -> Mapping[int, int]:
        return {number: number - 1 for number in range(self.num_classes + 1)}


class SegmentedImages:
    """A split of images and masks, decoded as they are fetched."""

    is_lazy = True

    def __init__(self, options: Segmented, spec: DataSpec, entries: Sequence[Labelled]) -> None:
        self.spec = spec
        self._options, self._entries, self._class_of = options, entries, options.class_of()

    def __len__(self) -> int:
        return len(self._entries)

    def labels(self) -> dict[str, Tensor]:
        return {}

    def fetch(self, indices: Tensor) -> Batch:
        size = (self.spec.height, self.spec.width)
        clips = np.empty((len(indices), 3, 1, *size), np.uint8)
        for row, index in enumerate(indices.tolist()):
            file = self._entries[index].image
            picture = read_frame(file)
            clips[row, :, 0] = placing(picture.size[::-1], size, self._options.fit, file).picture(picture)
        return Batch(torch.from_numpy(clips), {})

    def segments(self, indices: Tensor) -> Tensor:
        """The class of each pixel, [B, 1, H, W] int64; -1 where it has none."""
        size = (self.spec.height, self.spec.width)
        found = np.full((len(indices), 1, *size), -1, np.int64)
        for row, index in enumerate(indices.tolist()):
            entry = self._entries[index]
            classes = read_mask(entry.mask, self._class_of)
            if self._options.resize_masks:
                classes = to_nearest(classes, frame_size(entry.image))
            place = placing((classes.shape[0], classes.shape[1]), size, self._options.fit, entry.image)
            found[row, 0] = np.where(place.inside(), place.nearest(classes), -1)
        return torch.from_numpy(found)

    def fingerprint(self) -> str:
        """Stands for every pixel: the files in order, their sizes and when they were written, and how they are read."""
        return cache_key([_VERSION, file_facts(self._entries), *self._how()])

    def _how(self) -> list[Any]:
        return [self.spec.height, self.spec.width, self._options.fit.name, self._options.resize_masks]


def read_mask(file: Path, class_of: Mapping[int, int]) -> np.ndarray:
    """[h, w] int64 classes of a mask of ids. Raises DataError: not one channel, or an id that `class_of` has not."""
    with named_faults(file), Image.open(file) as image:
        if image.mode not in ("L", "P", "1", "I", "I;16"):
            raise DataError(f"data.path: {file} is a picture of mode {image.mode}, not a mask with one id a pixel")
        ids = np.asarray(image).astype(np.int64)
    unknown = set(np.unique(ids).tolist()) - class_of.keys()
    if unknown:
        row, column = np.argwhere(ids == min(unknown))[0]
        raise DataError(
            f"data.path: {file} has the id {min(unknown)} (row {row}, column {column}), which is no class; allowed: "
            f"{_ranges(sorted(class_of))}"
        )
    table = np.full(max(class_of) + 1, -1, np.int64)
    table[list(class_of)] = list(class_of.values())
    classes: np.ndarray = table[ids]
    return classes


def _ranges(numbers: Sequence[int]) -> str:
    """``0-20, 255``"""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def _check(entries: Sequence[Labelled], folder: Path, *, resize: bool) -> None:
    """Every mask is there, can be opened and is of its image's size, or may be resized to it."""

    def wrong(entry: Labelled) -> str | None:
        try:
            image, mask = frame_size(entry.image), frame_size(entry.mask)
            require_mask_size(entry.mask, mask, entry.image, image, resize=resize)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(8) as pool:
        faults = [fault for fault in pool.map(wrong, entries) if fault is not None]
    if faults:
        raise DataError(faults[0] + (f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""))
    (folder / "checked.txt").write_text(f"{len(entries)} images\n", encoding="utf-8")
