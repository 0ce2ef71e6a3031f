"""Clips of real videos: files in folders, files named in a list, and folders of frame images."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.arrays import cache_key, check_split
from core.data.left_out import name_in
from core.data.pictures import IMAGENET_MEAN, IMAGENET_STD
from core.data.video.clip_cache import FrameCache
from core.data.video.decord_reader import DecordReader
from core.data.video.frame_folders import FrameFolderReader
from core.data.video.torchcodec_reader import TorchcodecReader
from core.data.video.video_clips import VERSION, FrameSampling, Store, Video, VideoClips, probe_all
from core.data.video.video_kinds import why_unreadable
from core.data.video.video_lists import Listing, emptied, from_folder, from_list
from core.data.video.video_reader import Facts, Reader
from core.types import Data, DataSpec

log = logging.getLogger(__name__)

_STRIDE = 2
_NAMED = 20  # files that one warning names
_READERS: dict[str, Callable[[], Reader]] = {"decord": DecordReader, "torchcodec": TorchcodecReader}


@dataclass
class _Videos(Data):
    path: str = ""
    test_path: str = ""  # the test videos, where `path` holds none
    size: int = 32  # px, square: what the model sees
    store_size: int | None = None  # px kept, `size` by default; more gives random crops something to choose from
    crop: float = 1.0  # share of the short side that the square covers
    frames: int = 8
    stride: int | None = None  # from one frame of a clip to the next, in frames of the video; 2 by default
    clips_per_video: int = 1  # samples of a video, one from each of as many equal segments
    random_start: bool = True  # in training; else, and in every evaluation, from the middle of the segment
    test_share: float = 0.2  # held out of each class where there is no test split
    split_seed: int = 0  # which videos those are
    cache_gb: float = 4.0  # decoded videos kept on disk, for each split
    sampling: FrameSampling = FrameSampling.strided  # repeated also takes shorter videos; segments spreads over them

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

        require(8 <= self.size <= 1024, "size", "in [8, 1024] px")
        require(
            self.store_size is None or self.size <= self.store_size <= 2048, "store_size", "in [data.size, 2048] px"
        )
        require(0 < self.crop <= 1, "crop", "in (0, 1]")
        require(1 <= self.frames <= 1024, "frames", "in [1, 1024]")
        require(self.stride is None or 1 <= self.stride <= 1024, "stride", "in [1, 1024] frames, or null")
        require(1 <= self.clips_per_video <= 1024, "clips_per_video", "in [1, 1024]")
        require(0 < self.test_share < 1, "test_share", "in (0, 1)")
        require(self.cache_gb >= 0, "cache_gb", "at least 0")
        if self.sampling is FrameSampling.segments and self.stride is not None:
            raise ValueError(
                f"data.sampling=segments takes a frame of each of data.frames={self.frames} equal parts of a video, "
                f"which leaves nothing for data.stride={self.stride}: set data.stride=null"
            )

    @property
    def step(self) -> int:
        """From one frame that may be in a clip to the next, in frames of the video."""
        return self.stride or (1 if self.sampling is FrameSampling.segments else _STRIDE)

    @property
    def stored(self) -> int:
        return self.store_size or self.size

    def reading(self) -> Reader:
        raise NotImplementedError

    def listing(self, split: str) -> Listing:
        """The split's videos, with unreadable ones among them. ValueError when `path` cannot give them."""
        raise NotImplementedError

    def known_labels(self, split: str) -> dict[str, Tensor]:
        listing = self.listing(split)
        return {"class": torch.tensor([entry.label for entry in listing.entries])} if listing.classes else {}

    def sources(self) -> list[tuple[str, Path]]:
        """A list gives each video its place; a folder its name, which decides its place."""
        return [
            (f"{split} {entry.label} {self._name(number, entry.path)} {file.name if part else ''}", file)
            for split in ("train", "test")
            for number, entry in enumerate(self.listing(split).entries)
            for part, file in self._files(entry.path)
        ]

    def _name(self, number: int, path: Path) -> str:
        return name_in(path, self._roots())

    def _files(self, path: Path) -> list[tuple[bool, Path]]:
        """The files of one video, and whether each is a part of it."""
        return [(False, path)]

    def grid(self, facts: Facts) -> np.ndarray:
        """Numbers of the video's frames that may be in a clip, which `sampling` chooses `frames` of."""
        return np.arange(0, facts.frames, self.step)

    def spec(self) -> DataSpec:
        self.reading()  # a reader that is not installed is better known before training than after
        self.listing("test")
        return self._spec(self.listing("train").classes)

    def shape(self) -> DataSpec:
        return self._spec(())

    def _spec(self, classes: Sequence[str]) -> DataSpec:
        labels = {"class": len(classes)} if classes else {}
        shape = (3, self.frames, self.size, self.size)
        return DataSpec(*shape, labels, mean=IMAGENET_MEAN, std=IMAGENET_STD, clips_per_video=self.clips_per_video)

    def load(self, split: str, cache: Path) -> VideoClips:
        """Probe every video and, where the split fits into `cache_gb`, decode each once; name those that are left out.

        A split that does not fit is decoded as it is used, the first `cache_gb` of it only once.
        """
        check_split(split)
        reader, listing = self.reading(), self.listing(split)
        left_out = dict(listing.others)
        probed = probe_all([entry.path for entry in listing.entries], reader, cache / "video")
        videos = []
        for entry, found in zip(listing.entries, probed, strict=True):
            if isinstance(found, str):
                left_out[str(entry.path)] = why_unreadable(entry.path, found)
                continue
            fingerprint, facts = found
            if len(self.grid(facts)) < (self.frames if self.sampling is FrameSampling.strided else 1):
                left_out[str(entry.path)] = self._too_short(facts)
                continue
            # Neither the split nor the length of a clip is part of the key: other studies find the same frames.
            how = [VERSION, reader.name, self.stored, self.crop, self.step, getattr(self, "fps", None)]
            how += [facts.how] if facts.how else []  # a file read as usual keeps the key it always had
            key = cache_key([str(entry.path.resolve()), fingerprint, *how])
            videos.append(Video(entry, facts, self.grid(facts), key, is_cached=False))
        sizes = np.cumsum([len(video.grid) * 3 * self.stored**2 for video in videos])
        videos = [
            v._replace(is_cached=bool(size <= self.cache_gb * 2**30)) for v, size in zip(videos, sizes, strict=True)
        ]
        store = Store(reader, FrameCache(cache / "video"), self.stored, self.crop)
        fits = all(video.is_cached for video in videos)
        if fits:
            videos = store.fill(videos, left_out)
        self._report(split, listing, videos, left_out)
        _tell_others(self.path, videos)
        spec = self._spec(listing.classes)
        roots = self._roots()
        names = {name: name_in(Path(name), roots) for name in left_out}
        # A reason may be a decoder's words, with the path in them.
        excluded = tuple(f"{names[file]}: {reason.replace(file, names[file])}" for file, reason in left_out.items())
        return VideoClips(
            spec,
            videos,
            store,
            excluded,
            names=[name_in(video.entry.path, roots) for video in videos],
            repeats={name_in(Path(name), roots): times for name, times in listing.repeats.items()},
            clips_per_video=self.clips_per_video,
            random_start=self.random_start,
            sampling=self.sampling,
            is_lazy=not fits,
        )

    def _roots(self) -> list[Path]:
        """The folders that its files are named in, a list's own folder among them."""
        given = [Path(path) for path in (self.path, self.test_path) if path]
        return [path if path.is_dir() else path.parent for path in given]

    def _too_short(self, facts: Facts) -> str:
        needed = (self.frames - 1) * self.step + 1
        return f"too short: {facts.frames} frames, a clip takes {needed} ({self.frames} at data.stride={self.step})"

    def _report(self, split: str, listing: Listing, videos: Sequence[Video], left_out: Mapping[str, str]) -> None:
        """One warning for all that is left out; ValueError when a class or everything is."""
        lines = [f"{name} ({reason})" for name, reason in left_out.items()]
        if len(lines) > _NAMED:
            lines[_NAMED:] = [f"and {len(lines) - _NAMED} more"]
        named = "; ".join(lines)
        if listing.repeats:
            again = [f"{name_in(Path(name), self._roots())} ({n} times)" for name, n in listing.repeats.items()]
            again[_NAMED:] = [f"and {len(again) - _NAMED} more"] if len(again) > _NAMED else []
            log.warning(
                "data.path: %d videos are listed more than once in %s's list, and count once each: %s",
                *(len(listing.repeats), split, "; ".join(again)),
            )
        if split == "train" and (lacking := listing.without_videos()):
            more = f" and {len(lacking) - _NAMED} more" if len(lacking) > _NAMED else ""
            log.warning(
                "data.path: %s has no video of label %s (labels go from 0 to %d): no evaluation can learn such a "
                "class; number the classes without gaps",
                *(self.path, ", ".join(lacking[:_NAMED]) + more, len(listing.classes) - 1),
            )
        if not videos:
            raise ValueError(f"data.path={self.path}: no video of the {split} split can be used: {named}")
        if left_out:
            log.warning("data.path: left out %d of %s's files, %s split: %s", len(left_out), self.path, split, named)
        if gone := emptied(listing.classes, listing.entries, [video.entry for video in videos]):
            raise ValueError(
                f"data.path={self.path}: no {split} video of class {', '.join(gone)} can be used; each class needs one"
            )


