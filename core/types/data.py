"""Clips and data sets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor


class Grid(NamedTuple):
    """Patches of one clip along time, height and width; an image has t = 1."""

    t: int
    h: int
    w: int

    @property
    def num_patches(self) -> int:
        return self.t * self.h * self.w


class DataError(ValueError):
    """A file of a data set is not what it should be; the message names it."""


class Batch(NamedTuple):
    """uint8 clips as stored (float and normalised once on the device) and their labels."""

    clips: Tensor  # [B, C, T, H, W]
    labels: dict[str, Tensor]  # name -> [B] int64


@dataclass
class DataSpec:
    """What a data set gives: the shape of one clip, how to normalise it, and its label names with class counts.

    Raises ValueError when there is not one mean and one std a channel.
    """

    channels: int
    frames: int
    height: int
    width: int
    classes: dict[str, int] = field(default_factory=dict)  # {"digit": 10, "motion": 10}
    mean: tuple[float, ...] = ()  # of pixels in [0, 1], one a channel; none given: 0.45 each
    std: tuple[float, ...] = ()  # none given: 0.225 each
    clips_per_video: int = 1  # samples in a row that are clips of one video, in temporal order; labels are the video's
    box_classes: int = 0  # kinds of things that boxes are drawn around; 0: the data has no boxes
    segment_classes: int = 0  # kinds of things that a pixel may show, background included; 0: pixels have no classes
    has_flow: bool = False  # whether the movement of each pixel to the next frame is known
    has_occlusion: bool = False  # and which pixels the next frame does not show
    has_objects: bool = False  # whether the pixels of each object are known in frames of whole videos

    def __post_init__(self) -> None:
        self.mean, self.std = self.mean or (0.45,) * self.channels, self.std or (0.225,) * self.channels
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"the data's mean {self.mean} and std {self.std} must have one value for each of its "
                f"{self.channels} channels"
            )


class Stamp(NamedTuple):
    """Of files, without reading them."""

    name: str  # stands for their names, sizes and times of writing
    newest_ns: int  # when the last of them was written


class Regions(NamedTuple):
    """Boxes in the middle frame, `frames // 2`, of some clips, and what is in them. A clip may have none."""

    sample: Tensor  # [M] int64: which of the clips that were asked for
    boxes: Tensor  # [M, 4] float32: left, top, right, bottom in pixels
    classes: Tensor  # [M] int64 in 0 .. box_classes - 1


class FlowTruth(NamedTuple):
    """Where each pixel of a frame is in the next one."""

    flow: Tensor  # [B, T - 1, 2, H, W] float32: pixels to the right, pixels down
    valid: Tensor  # [B, T - 1, H, W] bool: where it is known
    occluded: Tensor | None  # [B, T - 1, H, W] bool: not to be seen in the next frame, or outside it; None: unknown


class TrackedVideo(NamedTuple):
    """A video whose objects are known, in every frame or in some. Those of a data set may differ in length and size."""

    name: str
    frames: Tensor  # [C, T, H, W] uint8
    objects: Tensor  # [T, H, W] int64: 0 background, 1 .. the objects, -1 not counted
    known: tuple[int, ...] | None = None  # the frames whose objects are known, the first among them; None: all


class Dataset(Protocol):
    """A split of a data set, addressed by index: a pure function of it.

    One with boxes (`spec.box_classes`) also has `regions(indices) -> Regions`; one whose pixels have classes
    (`spec.segment_classes`) `segments(indices) -> Tensor`, [B, T, H, W] int64 with -1 = not labelled; one whose
    movement is known (`spec.has_flow`) `flows(indices) -> FlowTruth`; one whose objects are (`spec.has_objects`)
    `num_sequences() -> int` and `sequence(index: int) -> TrackedVideo`.

    One that decodes as it is asked (not held in memory) says so by an attribute `is_lazy` = True; the loader then reads
    ahead with worker processes. A method `fingerprint() -> str` stands for every pixel; without one, features of a lazy
    data set are not cached.
    """

    spec: DataSpec

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> Batch:
        """The samples at `indices` ([B] int64), uint8, not augmented."""

    def labels(self) -> dict[str, Tensor]:
        """Every sample's labels, name -> [len] int64, without reading a pixel."""


@dataclass
class Data:
    """A data set and its options. `load` returns the split "train" or "test"."""

    # A name for files that replace others at the same path: another experiment. Where it is empty no config holds it.
    version: str = field(default="", kw_only=True)

    recipe: ClassVar[str] = ""  # of data made by code: its name and version, which stand for its content

    def sources(self) -> Iterable[tuple[str, Path]] | None:
        """Every file that both splits read, by what it is to the set (class and name, or its place in a list); what
        `core.data.fingerprint` is made of. None: unknown. ValueError when `data.path` cannot give them."""
        return () if self.recipe else None

    def stamp(self) -> Stamp | None:
        """What stands for all `sources`, where it is had in less time than they are."""
        return None

    def spec(self) -> DataSpec:
        """The shape and labels of its clips without reading a pixel; ValueError when `data.path` cannot give them."""
        raise NotImplementedError

    def shape(self) -> DataSpec | None:
        """`spec` without labels as the options alone tell it, of files that may be gone; None where only they tell."""
        return self.spec() if self.recipe else None

    def require_files(self) -> None:
        """Raises ValueError where the files are not here of a set whose options alone tell its `spec`."""

    def known_labels(self, split: str) -> dict[str, Tensor] | None:
        """The labels of a split (of videos, each once) as its files' names or arrays tell them, without a pixel decoded
        or drawn; files that cannot be read are among them. None: only loading tells."""
        return None

    def load(self, split: str, cache: Path) -> Dataset:
        raise NotImplementedError
