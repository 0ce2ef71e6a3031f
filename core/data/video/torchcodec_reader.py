"""Frames of a video file by torchcodec."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.arrays import resized
from core.data.video.video_reader import (
    CHUNK,
    IN_ORDER,
    Facts,
    Files,
    Unreadable,
    first_line,
    middle,
    pieces,
    reasons,
    short_side,
)


def has_torchcodec() -> bool:
    return importlib.util.find_spec("torchcodec") is not None


@functools.cache
def torchcodec_or_none() -> TorchcodecReader | None:
    """The other reader, where it is installed and finds FFmpeg."""
    try:
        return TorchcodecReader()
    except ValueError:
        return None


class TorchcodecReader(Files):
    """torchcodec, which is not among the required packages; resized after decoding, antialiased.

    Its frames are decord's but for the resizing (0.7 to 1.4 of 255 on average), in twice decord's time, which resizes
    with its decoder. Rates are measured, and not those that the file states: 29.996 frames a second for 30.

    Raises ValueError where torchcodec is not installed, or has no FFmpeg to load.
    """

    name = "torchcodec"

    def __init__(self) -> None:
        if not has_torchcodec():
            raise ValueError(
                "data.reader=torchcodec: torchcodec is not installed; install the version that belongs to your torch, "
                "or use data.reader=decord"
            )
        try:
            import torchcodec  # an optional extra

            # 0.17 without FFmpeg says so here and fails at every file; older versions raise when they are imported.
            is_loaded = getattr(torchcodec, "ffmpeg_major_version", "not told") is not None
        except (RuntimeError, OSError, ImportError):
            is_loaded = False
        if not is_loaded:
            raise ValueError(
                "data.reader=torchcodec: torchcodec is installed but cannot load FFmpeg's shared libraries, or belongs "
                "to another version of torch; install what it lacks (apt install ffmpeg), or use data.reader=decord"
            )

    def probe(self, path: Path) -> Facts:
        self.check(path)
        with reasons():
            video = _torchcodec(path)
            height, width = video[0].shape[-2:]
            length, fps = len(video), float(video.metadata.average_fps)
            how = "" if _seeks(video) else IN_ORDER
            if how and not _seeks(_torchcodec(path), every=CHUNK):
                raise Unreadable("torchcodec cannot number its frames; try data.reader=decord, or encode it anew")
            return Facts(length, fps, height, width, how)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        self.check(path)
        with reasons():
            video = _torchcodec(path)
            shape = short_side(facts, size, crop)

            def fetch(some: list[int]) -> np.ndarray:
                frames = video.get_frames_at(some).data
                return resized(frames, shape).permute(0, 2, 3, 1).numpy()

            for frames in pieces(fetch, numbers, is_in_order=facts.how.endswith(IN_ORDER)):
                yield middle(frames, size)


def _torchcodec(path: Path) -> Any:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # an optional extra

    try:
        return VideoDecoder(str(path), num_ffmpeg_threads=1)
    except ValueError as error:  # its word for what a file does not have or state
        raise Unreadable(first_line(error)) from error


def _seeks(video: Any, every: int | None = None) -> bool:
    """Whether torchcodec gives the middle and the last frame, or all in order, `every` so many at a time.

    It never gave another frame than asked for; where it cannot find one it says that no more are left.
    """
    length = len(video)
    parts: list[range] = [range(number, number + 1) for number in (length // 2, length - 1)]
    if every is not None:
        parts = [range(start, min(start + every, length)) for start in range(0, length, every)]
    try:
        for part in parts:
            video.get_frames_at(list(part))
    except RuntimeError:
        return False
    return True
