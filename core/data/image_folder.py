"""Images in class sub-folders."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.data import split_folders
from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_split
from core.data.left_out import name_in
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, read_all, read_or_reason
from core.types import Batch, Data, DataSpec, generator_for

log = logging.getLogger(__name__)

_VERSION = 2  # raise it when the same files would be decoded to other pixels

_NAMED = 10  # files that one warning names
Entry = tuple[Path, int]  # an image file and its class


class Listing(NamedTuple):
    """What a split holds."""

    entries: list[Entry]  # sorted by name; of class 0 where there are no labels
    classes: list[str]  # empty: there are no labels
    others: list[Path]  # files in class folders that are no pictures by their names, or links to nothing


@dataclass
class ImageFolder(Data):
    """A folder of images: `path`/train/<class>/*.jpg and `path`/test/<class>/*.jpg, or only `path`/<class>/*.jpg.

    Without split folders a fixed share of each class is held out for `test`, unless `test_path` is a folder of test
    images of the same classes (or one whose test or validation folder holds them). Split folders may be called as other
    sets call them, in any case (Training, val); a `test` folder without class folders has no labels, and `val` is the
    test split. Folders that only look like splits (trn and tst, train2017 and val2017) are refused by name. Classes are
    the folder names in alphabetical order. Links to folders are followed, each once. Each image is resized
    (antialiased) and cut to a square once, and the squares are kept as uint8 in the cache, keyed by the names, sizes
    and times of the files. A set too large for `memory_gb` is decoded as it is used instead.

    Images that lie directly in the train folder, or in `path`, beside no folder have no labels: everything in the test
    folder, or a share of them, is their test split.

    Of an animation or a stack the first picture is taken. Pictures of more than 8 bits are scaled by what the file says
    or holds (`pictures.scaled`). An image that cannot be read, or whose scale is not known, is left out: it is named in
    a warning (at every load) and in `excluded` of the split. Files that are no pictures by their names are counted.
    An image of a lazy set that passes this check and later fails stops the run.

    Normalised by ImageNet's mean and standard deviation.
    """

    path: str = ""
    test_path: str = ""  # the test images, where `path` holds none
    size: int = 64  # px, what the model sees
    store_size: int | None = None  # px kept, `size` by default; more gives random crops something to choose from
    crop: float = 1.0  # share of the short side that the square covers
    test_share: float = 0.2  # held out of each class where there are no split folders
    split_seed: int = 0  # which images those are
    memory_gb: float = 4.0  # a split that takes more is decoded as it is used

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

        require(8 <= self.size <= 2048, "size", "in [8, 2048] px")
        require(
            self.store_size is None or self.size <= self.store_size <= 4096, "store_size", "in [data.size, 4096] px"
        )
        require(0 < self.crop <= 1, "crop", "in (0, 1]")
        require(0 < self.test_share < 1, "test_share", "in (0, 1)")
        require(self.memory_gb >= 0, "memory_gb", "at least 0")

    @property
    def stored(self) -> int:
        return self.store_size or self.size

    def spec(self) -> DataSpec:
        names = self.listing("train").classes
        self.entries("test")  # a missing test folder is better known before training than after
        return self._spec(names)

    def _spec(self, names: Sequence[str]) -> DataSpec:
        labels = {"class": len(names)} if names else {}
        return DataSpec(3, 1, self.size, self.size, labels, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def load(self, split: str, cache: Path) -> ArrayDataset | LazyPictures:
        check_split(split, tuple(split_folders.NAMES))
        entries, names, others = self.listing(split)
        roots = self._roots()
        self._report(split, others)
        listing = [(name_in(file, roots), (stat := file.stat()).st_size, stat.st_mtime_ns) for file, _ in entries]
        in_memory = len(entries) * 3 * self.stored**2 <= self.memory_gb * 2**30
        places = [str(folder.resolve()) for folder in roots]
        key = cache_key([_VERSION, places, listing, names, self.stored, self.crop, in_memory])
        folder = cache / "image_folder" / f"{split}-{key}"
        files = [file for file, _ in entries]
        cached_folder(folder, lambda draft: decode_into(draft, files, self.stored, self.crop, keep=in_memory))

        reasons: dict[str, str] = json.loads((folder / "excluded.json").read_text())
        for number, reason in reasons.items():
            log.warning("data.path: left out the unreadable image %s (%s)", files[int(number)], reason)
        kept = [entry for number, entry in enumerate(entries) if str(number) not in reasons]
        gone = {label for _, label in entries} - {label for _, label in kept}
        if not kept:
            raise ValueError(f"data.path={self.path}: no image of the {split} split can be read")
        if emptied := [names[label] for label in sorted(gone)]:
            raise ValueError(
                f"data.path={self.path}: no image of class {', '.join(emptied)} can be read; each class needs one"
            )
        labels = {"class": torch.tensor([label for _, label in kept])} if names else {}
        excluded = tuple(name_in(files[int(number)], roots) for number in reasons)
        spec = self._spec(names)
        if in_memory:
            return ArrayDataset(spec, np.load(folder / "clips.npy", mmap_mode="r"), labels, excluded, folder)
        return LazyPictures(spec, [file for file, _ in kept], labels, excluded, self.stored, self.crop)

    def known_labels(self, split: str) -> dict[str, Tensor]:
        entries, names = self.entries(split)
        return {"class": torch.tensor([label for _, label in entries])} if names else {}

    def sources(self) -> list[tuple[str, Path]]:
        splits = {split: self.entries(split)[0] for split in ("train", "test")}
        roots = self._roots()
        return [
            (f"{split} {label} {name_in(file, roots)}", file)
            for split, entries in splits.items()
            for file, label in entries
        ]

    def _roots(self) -> list[Path]:
        return [Path(path) for path in (self.path, self.test_path) if path]

    def _report(self, split: str, others: Sequence[Path]) -> None:
        """One warning for all files that are passed over by their names."""
        if not others:
            return
        kinds = Counter(file.suffix.lower() or "no suffix" for file in others)
        counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(_NAMED))
        named = ", ".join(name_in(file, self._roots()) for file in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        log.warning(
            "data.path: passed over %d files of %s, %s split, which are no pictures that can be opened here by their "
            "names (%s): %s%s",
            *(len(others), self.path, split, counts, named, more),
        )

    def entries(self, split: str) -> tuple[list[Entry], list[str]]:
        """The image files of a split with their classes, sorted by name, and the class names."""
        return self.listing(split)[:2]

    def listing(self, split: str) -> Listing:
        """The split's files. ValueError when `path` and `test_path` cannot give them."""
        root = Path(self.path)
        if not self.path or not root.is_dir():
            raise ValueError(
                f"data.path must be a folder with one sub-folder of images for each class, got {self.path!r}, which "
                f"{'is not a folder' if self.path and root.exists() else 'does not exist'}"
            )
        train = split_folders.find(root, "train")
        if train is None:
            split_folders.refuse_splits_only(root)
            split_folders.refuse_likely_splits(root)
            if not self.test_path:
                return self._hold_out(split, root)
        if is_flat(train or root):
            return self._without_labels(split, train or root, root)
        own = train or root
        if split == "test" and self.test_path:
            own = _tested_on(Path(self.test_path))
            split_folders.refuse_nested(train or root, own)
        elif split != "train":
            own = _split_of(root, split)
        names = [folder.name for folder in _class_folders(train or root)]
        if unknown := [folder.name for folder in _class_folders(own) if folder.name not in names]:
            key = f"data.test_path={self.test_path}" if split == "test" and self.test_path else f"data.path={self.path}"
            raise ValueError(
                f"{key}: {own.name}/{unknown[0]} is a class that {(train or root).name}/ does not have"
                + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else "")
            )
        number = {name: place for place, name in enumerate(names)}
        entries, others = list[Entry](), list[Path]()
        for folder in _class_folders(own):
            files, passed = _images(folder)
            entries += [(file, number[folder.name]) for file in files]
            others += passed
        return Listing(entries, names, others)

    def _without_labels(self, split: str, train: Path, root: Path) -> Listing:
        """Of images that lie directly in the folder `train`."""
        own = train
        if split == "test" and self.test_path:
            own = Path(self.test_path)
            if not own.is_dir():
                there = "is not a folder" if own.exists() else "does not exist"
                raise ValueError(f"data.test_path must be a folder of images, got {str(own)!r}, which {there}")
        elif split != "train":
            found = split_folders.find(root, split)
            if found is None:
                raise ValueError(
                    f"data.path={root} has a train folder but none called {' or '.join(split_folders.NAMES[split])}"
                )
            own = found
        if own != train:
            split_folders.refuse_nested(train, own)
        files, others = _images(own)
        return Listing([(file, 0) for file in files], [], others)

    def _hold_out(self, split: str, root: Path) -> Listing:
        check_split(split)
        folders, entries, others = [] if is_flat(root) else _class_folders(root), list[Entry](), list[Path]()
        for label, folder in enumerate(folders or [root]):
            files, passed = _images(folder)
            others += passed
            name = folder.name if folders else ""
            if len(files) < 2:
                what = f"class {name}" if folders else "a split to hold out"
                raise ValueError(f"data.path={self.path}: {what} needs two images, one to hold out; it has 1")
            num_test = min(max(round(self.test_share * len(files)), 1), len(files) - 1)
            order = torch.randperm(len(files), generator=generator_for(self.split_seed, "split", name)).tolist()
            chosen = order[:num_test] if split == "test" else order[num_test:]
            entries += [(files[number], label) for number in sorted(chosen)]
        return Listing(entries, [folder.name for folder in folders], others)


def _split_of(root: Path, split: str, key: str = "data.path") -> Path:
    """The folder of a split below `root`, one with class folders. Raises ValueError."""
    own = split_folders.find(root, split, fits=_has_folders)
    if own is None:
        raise ValueError(
            f"{key}={root} has {'a train folder' if key == 'data.path' else 'split folders'} but none called "
            f"{' or '.join(split_folders.NAMES[split])} with class folders; images without class folders have no "
            "labels: put those of each class into a folder of its own, or name such a folder in data.test_path"
        )
    return own


def _tested_on(root: Path) -> Path:
    """Where the class folders of `data.test_path` are."""
    if not root.is_dir():
        there = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(
            f"data.test_path must be a folder with one sub-folder of images for each class, got {str(root)!r}, which "
            f"{there}"
        )
    return _split_of(root, "test", "data.test_path") if split_folders.holds_splits_only(root) else root


def is_flat(folder: Path) -> bool:
    """Whether images lie directly in it, beside no folder that could be a class: they have no labels then."""
    is_picture = False
    for item in folder.iterdir():
        if item.name.startswith("."):
            continue
        if item.suffix.lower() in SUFFIXES:
            is_picture = True
        elif item.is_dir():
            return False
    return is_picture


def _has_folders(folder: Path) -> bool:
    """ILSVRC's test images lie flat, without labels."""
    return any(item.is_dir() and not item.name.startswith(".") for item in folder.iterdir())


def _class_folders(root: Path) -> list[Path]:
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not folders:
        raise ValueError(
            f"data.path: {root} has neither images ({' '.join(SUFFIXES)}) nor sub-folders; put the images of each "
            "class in a folder of its own, or images without labels directly into it"
        )
    if any(folder.is_symlink() for folder in folders):
        real: dict[Path, Path] = {}
        for folder in folders:
            if (other := real.setdefault(folder.resolve(), folder)) != folder:
                raise ValueError(f"data.path: {other} and {folder} are one folder by a link; an image has one class")
    return folders


def _images(folder: Path) -> tuple[list[Path], list[Path]]:
    """The images of a class, and the files that are none by their names."""
    files = split_folders.walk(folder)
    # Of the names that images have, only links need a look: they may lead nowhere.
    images = [f for f in files if f.suffix.lower() in SUFFIXES and (not f.is_symlink() or f.is_file())]
    others = sorted(set(files) - set(images)) if len(images) < len(files) else []
    if not images:
        held = f"; what it holds: {', '.join(file.name for file in others[:_NAMED])}" if others else ""
        raise ValueError(
            f"data.path: class folder {folder} holds no images ({' '.join(SUFFIXES)}){held}; fill it or remove the "
            "folder"
        )
    return images, others


def decode_into(folder: Path, files: Sequence[Path], size: int, crop: float, *, keep: bool) -> None:
    """Decode every file into `folder`/clips.npy, or only see that it can be decoded, small, unless `keep`.

    Writes excluded.json: number of each unreadable file -> why.
    """
    pixels = np.empty((len(files), 3, 1, size, size), np.uint8) if keep else None
    reasons: dict[int, str] = {}
    filled = 0
    for number, picture in enumerate(read_all(files, size if keep else 8, crop)):
        if isinstance(picture, str):
            reasons[number] = picture
        elif pixels is not None:
            pixels[filled, :, 0] = picture
            filled += 1
    if pixels is not None:
        np.save(folder / "clips.npy", pixels[:filled])
    (folder / "excluded.json").write_text(json.dumps(reasons))


class LazyPictures:
    """A split too large for memory: images are decoded as they are fetched."""

    is_lazy = True

    def __init__(
        self,
        spec: DataSpec,
        files: Sequence[Path],
        labels: dict[str, Tensor],
        excluded: tuple[str, ...],
        size: int,
        crop: float,
    ) -> None:
        self.spec, self.excluded = spec, excluded
        self._files, self._labels, self._size, self._crop = [str(file) for file in files], labels, size, crop

    def __len__(self) -> int:
        return len(self._files)

    def fetch(self, indices: Tensor) -> Batch:
        clips = torch.empty(len(indices), 3, 1, self._size, self._size, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            picture = read_or_reason(Path(self._files[index]), self._size, self._crop)
            if isinstance(picture, str):
                raise ValueError(
                    f"data.path: {self._files[index]} could be read when the data set was first loaded and cannot now "
                    f"({picture}); restore it, or remove it and start again"
                )
            clips[place, :, 0] = torch.from_numpy(np.ascontiguousarray(picture))
        return Batch(clips, {name: values[indices] for name, values in self._labels.items()})

    def labels(self) -> dict[str, Tensor]:
        return dict(self._labels)

    def fingerprint(self) -> str:
        """Stands for every pixel: the files in order, their sizes and when they were written, and how they are read."""
        stats = [(file, (stat := Path(file).stat()).st_size, stat.st_mtime_ns) for file in self._files]
        return cache_key([_VERSION, stats, self._size, self._crop])
