"""Data sets of optical flow, through torchvision: Sintel, KITTI 2015, FlyingChairs, FlyingThings3D and HD1K.

torchvision lists the pairs and decodes the flow. What it takes on trust is looked at here: that a flow file belongs to
its frames, is whole, of its kind and of their size, and holds numbers.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from core.data.flow.frame_pairs import HeldOutPairs, Pair, Pairs, Truth, folder_in, folder_of, frame_size
from core.types import DataError

_UNKNOWN = 1e9  # px; a larger value in a .flo file marks unknown flow (Middlebury's README)
_NUMBER = re.compile(r"\d+(?=\D*$)")


class Pass(Enum):
    """How the frames of a film were rendered."""

    clean = "clean"  # without fog, motion blur and depth of field
    final = "final"
    both = "both"


class Camera(Enum):
    """Which of two stereo cameras."""

    left = "left"
    right = "right"
    both = "both"


# ---- what is read, and from where --------------------------------------------------------------------------------


class _FromTorchvision(Pairs):
    """Pairs that a class of torchvision lists."""

    layout: ClassVar[str]  # what `path` must hold

    def create(self, datasets: Any, split: str) -> Any:
        """torchvision's data set of a split."""
        raise NotImplementedError

    def scene(self, first: Path, second: Path) -> str | None:
        """Which scene two frames are of; None where they are no pair."""
        raise NotImplementedError

    def frame_key(self, first: Path, second: Path) -> str:
        """What a flow file's `flow_key` must be to belong to them."""
        return first.stem

    def flow_key(self, flow: Path) -> str:
        return flow.stem

    def occlusion(self, first: Path) -> Path | None:
        """The file that says which pixels of `first` its second frame does not show."""
        return None

    def matched(self, split: str) -> list[Pair]:
        """torchvision's pairs of a split, sorted, each with the flow file that its names ask for."""
        folder_of(self.path, f"the folder that holds {self.layout}")
        # Importing torchvision takes several seconds, which only those who use it should wait for.
        from torchvision import datasets

        try:
            source = self.create(datasets, split)
        # A folder or a list that is missing, one that is shorter than another.
        except (OSError, ValueError, IndexError) as error:
            raise ValueError(f"data.path={self.path} must hold {self.layout}. torchvision says: {error}") from error
        # torchvision gives pixels and flow only, in an order that depends on the file system. The names of the files
        # are in these two lists.
        flows = {self.flow_key(Path(name)): Path(name) for name in source._flow_list}
        found = []
        for first, second in (map(Path, names) for names in source._image_list):
            scene = self.scene(first, second)
            if scene is None:
                raise DataError(
                    f"data.path: {first} and {second} are no pair: a frame between or beside them is missing"
                )
            flow = flows.get(self.frame_key(first, second))
            if flow is None:
                raise DataError(f"data.path: {first} has no flow file in {self.path}, which must hold {self.layout}")
            found.append(Pair(first, second, scene, flow, self.occlusion(first)))
        if not found:
            raise ValueError(f"data.path={self.path} must hold {self.layout}; it has no pair of frames")
        return sorted(found)

    def decode(self, file: Path) -> Any:
        """torchvision's reader of such a file: flow [2, h, w], or flow and validity [h, w]."""
        from torchvision.datasets import _optical_flow as reading  # seconds to import

        readers = {".flo": reading._read_flo, ".pfm": reading._read_pfm}
        return readers.get(file.suffix, reading._read_16bits_png_with_flow_and_valid_mask)(str(file))

    def flow_size(self, file: Path) -> tuple[int, int]:
        return {".flo": flo_size, ".pfm": pfm_size}.get(file.suffix, png_size)(file)

    def truth(self, pair: Pair) -> Truth:
        assert pair.flow is not None
        self.flow_size(pair.flow)  # it may have changed since it was listed
        try:
            decoded = self.decode(pair.flow)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a PNG whose pixels are damaged
            raise DataError(f"data.path: {pair.flow} cannot be decoded ({str(error).splitlines()[0]})") from error
        flow, valid = decoded if isinstance(decoded, tuple) else (decoded, np.abs(decoded).max(axis=0) <= _UNKNOWN)
        if not np.isfinite(flow).all():
            axis, row, column = np.argwhere(~np.isfinite(flow))[0]
            raise DataError(
                f"data.path: {pair.flow} holds {flow[axis, row, column]} at row {row}, column {column}; flow must be "
                "finite"
            )
        return Truth(np.where(valid, flow, 0).astype(np.float32), valid, self.occluded(pair, valid))

    def occluded(self, pair: Pair, valid: np.ndarray) -> np.ndarray | None:
        return None


