"""What others on the machine see of a command in `ps`: its line, without the passwords that were typed on it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

_START, _END = 47, 48  # among the fields of /proc/self/stat, of where the kernel shows the command line from


def hide(mask: Callable[[str], str]) -> None:
    """Write over what `mask` takes out of the words of this process's command line, as database clients do.

    Linux only: elsewhere, and until this is called, they stand in `ps`; `~/.pgpass` and PGPASSWORD never do. Python
    has its own copy of the words.
    """
    if sys.platform != "linux":
        return
    try:
        line = Path("/proc/self/cmdline").read_bytes()
        # The second field, the program's name, may hold spaces and brackets.
        fields = Path("/proc/self/stat").read_bytes().rpartition(b") ")[2].split()
    except OSError:  # a system that shows no process to itself shows none to others
        return
    words = [os.fsdecode(word) for word in line.split(b"\0")]
    masked = [mask(word) for word in words]
    start, end = int(fields[_START - 2]), int(fields[_END - 2])
    if masked == words or end - start != len(line):
        return
    # Zeros to the end: the last letter must stay one, or the kernel reads on into the environment.
    told = os.fsencode("\0".join(masked))[: len(line) - 1]
    ctypes.memmove(start, told.ljust(len(line), b"\0"), len(line))
