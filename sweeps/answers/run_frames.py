"""Runs, cells, their numbers, data and costs as data frames, with options and metrics as columns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd
from sqlalchemy import Engine, and_, select

from sweeps.answers.sql import ask
from sweeps.console.errors import UserError, close_matches
from sweeps.database.seen_data import GROUPS
from sweeps.database.tables import Attempt, Config, Result, RunRow

COST = "cost/"  # begins the metrics that are costs
COSTS = ("cpu_seconds", "gpu_seconds")  # last, and first to be left out where a screen is narrow
# Of the view, under other names where an option of the config has theirs: data=moving_digits, loss=mse.
RENAMED = {"data": "fingerprints", "loss": "last_loss"}
FIRST = ("run_id", "method", "scale", "seed", "state")
COSTS_BY = ("paper", "study", "method")
_NAMES = {"study": "s.name", "paper": "coalesce(s.spec -> 'source' ->> 'paper', 'no paper')"}
TOTALS = "count(*) as runs, sum(cpu_seconds) / 3600 as cpu_hours, sum(gpu_seconds) / 3600 as gpu_hours"
BY_METHOD = """(select coalesce(method, 'not recorded') as method, cpu_seconds, gpu_seconds from ab_runs) as told"""
BY_CELL = """(select distinct {name} as {by}, c.run_id from ab_cells c join sw_study s on s.name = c.study) as told
  join ab_runs on ab_runs.run_id = told.run_id"""
PLACE = ("study", "row_key", "col_key")
# Of the last attempt: what became of it, not what it was.
OF_ATTEMPT = (
    *("attempt", "outcome", "error", "error_step", "collapse", "step", "last_loss", "fingerprints", "host", "device"),
    *("git_sha", "dirty", "started", "ended", "code_epoch", "config_id"),
)


def runs(engine: Engine, where: str = "") -> pd.DataFrame:
    """A row a run: the columns of `ab_runs`, then each option of its config under its dotted key.

    `where` is SQL over the view's columns; `{mask.ratio}` is that option. Where an option has a column's name, the
    column is called `fingerprints` (for `data`) or `last_loss` (for `loss`). An empty answer has the options of all
    runs, so that what is asked of its columns is answered too.
    """
    # The view has the columns that {mask.ratio} and {method} are read from, under the table's name.
    found = ask(engine, f"select * from ab_runs as sw_config{_condition(where)} order by run_id").rename(
        columns=RENAMED
    )
    configs = [_parsed(config) for config in found.pop("json")]
    if not configs:
        asked = ask(engine, "select json from sw_config")["json"]
        return found.reindex(columns=[*found, *sorted({key for told in asked for key in _parsed(told)} - {*found})])
    found["fingerprints"] = pd.Series([_parsed(data) for data in found["fingerprints"]], found.index, dtype=object)
    options = pd.DataFrame(configs, index=found.index)
    return found.join(options[options.columns.difference(found.columns)])


def cells(engine: Engine, where: str = "") -> pd.DataFrame:
    """A row a run of a study's cell, as `ab_cells` has it; `where` is SQL over its columns."""
    return ask(engine, f"select * from ab_cells{_condition(where)} order by study, row_key, col_key, seed")


def results(engine: Engine, where: str = "", metrics: Sequence[str] = (), *, long: bool = False) -> pd.DataFrame:
    """A row a run, with its options and then a column a metric, costs last; `long`: a row a run and metric.

    All metrics where none are named. A run that has none is there, without values. Raises UserError for a metric that
    no run of the database has.
    """
    told = runs(engine, where)
    frame = told[[*FIRST, *(name for name in told if name not in (*FIRST, *OF_ATTEMPT, *COSTS)), *COSTS]]
    with engine.connect() as connection:
        known = list(connection.scalars(select(Result.metric).distinct().order_by(Result.metric)))
        for metric in metrics:
            if metric not in known:
                raise UserError(f"metric {metric!r}: no run of this database has it{close_matches(metric, known)}")
        rows = connection.execute(select(Result.run_id, Result.metric, Result.value).where(Result.agg == "final")).all()
    values = pd.DataFrame(rows, columns=["run_id", "metric", "value"]).astype({"value": "float64"})
    if metrics:
        values = values[values["metric"].isin(metrics)]
    tidy = frame.merge(values, on="run_id", how="left")
    if not long:
        return widened(tidy, metrics)
    is_cost = tidy["metric"].map(lambda metric: str(metric).startswith(COST))
    tidy = tidy.assign(is_cost=is_cost).sort_values(["run_id", "is_cost", "metric"], kind="stable", ignore_index=True)
    return tidy[[*FIRST, "metric", "value", *(name for name in frame if name not in FIRST)]]


