"""Imagenette and Imagewoof: ten classes of ImageNet each, in class folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from core.data.downloaded.probing import Source, probe
from core.data.image_folder import class_folders, images_in
from core.data.listings.entries import Entries, Entry, Listing
from core.data.listings.remembered import Watched
from core.data.picture_files import PictureFiles

SOURCE = Source(
    "Imagenette",
    "github.com/fastai/imagenette",
    "imagenette2.tgz (or -320, -160, or imagewoof2)",
    tuple(f"{name}2{size}" for name in ("imagenette", "imagewoof") for size in ("", "-320", "-160")),
)


@dataclass
class Imagenette(PictureFiles):
    """Imagenette or Imagewoof as unpacked: train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; `test` is val.

    `path` is that folder (imagenette2, imagenette2-160, ...) or the one above it, where it has one of them. The lists
    of wrong labels beside them (noisy_imagenette.csv) are not read.

    Source: Howard, github.com/fastai/imagenette.
    """

    size: int = 160  # px, what the model sees

    def list_files(self, split: str, watched: Watched) -> Listing:
        root = self.roots()[0]
        names = [folder.name for folder in class_folders(root / "train")]
        entries, others = list[Entry](), list[Path]()
        for folder in class_folders(root / ("train" if split == "train" else "val")):
            if folder.name not in names:
                raise ValueError(f"data.path={self.path}: val/{folder.name} is a class that train does not have")
            files, passed = images_in(folder, watched)
            entries += [(file, names.index(folder.name)) for file in files]
            others += passed
        return Listing(Entries.of(entries), names, others)

    def roots(self) -> list[Path]:
        return [probe(self.path, SOURCE, ("train/", "val/"))[0].parent]
