"""Videos as samples: probed once, decoded once, and cut into clips."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.data.arrays import cache_key
from core.data.video.clip_cache import FrameCache, JsonCache
from core.data.video.video_lists import Entry
from core.data.video.video_reader import Facts, Reader, Unreadable
from core.types import Batch, DataSpec

log = logging.getLogger(__name__)

VERSION = 1  # raise it when the same videos would be decoded to other pixels


class FrameSampling(Enum):
    """Which frames of a video make a clip.

    strided: frames in a row on the video's grid; a video that has fewer is left out. repeated: the same, and the last
    frame of a shorter video is repeated, as in V-JEPA's released loader. segments: one of each of as many equal parts
    of the video as a clip has frames, from its middle or in training from a random place, as MAE-ST's released code has
    it for Something-Something; a video of fewer frames gives some of them several times.
    """

    strided = "strided"
    repeated = "repeated"
    segments = "segments"


class Video(NamedTuple):
    """A video that can be used."""

    entry: Entry
    facts: Facts
    grid: np.ndarray  # numbers of the frames that may be in a clip, ascending
    key: str  # of its frames in the cache
    is_cached: bool  # whether it is to be kept there


class VideoClips:
    """A split of videos; sample `i` is a clip of segment ``i % clips_per_video`` of video ``i // clips_per_video``.

    `excluded` names the files that are not part of the split, with the reasons; `names` are the videos' own; `repeats`
    are those that a list names more than once.
    """

    is_drawn = True

    def __init__(
        self,
        spec: DataSpec,
        videos: Sequence[Video],
        store: Store,
        excluded: tuple[str, ...],
        *,
        names: Sequence[str],
        repeats: Mapping[str, int] | None = None,
        clips_per_video: int = 1,
        random_start: bool = True,
        sampling: FrameSampling = FrameSampling.strided,
        is_lazy: bool = False,
    ) -> None:
        self.spec, self.excluded, self.is_lazy, self.clips_per_video = spec, excluded, is_lazy, clips_per_video
        self.repeats, self._sampling = dict(repeats or {}), sampling
        self._videos, self._store, self._names, self._random_start = videos, store, names, random_start
        self._labels = torch.tensor([video.entry.label for video in videos])
        self._broken: set[int] = set()  # as this process knows
        self._replaced = multiprocessing.Array("q", len(videos))  # clips, counted by all loader processes together

    def __len__(self) -> int:
        return len(self._videos) * self.clips_per_video

    def labels(self) -> dict[str, Tensor]:
        return {name: self._labels.repeat_interleave(self.clips_per_video) for name in self.spec.classes}

    def fingerprint(self) -> str:
        """Stands for every pixel: the keys of the videos' frames, which tell each file's content and how it is read."""
        shape: list[int | str] = [self.spec.frames, self._store.size, self.clips_per_video]
        shape += [] if self._sampling is FrameSampling.strided else [self._sampling.name]
        return cache_key([shape, [video.key for video in self._videos]])

    def video_of(self) -> Tensor:
        """Which video each sample is of: [len] int64."""
        return torch.arange(len(self)) // self.clips_per_video

    def fetch(self, indices: Tensor, draws: Tensor | None = None) -> Batch:
        """Clips that start where `draws` ([B], uniform in [0, 1)) says, or in the middle of their segments without.

        A pure function of its arguments as long as the files are as they were; see `VideoFolder` on those that break.
        Equal indices in a row (repeated sampling) are clips of one video that is opened once.
        """
        numbers = indices.tolist()
        where = [0.5] * len(numbers) if draws is None or not self._random_start else draws.tolist()
        spec = self.spec
        clips = np.empty((len(numbers), spec.channels, spec.frames, self._store.size, self._store.size), np.uint8)
        first = 0
        for index, rows in itertools.groupby(numbers):
            last = first + sum(1 for _ in rows)
            for row, frames in enumerate(self._clips(index, where[first:last]), first):
                clips[row] = frames.transpose(1, 0, 2, 3)
            first = last
        labels = {name: self._labels[indices // self.clips_per_video] for name in self.spec.classes}
        return Batch(torch.from_numpy(clips), labels)

    def replaced(self) -> dict[str, int]:
        """How many clips of each file that broke were replaced so far."""
        found: Counter[str] = Counter()
        for name, num in zip(self._names, self._replaced[:], strict=True):
            found[name] += num
        return {name: num for name, num in found.items() if num}

    def _clips(self, index: int, draws: Sequence[float]) -> list[np.ndarray]:
        """A clip [T, C, H, W] of sample `index` for each draw; of another video of its class where it is broken."""
        number, segment = divmod(index, self.clips_per_video)
        for other in self._and_its_class(number):
            if other in self._broken:
                continue
            video = self._videos[other]
            try:
                choose = spread if self._sampling is FrameSampling.segments else in_a_row
                length, num = len(video.grid), self.spec.frames
                places = [choose(draw, segment, self.clips_per_video, length, num) for draw in draws]
                clips = self._store.clips(video, places)
            except Unreadable as error:
                self._broken.add(other)
                log.warning(
                    "data.path: %s was readable when training began and is not now (%s); clips of the next good video "
                    "take the place of its own from here on, counted in the run's record",
                    video.entry.path,
                    error,
                )
                continue
            if other != number:
                with self._replaced.get_lock():
                    self._replaced[number] += len(draws)
            return clips
        raise ValueError(
            f"data.path: {self._videos[number].entry.path} and every other video of its class can no longer be read; "
            "restore them and start again: the run goes on at its checkpoint"
        )

    def _and_its_class(self, number: int) -> Iterator[int]:
        """`number` and the later videos of its class, then the earlier ones."""
        yield number  # nearly always the only one asked for
        same = (self._labels == self._labels[number]).nonzero().flatten().tolist()
        place = same.index(number)
        yield from same[place + 1 :] + same[:place]


def start_of(draw: float, segment: int, num_segments: int, length: int, num_frames: int) -> int:
    """Where in a video of `length` frames a clip of `num_frames` starts, for a `draw` in [0, 1).

    The video is cut into equal segments and a clip lies within its own. Where a segment is shorter than a clip, the
    clips overlap and their starts are equally spaced over the video. As in V-JEPA's released loader.
    """
    low, high = segment * length // num_segments, (segment + 1) * length // num_segments - num_frames
    if high < low:
        low = high = round(segment * (length - num_frames) / max(num_segments - 1, 1))
    return low + min(int(draw * (high - low + 1)), high - low)


def in_a_row(draw: float, segment: int, num_segments: int, length: int, num_frames: int) -> np.ndarray:
    """Places of a clip's frames in a video of `length`; the last one again and again where it has fewer."""
    start = start_of(draw, segment, num_segments, length, min(num_frames, length))
    return np.minimum(np.arange(start, start + num_frames), length - 1)


