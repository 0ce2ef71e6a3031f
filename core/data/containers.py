"""Whether a video file is whole, from the sizes that its container states: no frame is decoded.

A decoder opens most truncated files and plays what is there, so a file whose end is missing would pass as a shorter
video. MP4 and QuickTime, Matroska and WebM, and AVI state how long they are; of others nothing can be said here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"uuid")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_part(path: Path) -> str | None:
    """Why the file cannot be whole, or None when it is, or when its container does not say. Raises OSError."""
    length = path.stat().st_size
    if length == 0:
        return "the file is empty"
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _MP4_BOXES:
            return _mp4(file, length)
        if head[:4] == b"RIFF":
            return _riff(file, length)
        if head[:4] == _EBML:
            return _matroska(file, length)
    return None


def _truncated(length: int, stated: int) -> str:
    return f"truncated: {length:,} of {stated:,} bytes"


def _mp4(file: BinaryIO, length: int) -> str | None:
    names = set()
    for name, end in _boxes(file, length):
        # What follows the video may be anything (some cameras append their own data): only these must be whole.
        if end > length and name in (b"moov", b"mdat", b"moof"):
            return _truncated(length, end)
        names.add(name)
    return None if b"moov" in names else "truncated: the index (moov) is missing"


def _boxes(file: BinaryIO, length: int) -> Iterator[tuple[bytes, int]]:
    """Type and end of each top-level box of an MP4 file. ISO/IEC 14496-12, section 4.2."""
    start = 0
    while start + 8 <= length:
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # the size is in the eight bytes after the type
            size = int.from_bytes(head[8:16], "big")
        elif size == 0:  # to the end of the file
            size = length - start
        if size < 8:
            return
        yield head[4:8], start + size
        start += size


def _riff(file: BinaryIO, length: int) -> str | None:
    """AVI; one above 1 GiB is several RIFF chunks (OpenDML)."""
    start = 0
    while start + 8 <= length:
        file.seek(start)
        head = file.read(8)
        if head[:4] != b"RIFF":
            return None
        # 0 and 2**32 - 1: written before the length was known, by a recorder that never came back to it.
        if (size := int.from_bytes(head[4:8], "little")) in (0, 2**32 - 1):
            return None
        if start + 8 + size > length:
            return _truncated(length, start + 8 + size)
        start += 8 + size + size % 2
    return None


def _matroska(file: BinaryIO, length: int) -> str | None:
    """An EBML header and one Segment element. RFC 8794, section 4 (sizes) and RFC 9559 (Matroska)."""
    file.seek(4)
    header, width = _ebml_size(file.read(8))
    if header is None:
        return None
    start = 4 + width + header
    file.seek(start)
    head = file.read(12)
    if len(head) < 12:
        return _truncated(length, start + 12)
    if head[:4] != _SEGMENT:
        return None
    segment, width = _ebml_size(head[4:])
    if segment is None:  # unknown while it was written: a live recording
        return None
    end = start + 4 + width + segment
    return _truncated(length, end) if end > length else None


def _ebml_size(head: bytes) -> tuple[int | None, int]:
    """The number at the start of `head` and how many bytes it takes; None for "unknown" (all ones) or no number."""
    if not head or head[0] == 0:
        return None, 1
    width = 9 - head[0].bit_length()
    value = int.from_bytes(head[:width], "big") & (2 ** (7 * width) - 1)
    return (None if value == 2 ** (7 * width) - 1 else value), width
