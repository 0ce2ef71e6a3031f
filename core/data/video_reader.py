"""Frames of a video file or of a folder of frame images: probing, and decoding at the size that is kept."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from core.data import pictures
from core.data.containers import codec, missing_part, shows_frames_before_a_key_frame

_CHUNK = 64  # frames decoded at a time: what is held of a long video
IN_ORDER = "in order"
_CODECS = {"av01": "AV1", "V_AV1": "AV1", "vvc1": "VVC", "vvi1": "VVC", "V_MPEGI/ISO/VVC": "VVC"}


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


class _Files:
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


def _pieces(
    fetch: Callable[[list[int]], np.ndarray], numbers: Sequence[int], *, is_in_order: bool
) -> Iterator[np.ndarray]:
    """The frames at `numbers`, some at a time; `is_in_order` has all before the last of them decoded as well."""
    if not is_in_order:
        for start in range(0, len(numbers), _CHUNK):
            yield fetch(list(numbers[start : start + _CHUNK]))
        return
    length = max(numbers, default=-1) + 1
    for start in range(0, length, _CHUNK):
        frames = fetch(list(range(start, min(start + _CHUNK, length))))
        if chosen := [number - start for number in numbers if start <= number < start + _CHUNK]:
            yield frames[chosen]


class DecordReader(_Files):
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
        return f"{self.name}-torchcodec" if _has_torchcodec() else self.name

    def probe(self, path: Path) -> Facts:
        self.check(path)
        try:
            with _reasons():
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
        with _reasons():
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
        with _reasons():
            video, factor = _sized(path, height, width)
            if is_in_order := facts.how == IN_ORDER:
                video = _decord(path, factor * height, factor * width)  # which has given no frame yet

            def fetch(some: list[int]) -> np.ndarray:
                frames: np.ndarray = video.get_batch(some).asnumpy()
                if factor > 1:
                    blocks = frames.reshape(len(frames), height, factor, width, factor, 3)
                    frames = blocks.mean(axis=(2, 4)).round().astype(np.uint8)
                return frames

            for frames in _pieces(fetch, numbers, is_in_order=is_in_order):
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
    if reason == _NO_STREAM and (name := codec(path)):
        return f"needs data.reader=torchcodec: decord's build has no {_CODECS.get(name, name)} decoder"
    if "Failed to measure duration" in reason:
        return "needs data.reader=torchcodec: decord cannot tell how long such a file is"
    return None


def _has_torchcodec() -> bool:
    return importlib.util.find_spec("torchcodec") is not None


@functools.cache
def torchcodec_or_none() -> TorchcodecReader | None:
    """The other reader, where it is installed and finds FFmpeg."""
    try:
        return TorchcodecReader()
    except ValueError:
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


_NO_STREAM = "it has no video stream"


def _first_line(error: BaseException) -> str:
    """The message without the decoder's time stamp, source file and stack."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if text.startswith("Error reading") or "Could not open input file" in text:
        return "no decoder recognises it as a video"
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+:\d+: |\w+, \S+:\d+, ", "", text)
    is_sound = "cannot find video stream" in text or "best video stream is unknown" in text
    return _NO_STREAM if is_sound else text


class TorchcodecReader(_Files):
    """torchcodec, which is not among the required packages; resized after decoding, antialiased.

    Its frames are decord's but for the resizing (0.7 to 1.4 of 255 on average), in twice decord's time, which resizes
    with its decoder. Rates are measured, and not those that the file states: 29.996 frames a second for 30.

    Raises ValueError where torchcodec is not installed, or has no FFmpeg to load.
    """

    name = "torchcodec"

    def __init__(self) -> None:
        if not _has_torchcodec():
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
            length, fps = len(video), float(video.metadata.average_fps)
            how = "" if _seeks(video) else IN_ORDER
            if how and not _seeks(_torchcodec(path), every=_CHUNK):
                raise Unreadable("torchcodec cannot number its frames; try data.reader=decord, or encode it anew")
            return Facts(length, fps, height, width, how)

    def read(self, path: Path, facts: Facts, numbers: Sequence[int], size: int, crop: float) -> Iterator[np.ndarray]:
        self.check(path)
        with _reasons():
            video = _torchcodec(path)
            shape = short_side(facts, size, crop)

            def fetch(some: list[int]) -> np.ndarray:
                frames = video.get_frames_at(some).data
                small = F.interpolate(frames.float(), size=shape, mode="bilinear", antialias=True)
                return small.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()

            for frames in _pieces(fetch, numbers, is_in_order=facts.how.endswith(IN_ORDER)):
                yield middle(frames, size)


def _torchcodec(path: Path) -> Any:
    from torchcodec.decoders import VideoDecoder  # type: ignore[attr-defined]  # an optional extra

    try:
        return VideoDecoder(str(path), num_ffmpeg_threads=1)
    except ValueError as error:  # its word for what a file does not have or state
        raise Unreadable(_first_line(error)) from error


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


class FrameFolderReader:
    """A folder of frame images; their order is that of their names, with numbers compared as numbers."""

    name = "frames-2"  # part of the cache's keys; the number goes up when the same files would give other pixels
    probing = name

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