@dataclass
class _VideoFiles(_Videos):
    fps: float | None = None  # frames a second of a clip, instead of `stride`; a slower video's frames are repeated
    reader: str = "decord"  # or torchcodec, where it is installed; it also reads what decord cannot open

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ValueError(f"data.fps must be in (0, 1000], or null for data.stride, got {self.fps}")
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"data.fps={self.fps} and data.stride={self.stride} say the same thing twice; set one")
        if self.fps is not None and self.sampling is FrameSampling.segments:
            raise ValueError(
                f"data.sampling=segments spreads frames over a video, whatever data.fps={self.fps}: leave it out"
            )
        if self.reader not in _READERS:
            raise ValueError(f"data.reader must be {' or '.join(_READERS)}, got {self.reader!r}")

    def reading(self) -> Reader:
        return _READERS[self.reader]()

    def grid(self, facts: Facts) -> np.ndarray:
        if self.fps is None:
            return super().grid(facts)
        if not facts.fps > 0:
            return np.arange(0)
        times = np.arange(math.floor((facts.frames - 1) * self.fps / facts.fps + 1e-9) + 1) / self.fps
        return np.minimum((times * facts.fps + 0.5).astype(np.int64), facts.frames - 1)

    def _too_short(self, facts: Facts) -> str:
        if self.fps is None:
            return super()._too_short(facts)
        if not facts.fps > 0:
            return "it states no frame rate, which data.fps needs"
        seconds = (self.frames - 1) / self.fps
        return (
            f"too short: {facts.frames / facts.fps:.2f} s, a clip takes {seconds:.2f} s "
            f"({self.frames} frames at data.fps={self.fps:g})"
        )


