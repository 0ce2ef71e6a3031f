"""What a table says of rows whose seeds left their plateau late, never, or far from each other."""

from __future__ import annotations

from analysis.numbers.frame import Frame
from sweeps.answers.plateau import of_seeds


def of_row(frame: Frame, row_key: str, col_key: str | None = None) -> str:
    """`left the plateau (loss 0.66) at step 126 (seed 0), ...`, of each column by itself where `col_key` is None."""
    parts = []
    for key, own in frame.runs_by_row.get(row_key, {}).items():
        if col_key is not None and key != col_key:
            continue
        done = (run for run in own if run.state == "done" and run.run_id in frame.curves)
        words = of_seeds({int(run.seed): frame.curves[run.run_id] for run in done})
        label = own[0].col_label if col_key is None else ""
        parts += [f"{label}: {words}" if label else words] if words else []
    return "; ".join(parts)