def widened(tidy: pd.DataFrame, main: Sequence[str] = ()) -> pd.DataFrame:
    """A frame of a row a run and metric as one of a row a run: the `main` metrics first, costs last."""
    if "metric" not in tidy:
        return tidy
    key = [name for name in (*PLACE, "run_id") if name in tidy]
    others = [name for name in tidy if name not in ("metric", "value")]
    base = tidy[others].drop_duplicates(key)
    measured = tidy.dropna(subset=["metric"])
    wide = measured.pivot(index=key, columns="metric", values="value").rename_axis(columns=None).reset_index()
    found = [*(str(name) for name in wide if name not in key), *(name for name in main if name not in wide)]
    found.sort(key=lambda name: (place_of(name, main), name))
    numbers = [name for name in found if not name.startswith(COST)]
    costs = [*(name for name in found if name.startswith(COST)), *(name for name in COSTS if name in others)]
    joined = (base.merge(wide, on=key, how="left") if len(wide) else base).reindex(columns=[*base, *found])
    return joined[[*(name for name in others if name not in COSTS), *numbers, *costs]].reset_index(drop=True)


def place_of(metric: str, main: Sequence[str]) -> int:
    """What metrics are sorted by: the `main` ones in their order, others, then costs."""
    return main.index(metric) - len(main) if metric in main else int(metric.startswith(COST))


def data(engine: Engine, run_ids: Sequence[int] = ()) -> pd.DataFrame:
    """Which data each run saw: a row a run and group (data, eval_data, flow_data), with its kind, path and fingerprint.

    All runs where none are named. A fingerprint is missing where no attempt has read the data yet, or where it was
    recorded before there were fingerprints.
    """
    query = (
        select(RunRow.id, Config.json, Attempt.data)
        .join(Config, Config.id == RunRow.config_id)
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .order_by(RunRow.id)
    )
    with engine.connect() as connection:
        rows = connection.execute(query.where(RunRow.id.in_(run_ids)) if run_ids else query).all()
    refuse_missing("data", run_ids, [row.id for row in rows])
    found = [
        (row.id, group, row.json[group], row.json.get(f"{group}.path"), (row.data or {}).get(group))
        for row in rows
        for group in GROUPS
        if row.json.get(group) is not None
    ]
    return pd.DataFrame(found, columns=["run_id", "group", "kind", "path", "fingerprint"])


def costs(engine: Engine, by: str = "study") -> pd.DataFrame:
    """How many runs each study, paper or method has and what they cost; a run that several cells share counts once."""
    if by not in COSTS_BY:
        raise UserError(f"costs must be by one of {', '.join(COSTS_BY)}, got {by!r}{close_matches(by, COSTS_BY)}")
    grouped = BY_METHOD if by == "method" else BY_CELL.format(by=by, name=_NAMES[by])
    found = ask(engine, f"select {by}, {TOTALS} from {grouped} group by {by}")
    return found.sort_values(by, ignore_index=True)


def refuse_missing(option: str, asked: Sequence[int], there: Sequence[int]) -> None:
    """Raises UserError where a run that is asked for is not there."""
    if absent := [str(run_id) for run_id in asked if run_id not in there]:
        raise UserError(f"{option}={','.join(map(str, asked))}: the database has no such run: {', '.join(absent)}")


def _parsed(value: Any) -> Any:
    """What a view gives as text on SQLite, and as it is on PostgreSQL."""
    return json.loads(value) if isinstance(value, str) else value


def _condition(where: str) -> str:
    return f" where ({where})" if where.strip() else ""
