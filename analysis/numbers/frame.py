"""One study of the database as a tidy frame: what every table and figure is made of.

A run that is missing or ended without a number is a row like any other, with its state and no value, so that nothing
downstream can average it away by not seeing it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import defaultdict, namedtuple
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, TypeVar

import pandas as pd
from sqlalchemy import Connection, Engine, and_, func, select

from sweeps.answers import plateau
from sweeps.answers.plateau import Curve
from sweeps.cells.edited import Shown, scale_of, shown_row, without_file
from sweeps.console.errors import UserError, no_such_study
from sweeps.database.tables import Attempt, CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.files import names as study_files
from sweeps.study.model import Study
from sweeps.study.search_space import is_given_later

MISSING = "missing"  # the state of a run that nobody has asked for yet
TOLD = ("data", "collapse")  # columns of JSON text: what an attempt saw, and how its features lie
_NOT_GIVEN = (MISSING, "queued", "cancelled")  # another study's, where it is a seed this one has not spent
T = TypeVar("T")
_NAME = re.compile(r"\w[\w.,=+@-]*")  # what sweeps.study.model.instance_name gives: a name of files, in no other folder


@dataclass
class Runs:
    """What became of one cell's seeds for one metric."""

    values: dict[int, float] = field(default_factory=dict)  # by seed; only runs that gave a number
    without: list[str] = field(default_factory=list)  # the states of the others

    @property
    def num_wanted(self) -> int:
        return len(self.values) + len(self.without)


@dataclass(frozen=True)
class Frame:
    """`rows` has one row per (run, metric): every cell × seed × metric the study wants, whether or not it exists.

    Columns of `rows`: study scale row_key col_key row_label col_label row_order col_order is_random_init config_id
    seed run_id state error metric value git_sha dirty data collapse cpu_seconds gpu_seconds. `value` is NaN unless the
    run is done. `configs` has one row a config (indexed by its id) and one column a dotted key; `tidy` joins the two.
    """

    name: str
    study: Study
    scale: str
    seeds: list[int]
    metrics: list[str]  # what the table shows, the main one first
    rows: pd.DataFrame
    configs: pd.DataFrame
    digest: str  # 12 hex digits over all of the above but the study's figures
    read_curves: Callable[[Sequence[int]], Mapping[int, Curve]] = field(default=lambda run_ids: {}, compare=False)

    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, compare=False, repr=False)

    def once(self, make: Callable[..., T], *arguments: Hashable) -> T:
        """`make(frame, *arguments)`, made when it is first asked for: tables, indexes and pages show the same."""
        key = (make, arguments)
        if key not in self._made:
            self._made[key] = make(self, *arguments)
        found: T = self._made[key]
        return found

    @cached_property
    def curves(self) -> Mapping[int, Curve]:
        """What the loss of each finished run did, by run id; read when a table first asks."""
        done = self.runs[self.runs["state"] == "done"]
        return self.read_curves(sorted({int(run_id) for run_id in done["run_id"]}))

    def tidy(self) -> pd.DataFrame:
        """`rows` with every config key as a column (a key that is also a column of `rows` keeps the row's)."""
        return self.rows.join(self.configs[self.configs.columns.difference(self.rows.columns)], on="config_id")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row a (cell, seed): `rows` at the main metric."""
        return self.rows[self.rows["metric"] == self.metrics[0]]

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a place in the table, in the study's order."""
        return self.runs.drop_duplicates(["row_key", "col_key"])

    @cached_property
    def runs_by_row(self) -> Mapping[str, Mapping[str, Sequence[Any]]]:
        """`runs` as named tuples, by row and column key, in the study's order; in one pass, as below."""
        found: dict[str, dict[str, list[Any]]] = {}
        for run in records(self.runs):
            found.setdefault(run.row_key, {}).setdefault(run.col_key, []).append(run)
        return found

    def told_of_row(
        self,
        row_key: str,
        col_key: str | None,
        words_of: Callable[[Sequence[Any]], str],
        seeds: Collection[int] | None = None,
    ) -> str:
        """What `words_of` its runs, or those of these seeds, says of a row: of one column, or where `col_key` is None
        of each by its label."""
        parts = []
        for key, runs in self.runs_by_row.get(row_key, {}).items():
            runs = [run for run in runs if seeds is None or run.seed in seeds]
            if (col_key is None or key == col_key) and (words := words_of(runs)):
                label = runs[0].col_label if col_key is None else ""
                parts.append(f"{label}: {words}" if label else words)
        return "; ".join(parts)

    @cached_property
    def by_place(self) -> dict[tuple[str, str, str], Runs]:
        """What became of every (row, column, metric), in one pass over `rows`, however many places there are."""
        found: dict[tuple[str, str, str], Runs] = defaultdict(Runs)
        columns = (self.rows[name] for name in ("row_key", "col_key", "metric", "seed", "state", "value"))
        for row_key, col_key, metric, seed, state, value in zip(*(c.to_numpy(object) for c in columns), strict=True):
            runs = found[row_key, col_key, metric]
            if math.isnan(value):
                runs.without.append("not recorded" if state == "done" else state)
            else:
                runs.values[seed] = value
        return dict(found)

    def runs_of(self, row_key: str, col_key: str, metric: str) -> Runs | None:
        """None where the study has no such cell."""
        return self.by_place.get((row_key, col_key, metric))


