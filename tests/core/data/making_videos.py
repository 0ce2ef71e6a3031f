"""Tiny videos without an encoder: JPEG frames in an AVI or a QuickTime file, written byte by byte.

AVI: Microsoft's AVI RIFF reference. QuickTime: ISO/IEC 14496-12 and Apple's "jpeg" sample description.
"""

import io
import struct
import wave
from pathlib import Path

import numpy as np
from PIL import Image


def ramp(num_frames: int, height: int = 48, width: int = 64) -> np.ndarray:
    """[T, H, W, 3] uint8: red is the frame's number times 4, green grows to the right, blue downwards."""
    row, column = np.mgrid[:height, :width]
    green, blue = column * 255 // (width - 1), row * 255 // (height - 1)
    red = [np.full((height, width), 4 * number) for number in range(num_frames)]
    return np.stack([np.stack([one, green, blue], axis=-1) for one in red]).astype(np.uint8)


def write_video(path: Path, frames: np.ndarray, *, fps: int = 10, rotation: int = 0) -> Path:
    """AVI for a path ending in .avi, else QuickTime, where `rotation` is the clockwise angle stated for showing it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [_jpeg(frame) for frame in frames]
    height, width = frames.shape[1:3]
    if path.suffix == ".avi":
        assert rotation == 0
        path.write_bytes(_avi(pictures, height, width, fps))
    else:
        path.write_bytes(_quicktime(pictures, height, width, fps, rotation))
    return path


def write_sound(path: Path) -> Path:
    """Half a second of silence as a WAV file, whatever its name."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return path


def _jpeg(frame: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "JPEG", quality=95, subsampling=0)
    return content.getvalue()


# ---- AVI ---------------------------------------------------------------------------------------------------------


def _chunk(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _avi(pictures: list[bytes], height: int, width: int, fps: int) -> bytes:
    num, whole = len(pictures), 3 * height * width
    main = struct.pack("<14I", 10**6 // fps, 0, 0, 0x10, num, 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = b"vidsMJPG" + struct.pack("<IHH8I4h", 0, 0, 0, 0, 1, fps, 0, num, 0, 2**32 - 1, 0, 0, 0, width, height)
    bitmap = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", whole, 0, 0, 0, 0)
    streams = _chunk(b"LIST", b"strl", _chunk(b"strh", stream), _chunk(b"strf", bitmap))
    chunks = [_chunk(b"00dc", picture) for picture in pictures]
    starts = np.cumsum([4, *map(len, chunks)])
    index = [
        b"00dc" + struct.pack("<III", 0x10, start, len(picture))
        for start, picture in zip(starts, pictures, strict=False)
    ]
    return _chunk(
        b"RIFF",
        b"AVI ",
        _chunk(b"LIST", b"hdrl", _chunk(b"avih", main), streams),
        _chunk(b"LIST", b"movi", *chunks),
        _chunk(b"idx1", *index),
    )


# ---- QuickTime ---------------------------------------------------------------------------------------------------

_TURNS = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def _box(name: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + name + body


def _matrix(rotation: int) -> bytes:
    a, b, c, d = _TURNS[rotation]
    return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)


def _quicktime(pictures: list[bytes], height: int, width: int, fps: int, rotation: int) -> bytes:
    """The index (moov) comes last, as recorders write it."""
    num, kind = len(pictures), _box(b"ftyp", b"qt  ", bytes(4), b"qt  ")
    starts = len(kind) + 8 + np.cumsum([0, *map(len, pictures[:-1])])
    size = struct.pack(">HHIIIH", width, height, 72 << 16, 72 << 16, 0, 1)
    entry = _box(b"jpeg", bytes(7), b"\1", bytes(16), size, bytes(32), struct.pack(">Hh", 24, -1))
    table = _box(
        b"stbl",
        _box(b"stsd", struct.pack(">II", 0, 1), entry),
        _box(b"stts", struct.pack(">4I", 0, 1, num, 1)),
        _box(b"stsc", struct.pack(">5I", 0, 1, 1, 1, 1)),
        _box(b"stsz", struct.pack(f">{3 + num}I", 0, 0, num, *map(len, pictures))),
        _box(b"stco", struct.pack(f">{2 + num}I", 0, num, *starts)),
    )
    here = _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), _box(b"url ", struct.pack(">I", 1))))
    media = _box(
        b"mdia",
        _box(b"mdhd", struct.pack(">5IHH", 0, 0, 0, fps, num, 0, 0)),
        _box(b"hdlr", bytes(4), b"mhlrvide", bytes(13)),
        _box(b"minf", _box(b"vmhd", struct.pack(">I4H", 1, 0, 0, 0, 0)), here, table),
    )
    shown = struct.pack(">8I4H", 7, 0, 0, 1, 0, num, 0, 0, 0, 0, 0, 0)
    track = _box(b"trak", _box(b"tkhd", shown, _matrix(rotation), struct.pack(">II", width << 16, height << 16)), media)
    movie = struct.pack(">6IH", 0, 0, 0, fps, num, 1 << 16, 0x100) + bytes(10) + _matrix(0) + bytes(24)
    head = _box(b"mvhd", movie, struct.pack(">I", 2))
    return kind + _box(b"mdat", *pictures) + _box(b"moov", head, track)
