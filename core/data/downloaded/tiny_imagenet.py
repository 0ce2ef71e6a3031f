"""Tiny-ImageNet: 200 classes of 64 px pictures, the labels of its validation pictures in a list."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.data.downloaded.probing import Source, probe
from core.data.image_folder import class_folders, images_in
from core.data.listings.entries import Entries, Entry, Listing
from core.data.listings.remembered import Watched
from core.data.picture_files import PictureFiles

SOURCE = Source(
    "Tiny-ImageNet", "cs231n.stanford.edu", "tiny-imagenet-200.zip", ("tiny-imagenet-200", "tiny_imagenet_200")
)
LIST = "val/val_annotations.txt"


@dataclass
class TinyImageNet(PictureFiles):
    """Tiny-ImageNet as unpacked: train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt.

    `test` is val, as the pictures of test have no labels; boxes are not read. `path` is the folder tiny-imagenet-200 or
    the one above it.

    Source: Le and Yang, Tiny ImageNet visual recognition challenge, Stanford CS 231N, 2015.
    """

    def list_files(self, split: str, watched: Watched) -> Listing:
        root = self.roots()[0]
        folders = class_folders(root / "train")
        names = [folder.name for folder in folders]
        if split != "train":
            return self._validation(root, names, watched)
        entries, others = list[Entry](), list[Path]()
        for label, folder in enumerate(folders):
            files, passed = images_in(folder, watched)
            entries += [(file, label) for file in files]
            others += [file for file in passed if not file.name.endswith("_boxes.txt")]
        return Listing(Entries.of(entries), names, others)

    def _validation(self, root: Path, names: list[str], watched: Watched) -> Listing:
        files, others = images_in(root / "val/images", watched)
        watched.add(root / LIST)
        known = self._listed(root / LIST, names)
        if unlisted := [file for file in files if file.name not in known]:
            raise ValueError(f"data.path={self.path}: {LIST} does not name {unlisted[0].name}, which val/images has")
        if missing := sorted(known.keys() - {file.name for file in files}):
            raise ValueError(f"data.path={self.path}: val/images has no {missing[0]}, which {LIST} names")
        return Listing(Entries.of((file, known[file.name]) for file in files), names, others)

    def _listed(self, file: Path, names: list[str]) -> dict[str, int]:
        """File's name -> class."""
        known: dict[str, int] = {}
        number = {name: place for place, name in enumerate(names)}
        for place, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            words = line.split("\t")
            if len(words) < 2 or words[1] not in number:
                raise ValueError(
                    f"data.path={self.path}: line {place} of {LIST} must be a file's name, a tab and a class that "
                    f"train has, got {line[:80]!r}"
                )
            known[words[0]] = number[words[1]]
        return known

    def roots(self) -> list[Path]:
        return [probe(self.path, SOURCE, ("train/", "val/images/", LIST))[0].parent]