def spread(draw: float, segment: int, num_segments: int, length: int, num_frames: int) -> np.ndarray:
    """Places of a clip's frames, one of each of `num_frames` equal parts of its segment of a video of `length`.

    A draw of 0.5, that of every evaluation, takes the middle of each; another one says where in each it is drawn.
    """
    edges = np.linspace(segment * length / num_segments, (segment + 1) * length / num_segments, num_frames + 1)
    inside = np.full(num_frames, 0.5) if draw == 0.5 else np.random.default_rng(int(draw * 2**53)).random(num_frames)
    places = np.floor(edges[:-1] + inside * np.diff(edges)).astype(np.int64)
    return np.minimum(places, length - 1)


# ---- probing and decoding ------------------------------------------------------------------------------------------


def probe_all(paths: Sequence[Path], reader: Reader, folder: Path) -> list[tuple[str, Facts] | str]:
    """Fingerprint and facts of each video, or why it cannot be read; good ones are remembered in `folder`."""
    # "2": how a file is read became a part of what is remembered.
    index = JsonCache(folder / f"index-2-{reader.probing}-{VERSION}.json")
    known = index.read()

    def probe(path: Path) -> tuple[str, str, Facts] | str:
        try:
            fingerprint = reader.fingerprint(path)
            key = cache_key([str(path.resolve()), fingerprint])
            if key in known:
                frames, fps, height, width, how = known[key]
                return key, fingerprint, Facts(int(frames), float(fps), int(height), int(width), str(how))
            return key, fingerprint, reader.probe(path)
        except Unreadable as error:
            return str(error)

    with ThreadPoolExecutor(_threads()) as pool:
        found = list(pool.map(probe, paths))
    index.add({one[0]: list(one[2]) for one in found if not isinstance(one, str) and one[0] not in known})
    return [one if isinstance(one, str) else one[1:] for one in found]


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class Store:
    """Decodes videos at the size that is kept, through the cache."""

    reader: Reader
    cache: FrameCache
    size: int
    crop: float

    def clips(self, video: Video, places: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The frames at each of `places` [num] on the video's grid: [num, 3, size, size] each. Raises Unreadable.

        A frame that several clips share is decoded once.
        """
        if video.is_cached:
            frames = self._cached(video)
            return [frames[chosen] for chosen in places]
        needed = np.unique(np.concatenate(places))  # ascending
        frames = np.concatenate(list(self._decode(video, video.grid[needed])))
        return [frames[np.searchsorted(needed, chosen)] for chosen in places]

    def fill(self, videos: Sequence[Video], left_out: dict[str, str]) -> list[Video]:
        """Have every video in the cache; those that cannot be decoded go to `left_out`. Returns the others."""
        if num_missing := sum(not self.cache.path(video.key).exists() for video in videos):
            log.info("decoding %d videos into %s, once", num_missing, self.cache.folder)

        def reason(video: Video) -> str | None:
            try:
                self._cached(video)
            except Unreadable as error:
                return str(error)
            return None

        with ThreadPoolExecutor(_threads()) as pool:
            reasons = list(pool.map(reason, videos))
        left_out |= {str(v.entry.path): why for v, why in zip(videos, reasons, strict=True) if why is not None}
        return [video for video, why in zip(videos, reasons, strict=True) if why is None]

    def _cached(self, video: Video) -> np.ndarray:
        return self.cache.get(video.key, len(video.grid), self.size, lambda: self._decode(video, video.grid))

    def _decode(self, video: Video, numbers: np.ndarray) -> Iterator[np.ndarray]:
        return self.reader.read(video.entry.path, video.facts, numbers.tolist(), self.size, self.crop)
