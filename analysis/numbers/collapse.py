"""What a table says of rows whose features collapsed, or are spread as before training."""

from __future__ import annotations

import json

from analysis.numbers.frame import Frame
from sweeps.answers.collapse import MARK, of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None) -> str:
    """`1 of 3 seeds collapsed (seed 2: RankMe 1.3)`, of each column by itself where `col_key` is None; mostly empty."""
    parts = []
    for key, own in frame.runs_by_row.get(row_key, {}).items():
        if col_key is not None and key != col_key:
            continue
        told = (run for run in own if run.state in ("done", "collapsed") and isinstance(run.collapse, str))
        words = of_seeds({int(run.seed): json.loads(run.collapse) for run in told}, len(own))
        label = own[0].col_label if col_key is None else ""
        parts += [f"{label}: {words}" if label else words] if words else []
    return "; ".join(parts)


def note(label: str, told: str) -> str:
    return f"{MARK} {label}: {told}."