@dataclass
class Sintel(_FromTorchvision, HeldOutPairs):
    """MPI Sintel: `path`/Sintel/training/clean|final/<scene>/frame_0001.png, flow/<scene>/frame_0001.flo.

    The official test split has no public flow: what is held out is of the training split, by `test_share`. Occlusion is
    known where `path`/Sintel/training/occlusions holds a map for every frame.

    Source: Butler et al., ECCV 2012; resolution: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 6.
    """

    pass_name: Pass = Pass.clean

    layout: ClassVar[str] = "Sintel/training/clean, final and flow, a folder for each scene in them"

    def create(self, datasets: Any, split: str) -> Any:
        return datasets.Sintel(self.path, split="train", pass_name=self.pass_name.name)

    def all_pairs(self) -> list[Pair]:
        return self.matched("train")

    def scene(self, first: Path, second: Path) -> str | None:
        return first.parent.name if _number(second) - _number(first) == 1 else None

    def frame_key(self, first: Path, second: Path) -> str:
        return f"{first.parent.name}/{first.stem}"

    def flow_key(self, flow: Path) -> str:
        return f"{flow.parent.name}/{flow.stem}"

    def occlusion(self, first: Path) -> Path | None:
        file = first.parents[2] / "occlusions" / first.parent.name / first.name
        return file if file.is_file() else None

    def occluded(self, pair: Pair, valid: np.ndarray) -> np.ndarray | None:
        if pair.occlusion is None:
            return None
        require_size(pair.occlusion, frame_size(pair.occlusion), valid.shape)
        with Image.open(pair.occlusion) as image:
            hidden: np.ndarray = np.asarray(image.convert("L")) > 127
        return hidden


@dataclass
class KittiFlow(_FromTorchvision, HeldOutPairs):
    """KITTI 2015: `path`/KittiFlow/training/image_2/000000_10.png and _11.png, flow_occ/000000_10.png.

    Flow is known at some pixels (`FlowTruth.valid`). The official test split has none: what is held out is of the
    training split, by `test_share`. Occlusion is known where flow_noc stands beside flow_occ: a pixel is occluded that
    the second has and the first has not.

    Source: Menze & Geiger, CVPR 2015; resolution: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 6.
    """

    height: int = 256

    layout: ClassVar[str] = "KittiFlow/training/image_2 and flow_occ"

    def create(self, datasets: Any, split: str) -> Any:
        return datasets.KittiFlow(self.path, split="train")

    def all_pairs(self) -> list[Pair]:
        return self.matched("train")

    def scene(self, first: Path, second: Path) -> str | None:
        scene = first.stem.removesuffix("_10")
        return scene if second.stem == f"{scene}_11" else None

    def occlusion(self, first: Path) -> Path | None:
        file = first.parents[1] / "flow_noc" / first.name
        return file if file.is_file() else None

    def occluded(self, pair: Pair, valid: np.ndarray) -> np.ndarray | None:
        if pair.occlusion is None:
            return None
        require_size(pair.occlusion, self.flow_size(pair.occlusion), valid.shape)
        _, shown = self.decode(pair.occlusion)
        hidden: np.ndarray = valid & ~shown
        return hidden


@dataclass
class FlyingChairs(_FromTorchvision):
    """FlyingChairs: `path`/FlyingChairs/data/00001_img1.ppm, _img2.ppm and _flow.flo, and FlyingChairs_train_val.txt.

    The split is that of the list: train and, for test, val.

    Source: Dosovitskiy et al., ICCV 2015; resolution: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 6.
    """

    width: int = 512

    layout: ClassVar[str] = (
        "FlyingChairs/data/*_img1.ppm, *_img2.ppm and *_flow.flo, and FlyingChairs/FlyingChairs_train_val.txt"
    )

    def create(self, datasets: Any, split: str) -> Any:
        return datasets.FlyingChairs(self.path, split="train" if split == "train" else "val")

    def pairs(self, split: str) -> list[Pair]:
        return self.matched(split)

    def scene(self, first: Path, second: Path) -> str | None:
        scene = first.stem.removesuffix("_img1")
        return scene if second.stem == f"{scene}_img2" else None

    def frame_key(self, first: Path, second: Path) -> str:
        return first.stem.removesuffix("_img1")

    def flow_key(self, flow: Path) -> str:
        return flow.stem.removesuffix("_flow")


@dataclass
class FlyingThings(_FromTorchvision):
    """FlyingThings3D: `path`/FlyingThings3D/frames_cleanpass|frames_finalpass|optical_flow, TRAIN and TEST in each.

    Frames are <part>/A/0000/left/0006.png, flow <part>/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm. Each
    two frames make two pairs, one in either direction.

    Source: Mayer et al., CVPR 2016; resolution: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 6.
    """

    width: int = 512
    pass_name: Pass = Pass.clean
    camera: Camera = Camera.left

    layout: ClassVar[str] = (
        "FlyingThings3D/frames_cleanpass, frames_finalpass and optical_flow, with TRAIN and TEST in each"
    )

    def create(self, datasets: Any, split: str) -> Any:
        part, frames = split.upper(), f"frames_{'final' if self.pass_name is Pass.final else 'clean'}pass"
        folder_in(self.path, f"FlyingThings3D/{frames}/{part}", self.layout)  # else its error names no folder
        options = {"pass_name": self.pass_name.name, "camera": self.camera.name}
        return datasets.FlyingThings3D(self.path, split=split, **options)

    def pairs(self, split: str) -> list[Pair]:
        return self.matched(split)

    def scene(self, first: Path, second: Path) -> str | None:
        return "/".join(first.parts[-4:-2]) if abs(_number(second) - _number(first)) == 1 else None

    def frame_key(self, first: Path, second: Path) -> str:
        direction = "into_future" if _number(second) > _number(first) else "into_past"
        return "/".join((*first.parts[-4:-2], direction, first.parent.name, str(_number(first))))

    def flow_key(self, flow: Path) -> str:
        return "/".join((*flow.parts[-5:-1], str(_number(flow))))


