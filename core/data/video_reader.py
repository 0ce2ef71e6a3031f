"""Frames of a video file or of a folder of frame images: probing, and decoding at the size that is kept."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from core.data import pictures
from core.data.containers import missing_part

SUFFIXES = (
    *(".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg"),
    *(".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
_CHUNK = 64  # frames decoded at a time: what is held of a long video


class Facts(NamedTuple):
    """What an opened video says of itself. Width and height are as it is shown, that is, after its rotation."""

    frames: int
    fps: float  # on average; 0 where there is no such thing (a folder of images)
    height: int
    width: int


class Unreadable(Exception):
    """A file that gives no (more) frames; the message is the reason, without the file's name."""


class Reader(Protocol):
    """A way to read one kind of video. Nothing stays open between calls, so threads and forks may share it."""

    name: str

    def fingerprint(self, path: Path) -> str:
        """Changes whenever the content does (sizes and times of files). Raises Unreadable."""
        ...

    def probe(self, path: Path) -> Facts:
        """Open the video and decode its first frame. Raises Unreadable."""
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


class _Files:
    """What readers of video files share."""

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


class DecordReader(_Files):
    """decord, with one decoding thread and the size changed by its decoder (bicubic, as wide as the shrinkage).

    decord turns frames as the file's rotation says. Damage inside a stream that its decoder conceals goes unnoticed.
    """

    name = "decord"

    def probe(self, path: Path) -> Facts:
        self.check(path)
        with _reasons():
            video = _decord(path)
            height, width = video.next().shape[:2]
            return Facts(len(video), float(video.get_avg_fps()), height, width)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        self.check(path)
        height, width = short_side(facts, size, crop)
        with _reasons():
            video, factor = _sized(path, height, width)
            for start in range(0, len(numbers), _CHUNK):
                frames = video.get_batch(numbers[start : start + _CHUNK]).asnumpy()
                if factor > 1:
                    blocks = frames.reshape(len(frames), height, factor, width, factor, 3)
                    frames = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
                yield middle(frames, size)


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


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """What a decoder raises, as Unreadable with one short line."""
    try:
        yield
    # decord's DECORDError is a plain Exception; it and torchcodec also raise RuntimeError, StopIteration at an
    # unexpected end, AssertionError (no frames) and IndexError. Nothing is hidden: the file is named with the reason.
    except (RuntimeError, StopIteration, AssertionError, IndexError, OSError) as error:
        raise Unreadable(_first_line(error)) from error
    except Exception as error:
        if type(error).__name__ not in ("DECORDError", "DECORDLimitReachedError"):
            raise
        raise Unreadable(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    """The message without the decoder's time stamp, source file and stack."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if text.startswith("Error reading") or "Could not open input file" in text:
        return "no decoder recognises it as a video"
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |\w+, \S+:\d+, ", "", text)
    is_sound = "cannot find video stream" in text or "best video stream is unknown" in text
    return "it has no video stream" if is_sound else text


class TorchcodecReader(_Files):
    """torchcodec, which is not among the required packages; resized after decoding, antialiased.

    Its frames are decord's but for the resizing (0.7 to 1.4 of 255 on average), in twice decord's time, which resizes
    with its decoder. Rates are measured, and not those that the file states: 29.996 frames a second for 30.

    Raises ValueError where torchcodec is not installed, or has no FFmpeg to load.
    """

    name = "torchcodec"

    def __init__(self) -> None:
        if importlib.util.find_spec("torchcodec") is None:
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
        with _reasons():
            video = _torchcodec(path)
            height, width = video[0].shape[-2:]
            return Facts(len(video), float(video.metadata.average_fps), height, width)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        self.check(path)
        with _reasons():
            video = _torchcodec(path)
            for start in range(0, len(numbers), _CHUNK):
                frames = video.get_frames_at(list(numbers[start : start + _CHUNK])).data
                small = F.interpolate(
                    frames.float(), size=short_side(facts, size, crop), mode="bilinear", antialias=True
                )
                yield middle(small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy(), size)


def _torchcodec(path: Path) -> Any:
    from torchcodec.decoders import VideoDecoder  # an optional extra

    try:
        return VideoDecoder(str(path), num_ffmpeg_threads=1)
    except ValueError as error:  # its word for what a file does not have or state
        raise Unreadable(_first_line(error)) from error


class FrameFolderReader:
    """A folder of frame images; their order is that of their names, with numbers compared as numbers."""

    name = "frames-2"  # part of the cache's keys; the number goes up when the same files would give other pixels

    def files(self, path: Path) -> list[Path]:
        try:
            return sorted(
                (
                    file
                    for file in path.iterdir()
                    if file.suffix.lower() in pictures.SUFFIXES and not file.name.startswith(".")
                ),
                key=lambda file: natural(file.name),
            )
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error

    def fingerprint(self, path: Path) -> str:
        stats = [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in self.files(path)]
        if empty := [name for name, size, _ in stats if size == 0]:
            raise Unreadable(f"frame {empty[0]} is empty")
        return repr(stats)

    def probe(self, path: Path) -> Facts:
        files = self.files(path)
        if not files:
            raise Unreadable("it holds no images")
        if isinstance(reason := pictures.read_or_reason(files[0], 8, 1.0), str):
            raise Unreadable(f"frame {files[0].name}: {reason}")
        with Image.open(files[0]) as image:
            width, height = pictures.to_rgb(image).size
        return Facts(len(files), 0.0, height, width)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        files = self.files(path)
        for start in range(0, len(numbers), _CHUNK):
            decoded = []
            for number in numbers[start : start + _CHUNK]:
                if number >= len(files):
                    raise Unreadable(f"{len(files)} frames are left of {facts.frames}")
                if isinstance(picture := pictures.read_or_reason(files[number], size, crop), str):
                    raise Unreadable(f"frame {files[number].name}: {picture}")
                decoded.append(picture)
            yield np.stack(decoded)


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key by which frame9 comes before frame10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]
