"""What reading a video is, probing and decoding at the size that is kept, and what the readers of files share."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from core.data.video.containers import missing_part

CHUNK = 64  # frames decoded at a time: what is held of a long video
IN_ORDER = "in order"


class Facts(NamedTuple):
    """What an opened video says of itself. Width and height are as it is shown, that is, after its rotation."""

    frames: int
    fps: float  # on average; 0 where there is no such thing (a folder of images)
    height: int
    width: int
    how: str = ""  # if not as usual: "in order" (by no seeking) or "torchcodec"; then a part of the frames' key


class Unreadable(Exception):
    """A file that gives no (more) frames; the message is the reason, without the file's name."""


class Reader(Protocol):
    """A way to read one kind of video. Nothing stays open between calls, so threads and forks may share it."""

    name: str

    @property
    def probing(self) -> str:
        """Names what its probes depend on: they are remembered under it."""
        ...

    def fingerprint(self, path: Path) -> str:
        """Changes whenever the content does (sizes and times of files). Raises Unreadable."""
        ...

    def probe(self, path: Path) -> Facts:
        """Open the video, decode its first frame and find how its frames are numbered. Raises Unreadable."""
        ...

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        """The frames at `numbers` (ascending), in pieces [n, 3, size, size] uint8 RGB. Raises Unreadable.

        The shorter side is resized to `size` / `crop`, as a picture is (`pictures.squared`), and the middle is kept.
        """
        ...


def short_side(facts: Facts, size: int, crop: float) -> tuple[int, int]:
    """Height and width whose shorter one is `size` / `crop`, in the proportions of the video."""
    side = max(round(size / crop), size)
    scale = side / min(facts.height, facts.width)
    return max(round(facts.height * scale), side), max(round(facts.width * scale), side)


def middle(frames: np.ndarray, size: int) -> np.ndarray:
    """[n, H, W, 3] -> the central square, [n, 3, size, size]."""
    top, left = (frames.shape[1] - size) // 2, (frames.shape[2] - size) // 2
    return np.ascontiguousarray(frames[:, top : top + size, left : left + size].transpose(0, 3, 1, 2))


class Files:
    """What readers of video files share."""

    name: str

    @property
    def probing(self) -> str:
        return self.name

    def fingerprint(self, path: Path) -> str:
        try:
            stat = path.stat()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def check(self, path: Path) -> None:
        try:
            reason = missing_part(path)
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
        if reason is not None:
            raise Unreadable(reason)


def pieces(
    fetch: Callable[[list[int]], np.ndarray], numbers: Sequence[int], *, is_in_order: bool
) -> Iterator[np.ndarray]:
    """The frames at `numbers`, some at a time; `is_in_order` has all before the last of them decoded as well."""
    if not is_in_order:
        for start in range(0, len(numbers), CHUNK):
            yield fetch(list(numbers[start : start + CHUNK]))
        return
    length = max(numbers, default=-1) + 1
    for start in range(0, length, CHUNK):
        frames = fetch(list(range(start, min(start + CHUNK, length))))
        if chosen := [number - start for number in numbers if start <= number < start + CHUNK]:
            yield frames[chosen]


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """What a decoder raises, as Unreadable with one short line."""
    try:
        yield
    # decord's DECORDError is a plain Exception; it and torchcodec also raise RuntimeError, StopIteration at an
    # unexpected end, AssertionError (no frames) and IndexError. Nothing is hidden: the file is named with the reason.
    except (RuntimeError, StopIteration, AssertionError, IndexError, OSError) as error:
        raise Unreadable(first_line(error)) from error
    except Exception as error:
        if type(error).__name__ not in ("DECORDError", "DECORDLimitReachedError"):
            raise
        raise Unreadable(first_line(error)) from error


NO_STREAM = "it has no video stream"


def first_line(error: BaseException) -> str:
    """The message without the decoder's time stamp, source file and stack."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if text.startswith("Error reading") or "Could not open input file" in text:
        return "no decoder recognises it as a video"
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |\w+, \S+:\d+, ", "", text)
    is_sound = "cannot find video stream" in text or "best video stream is unknown" in text
    return NO_STREAM if is_sound else text
