"""Clips per second from decord and from our cache, and how long a run waits for its clips.

    python -m benchmarks.video --path <folder of videos> [--write]

Rates are the best of three rounds, also by CPU seconds, which a busy machine changes little. "decord" opens the video
and decodes one clip of it each time; "cache" is the same data set once its videos were decoded. A worker is one process
with one decoding thread. The runs are the two rows of studies/beyond/clip_transfer.yaml at scale cpu, on their cached
clips (4 x 24 x 24 px, batches of 64), in one thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from core.data.loader import StepLoader
from core.data.video.videos import VideoFolder
from core.types import Dataset

OUTPUT = RESULTS / "video.txt"
TARGETS = {
    "cache / decord, by CPU-second": "at least 10 times",
    "a run of V-JEPA waits for data": "at most 5 % of training",
    "a run of MAE-ST waits for data": "at most 5 % of training",
}
BATCH = 8
RUNS = {  # steps, of about ten seconds together, and options
    "V-JEPA": (40, ["method=vjepa"]),
    "MAE-ST": (150, ["method=mae_st", "encoder.patch=8", "encoder.tubelet=1"]),
}


def rate(dataset: Dataset, num_steps: int, *, workers: int = 0) -> tuple[float, float]:
    """Clips per second of wall clock and, in this process alone, of CPU time: the best of three rounds."""
    best_wall = best_cpu = 0.0
    for _ in range(3):
        wall, cpu = time.perf_counter(), time.process_time()
        for _step, batch in StepLoader(dataset, batch_size=BATCH, seed=0, num_steps=num_steps, num_workers=workers):
            assert len(batch.clips) == BATCH
        best_wall = max(best_wall, BATCH * num_steps / (time.perf_counter() - wall))
        best_cpu = max(best_cpu, BATCH * num_steps / (time.process_time() - cpu))
    return best_wall, best_cpu


def measure(path: str, size: int, frames: int) -> Iterator[str]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        options = {"path": path, "size": size, "frames": frames}
        start = time.process_time()
        cached = VideoFolder(**options).load("train", cache)  # type: ignore[arg-type]
        yield f"decoding every video once      {time.process_time() - start:10.1f} CPU-seconds ({len(cached)} videos)"
        decoded = VideoFolder(**options, cache_gb=0).load("train", cache)  # type: ignore[arg-type]
        from_decord, from_cache = rate(decoded, 2), rate(cached, 50)
        yield f"decord, in the training process{from_decord[0]:10,.1f} clips/s   ({from_decord[1]:,.1f} a CPU-second)"
        yield f"decord, one loader worker      {rate(decoded, 4, workers=1)[0]:10,.1f} clips/s"
        yield f"cache, in the training process {from_cache[0]:10,.1f} clips/s   ({from_cache[1]:,.1f} a CPU-second)"
        ratio = from_cache[1] / from_decord[1]
        yield f"cache / decord, by CPU-second  {ratio:10,.1f} times"
        for name, (num_steps, words) in RUNS.items():
            facts = run_facts(path, num_steps, words, cache, cache / name)
            waited, share = facts["data_seconds"] / num_steps, facts["data_seconds"] / facts["train_seconds"]
            label = f"a run of {name} waits for data"
            yield f"{label:31}{1e3 * waited:10.2f} ms a step, {share:.2%} of training"


def run_facts(path: str, num_steps: int, words: Sequence[str], cache: Path, folder: Path) -> dict[str, float]:
    """The facts of a short run on the videos under `path`, decoded into `cache` before it trains."""
    words = [*words, "scale=cpu", f"optim.steps={num_steps}", "evals=[]", "data=video_folder", f"data.path={path}"]
    words += ["data.size=24", "data.frames=4", "runtime.threads=1", f"runtime.cache={cache}", f"runtime.dir={folder}"]
    subprocess.run([sys.executable, "-m", "core.train", *words], check=True, cwd=ROOT, capture_output=True)
    facts: dict[str, float] = json.loads((folder / "result.json").read_text())["facts"]
    return facts


def lines(path: Path, size: int, frames: int) -> Iterator[str]:
    name = f"{path.name}: {frames} x {size} x {size} px, 2 frames apart"
    yield f"{name}; batches of {BATCH}"
    yield from measure(str(path.resolve()), size, frames)


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--path", required=True, type=Path, help="a folder of videos")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--frames", type=int, default=8)
    options = parser.parse_args()
    found, output = lines(options.path, options.size, options.frames), OUTPUT if options.write else None
    show(found, output, benchmark=__file__, software=("torch",), targets=TARGETS)


if __name__ == "__main__":
    main()
