"""The suite for a real card, each test in a process of its own and within a time: one that hangs or dies is named.

    python -m tests.gpu [--match compiled] [--seconds 120] [--most 480] [--jobs 4] [--log FILE]

Says of every test whether it passed and how long it took, and shows the last 30 lines of one that did not. What was
not started within --most seconds is said too. The exit code is 1 unless all passed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
LAST = 30  # lines of a failure
PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]


def names(match: str) -> list[str]:
    """Of the tests that pytest's -k finds."""
    asked = [*PYTEST, str(FOLDER), "--collect-only", *(["-k", match] if match else [])]
    found = subprocess.run(asked, capture_output=True, text=True, cwd=ROOT)
    lines = [line.strip() for line in found.stdout.splitlines() if "::" in line]
    if not lines:
        sys.exit(f"no test found with --match {match!r}:\n{found.stdout[-2000:]}{found.stderr[-2000:]}")
    return lines


def outcome(name: str, seconds: float, end: float) -> tuple[str, str]:
    """One line about a test, and the end of what it wrote if it did not pass."""
    start = time.monotonic()
    limit = min(seconds, end - start)
    if limit <= 0:
        return f"NOT STARTED          {name}", ""
    try:
        ran = subprocess.run(
            [*PYTEST, "--tb=short", "--show-capture=stderr", name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
            cwd=ROOT,
        )
        said, code = ran.stdout, ran.returncode
    except subprocess.TimeoutExpired as stopped:
        said, code = (stopped.stdout or b"").decode(errors="replace"), None
    passed = code == 0 and " skipped" not in said
    word = "PASSED" if passed else "SKIPPED" if code == 0 else "TIMED OUT" if code is None else "FAILED"
    shown = "" if code == 0 else "\n".join(f"    {line}" for line in said.splitlines()[-LAST:])
    return f"{word:<9} {time.monotonic() - start:7.1f} s  {name}", shown


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--match", default="", help="pytest's -k")
    parser.add_argument("--seconds", type=float, default=120.0, help="that a test may take")
    parser.add_argument("--most", type=float, default=480.0, help="that all may take")
    parser.add_argument("--jobs", type=int, default=4, help="tests at a time")
    parser.add_argument("--log", type=Path, help="a file for the same lines, written as they come")
    options = parser.parse_args()
    end, passed, total = time.monotonic() + options.most, 0, 0

    def say(text: str) -> None:
        print(text, flush=True)
        if options.log is not None:
            with options.log.open("a", encoding="utf-8") as log:
                log.write(text + "\n")

    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(outcome, name, options.seconds, end) for name in names(options.match)]
        for each in as_completed(running):
            line, shown = each.result()
            say(line + (f"\n{shown}" if shown else ""))
            passed, total = passed + line.startswith("PASSED"), total + 1
    say(f"{passed} of {total} tests passed")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
