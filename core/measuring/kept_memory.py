"""Keep the memory of one step for the next."""

from __future__ import annotations

import ctypes
import functools
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1  # mallopt takes an int
_MOST_MAPPED = 2**25  # what older versions allow, on machines of 64 bits


@functools.cache
def keep_freed_memory() -> bool:
    """Tell glibc's malloc not to give freed blocks back to the system; False where there is no glibc.

    A training step on a CPU frees and asks again for the same large tensors, and each time the system hands out
    zeroed pages one fault after the other: a tenth of a step of ViT-Ti at batch 128. The process keeps its peak memory
    until it ends; one block may still be at most 2 GiB.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(_M_TRIM_THRESHOLD, _MOST)
    return bool(kept and (mallopt(_M_MMAP_THRESHOLD, _MOST) or mallopt(_M_MMAP_THRESHOLD, _MOST_MAPPED)))
