"""Pictures in files of their own: decoded once into the cache, or as they are used."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.data import split_folders
from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_split
from core.data.left_out import name_in
from core.data.listings.entries import Entries, Listing
from core.data.listings.remembered import Watched, kept_in, listed, listed_with_facts
from core.data.pictures import SUFFIXES
from core.data.squares import LazySquares, Squares, unreadable
from core.types import DataSpec, Stamp

log = logging.getLogger(__name__)

_VERSION = 3  # raise it when the same files would be decoded to other pixels

NAMED = 10  # files that one warning names


@dataclass
class PictureFiles(Squares):
    """What sets of picture files share; one says which files its splits have by `list_files`.

    The cache's squares are keyed by the names, sizes and times of the files.
    """

    def list_files(self, split: str, watched: Watched) -> Listing:
        """The split's files; every folder or file below those of `roots` that they depend on is told to `watched`.

        ValueError when `path` cannot give them.
        """
        raise NotImplementedError

    def listed_by(self) -> list[Any]:
        """The options that decide the listing, beside the split and `roots`."""
        return [type(self).__name__]

    def roots(self) -> list[Path]:
        """The folders that the files lie below, which records and warnings name them from."""
        return [Path(self.path)]

    def spec(self) -> DataSpec:
        names = self.listing("train").classes
        self.entries("test")  # a missing test folder is better known before training than after
        return self.spec_of(len(names))

    def load(self, split: str, cache: Path) -> ArrayDataset | LazyPictures:
        check_split(split, tuple(split_folders.NAMES))
        with kept_in(cache, writes=True):
            (entries, names, others), facts = self._listing_with_facts(split)
        roots = self.roots()
        self._report(split, others)
        in_memory = self.fits(len(entries))
        places = [str(folder.resolve()) for folder in roots]
        key = cache_key([_VERSION, places, entries.stamp(roots, facts), names, self.stored, self.crop, in_memory])
        folder = cache / "image_folder" / f"{split}-{key}"
        files = (file for file, _ in entries)
        cached_folder(folder, lambda draft: self.decode_into(draft, files, len(entries)))

        reasons = unreadable(folder)
        for number, reason in reasons.items():
            log.warning("data.path: left out the unreadable image %s (%s)", entries[number][0], reason)
        kept = np.delete(np.arange(len(entries)), list(reasons))
        gone = np.setdiff1d(entries.labels, entries.labels[kept])
        if not len(kept):
            raise ValueError(f"data.path={self.path}: no image of the {split} split can be read")
        if emptied := [names[label] for label in gone]:
            raise ValueError(
                f"data.path={self.path}: no image of class {', '.join(emptied)} can be read; each class needs one"
            )
        labels = {"class": torch.from_numpy(entries.labels[kept])} if names else {}
        excluded = tuple(name_in(entries[number][0], roots) for number in reasons)
        spec = self.spec_of(len(names))
        if in_memory:
            return ArrayDataset(spec, np.load(folder / "clips.npy", mmap_mode="r"), labels, excluded, folder)
        return LazyPictures(entries, kept, spec, labels, excluded, folder.name, self.stored, self.crop)

    def known_labels(self, split: str) -> dict[str, Tensor]:
        entries, names = self.entries(split)
        return {"class": torch.from_numpy(entries.labels.copy())} if names else {}

    def stamp(self) -> Stamp:
        roots = self.roots()
        both = [self._listing_with_facts(split) for split in ("train", "test")]
        found = [listing.entries.stamp(roots, facts) for listing, facts in both]
        newest = max(int(facts[:, 1].max()) for _, facts in both)
        return Stamp(cache_key([[str(root.resolve()) for root in roots], found]), newest)

    def sources(self) -> list[tuple[str, Path]]:
        splits = {split: self.entries(split)[0] for split in ("train", "test")}
        roots = self.roots()
        return [
            (f"{split} {label} {name_in(file, roots)}", file)
            for split, entries in splits.items()
            for file, label in entries
        ]

    def _report(self, split: str, others: Sequence[Path]) -> None:
        """One warning for all files that are passed over by their names."""
        if not others:
            return
        kinds = Counter(file.suffix.lower() or "no suffix" for file in others)
        counts = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common(NAMED))
        named = ", ".join(name_in(file, self.roots()) for file in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        log.warning(
            "data.path: passed over %d files of %s, %s split, which are no pictures that can be opened here by their "
            "names (%s): %s%s",
            *(len(others), self.path, split, counts, named, more),
        )

    def entries(self, split: str) -> tuple[Entries, list[str]]:
        """The image files of a split with their classes, sorted by name, and the class names."""
        return self.listing(split)[:2]

    def listing(self, split: str) -> Listing:
        """The split's files. ValueError when `path` cannot give them."""
        return listed(self._listed_by(split), self.roots(), lambda watched: self.list_files(split, watched))

    def _listing_with_facts(self, split: str) -> tuple[Listing, np.ndarray]:
        """`listing`, and of each file the size and the time of writing."""
        return listed_with_facts(self._listed_by(split), self.roots(), lambda watched: self.list_files(split, watched))

    def _listed_by(self, split: str) -> list[Any]:
        """Whatever decides the listing, but for what the folders hold."""
        return [split, [str(root.absolute()) for root in self.roots()], *self.listed_by(), SUFFIXES]


class LazyPictures(LazySquares):
    """Of files of their own."""

    def __init__(self, entries: Entries, kept: np.ndarray, *about: Any) -> None:
        """A split's files, and the numbers of those that can be read; `about` them what `LazySquares` is told."""
        super().__init__(*about)
        self._entries, self._kept = entries, kept

    def __len__(self) -> int:
        return len(self._kept)

    def picture(self, index: int) -> tuple[Path | BytesIO, str]:
        file, _ = self._entries[self._kept[index]]
        return file, str(file)