@dataclass
class VideoFolder(_VideoFiles):
    """Video files: `path`/train/<class>/*.mp4 and `path`/test/<class>/*.mp4, or `path`/<class>/*.mp4, or `path`/*.mp4.

    Videos that lie directly in the folder of a split have no labels, and neither have those below them. Without split
    folders and `test_path` a fixed share of each class is held out for test. Classes are the folder names in
    alphabetical order.

    A clip is `frames` frames, `stride` apart (MAE-ST and V-JEPA: 16, 4 apart) or `fps` a second by the video's average
    rate. In training it starts at random, at a frame on the grid of the stride (or rate) that the seed and the step
    decide: epochs differ, and a resumed run sees the same. Frames are resized to squares when they are decoded and kept
    as uint8 in the cache, keyed by the file's size and time. Pixels are taken as square; rotation in the file is
    applied. Normalised by ImageNet's mean and standard deviation.

    A file that gives no clip (empty, truncated, damaged, no video in it, too short) is left out: it is named in one
    warning, and in the run's record. A file that breaks later is skipped: its clip is replaced by the same segment of
    the next good video of the same class (in the order of names, from the start again after the last), each time with
    a count in the run's record and the first time with a warning; only when the class has no good video left the run
    stops. A file whose damage the decoder conceals, and a cut file of a kind that does not state its length (not MP4,
    MOV, MKV, WebM or AVI), is not noticed.

    Frames are counted as they are shown: what an edit list hides is none. What decord cannot open (AV1, GIF) is read
    by torchcodec where that is installed, and named in the log.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), Table 5; MAE-ST (Feichtenhofer et al., 2022,
    arXiv:2205.09113), section 4.
    """

    def listing(self, split: str) -> Listing:
        root, test_root = _given(self.path, "a folder of videos"), Path(self.test_path) if self.test_path else None
        share, seed = self.test_share, self.split_seed
        return from_folder(root, split, test_root=test_root, frames=False, share=share, seed=seed)


@dataclass
class VideoCsv(_VideoFiles):
    """Video files named in a list of "path label" lines, one for training and perhaps one (`test_path`) for test.

    Paths are relative to the list's folder, or absolute. A file that is missing is left out and named like one that
    cannot be read; a label that is no class number is an error. The rest is as in `video_folder`.
    """

    def _name(self, number: int, path: Path) -> str:
        return str(number)

    def listing(self, split: str) -> Listing:
        file, test_file = (
            _given(self.path, "a file of path label lines"),
            Path(self.test_path) if self.test_path else None,
        )
        return from_list(file, split, test_file=test_file, share=self.test_share, seed=self.split_seed)


@dataclass
class FrameFolder(_Videos):
    """Folders of frame images, one a video: `path`/<video>/*.jpg, or with classes and splits as in `video_folder`.

    Frames are in the order of their names, with numbers compared as numbers. The rest is as in `video_folder`.
    """

    def reading(self) -> Reader:
        return FrameFolderReader()

    def _files(self, path: Path) -> list[tuple[bool, Path]]:
        return [(True, file) for file in FrameFolderReader().files(path)]

    def listing(self, split: str) -> Listing:
        root = _given(self.path, "a folder with a folder of frame images for each video")
        test_root = Path(self.test_path) if self.test_path else None
        share, seed = self.test_share, self.split_seed
        return from_folder(root, split, test_root=test_root, frames=True, share=share, seed=seed)


def _tell_others(path: str, videos: Sequence[Video]) -> None:
    others = [str(video.entry.path) for video in videos if video.facts.how.startswith("torchcodec")]
    if others:
        named = "; ".join([*others[:_NAMED], *([f"and {len(others) - _NAMED} more"] if len(others) > _NAMED else [])])
        log.info("data.path: torchcodec reads %d of %s's files, which decord cannot open: %s", len(others), path, named)


def _given(path: str, what: str) -> Path:
    if not path:
        raise ValueError(f"data.path must be {what}, got ''")
    return Path(path)
