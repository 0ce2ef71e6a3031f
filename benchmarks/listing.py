"""How long a rank takes to start on a large set of image files: to list them, to see that they are those of before.

    python -m benchmarks.listing [--write]

100,000 small image files in 1,000 classes and 4,000 test images, made for this, decoded as they are used (as ImageNet
is): all that a run does with its data before its model is built, in a process of its own, at the first start and at
one that finds the listing in the cache. What 1.28 million would take is the same in proportion, which is more than it
does take: of a large set as many files are asked for their times whatever its size.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import check, fingerprints, load
from core.configuring.fitting import load_split
from core.running.trainer import check_labels

OUTPUT = RESULTS / "listing.txt"
TARGETS = {"from a cached listing: 1,281,167 files": "at most 5 s"}
NUM_FILES, NUM_TEST, NUM_CLASSES, IMAGENET = 100_000, 4_000, 1_000, 1_281_167
AN_HOUR_AGO = time.time() - 3600
STARTS = 3


def make_files(root: Path) -> None:
    numbers = np.random.default_rng(0)
    contents = []
    for _ in range(16):
        content = io.BytesIO()
        Image.fromarray(numbers.integers(0, 256, (8, 8, 3), np.uint8)).save(content, "JPEG")
        contents.append(content.getvalue())
    for split, num in (("train", NUM_FILES), ("val", NUM_TEST)):
        for number in range(num):
            folder = root / split / f"n{number % NUM_CLASSES:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{folder.name}_{number}.JPEG"
            file.write_bytes(contents[number % len(contents)])
            os.utime(file, (AN_HOUR_AGO, AN_HOUR_AGO))  # what was just written would be looked at again
        for folder in (root / split).iterdir():
            os.utime(folder, (AN_HOUR_AGO, AN_HOUR_AGO))
    for folder in (root / "train", root / "val", root):
        os.utime(folder, (AN_HOUR_AGO, AN_HOUR_AGO))


def start(root: Path, cache: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, of what a run does with its data before its model is built."""
    words = ["method=mae", "scale=smoke", "data=image_folder", f"data.path={root}", "data.size=32", "data.memory_gb=0"]
    load(["method=mae", "scale=smoke", "evals=[linear]"])  # imports what reads options, which no data makes longer
    begun, used = time.perf_counter(), time.process_time()
    run = load([*words, "evals=[linear]", f"runtime.cache={cache}"])  # the first to look at the files
    check(run)
    train_set, test_set = load_split(run, "train"), load_split(run, "test")
    check_labels(run, train_set, test_set)
    fingerprints(run)
    return time.perf_counter() - begun, time.process_time() - used


def in_a_process(root: Path, cache: Path) -> tuple[float, float]:
    source = f"import benchmarks.listing as it; print(*it.start(it.Path({str(root)!r}), it.Path({str(cache)!r})))"
    ran = subprocess.run([sys.executable, "-c", source], check=True, stdout=subprocess.PIPE, text=True)
    seconds, used = map(float, ran.stdout.split()[-2:])
    return seconds, used


def measure() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        root, cache = Path(name) / "images", Path(name) / "cache"
        make_files(root)
        seconds, used = in_a_process(root, cache)
        yield f"first start: {NUM_FILES:,} files {seconds:.2f} s, {used:.2f} of the processor"
        seconds, used = sorted(in_a_process(root, cache) for _ in range(STARTS))[STARTS // 2]
        yield f"from a cached listing: {NUM_FILES:,} files {seconds:.2f} s, {used:.2f} of the processor"
        seconds, used = (IMAGENET / NUM_FILES * value for value in (seconds, used))
        yield f"from a cached listing: {IMAGENET:,} files {seconds:.2f} s, {used:.2f} of the processor, in proportion"


def main() -> None:
    given = arguments_of(__doc__, OUTPUT).parse_args()
    show(measure(), OUTPUT if given.write else None, benchmark=__file__, targets=TARGETS)


if __name__ == "__main__":
    main()
