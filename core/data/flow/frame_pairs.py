"""Pairs of frames in image files: two that follow one another, and where it is known the movement between them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from core.data.arrays import cache_key, cached_folder, check_split
from core.data.dense.placing import Fit, placing
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD, SUFFIXES, named_faults, to_rgb
from core.types import Batch, Data, DataError, DataSpec, FlowTruth, generator_for

_VERSION = 2  # raise it when the same files would give other pixels, or when more of them is checked
_NUMBER = re.compile(r"\d+(?=\D*$)")


class Pair(NamedTuple):
    """Two frames of one scene, and the files that say what moves where."""

    first: Path
    second: Path
    scene: str  # pairs of one scene are held out together
    flow: Path | None = None
    occlusion: Path | None = None

    @property
    def files(self) -> list[Path]:
        return [file for file in (self.first, self.second, self.flow, self.occlusion) if file is not None]


class Truth(NamedTuple):
    """What a flow file says, at its own size."""

    flow: np.ndarray  # [2, h, w] float32: px to the right, px down; 0 where it is not known
    valid: np.ndarray  # [h, w] bool: where it is known
    occluded: np.ndarray | None  # [h, w] bool


@dataclass
class Pairs(Data):
    """What data sets of frame pairs share: files, their size, and what is held out."""

    path: str = ""
    height: int = 384  # px
    width: int = 832
    fit: Fit = Fit.resize  # or cover, crop, pad

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 8 <= getattr(self, name) <= 4096:
                raise ValueError(f"data.{name} must be in [8, 4096] px, got {getattr(self, name)}")

    def pairs(self, split: str) -> list[Pair]:
        """The pairs of a split, in a fixed order. Raises ValueError when `path` cannot give them."""
        raise NotImplementedError

    def sources(self) -> list[tuple[str, Path]]:
        """Pairs by their place, which is what decides the order."""
        return [
            (f"{split} {number} {part} {pair.scene if part == 0 else ''}", file)
            for split in ("train", "test")
            for number, pair in enumerate(self.pairs(split))
            for part, file in enumerate(pair.files)
        ]

    def flow_size(self, file: Path) -> tuple[int, int]:
        """Height and width of a flow file by its header. Raises DataError for one that is none or is cut off."""
        raise NotImplementedError

    def truth(self, pair: Pair) -> Truth:
        """Of a pair with a flow file. Raises DataError."""
        raise NotImplementedError

    def spec(self) -> DataSpec:
        known = self.pairs("test")  # missing ones are better known before training than after
        return dataclasses.replace(
            self.shape(),
            has_flow=all(pair.flow is not None for pair in known),
            has_occlusion=all(pair.occlusion is not None for pair in known),
        )

    def shape(self) -> DataSpec:
        return DataSpec(3, 2, self.height, self.width, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def load(self, split: str, cache: Path) -> PairDataset:
        """Look at the head of every file, once; pixels are read as they are used."""
        check_split(split)
        pairs = self.pairs(split)
        facts = file_facts([pair.files for pair in pairs])
        folder = cache / "frame_pairs" / f"{split}-{cache_key([_VERSION, facts])}"
        cached_folder(folder, lambda draft: self._check(pairs, draft))
        return PairDataset(self, self.spec(), pairs)

    def _check(self, pairs: Sequence[Pair], folder: Path) -> None:
        def wrong(pair: Pair) -> str | None:
            try:
                first, second = frame_size(pair.first), frame_size(pair.second)
                require_one_size(pair, first, second)
                if pair.flow is not None and (found := self.flow_size(pair.flow)) != first:
                    return f"data.path: {pair.flow} is of {_px(found)}, its frame {pair.first.name} of {_px(first)}"
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(8) as pool:
            faults = [fault for fault in pool.map(wrong, pairs) if fault is not None]
        if faults:
            raise DataError(faults[0] + (f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""))
        (folder / "checked.txt").write_text(f"{len(pairs)} pairs\n", encoding="utf-8")


@dataclass
class HeldOutPairs(Pairs):
    """Pairs without an official test split of known flow."""

    # 0: both splits are all pairs, as the papers judge flow that was learned without labels.
    test_share: float = 0.0  # of the scenes, for test only
    split_seed: int = 0  # which scenes those are

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.test_share < 1:
            raise ValueError(f"data.test_share must be in [0, 1), got {self.test_share}")

    def all_pairs(self) -> list[Pair]:
        raise NotImplementedError

    def pairs(self, split: str) -> list[Pair]:
        known = self.all_pairs()
        if self.test_share == 0:
            return known
        scenes = sorted({pair.scene for pair in known})
        if len(scenes) < 2:
            raise ValueError(
                f"data.test_share={self.test_share}: data.path={self.path} has one scene, {scenes[0]}, and a scene is "
                "held out whole; set data.test_share=0"
            )
        order = torch.randperm(len(scenes), generator=generator_for(self.split_seed, "split", "scenes")).tolist()
        num_test = min(max(round(self.test_share * len(scenes)), 1), len(scenes) - 1)
        tested = {scenes[number] for number in order[:num_test]}
        return [pair for pair in known if (pair.scene in tested) == (split == "test")]


@dataclass
class FramePairs(HeldOutPairs):
    """Frames without labels: every two images of a folder whose numbers follow one another, below `path`.

    `path`/**/<name><number>.png: a pair is of one folder and one name, so the sequences of KITTI's multiview extensions
    (image_2/000012_07.png) stay apart although they share a folder. A missing number ends a sequence. `folders` is the
    pattern of the folders that are looked into: ``*/*/image_02/data`` for the left colour camera of KITTI raw.

    Source: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 7: KITTI raw and multiview, Sintel raw.
    """

    folders: str = "**"
    step: int = 1  # from a pair's first number to its second

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step < 1:
            raise ValueError(f"data.step must be at least 1, got {self.step}")
        if not self.folders or self.folders.startswith("/"):
            raise ValueError(
                f"data.folders must be a pattern of folders below data.path, such as **, got {self.folders!r}"
            )

    def all_pairs(self) -> list[Pair]:
        root = folder_of(self.path, "a folder with folders of numbered frame images")
        found: list[Pair] = []
        for folder in sorted(folder for folder in root.glob(self.folders) if folder.is_dir()):
            numbered: dict[str, dict[int, Path]] = {}
            for file in folder.iterdir():
                match = _NUMBER.search(file.stem)
                if match and file.suffix.lower() in SUFFIXES and not file.name.startswith("."):
                    numbered.setdefault(file.stem[: match.start()], {})[int(match[0])] = file
            for name, files in sorted(numbered.items()):
                scene = f"{folder.relative_to(root)}/{name}"
                found += [
                    Pair(files[number], files[number + self.step], scene)
                    for number in sorted(files)
                    if number + self.step in files
                ]
        if not found:
            raise ValueError(
                f"data.path={self.path} holds no two images of one name whose numbers are data.step={self.step} "
                f"apart in any folder that fits data.folders={self.folders!r}"
            )
        return found


class PairDataset:
    """A split of frame pairs, decoded as they are fetched."""

    is_lazy = True

    def __init__(self, options: Pairs, spec: DataSpec, pairs: Sequence[Pair]) -> None:
        self.spec = spec
        self._options, self._pairs = options, pairs
        self._knows_occlusion = all(pair.occlusion is not None for pair in pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def labels(self) -> dict[str, Tensor]:
        return {}

    def fetch(self, indices: Tensor) -> Batch:
        size = (self._options.height, self._options.width)
        clips = np.empty((len(indices), 3, 2, *size), np.uint8)
        for row, index in enumerate(indices.tolist()):
            pair = self._pairs[index]
            first, second = read_frame(pair.first), read_frame(pair.second)
            require_one_size(pair, first.size[::-1], second.size[::-1])
            place = placing((first.height, first.width), size, self._options.fit, pair.first)
            clips[row, :, 0], clips[row, :, 1] = place.picture(first), place.picture(second)
        return Batch(torch.from_numpy(clips), {})

    def flows(self, indices: Tensor) -> FlowTruth:
        """From the pairs' flow files, in px of the clips. Each pixel takes what the file says nearest to its centre."""
        assert self.spec.has_flow, "spec.has_flow says whether there are flow files"
        size = (self._options.height, self._options.width)
        flow = np.zeros((len(indices), 1, 2, *size), np.float32)
        valid, occluded = (np.zeros((len(indices), 1, *size), bool) for _ in range(2))
        for row, index in enumerate(indices.tolist()):
            pair = self._pairs[index]
            truth = self._options.truth(pair)
            place = placing((truth.flow.shape[1], truth.flow.shape[2]), size, self._options.fit, pair.first)
            inside = place.inside()
            flow[row, 0] = np.where(inside, place.flow(truth.flow), 0)
            valid[row, 0] = inside & place.nearest(truth.valid)
            if truth.occluded is not None:
                occluded[row, 0] = inside & place.nearest(truth.occluded)
        hidden = torch.from_numpy(occluded) if self._knows_occlusion else None
        return FlowTruth(torch.from_numpy(flow), torch.from_numpy(valid), hidden)

    def fingerprint(self) -> str:
        """Stands for every pixel: the files in order, their sizes and when they were written, and how they are read."""
        facts = file_facts([pair.files for pair in self._pairs])
        return cache_key([_VERSION, facts, self._options.height, self._options.width, self._options.fit.name])


# ---- files ---------------------------------------------------------------------------------------------------------


def folder_of(path: str, what: str) -> Path:
    """`path` as a folder; ValueError saying what it must be."""
    root = Path(path)
    if not path or not root.is_dir():
        there = "is not a folder" if path and root.exists() else "does not exist"
        raise ValueError(f"data.path must be {what}, got {path!r}, which {there}")
    return root


def folder_in(path: str, name: str, layout: str) -> Path:
    """The folder `name` below `path`; ValueError saying what `path` must hold."""
    folder = folder_of(path, f"the folder that holds {layout}") / name
    if not folder.is_dir():
        raise ValueError(f"data.path={path} must hold {layout}; it has no folder {name}")
    return folder


def frame_size(file: Path) -> tuple[int, int]:
    """Height and width of an image by its header. Raises DataError."""
    with named_faults(file), Image.open(file) as image:
        return image.height, image.width


def read_frame(file: Path) -> Image.Image:
    """Three 8-bit channels. Raises DataError."""
    with named_faults(file), Image.open(file) as image:
        return to_rgb(image)


def require_one_size(pair: Pair, first: tuple[int, int], second: tuple[int, int]) -> None:
    if first != second:
        raise DataError(
            f"data.path: {pair.first} is of {_px(first)} and {pair.second.name} of {_px(second)}; the two frames of a "
            "pair must be of one size"
        )


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"


def file_facts(entries: Iterable[Iterable[Path]]) -> list[tuple[str, int, int]]:
    """Name, size and time of each file of each entry, in order. Raises DataError for one that is missing."""
    facts = []
    for file in (file for files in entries for file in files):
        try:
            stat = file.stat()
        except OSError as error:
            raise DataError(f"data.path: {file}: {error.strerror or error}") from error
        facts.append((str(file), stat.st_size, stat.st_mtime_ns))
    return facts
