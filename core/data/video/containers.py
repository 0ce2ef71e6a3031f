"""What a video's container states: whether the file is whole, its codec, and the order of frames. Nothing is decoded.

A decoder opens most truncated files and plays what is there, so a file whose end is missing would pass as a shorter
video. MP4 and QuickTime, Matroska and WebM, and AVI state how long they are; of others nothing can be said here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"pnot", b"styp", b"sidx", b"uuid")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_MATROSKA_HEAD = 2**20  # bytes: tracks are described before the first frame
_STREAM = (
    "an MPEG transport stream, whose frames no reader here can number; remux it: ffmpeg -i {name} -c copy {stem}.mp4"
)


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
        if _is_transport_stream(head + file.read(2 * 192)):
            return _STREAM.format(name=path.name, stem=path.stem)
    return None


def _is_transport_stream(head: bytes) -> bool:
    """A sync byte every 188 bytes, or every 192 after a time code (cameras, Blu-ray). ISO/IEC 13818-1, 2.4.3."""
    return any(head[start : start + 3 * size : size] == b"GGG" for start, size in ((0, 188), (4, 192)))


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
    """Type and end of each box of an MP4 file, or of what lies in one. ISO/IEC 14496-12, section 4.2."""
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


# ---- codec and order -----------------------------------------------------------------------------------------------


def codec(path: Path) -> str:
    """How MP4, QuickTime, Matroska and WebM files name the codec of their (first) video; "" for others."""
    found = _video_table(path)
    if b"stsd" in found:
        return found[b"stsd"][12:16].decode("ascii", "replace").strip()
    return next((name for name in _matroska_codecs(path) if name.startswith("V_")), "")


def shows_frames_before_a_key_frame(path: Path) -> bool:
    """Whether frames stored after a key frame may be shown before it (an open group of pictures, x265's default).

    decord counts key frames in the order they are stored, so that it lands beside the frame it seeks in such a file.
    MP4 tells; of Matroska and FLV only the codec is looked at.
    """
    found = _video_table(path)
    if b"stsd" in found:
        return _is_open(found)
    with path.open("rb") as file:
        is_flash = file.read(3) == b"FLV"
    return is_flash or any(
        name.startswith(("V_MPEG4/ISO/AVC", "V_MPEGH", "V_MPEG2")) for name in _matroska_codecs(path)
    )


def _is_open(table: dict[bytes, bytes]) -> bool:
    """From when samples are decoded (stts), how much later shown (ctts) and which are key (stss). Section 8.6."""
    if b"mvex" in table:  # in fragments, each with a table of its own
        return True
    if b"ctts" not in table or b"stss" not in table:  # shown as stored, or nothing but key frames
        return False
    decoded = np.cumsum(_runs(table[b"stts"]))
    shown = decoded + np.append(_runs(table[b"ctts"]), np.zeros(len(decoded), np.int64))[: len(decoded)]
    keys = np.frombuffer(table[b"stss"][8:], ">u4").astype(np.int64) - 1
    earliest_from = np.minimum.accumulate(shown[::-1])[::-1]
    keys = keys[keys < len(shown)]
    return bool((earliest_from[keys] < shown[keys]).any())


def _runs(table: bytes) -> np.ndarray:
    """The values of a table of (how many, value) pairs."""
    pairs = np.frombuffer(table[8 : len(table) - len(table) % 8], ">i4").reshape(-1, 2).astype(np.int64)
    return np.repeat(pairs[:, 1], pairs[:, 0])


def _video_table(path: Path) -> dict[bytes, bytes]:
    """The boxes of the sample table of an MP4's first video track, by name; nothing for other files."""
    length = path.stat().st_size
    with path.open("rb") as file:
        if file.read(8)[4:] not in _MP4_BOXES:
            return {}
        start = 0
        for name, end in _boxes(file, length):
            if name == b"moov":
                file.seek(start)
                index = file.read(end - start)[8:]
                break
            start = end
        else:
            return {}
    parts = list(_inside(index))
    for name, track in parts:
        media = dict(_inside(dict(_inside(track)).get(b"mdia", b""))) if name == b"trak" else {}
        if media.get(b"hdlr", b"")[8:12] == b"vide":
            table = dict(_inside(dict(_inside(media.get(b"minf", b""))).get(b"stbl", b"")))
            return table | {name: content for name, content in parts if name == b"mvex"}
    return {}


def _inside(box: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content of each box in a box."""
    start = 0
    for name, end in _boxes(io.BytesIO(box), len(box)):
        yield name, box[start + 8 : end]
        start = end


def _matroska_codecs(path: Path) -> list[str]:
    """What follows each CodecID element (RFC 9559, section 5.1.4.1.21) near the start of a Matroska file."""
    with path.open("rb") as file:
        head = file.read(_MATROSKA_HEAD)
    if head[:4] != _EBML:
        return []
    return [match[1].decode() for match in re.finditer(rb"\x86[\x81-\xbf]([VA]_[A-Z0-9/]+)", head)]
