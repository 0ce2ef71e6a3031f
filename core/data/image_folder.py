"""Images in class sub-folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.data import split_folders
from core.data.arrays import check_split
from core.data.listings.entries import Entries, Entry, Listing
from core.data.listings.remembered import Watched
from core.data.picture_files import NAMED, PictureFiles
from core.data.pictures import SUFFIXES
from core.types import generator_for


@dataclass
class ImageFolder(PictureFiles):
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

    test_path: str = ""  # the test images, where `path` holds none
    test_share: float = 0.2  # held out of each class where there are no split folders
    split_seed: int = 0  # which images those are

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 < self.test_share < 1, "test_share", "in (0, 1)")

    def roots(self) -> list[Path]:
        return [Path(path) for path in (self.path, self.test_path) if path]

    def listed_by(self) -> list[Any]:
        return [self.path, self.test_path, self.test_share, self.split_seed]

    def list_files(self, split: str, watched: Watched) -> Listing:
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
                return self._hold_out(split, root, watched)
        if is_flat(train or root):
            return self._without_labels(split, train or root, root, watched)
        own = train or root
        if split == "test" and self.test_path:
            own = _tested_on(Path(self.test_path))
            split_folders.refuse_nested(train or root, own)
        elif split != "train":
            own = _split_of(root, split)
        names = [folder.name for folder in class_folders(train or root)]
        if unknown := [folder.name for folder in class_folders(own) if folder.name not in names]:
            key = f"data.test_path={self.test_path}" if split == "test" and self.test_path else f"data.path={self.path}"
            raise ValueError(
                f"{key}: {own.name}/{unknown[0]} is a class that {(train or root).name}/ does not have"
                + (f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else "")
            )
        number = {name: place for place, name in enumerate(names)}
        entries, others = list[Entry](), list[Path]()
        for folder in class_folders(own):
            files, passed = images_in(folder, watched)
            entries += [(file, number[folder.name]) for file in files]
            others += passed
        return Listing(Entries.of(entries), names, others)

    def _without_labels(self, split: str, train: Path, root: Path, watched: Watched) -> Listing:
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
        files, others = images_in(own, watched)
        return Listing(Entries.of((file, 0) for file in files), [], others)

    def _hold_out(self, split: str, root: Path, watched: Watched) -> Listing:
        check_split(split)
        folders, entries, others = [] if is_flat(root) else class_folders(root), list[Entry](), list[Path]()
        for label, folder in enumerate(folders or [root]):
            files, passed = images_in(folder, watched)
            others += passed
            name = folder.name if folders else ""
            if len(files) < 2:
                what = f"class {name}" if folders else "a split to hold out"
                raise ValueError(f"data.path={self.path}: {what} needs two images, one to hold out; it has 1")
            num_test = min(max(round(self.test_share * len(files)), 1), len(files) - 1)
            order = torch.randperm(len(files), generator=generator_for(self.split_seed, "split", name)).tolist()
            chosen = order[:num_test] if split == "test" else order[num_test:]
            entries += [(files[number], label) for number in sorted(chosen)]
        return Listing(Entries.of(entries), [folder.name for folder in folders], others)


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


def class_folders(root: Path) -> list[Path]:
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


def images_in(folder: Path, watched: Watched) -> tuple[list[Path], list[Path]]:
    """The images of a class, and the files that are none by their names."""
    files = split_folders.walk(folder, watched.add)
    # Of the names that images have, only links need a look: they may lead nowhere.
    images = [f for f in files if f.suffix.lower() in SUFFIXES and (not f.is_symlink() or f.is_file())]
    others = sorted(set(files) - set(images)) if len(images) < len(files) else []
    if not images:
        held = f"; what it holds: {', '.join(file.name for file in others[:NAMED])}" if others else ""
        raise ValueError(
            f"data.path: class folder {folder} holds no images ({' '.join(SUFFIXES)}){held}; fill it or remove the "
            "folder"
        )
    return images, others
