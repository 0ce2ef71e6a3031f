"""What it costs to say which data a run saw.

    python -m benchmarks.fingerprint [--path <folder of images in class folders>] [--write]

100,000 small image files in 100 classes, made for this: the first start reads them, the second asks for their sizes and
times. And the share of a run's time: one of studies/masking_ratio.yaml's method at scale cpu (moving digits, made by
code), and, with --path, of image files, on both starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import fingerprints, load
from core.data.fingerprint import fingerprint
from core.data.image_folder import ImageFolder

OUTPUT = RESULTS / "fingerprint.txt"
TARGETS = {
    "100,000 image files: second start": "at most 5 s",
    "a MAE-ST run, moving digits": "each at most 2 %",
    "an I-JEPA run, image files": "each at most 2 %",
}
NUM_FILES, NUM_CLASSES, FILE_BYTES = 100_000, 100, 2_000
AN_HOUR_AGO = time.time() - 3600


def make_files(root: Path) -> None:
    for label in range(NUM_CLASSES):
        for number in range(label, NUM_FILES, NUM_CLASSES):
            folder = root / ("test" if number // NUM_CLASSES % 20 == 0 else "train") / f"c{label:03d}"
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{number:06d}.png"
            file.write_bytes(number.to_bytes(8, "little") * (FILE_BYTES // 8))
            os.utime(file, (AN_HOUR_AGO, AN_HOUR_AGO))  # what was just written would be read again


def seconds(action: object) -> float:
    start = time.perf_counter()
    action()  # type: ignore[operator]
    return time.perf_counter() - start


def share(words: list[str], folder: Path) -> str:
    """Of one run's wall time, with an empty cache and with a filled one."""
    whole = [*words, "scale=cpu", f"runtime.dir={folder / 'run'}", f"runtime.cache={folder / 'cache'}"]
    run = load(whole)
    first = seconds(lambda: fingerprints(run))
    second = seconds(lambda: fingerprints(run))
    command = [sys.executable, "-m", "core.train", *whole, "runtime.tensorboard=false", "runtime.threads=1"]
    subprocess.run(command, check=True, capture_output=True)
    wall = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))["facts"]["wall_seconds"]
    shares = f"{first / wall:.2%}, {second / wall:.2%}"
    return f"{1e3 * first:8.1f} ms first, {1e3 * second:.1f} ms then, of {wall:.0f} s: {shares}"


def measure(path: str | None) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder / "images")
        data = ImageFolder(path=str(folder / "images"))
        first = seconds(lambda: fingerprint(data, folder / "cache"))
        second = seconds(lambda: fingerprint(data, folder / "cache"))
        yield f"{NUM_FILES:,} image files: first start  {first:6.1f} s"
        yield f"{NUM_FILES:,} image files: second start {second:6.1f} s"
    with tempfile.TemporaryDirectory() as name:
        yield f"a MAE-ST run, moving digits  {share(['method=mae_st'], Path(name))}"
    if path is not None:
        with tempfile.TemporaryDirectory() as name:
            words = ["method=ijepa", "data=image_folder", f"data.path={path}", "data.size=32", "optim.steps=300"]
            yield f"an I-JEPA run, image files   {share(words, Path(name))}"


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--path", help="a folder of images")
    given = parser.parse_args()
    show(measure(given.path), OUTPUT if given.write else None, benchmark=__file__, targets=TARGETS)


if __name__ == "__main__":
    main()