def records(rows: pd.DataFrame) -> Iterable[Any]:
    """Rows as named tuples, for the few that become words. pandas types their fields as anything it can hold.

    As `itertuples` gives them, which takes three times as long over columns of strings.
    """
    row = namedtuple("row", rows.columns, rename=True)  # type: ignore[misc]
    return map(row._make, zip(*(rows[name].to_numpy(object) for name in rows.columns), strict=True))


def names(engine: Engine) -> list[str]:
    """The studies the database holds, by name."""
    with engine.connect() as connection:
        return list(connection.scalars(select(StudyRow.name).order_by(StudyRow.name)))


def load(engine: Engine, study_name: str) -> Frame:
    """The current revision of a study. A fixed number of queries, whatever its size.

    Raises UserError when the database has no such study, naming those it has, or one whose name no launch gives.
    """
    if not _NAME.fullmatch(study_name):  # a capsule may come from anywhere, and its studies' names become paths
        raise UserError(f"study={study_name!r} cannot name a file: allowed are letters, digits and _ . , = + @ -")
    with engine.connect() as connection:
        row = connection.execute(select(StudyRow).where(StudyRow.name == study_name)).one_or_none()
        if row is None:
            listed = names(engine)
            known = ", ".join(listed) or "none yet; launch one first"
            is_file = study_name in study_files()
            made = f"make its runs with: python -m sweeps.launch study={study_name}; " if is_file else ""
            raise UserError(f"{no_such_study(study_name, listed)}; {made}it has: {known}")
        words = shown_row(connection, row)
        study, scale, seeds, metrics = _instance(words)
        further = study.further_seeds(scale)
        wanted = list(dict.fromkeys([*metrics, *figure_metrics(study)]))
        cells = _read_cells(connection, row.id, row.revision, words)
        raw = _read_runs(connection, row.id, row.revision, [*seeds, *further], wanted)
        configs = _read_configs(connection, row.id, row.revision)
    rows = _complete(cells, raw, [*seeds, *further], wanted)
    # A further seed belongs to the rows that were given it.
    is_first = [not is_given_later(*at, seeds, further) for at in zip(rows["row_key"], rows["seed"], strict=True)]
    rows = rows[pd.Series(is_first, rows.index, dtype=bool) | ~rows["state"].isin(_NOT_GIVEN)].reset_index(drop=True)
    seeds += [seed for seed in further if (rows["seed"] == seed).any()]
    rows.insert(0, "study", study_name)
    rows.insert(1, "scale", scale)
    digest = _digest(words.spec, rows, configs)
    return Frame(study_name, study, scale, seeds, metrics, rows, configs, digest, partial(_read_curves, engine))


def _read_curves(engine: Engine, run_ids: Sequence[int]) -> dict[int, Curve]:
    with engine.connect() as connection:
        return plateau.of_done(connection, run_ids)


def figure_metrics(study: Study) -> list[str]:
    """Metrics that only the figures show. A name with "/" is a metric; anything else is an axis or a config key."""
    parts = [part for figure in study.figures for part in (figure, *figure.get("panels", []))]
    named = [str(part[key]) for part in parts for key in ("metric", "x", "y") if key in part]
    return [name for name in named if "/" in name]


def _instance(words: Shown) -> tuple[Study, str, list[int], list[str]]:
    """What was launched, in the words it is shown with: at one scale, with the launch's seeds."""
    study = words.study
    scale = scale_of(words.spec)
    return study, scale, study.seeds(scale), study.metrics(scale)


# ---- queries -----------------------------------------------------------------------------------------------------


def _read_cells(connection: Connection, study_id: int, revision: int, words: Shown) -> pd.DataFrame:
    """The study's places with their display, in the study's order."""
    here = and_(CellRow.study_id == study_id, CellRow.revision == revision)
    found = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display).where(here)
    ).fetchall()
    named = [(words.cell(cell), cell.config_id) for cell in found]
    cells = pd.DataFrame(
        [
            (cell.row_key, cell.col_key, config_id, *(cell.display.get(key, d) for key, d in _DISPLAY.items()))
            for cell, config_id in named
        ],
        columns=["row_key", "col_key", "config_id", *_DISPLAY],
    )
    return cells.sort_values(["row_order", "col_order", "row_key", "col_key"], kind="stable")


