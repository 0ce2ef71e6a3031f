"""What a table says of rows whose seeds left their plateau late, never, or far from each other."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from analysis.numbers.frame import Frame
from sweeps.answers.plateau import of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None, seeds: Collection[int] | None = None) -> str:
    """`left the plateau (loss 0.66) at step 126 (seed 0), ...`, of each column by itself where `col_key` is None."""

    def of_runs(runs: Sequence[Any]) -> str:
        done = (run for run in runs if run.state == "done" and run.run_id in frame.curves)
        return of_seeds({int(run.seed): frame.curves[run.run_id] for run in done})

    return frame.told_of_row(row_key, col_key, of_runs, seeds)
