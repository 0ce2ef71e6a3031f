"""What a table says of rows whose features collapsed, or are spread as before training."""

from __future__ import annotations

import json

from analysis.numbers.frame import Frame, records
from sweeps.answers.collapse import MARK, of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None) -> str:
    """`1 of 3 seeds collapsed (seed 2: RankMe 1.3)`, of each column by itself where `col_key` is None; mostly empty."""
    runs = frame.runs[frame.runs["row_key"] == row_key]
    if col_key is not None:
        runs = runs[runs["col_key"] == col_key]
    parts = []
    for _, own in runs.groupby("col_key", sort=False):
        finished = records(own[(own["state"].isin(["done", "collapsed"])) & own["collapse"].notna()])
        words = of_seeds({int(run.seed): json.loads(run.collapse) for run in finished}, len(own))
        label = next(iter(records(own))).col_label if col_key is None else ""
        parts += [f"{label}: {words}" if label else words] if words else []
    return "; ".join(parts)


def note(label: str, told: str) -> str:
    return f"{MARK} {label}: {told}."
