"""A lock that belongs to a file (`flock`): the system gives it up when whoever holds it dies.

Needs a file system that knows it; Linux's NFS does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def take(file: IO[Any] | int, *, wait: bool = True) -> bool:
    """Take the lock of an open file or folder, until it is closed; False where another has it and one does not `wait`.

    Who has the same file open a second time is another, in one process too.
    """
    import fcntl  # of Unix: elsewhere everything that takes no lock works without it

    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, *, tidy: bool = False) -> Iterator[None]:
    """One process at a time, the others wait. `path` is a folder, or a file that is made where there is none.

    With `tidy` the file goes at the end. Whoever opened it before waits for a file without a name, so between two
    newcomers what is done may be done twice: for what then finds that it is done.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        take(descriptor)
        try:
            yield
        finally:
            if tidy:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