def _read_runs(
    connection: Connection, study_id: int, revision: int, seeds: list[int], metrics: list[str]
) -> pd.DataFrame:
    """The study's runs with each one's last attempt and its final results: a row a result, or one without.

    Runs of an older code epoch do not count once the study has newer ones: their numbers mean something else.
    """
    here = and_(CellRow.study_id == study_id, CellRow.revision == revision)
    epoch = (
        select(func.max(RunRow.code_epoch))
        .join(CellRow, CellRow.config_id == RunRow.config_id)
        .where(here, RunRow.seed.in_(seeds))
        .scalar_subquery()
    )
    query = (
        select(
            RunRow.config_id, RunRow.seed, RunRow.id.label("run_id"), RunRow.state, RunRow.cpu_seconds,
            RunRow.gpu_seconds, Attempt.error, Attempt.git_sha, Attempt.dirty, Attempt.data,
            Attempt.facts["collapse"].label("collapse"), Result.metric, Result.value,
        )
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .outerjoin(
            Result, and_(Result.run_id == RunRow.id, Result.agg == "final", Result.metric.in_(metrics))
        )
        .where(
            RunRow.config_id.in_(select(CellRow.config_id).where(here)),
            RunRow.seed.in_(seeds),
            RunRow.code_epoch == epoch,
        )
    )  # fmt: skip
    result = connection.execute(query)
    # As plain tuples: of a row pandas asks for names that it has not, which takes as long as reading it.
    found = pd.DataFrame(map(tuple, result.all()), columns=list(result.keys()))
    # As text: databases keep the keys of a mapping in orders of their own.
    for name in TOLD:
        found[name] = [json.dumps(told, sort_keys=True) if told else None for told in found[name]]
    return found


def _read_configs(connection: Connection, study_id: int, revision: int) -> pd.DataFrame:
    here = and_(CellRow.study_id == study_id, CellRow.revision == revision)
    query = select(Config.id, Config.json).where(Config.id.in_(select(CellRow.config_id).where(here)))
    found: dict[int, dict[str, Any]] = {row.id: row.json for row in connection.execute(query.order_by(Config.id))}
    return pd.DataFrame.from_dict(found, orient="index").sort_index(axis="columns").rename_axis(index="config_id")


# ---- shaping -----------------------------------------------------------------------------------------------------

_RUN_COLUMNS = ["run_id", "state", "error", "git_sha", "dirty", *TOLD, "cpu_seconds", "gpu_seconds"]
_DISPLAY = {"row_label": "", "col_label": "", "row_order": 0, "col_order": 0, "is_random_init": False}


def _complete(cells: pd.DataFrame, raw: pd.DataFrame, seeds: list[int], metrics: list[str]) -> pd.DataFrame:
    """Every cell × seed × metric in the study's order; runs and results joined on where they exist."""
    runs = raw.astype({"run_id": "int64", "seed": "int64", "config_id": "int64"})
    values = runs.dropna(subset="metric")[["run_id", "metric", "value"]].drop_duplicates(["run_id", "metric"])
    runs = runs.drop_duplicates("run_id")[["config_id", "seed", *_RUN_COLUMNS]]

    rows = cells.merge(pd.DataFrame({"seed": seeds}, dtype="int64"), how="cross")
    rows = rows.merge(runs, on=["config_id", "seed"], how="left")
    rows = rows.merge(pd.DataFrame({"metric": metrics}), how="cross")
    rows = rows.merge(values, on=["run_id", "metric"], how="left")
    rows["state"] = rows["state"].astype(object).where(rows["state"].notna(), MISSING)
    # A failed, diverged or collapsed run may have logged a number on its way; it is not this cell's number.
    rows["value"] = pd.to_numeric(rows["value"]).astype("float64").where(rows["state"] == "done")
    for column in ("cpu_seconds", "gpu_seconds"):
        rows[column] = rows[column].astype("float64")
    return rows


def _digest(spec: Mapping[str, Any], rows: pd.DataFrame, configs: pd.DataFrame) -> str:
    """Over what is read, not over the file: a copied or vacuumed database, or one that also holds others, agrees."""
    # Ids are where a row happens to lie; two databases with the same runs number them differently.
    content = rows.drop(columns=["run_id", "config_id"])
    # Recorded before attempts were told of these: the digest is the one of then.
    content = content.drop(columns=[name for name in TOLD if content[name].isna().all()])
    # What its figures look like changes no table.
    asked = {key: value for key, value in without_file(spec).items() if key != "figures"}
    text = json.dumps(asked, sort_keys=True)
    text += content.to_csv(index=False, lineterminator="\n", float_format="%.17g")
    text += json.dumps(sorted(json.dumps(c, sort_keys=True) for c in configs.to_dict("records")))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
