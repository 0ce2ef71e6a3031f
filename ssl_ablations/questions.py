"""What the database knows, as data frames. The connection cannot write. Imports no torch.

Every function raises `AblationError` for a database that cannot be opened, or is of a newer program; and for what its
own docstring names.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
from sqlalchemy import Engine

from analysis.numbers import frame
from analysis.tables.building import build
from analysis.tables.render import to_csv
from ssl_ablations.errors import AblationError, answered
from sweeps import cli, query
from sweeps.answers import curves as curve_frames
from sweeps.answers import differences as differing
from sweeps.answers import run_frames
from sweeps.answers.sql import ask
from sweeps.console.offered import DEFAULT_DATABASE, Place


@contextmanager
def reading(db: str) -> Iterator[Engine]:
    """An engine on `db` that cannot write; what goes wrong with it inside is an AblationError."""
    with answered(Place(db=db)):
        engine = cli.open_for_reading(cli.Arguments({"db": db}))
        try:
            yield engine
        finally:
            engine.dispose()


def load(study: str, *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """A study as its tables are made of: a row a cell, seed and metric, every option of its config as a column.

    A run that is missing, failed or diverged has a row with its `state` and no `value`. Raises AblationError for a
    study that the database does not have.
    """
    with reading(db) as engine:
        return frame.load(engine, study).tidy()


def table(study: str, *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """A study's table, as results/tables/NAME.csv has it: a row a row, means and intervals over seeds.

    Raises AblationError for a study that the database does not have.
    """
    with reading(db) as engine:
        return pd.read_csv(io.StringIO(to_csv(build(frame.load(engine, study)))), comment="#")


def runs(where: str = "", *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """A row a run: the columns of the view `ab_runs`, and each option of its config under its dotted key.

    `where` is SQL over those columns; `{mask.ratio}` is that option: `"state = 'done' and {mask.ratio} > 0.8"`. The
    view's `data` and `loss` are called `fingerprints` and `last_loss`, as `data` and `loss` are options. Raises
    AblationError for a condition that the database cannot read, naming the nearest column or option.
    """
    with reading(db) as engine:
        return run_frames.runs(engine, where)


def cells(where: str = "", *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """A row a run of a study's cell: the view `ab_cells`. `where` is SQL over its columns: `"state <> 'done'"`.

    Raises AblationError for a condition that the database cannot read.
    """
    with reading(db) as engine:
        return run_frames.cells(engine, where)


def results(
    where: str = "", metrics: Sequence[str] = (), *, long: bool = False, db: str = DEFAULT_DATABASE
) -> pd.DataFrame:
    """A row a run: its options, then a column a metric, costs last. With `long` a row a run and metric.

    `where` is that of `runs`; all metrics where none are named; a run without results has its row, without values.
    Raises AblationError for a metric that no run has, and for a condition that the database cannot read.
    """
    if isinstance(metrics, str):
        raise AblationError(f"metrics must be a list of names such as [{metrics!r}], got {metrics!r}")
    with reading(db) as engine:
        return run_frames.results(engine, where, metrics, long=long)


def curves(runs: Sequence[int], metrics: Sequence[str] = ("loss",), *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """Learning curves: run_id, metric, step, value; a row a point, as trained last where a run was resumed.

    Raises AblationError for a run that is not there, and for a metric that it did not log.
    """
    if isinstance(metrics, str):
        raise AblationError(f"metrics must be a list of names such as [{metrics!r}], got {metrics!r}")
    with reading(db) as engine:
        parts = [curve_frames.curves(engine, run, metric).assign(run_id=run) for run in runs for metric in metrics]
    columns = ["run_id", "metric", "step", "value"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def best(metric: str, *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """A row a study: its cell with the best mean of `metric` over seeds. Raises AblationError for an unknown metric."""
    with reading(db) as engine:
        return query.best(engine, metric)


def differences(*runs: int, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """In what runs differ: a row a thing (`what`) and a column `run_ID` each, options of their configs first.

    Then seed, fingerprints of data, code, packages and device. Raises AblationError for fewer than two runs, or for one
    that is not there.
    """
    with reading(db) as engine:
        return differing.differences(engine, runs)


def data(runs: Sequence[int] = (), *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """Which data each run saw: run_id, group (data, eval_data, flow_data), kind, path, fingerprint.

    All runs where none are named. Raises AblationError for a run that is not there.
    """
    with reading(db) as engine:
        return run_frames.data(engine, runs)


def costs(by: str = "study", *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """Runs, cpu_hours and gpu_hours of each `study`, `paper` or `method`; a run counts once in each.

    Raises AblationError for another `by`.
    """
    with reading(db) as engine:
        return run_frames.costs(engine, by)


def sql(statement: str, *, db: str = DEFAULT_DATABASE) -> pd.DataFrame:
    """The rows of any reading statement; views: ab_runs, ab_results, ab_cells.

    Raises AblationError for a statement that writes, or that the database cannot read.
    """
    with reading(db) as engine:
        return ask(engine, statement)