@dataclass
class Hd1k(_FromTorchvision, HeldOutPairs):
    """HD1K: `path`/hd1k/hd1k_input/image_2/000000_0000.png and hd1k_flow_gt/flow_occ/000000_0000.png.

    Flow is known at some pixels. The official test split has none: what is held out is of the training split.

    Source: Kondermann et al., CVPRW 2016. MC-JEPA prints no resolution for it; this is Sintel's.
    """

    layout: ClassVar[str] = "hd1k/hd1k_input/image_2 and hd1k/hd1k_flow_gt/flow_occ"

    def create(self, datasets: Any, split: str) -> Any:
        return datasets.HD1K(self.path, split="train")

    def all_pairs(self) -> list[Pair]:
        return self.matched("train")

    def scene(self, first: Path, second: Path) -> str | None:
        scene = first.stem.split("_")[0]
        return scene if second.stem.split("_")[0] == scene else None


def _number(file: Path) -> int:
    match = _NUMBER.search(file.stem)
    if match is None:
        raise DataError(f"data.path: {file} must have a number in its name")
    return int(match[0])


# ---- heads of flow files -----------------------------------------------------------------------------------------


def flo_size(file: Path) -> tuple[int, int]:
    """Height and width of a Middlebury .flo file. Raises DataError: wrong magic number, or not as long as it says."""
    with file.open("rb") as stream:
        head = stream.read(12)
    if head[:4] != b"PIEH":
        raise DataError(f"data.path: {file} has the magic number {head[:4]!r}; a .flo file begins with b'PIEH'")
    if len(head) < 12:
        raise DataError(f"data.path: {file} is cut off: {len(head)} bytes")
    width, height = struct.unpack("<ii", head[4:])
    if min(width, height) < 1:
        raise DataError(f"data.path: {file} says that it is of {height} x {width} px")
    _require_length(file, 12 + 8 * height * width)
    return height, width


def pfm_size(file: Path) -> tuple[int, int]:
    """Height and width of a .pfm file of three channels. Raises DataError."""
    with file.open("rb") as stream:
        magic, size, scale = (stream.readline(64) for _ in range(3))
        start = stream.tell()
    if magic.rstrip() != b"PF":
        raise DataError(f"data.path: {file} has the magic number {magic[:4]!r}; a .pfm file of flow begins with b'PF'")
    # What torchvision's reader takes: one blank between the two numbers, and nothing after them.
    if not (match := re.fullmatch(rb"(\d+) (\d+)\s", size)) or not re.fullmatch(rb"-?\d+(\.\d+)?\s+", scale):
        raise DataError(f"data.path: {file} has a damaged head: {size!r} {scale!r}, not a width and height and a scale")
    width, height = int(match[1]), int(match[2])
    _require_length(file, start + 12 * height * width)
    return height, width


def png_size(file: Path) -> tuple[int, int]:
    """Height and width of a PNG of three 16-bit channels, as KITTI keeps flow. Raises DataError."""
    with file.open("rb") as stream:
        head = stream.read(26)
    if head[:8] != b"\x89PNG\r\n\x1a\n" or len(head) < 26:
        raise DataError(f"data.path: {file} has the magic number {head[:8]!r}; flow must be a PNG file here")
    width, height, depth, colour = struct.unpack(">IIBB", head[16:])
    if (depth, colour) != (16, 2):  # 2: red, green and blue
        raise DataError(
            f"data.path: {file} has {depth} bits a channel and colour type {colour}; KITTI's flow "
            "has 16 bits and type 2 (RGB)"
        )
    return height, width


def _require_length(file: Path, stated: int) -> None:
    length = file.stat().st_size
    if length != stated:
        what = "is cut off" if length < stated else "is too long"
        raise DataError(f"data.path: {file} {what}: {length:,} bytes, its head says {stated:,}")


def require_size(file: Path, found: tuple[int, int], wanted: tuple[int, ...]) -> None:
    if found != wanted:
        raise DataError(
            f"data.path: {file} is of {found[0]} x {found[1]} px, the flow that it belongs to of {wanted[0]} x "
            f"{wanted[1]} px"
        )
