"""Frames of a video file by decord."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core.data.video.containers import codec, shows_frames_before_a_key_frame
from core.data.video.torchcodec_reader import TorchcodecReader, has_torchcodec, torchcodec_or_none
from core.data.video.video_reader import (
    IN_ORDER,
    NO_STREAM,
    Facts,
    Files,
    Unreadable,
    middle,
    pieces,
    reasons,
    short_side,
)

_CODECS = {"av01": "AV1", "V_AV1": "AV1", "vvc1": "VVC", "vvi1": "VVC", "V_MPEGI/ISO/VVC": "VVC"}


class DecordReader(Files):
    """decord, with one decoding thread and the size changed by its decoder (bicubic, as wide as the shrinkage).

    decord turns frames as the file's rotation says. Damage inside a stream that its decoder conceals goes unnoticed.

    It seeks by the numbers of key frames as they are stored, and lands beside the frame asked for where the container
    hides frames (an edit list: a file cut without encoding it anew), states no time of showing (B-frames in AVI and
    MPEG) or shows a frame before the key frame that it follows. Such files are decoded from the first frame on.

    A file that it cannot open is read by torchcodec, where that is installed.
    """

    name = "decord"

    @property
    def probing(self) -> str:
        return f"{self.name}-torchcodec" if has_torchcodec() else self.name

    def probe(self, path: Path) -> Facts:
        self.check(path)
        try:
            with reasons():
                video = _decord(path)
        except Unreadable as error:
            other = torchcodec_or_none()
            if other is None:
                raise Unreadable(_needs_torchcodec(path, str(error)) or str(error)) from error
            try:
                facts = other.probe(path)
            except Unreadable:
                raise error from None
            return facts._replace(how=f"torchcodec {facts.how}".strip())
        with reasons():
            height, width = video.next().shape[:2]
            fps, length = float(video.get_avg_fps()), len(video)
            starts = video.get_frame_timestamp(range(length))[:, 0]  # seconds
            is_numbered = starts[0] >= 0 and bool((np.diff(starts) > 0).all())
            if not is_numbered:
                length = _count(path, at_least=len(np.unique(starts[starts >= 0])))
            is_in_order = not is_numbered or shows_frames_before_a_key_frame(path)
            return Facts(length, fps, height, width, IN_ORDER if is_in_order else "")

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        if facts.how.startswith("torchcodec"):
            yield from TorchcodecReader().read(path, facts, numbers, size, crop)
            return
        self.check(path)
        height, width = short_side(facts, size, crop)
        with reasons():
            video, factor = _sized(path, height, width)
            if is_in_order := facts.how == IN_ORDER:
                video = _decord(path, factor * height, factor * width)  # which has given no frame yet

            def fetch(some: list[int]) -> np.ndarray:
                frames: np.ndarray = video.get_batch(some).asnumpy()
                if factor > 1:
                    blocks = frames.reshape(len(frames), height, factor, width, factor, 3)
                    frames = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
                return frames

            for frames in pieces(fetch, numbers, is_in_order=is_in_order):
                yield middle(frames, size)


def _count(path: Path, at_least: int) -> int:
    """How many frames there are, decoded from the first one on. Raises Unreadable where the file breaks off."""
    video = _decord(path, 32, 32)
    for number in range(len(video)):
        try:
            video.get_batch([number])
        except Exception as error:  # DECORDError, a plain Exception
            if type(error).__name__ != "DECORDLimitReachedError":
                raise
            if number < at_least:
                raise Unreadable(f"it breaks off after {number} of {at_least} frames") from error
            return number
    return len(video)


def _needs_torchcodec(path: Path, reason: str) -> str | None:
    """Why decord cannot open what torchcodec may."""
    if reason == NO_STREAM and (name := codec(path)):
        return f"needs data.reader=torchcodec: decord's build has no {_CODECS.get(name, name)} decoder"
    if "Failed to measure duration" in reason:
        return "needs data.reader=torchcodec: decord cannot tell how long such a file is"
    return None


def _decord(path: Path, height: int = -1, width: int = -1) -> Any:
    try:
        # Half a second and a large library that only those who read videos should wait for; not there on arm64.
        import decord
    except ImportError as error:
        raise ValueError(
            "data.reader=decord: decord is not installed (it has no wheel for some machines); install torchcodec and "
            "set data.reader=torchcodec"
        ) from error
    decord.logging.set_level(decord.logging.QUIET)  # of FFmpeg's remarks on bad files: we name those ourselves
    # A frame that cannot be decoded would be given as a copy of its neighbour; with a bound of none at all it raises.
    return decord.VideoReader(str(path), num_threads=1, height=height, width=width, fault_tol=1e-6)


def _sized(path: Path, height: int, width: int) -> tuple[Any, int]:
    """A decord reader whose frames are a whole multiple of this size, and the multiple.

    decord 0.6 mistakes the padding of rows for a fourth channel at a few narrow widths (8, 12, 16, 24, 48 and 72 px
    here; it depends on the processor), so there a multiple is decoded and averaged.
    """
    for factor in (1, 2, 4, 8, 16):
        video = _decord(path, factor * height, factor * width)
        if width > 256 or video.next().shape == (factor * height, factor * width, 3):
            return video, factor
    raise AssertionError(f"decord gives no frame of {height} x {width} px")
