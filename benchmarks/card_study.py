"""One whole study on a card, as somebody would launch it, for as long as a part of a visit may take.

    python -m benchmarks.card_study [--study masking_ratio] [--scale cpu] [--stack auto] [--seconds 440] [--out FOLDER]
        [--device cuda] [--write] [key=value ...]

Launches the study with one worker; after --seconds it is asked to stop (Ctrl-C: every run gives itself back at a
checkpoint). The same command with the same --out goes on where it stopped, so that a study longer than a part is done
in several. Says how many runs are done, how they were stacked, their steps a second of the clock, and seconds of the
device and of the processor a run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import card
from benchmarks.lines import RESULTS, ROOT, parser_of, show
from core.configuring.fitting import choose_device

GRACE_S = 60.0  # for checkpoints, once it is asked to stop
BEGUN = "select name from sqlite_master where name = 'sw_run'"
SUMS = """
select r.state, count(*), coalesce(sum(r.gpu_seconds), 0), coalesce(sum(r.cpu_seconds), 0)
from sw_run r group by r.state
"""
STEPS = "select coalesce(sum(step - resume_step + 1), 0) from sw_attempt where started >= ?"
FACTS = "select facts from sw_attempt"


def output(scale: str) -> Path:
    return RESULTS / f"card_study_{scale}.txt"


def launched(words: Sequence[str], seconds: float, log: Path) -> tuple[int, bool]:
    """The launch's exit code, and whether it had to be stopped. Its words go to `log`."""
    with log.open("a", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeps.launch", *words], cwd=ROOT, stdout=said, stderr=subprocess.STDOUT
        )
        try:
            return process.wait(seconds), False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(GRACE_S), True
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(), True


def told(database: Path, since: float, seconds: float) -> Iterator[str]:
    """What the database says of all runs, and of the steps that were taken in the last `seconds`."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        is_begun = connection.execute(BEGUN).fetchone() is not None
        rows = connection.execute(SUMS).fetchall() if is_begun else []
        if not rows:
            yield "runs: none yet"
            return
        (steps,) = connection.execute(STEPS, (since,)).fetchone()
        facts = [json.loads(row[0]) if row[0] else {} for row in connection.execute(FACTS)]
    total, done = sum(row[1] for row in rows), sum(row[1] for row in rows if row[0] == "done")
    states = ", ".join(f"{row[1]} {row[0]}" for row in sorted(rows))
    yield f"runs: {done} of {total} done ({states})"
    sizes = sorted(Counter(int(fact.get("stack", 1)) for fact in facts).items())
    yield "attempts: " + ", ".join(f"{number} in stacks of {size}" for size, number in sizes)
    device, processor = (sum(row[column] for row in rows) for column in (2, 3))
    yield f"steps: {steps / seconds:.1f} a second over {seconds:.0f} s of the clock, all runs together"
    if done:
        yield f"a run: {device / done:.1f} s of the device, {processor / done:.1f} s of the processor"


def measure(options: argparse.Namespace, out: Path) -> Iterator[str]:
    name = Path(options.study).stem
    yield f"study {name}, scale {options.scale}, stack {options.stack}, one worker on {options.device}"
    database, log = out / "runs.sqlite", out / "launch.log"
    words = [
        f"study={options.study}", f"scale={options.scale}", f"stack={options.stack}", "workers=1",
        f"db=sqlite:///{database}", f"results_dir={out}", f"runtime.cache={out / 'cache'}",
        f"runtime.device={options.device}", *options.words,
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    began, clock = time.time(), time.perf_counter()
    code, is_stopped = launched(words, options.seconds, log)
    took = time.perf_counter() - clock
    if code and not is_stopped:
        last = "\n".join(f"    {line}" for line in log.read_text(encoding="utf-8").splitlines()[-20:])
        yield f"FAILED: the launch ended with code {code}\n{last}"
    yield from told(database, began, took)
    if is_stopped:
        yield "not finished: the same command goes on"
    elif not code:
        yield "finished"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, __file__)
    parser.add_argument("--study", default="masking_ratio")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--stack", default="auto")
    parser.add_argument("--seconds", type=float, default=440.0)
    parser.add_argument("--out", type=Path, help="kept, to go on in later; a temporary folder without it")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--write", action="store_true", help=f"also into {output('SCALE').relative_to(ROOT)}")
    parser.add_argument("words", nargs="*", metavar="key=value", help="more words of the launch")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here; --device cpu --scale smoke tries the script out")
    failed, device = False, choose_device(options.device)

    def watched(out: Path) -> Iterator[str]:
        nonlocal failed
        for line in measure(options, out.resolve()):
            failed = failed or line.startswith("FAILED")
            yield line

    with tempfile.TemporaryDirectory(prefix="card-") as folder:
        target = output(options.scale) if options.write else None
        found = watched(options.out or Path(folder))
        show(found, target, benchmark=__file__, software=("torch",), device=card(device), words=arguments)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
