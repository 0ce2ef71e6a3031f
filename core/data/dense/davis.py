"""DAVIS and sets laid out like it: folders of frames with a mask of every object in every frame, or every k-th."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.arrays import cache_key, cached_folder, check_split
from core.data.dense.placing import require_mask_size
from core.data.flow.frame_pairs import file_facts, frame_size
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, named_faults, to_rgb
from core.types import Batch, Data, DataError, DataSpec, TrackedVideo

FRAMES, MASKS, LISTS = "JPEGImages", "Annotations", "ImageSets"
SPLITS = {"train": "train.txt", "test": "val.txt"}  # of the lists
VOID = 255  # of masks with several objects: a pixel that does not count


class Sequence(NamedTuple):
    """The files of a video."""

    name: str
    frames: list[Path]
    masks: list[Path]
    known: list[int]  # the frame of each mask, by its place among the frames


@dataclass
class Davis(Data):
    """Videos with the mask of each object in each frame, as DAVIS 2016 and 2017 are laid out.

    `path` holds JPEGImages/<resolution>/<sequence>/*.jpg and Annotations/<resolution>/<sequence>/*.png, or both without
    the folder of the resolution. The lists ImageSets/<year>/train.txt and val.txt say which sequences are "train" and
    "test"; without an ImageSets folder every sequence is in both, as nothing is learned of masks here. A mask's values
    are the objects' numbers and 255 where a pixel does not count, or 0 and 255 for one object (DAVIS 2016).

    A sequence may have masks of every k-th frame only, from the first on (YouTube-VOS, in one folder without the
    resolution), and is judged on these; of one with a mask of the first frame alone the objects are followed and drawn,
    and not scored. There an object that the first mask does not show is not counted.

    Tracked videos are whole, resized to a short side of `size`, masks by the nearest pixel. As clips to train on or to
    encode, the data gives pieces of `frames` frames in a row that do not overlap, the middle `size` x `width` of the
    resized frames; they have no labels.

    Source: DAVIS (Perazzi et al., 2016); DAVIS 2017 (Pont-Tuset et al., 2017, arXiv:1704.00675).
    """

    path: str = ""
    size: int = 480  # px, short side
    width: int | None = None  # px, of clips; null = size
    frames: int = 1  # of a clip
    max_frames: int | None = None  # of each sequence, its first ones; null = all
    resolution: str = "480p"  # folder below JPEGImages and Annotations, where there is such a one
    year: str = "2017"  # folder below ImageSets, where there is one
    resize_masks: bool = False  # take masks of another size than their frames', to the nearest pixel; else refuse them

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise ValueError(f"data.size must be in [8, 4096] px, got {self.size}")
        if self.width is not None and not 8 <= self.width <= 4096:
            raise ValueError(f"data.width must be in [8, 4096] px, or null for data.size, got {self.width}")
        if self.frames < 1:
            raise ValueError(f"data.frames must be at least 1, got {self.frames}")
        if self.max_frames is not None and self.max_frames < max(2, self.frames):
            raise ValueError(
                f"data.max_frames must be at least 2 and data.frames = {self.frames}, or null for all, "
                f"got {self.max_frames}"
            )

    def spec(self) -> DataSpec:
        known = {split: self.sequences(split) for split in SPLITS}
        return replace(self.shape(), has_objects=any(len(sequence.known) > 1 for sequence in known["test"]))

    def shape(self) -> DataSpec:
        width = self.width or self.size
        return DataSpec(3, self.frames, self.size, width, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def sources(self) -> list[tuple[str, Path]]:
        return [
            (f"{split} {sequence.name} {kind} {file.stem}", file)
            for split in SPLITS
            for sequence in self.sequences(split)
            for kind, files in (("frame", sequence.frames), ("mask", sequence.masks))
            for file in files
        ]

    def load(self, split: str, cache: Path) -> DavisDataset:
        """Look at the head of every mask and its frame, once; pixels are read as they are used."""
        check_split(split)
        sequences = self.sequences(split)
        facts = file_facts([*sequence.frames, *sequence.masks] for sequence in sequences)
        folder = cache / "davis" / f"{split}-{cache_key([facts, self.resize_masks])}"
        cached_folder(folder, lambda draft: self._check(sequences, draft))
        return DavisDataset(self, sequences)

    def _check(self, sequences: list[Sequence], folder: Path) -> None:
        """Every mask is of its frame's size, or may be resized to it."""
        for sequence in sequences:
            for mask, place in zip(sequence.masks, sequence.known, strict=True):
                frame = sequence.frames[place]
                sizes = frame_size(mask), frame_size(frame)
                require_mask_size(mask, sizes[0], frame, sizes[1], resize=self.resize_masks)
        (folder / "checked.txt").write_text(f"{len(sequences)} sequences\n", encoding="utf-8")

    def sequences(self, split: str) -> list[Sequence]:
        """The split's sequences by name, with masks of all frames, of every k-th or of the first.

        Raises ValueError naming the folder, list or sequence that is missing, and the first frame that lacks its mask.
        """
        root = Path(self.path)
        frames, masks = self._folder(root / FRAMES), self._folder(root / MASKS)
        names = self._listed(root, split) or sorted(folder.name for folder in frames.iterdir() if folder.is_dir())
        if not names:
            raise ValueError(f"data.path={self.path}: there is no sequence in {frames}")
        return [self._sequence(name, frames / name, masks / name) for name in names]

    def _folder(self, folder: Path) -> Path:
        if not folder.is_dir():
            raise ValueError(
                f"data.path must be a folder with {FRAMES} and {MASKS}, got {self.path!r}, where {folder} is missing"
            )
        return folder / self.resolution if (folder / self.resolution).is_dir() else folder

    def _listed(self, root: Path, split: str) -> list[str]:
        if not (root / LISTS).is_dir():
            return []
        file = root / LISTS / self.year / SPLITS[split]
        if not file.is_file():
            years = sorted(folder.name for folder in (root / LISTS).iterdir() if (folder / SPLITS[split]).is_file())
            raise ValueError(
                f"data.year={self.year}: {file} is missing; years with a {SPLITS[split]}: {', '.join(years) or 'none'}"
            )
        names = file.read_text(encoding="utf-8").split()
        # DAVIS 2016's list is of pairs of files: /JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png
        return list(dict.fromkeys(Path(name).parent.name if "/" in name else name for name in names))

    def _sequence(self, name: str, frames: Path, masks: Path) -> Sequence:
        for folder, what in ((frames, "frames"), (masks, "annotation")):
            if not folder.is_dir():
                raise ValueError(f"data.path={self.path}: the sequence {name} has no {what}, {folder} is missing")
        images, annotated = _numbered(frames, SUFFIXES), _numbered(masks, (".png",))
        if len(images) < max(2, self.frames):
            raise ValueError(
                f"data.path={self.path}: the sequence {name} has {len(images)} frames; it takes at least 2, and "
                f"data.frames={self.frames}"
            )
        places = {frame.stem: place for place, frame in enumerate(images)}
        known = [places[mask.stem] for mask in annotated if mask.stem in places]
        step = known[1] - known[0] if len(known) > 1 else len(images)
        if len(known) < len(annotated) or known[:1] != [0] or known != list(range(0, known[-1] + 1, step)):
            lacking = [frame.name for place, frame in enumerate(images) if place % step == 0 and place not in known]
            which = f"; the first frame without one is {lacking[0]}" if lacking else ""
            strange = [mask.name for mask in annotated if mask.stem not in places]
            which += f"; of no frame is {strange[0]}" if strange else ""
            raise ValueError(
                f"data.path={self.path}: the sequence {name} has {len(images)} frames and {len(annotated)} "
                f"masks{which}; there must be one of every frame, of every k-th from the first on, or of the first only"
            )
        if step == 1 and len(known) < len(images):
            raise ValueError(
                f"data.path={self.path}: the sequence {name} has {len(images)} frames and {len(annotated)} masks; the "
                f"first frame without one is {images[len(known)].name}"
            )
        last = self.max_frames or len(images)
        taken = [place for place in known if place < last]
        return Sequence(name, images[:last], annotated[: len(taken)], taken)


class DavisDataset:
    """A split of `Davis`."""

    is_lazy = True

    def __init__(self, options: Davis, sequences: list[Sequence]) -> None:
        self.options, self.sequences = options, sequences
        self.spec = options.spec()
        self._clips = [
            (number, first)
            for number, sequence in enumerate(sequences)
            for first in range(0, len(sequence.frames) - options.frames + 1, options.frames)
        ]

    def __len__(self) -> int:
        return len(self._clips)

    def labels(self) -> dict[str, Tensor]:
        return {}

    def fetch(self, indices: Tensor) -> Batch:
        return Batch(torch.stack([self._clip(*self._clips[index]) for index in indices.tolist()]), {})

    def _clip(self, number: int, first: int) -> Tensor:
        options, spec = self.options, self.spec
        sequence = self.sequences[number]
        frames = torch.stack(
            [read_frame(path, options.size) for path in sequence.frames[first : first + options.frames]], dim=1
        )
        top, left = (frames.shape[2] - spec.height) // 2, (frames.shape[3] - spec.width) // 2
        if left < 0 or top < 0:
            raise DataError(
                f"data.width={spec.width}: the frames of {sequence.name} are {frames.shape[2]}x{frames.shape[3]} px at "
                f"data.size={options.size}"
            )
        return frames[:, :, top : top + spec.height, left : left + spec.width]

    def num_sequences(self) -> int:
        return len(self.sequences)

    def sequence(self, index: int) -> TrackedVideo:
        """Raises DataError naming the file: frames of several sizes, a mask of another one or with unknown objects."""
        sequence = self.sequences[index]
        frames = [read_frame(path, self.options.size) for path in sequence.frames]
        for path, frame in zip(sequence.frames, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise DataError(
                    f"data.path: {path} is of another shape than the first frame of its sequence: resized to "
                    f"{_size(frame)} px, that to {_size(frames[0])}"
                )
        shape = frames[0].shape[1], frames[0].shape[2]
        masks = [
            read_mask(mask, sequence.frames[place], shape, resize=self.options.resize_masks)
            for mask, place in zip(sequence.masks, sequence.known, strict=True)
        ]
        void = 1 if set(torch.unique(masks[0]).tolist()) <= {0, VOID} else -1  # one object, or several
        masks = [mask.where(mask != VOID, void) for mask in masks]
        if len(masks) < len(frames):
            return _sparse(sequence, torch.stack(frames, dim=1), masks)
        known = set(torch.unique(masks[0]).tolist()) | {0, -1}
        for path, mask in zip(sequence.masks, masks, strict=True):
            unknown = sorted(set(torch.unique(mask).tolist()) - known)
            if unknown:
                raise DataError(
                    f"data.path: {path} shows the objects {unknown}, which the sequence's first mask does not: it has "
                    f"{sorted(known - {0, -1})}"
                )
        return TrackedVideo(sequence.name, torch.stack(frames, dim=1), torch.stack(masks))


def _sparse(sequence: Sequence, frames: Tensor, masks: list[Tensor]) -> TrackedVideo:
    """A video with masks of some frames. One that shows later objects alone says nothing of those that are followed."""
    given = [number for number in torch.unique(masks[0]).tolist() if number > 0]
    objects = torch.full((frames.shape[1], *masks[0].shape), -1, dtype=torch.int64)
    known = []
    for place, mask in zip(sequence.known, masks, strict=True):
        shown = {number for number in torch.unique(mask).tolist() if number > 0}
        if place > 0 and shown and shown.isdisjoint(given):
            continue
        objects[place] = mask.where(torch.isin(mask, torch.tensor([0, *given])), -1)
        known.append(place)
    return TrackedVideo(sequence.name, frames, objects, tuple(known))


def read_frame(path: Path, size: int) -> Tensor:
    """[3, H, W] uint8 with a short side of `size`."""
    with named_faults(path), Image.open(path) as image:
        rgb = to_rgb(image)
    scale = size / min(rgb.size)
    shape = round(rgb.width * scale), round(rgb.height * scale)
    if shape != rgb.size:
        rgb = rgb.resize(shape, Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def read_mask(path: Path, frame: Path, shape: tuple[int, int], *, resize: bool) -> Tensor:
    """The values of a mask [H, W] int64, resized to `shape`.

    Raises DataError for a mask that is not of its frame's size (unless it may be resized), and for one that has colours
    instead of numbers.
    """
    with named_faults(path), Image.open(path) as image, Image.open(frame) as picture:
        require_mask_size(path, image.size[::-1], frame, picture.size[::-1], resize=resize)
        if image.mode not in ("P", "L"):
            raise DataError(
                f"data.path: {path} is an image of the mode {image.mode}; a mask holds the number of an object in each "
                "pixel, with a palette or as grey values"
            )
        resized = np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.NEAREST))
    return torch.from_numpy(resized.astype(np.int64))


def _numbered(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files in `folder` in the order of the numbers in their names."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in suffixes]
    return sorted(files, key=lambda path: [int(part) for part in re.findall(r"\d+", path.stem)] or [-1])


def _size(frame: Tensor) -> str:
    return f"{frame.shape[1]}x{frame.shape[2]}"
