"""Decoded videos on disk, one memory-mapped uint8 file each, shared by all runs of a sweep."""

from __future__ import annotations

import functools
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from core.file_lock import locked

_OPEN = 8192  # maps that one process holds; Linux allows 65,530 of all kinds
_MAGIC = b"\x93NUMPY\x01\x00"  # of a .npy file, version 1.0
_PREFIX = len(_MAGIC) + 2  # bytes before the header's text: the magic and that text's length


class FrameCache:
    """Files [frames, C, H, W] uint8 by key; a file that exists is complete.

    Whoever needs a missing file takes its lock (released by the system if the process dies), looks again, writes a
    temporary file beside it and renames it. So each video is decoded once however many processes ask at once, and a
    reader never sees half of one. Needs a file system with `flock`.

    Maps are held: a clip of a few kB is copied in 1 us, and opening its file takes 20 us.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened = functools.lru_cache(maxsize=_OPEN)(self._open)

    def __reduce__(self) -> tuple[type[FrameCache], tuple[Path]]:
        return FrameCache, (self.folder,)  # a process that is sent this one opens maps of its own

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npy"  # some file systems are slow with 100,000 names in one folder

    def get(self, key: str, num_frames: int, size: int, decode: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
        """The memory map [num_frames, 3, size, size]; `decode` gives its pieces where there is no file yet.

        Raises ValueError where the file is not as long as the array asked for.
        """
        shape = (num_frames, 3, size, size)
        try:
            return self._opened(key, shape)
        except FileNotFoundError:
            path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), tidy=True):  # else as many empty files as videos would stay
            if not path.exists():
                _write(path, shape, decode())
        return self._opened(key, shape)

    def _open(self, key: str, shape: tuple[int, int, int, int]) -> np.ndarray:
        # Not np.load: it has Python parse the header, and CPython 3.11's parser fails now and then with "AST
        # constructor recursion depth mismatch" where several threads parse at once, as they do in `fill`. Not Python's
        # mmap either: each of its maps keeps a file descriptor, and a process commonly may have 1,024.
        path = self.path(key)
        with path.open("rb") as file:
            header = file.read(_PREFIX)
            actual = os.fstat(file.fileno()).st_size
        start = _PREFIX + int.from_bytes(header[len(_MAGIC) :], "little")
        expected = start + math.prod(shape)
        if not header.startswith(_MAGIC) or actual != expected:
            message = f"{path} is not the video it was cached as ({actual:,} bytes, {expected:,} expected): delete it"
            raise ValueError(message)
        frames = torch.from_file(str(path), size=actual, dtype=torch.uint8).numpy()[start:].reshape(shape)
        frames.flags.writeable = False
        return frames


def _write(path: Path, shape: tuple[int, ...], pieces: Iterable[np.ndarray]) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", dir=path.parent)
    try:
        # Written, not mapped: a full disk is then an error here, and not a signal that kills the process.
        with os.fdopen(handle, "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            written = 0
            for piece in pieces:
                assert piece.shape[1:] == shape[1:] and piece.dtype == np.uint8, (piece.shape, piece.dtype, shape)
                file.write(np.ascontiguousarray(piece).data)
                written += len(piece)
            assert written == shape[0], (written, shape)
            file.flush()
            os.fsync(file.fileno())  # a machine that dies here must not leave a file of zeros under the final name
        Path(name).chmod(0o644)  # mkstemp makes it private; a cache may be shared by several users
        Path(name).replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names no file
        raise
    finally:
        Path(name).unlink(missing_ok=True)


class JsonCache:
    """A small dict on disk that several processes add to: an entry that another overwrites is found out again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, list[float | str]]:
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def add(self, entries: Mapping[str, list[float | str]]) -> None:
        if not entries:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{self.path.stem}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(self.read() | dict(entries), file)
            Path(name).chmod(0o644)
            Path(name).replace(self.path)
        finally:
            Path(name).unlink(missing_ok=True)
