"""The cache of decoded videos alone: opened from threads and processes, and files that are not what they were."""

import gc
import pickle
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core.data.video.clip_cache import FrameCache


def test_a_cache_sent_to_another_process_opens_its_own_files(tmp_path):
    cache = FrameCache(tmp_path)
    frames = np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8)
    cache.get("key", 2, 8, lambda: [frames])
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.get("key", 2, 8, lambda: []) == frames).all()


def cache_of(folder: Path, num: int) -> tuple[FrameCache, list[str]]:
    """A cache with `num` videos of two frames, and their keys; the frames of number n are n % 256 everywhere."""
    keys = [f"{number:06}" for number in range(num)]
    for number, key in enumerate(keys):
        FrameCache(folder).get(key, 2, 8, lambda number=number: [np.full((2, 3, 8, 8), number % 256, np.uint8)])
    return FrameCache(folder), keys


def test_threads_open_cached_videos_while_garbage_is_collected(tmp_path):
    # CPython 3.11 cannot parse Python in several threads at once, and numpy parses a file's header as Python.
    cache, keys = cache_of(tmp_path, 64)
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    noise = lambda *_: sum(range(50))  # noqa: E731  Python code in the collector is where threads change
    gc.callbacks.append(noise)
    try:
        sys.setswitchinterval(1e-6)
        gc.set_threshold(1)
        with ThreadPoolExecutor(4) as pool:
            seen = list(pool.map(lambda key: int(cache.get(key, 2, 8, list)[1, 2, 7, 7]), keys))
    finally:
        gc.callbacks.remove(noise)
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
    assert seen == list(range(64))


def test_more_cached_videos_are_read_than_a_process_may_open_files(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    cache, keys = cache_of(tmp_path, 200)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 50, hard))
    try:
        maps = [cache.get(key, 2, 8, list) for key in keys]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [int(frames[0, 0, 0, 0]) for frames in maps] == list(range(200))


def test_a_cached_file_of_another_length_is_named_and_not_read(tmp_path):
    cache, (key,) = cache_of(tmp_path, 1)
    cache.path(key).write_bytes(cache.path(key).read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{key}.npy is not the video .* delete it"):
        cache.get(key, 2, 8, list)


def test_cached_frames_cannot_be_changed(tmp_path):
    cache, (key,) = cache_of(tmp_path, 1)
    with pytest.raises(ValueError, match="read-only"):
        cache.get(key, 2, 8, list)[0] = 1
