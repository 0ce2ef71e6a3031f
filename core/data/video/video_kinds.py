"""Which files are videos by their names: those of the containers that one of the readers opens, installed or not.

So a folder has the same videos, splits and fingerprint on every machine. What the installed readers cannot open is left
out by name when it is read. What a reader opens depends on how it was built and on the FFmpeg that it finds, so each
container has a sample in `samples`, some grey frames written by FFmpeg, that tells it from a file that is damaged.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from core.data.video.decord_reader import DecordReader
from core.data.video.torchcodec_reader import torchcodec_or_none
from core.data.video.video_reader import Reader, Unreadable

_SAMPLES = Path(__file__).parents[1] / "samples"
# Names of files, and of the container's sample. A fixed list: another one would change the fingerprints of sets.
_SAME = {
    **{f".{kind}": f".{kind}" for kind in ("3gp", "asf", "avi", "flv", "gif", "mjpeg", "mkv", "mp4", "mpg")},
    **{f".{kind}": f".{kind}" for kind in ("nut", "ogv", "webm", "y4m")},
    **{".wmv": ".asf", ".mjpg": ".mjpeg", ".m4v": ".mp4", ".mov": ".mp4", ".mpeg": ".mpg", ".vob": ".mpg"},
}
SUFFIXES = tuple(sorted(_SAME))
_STREAMS = (".m2ts", ".mts", ".ts")  # no reader numbers their frames: taken, to be left out with what to do


def is_video(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in (*SUFFIXES, *_STREAMS)


def why_not(path: Path) -> str:
    """Why `is_video` does not hold."""
    return f"not a video by its name ({path.suffix or 'no suffix'})"


def why_unreadable(path: Path, reason: str) -> str:
    """`reason`, a reader's, or what has to be installed where no file of that kind can be opened here."""
    suffix = path.suffix.lower()
    if suffix not in _SAME or opens(_SAME[suffix]):
        return reason
    return (
        f"needs data.reader=torchcodec: decord does not open {suffix} files; install torchcodec in the version that "
        "belongs to your torch, and FFmpeg's libraries"
    )


@functools.cache
def opens(kind: str) -> bool:
    """Whether an installed reader opens the sample of this suffix."""
    reader: Reader | None = DecordReader() if importlib.util.find_spec("decord") else torchcodec_or_none()
    if reader is None:  # the reader that is missing is named where it is asked for
        return True
    try:
        reader.probe(_SAMPLES / f"sample{kind}")
    except Unreadable:
        return False
    return True
