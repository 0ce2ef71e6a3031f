"""Time README's launch of a finished study from the committed database, and the whole report of it.

    python -m benchmarks.relaunch [--write]

In a copy of results/ and studies/, as a clone has them: the first launch makes the study's pages and those of all
studies, which git does not keep, and records what the study's file says otherwise since it was recorded (words of its
figures, say); the next finds that nothing changed, and changes no byte of the database.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.lines import RESULTS, ROOT, arguments_of, show

OUTPUT = RESULTS / "relaunch.txt"
TARGETS = {"launching a finished study again": "at most 3 s of CPU"}
STUDY = "masking_ratio"
DATABASE = Path("results/ablations.sqlite")


def timed(folder: Path, module: str, *words: str) -> str:
    """CPU seconds of a command in `folder`, its children's among them, which a busy machine changes less; and wall."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    cpu = sum(after[:2]) - sum(before[:2])
    return f"{cpu:.1f} s of CPU, {wall:.1f} s"


def lines(folder: Path) -> Iterator[str]:
    for name in ("results", "studies"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("report", "runs"))
    yield f"launching a finished study, the first time   {timed(folder, 'sweeps.launch', f'study={STUDY}')}"
    launched = (folder / DATABASE).read_bytes()
    yield f"launching a finished study again   {timed(folder, 'sweeps.launch', f'study={STUDY}')}"
    assert (folder / DATABASE).read_bytes() == launched
    yield f"the report of all committed studies   {timed(folder, 'analysis.report')}"


def main() -> None:
    options = arguments_of(__doc__, OUTPUT).parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        output = OUTPUT if options.write else None
        show(lines(Path(folder)), output, benchmark=__file__, software=("sqlalchemy", "matplotlib"), targets=TARGETS)


if __name__ == "__main__":
    main()
