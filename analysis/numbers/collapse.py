"""What a table says of rows whose features collapsed, or are spread as before training."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from analysis.numbers.frame import Frame
from sweeps.answers.collapse import MARK, of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None, seeds: Collection[int] | None = None) -> str:
    """`1 of 3 seeds collapsed (seed 2: RankMe 1.3)`, of each column by itself where `col_key` is None; mostly empty."""
    return frame.told_of_row(row_key, col_key, _of_runs, seeds)


def _of_runs(runs: Sequence[Any]) -> str:
    told = [run for run in runs if run.state in ("done", "collapsed") and isinstance(run.collapse, str)]
    num_unseen = sum(run.state == "done" for run in runs) - sum(run.state == "done" for run in told)
    return of_seeds({int(run.seed): json.loads(run.collapse) for run in told}, len(runs), num_unseen)


def note(label: str, told: str) -> str:
    return f"{MARK} {label}: {told}."
