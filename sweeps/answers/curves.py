"""Learning curves as data frames: of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from sqlalchemy import Engine, select

from sweeps.console.errors import UserError, close_matches
from sweeps.database import series
from sweeps.database.tables import RunRow


def curves(engine: Engine, run_id: int, metric: str) -> pd.DataFrame:
    """One row a point: metric, step, value. Raises UserError when the run or its series is not there."""
    with engine.connect() as connection:
        known = series.metrics(connection, run_id)
        if metric != "all" and metric not in known:
            if connection.scalar(select(RunRow.id).where(RunRow.id == run_id)) is None:
                raise UserError(f"run={run_id}: the database has no such run")
            raise UserError(
                f"series={metric}: run {run_id} has no such series{close_matches(metric, known)}; "
                f"it has: {', '.join(known) or 'none'}"
            )
        read = [(name, series.read(connection, run_id, name)) for name in (known if metric == "all" else [metric])]
    parts = [pd.DataFrame({"metric": name, "step": curve.steps, "value": curve.values}) for name, curve in read]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["metric", "step", "value"])


def side_by_side(engine: Engine, run_ids: Sequence[int], metric: str) -> pd.DataFrame:
    """The curves of several runs: metric, step, and a column `run_ID` each, empty where a run logged nothing."""
    parts = [curves(engine, run_id, metric).assign(run=f"run_{run_id}") for run_id in run_ids]
    wide = pd.concat(parts).pivot(index=["metric", "step"], columns="run", values="value")
    return wide[[f"run_{run_id}" for run_id in run_ids]].rename_axis(columns=None).reset_index()
