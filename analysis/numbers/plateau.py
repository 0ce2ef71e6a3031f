"""What a table says of rows whose seeds left their plateau late, never, or far from each other."""

from __future__ import annotations

from analysis.numbers.frame import Frame, records
from sweeps.answers.plateau import of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None) -> str:
    """`left the plateau (loss 0.66) at step 126 (seed 0), ...`, of each column by itself where `col_key` is None."""
    runs = frame.runs[(frame.runs["row_key"] == row_key) & (frame.runs["state"] == "done")]
    if col_key is not None:
        runs = runs[runs["col_key"] == col_key]
    parts = []
    for _, own in runs.groupby("col_key", sort=False):
        curves = {int(run.seed): frame.curves[run.run_id] for run in records(own) if run.run_id in frame.curves}
        words = of_seeds(curves)
        label = next(iter(records(own))).col_label if col_key is None else ""
        parts += [f"{label}: {words}" if label else words] if words else []
    return "; ".join(parts)
