"""Which files are videos by their names: those whose container an installed reader opens, found by opening one of each.

What a reader opens depends on how it was built and on the FFmpeg that it finds. So each container has a sample in
`samples`, some grey frames written by FFmpeg. Only the suffixes that a folder has are tried: decord loads in half a
second, and torchcodec, which is asked for what decord cannot open, in some more.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from core.data.video_reader import DecordReader, Reader, Unreadable, torchcodec_or_none

_SAMPLES = Path(__file__).parent / "samples"
# Other names of a container.
_SAME = {
    **{".wmv": ".asf", ".mjpg": ".mjpeg", ".m4v": ".mp4", ".mov": ".mp4", ".mpeg": ".mpg", ".vob": ".mpg"},
    **{path.suffix: path.suffix for path in _SAMPLES.iterdir()},
}
_STREAMS = (".m2ts", ".mts", ".ts")  # no reader numbers their frames: taken, to be left out with what to do


def suffixes() -> tuple[str, ...]:
    """Lower-case suffixes of the videos that can be read here."""
    return tuple(suffix for suffix in sorted(_SAME) if _opens(_SAME[suffix]))


def is_video(path: Path) -> bool:
    """By its name, and by what is installed."""
    suffix = path.suffix.lower()
    return suffix in _STREAMS or (suffix in _SAME and _opens(_SAME[suffix]))


def why_not(path: Path) -> str:
    """Why `is_video` does not hold."""
    suffix = path.suffix.lower()
    if suffix in _SAME:
        return f"needs data.reader=torchcodec: decord does not open {suffix} files"
    return f"not a video by its name ({path.suffix or 'no suffix'})"


@functools.cache
def _opens(kind: str) -> bool:
    reader: Reader | None = DecordReader() if importlib.util.find_spec("decord") else torchcodec_or_none()
    if reader is None:  # all are videos: the reader that is missing is named where it is asked for
        return True
    try:
        reader.probe(_SAMPLES / f"sample{kind}")
    except Unreadable:
        return False
    return True
