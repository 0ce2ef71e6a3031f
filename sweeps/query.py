"""Questions to the database: SQL on a connection that cannot write, a study's or any runs as frames, and what differs.

python -m sweeps.query "select name, revision from sw_study"
python -m sweeps.query study=masking_ratio format=csv to=masking_ratio.csv
python -m sweeps.query runs="method = 'mae_st'" show=run_id,mask.ratio,ridge/digit_top1
python -m sweeps.query differences=3,4
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Engine, and_, select, text

from sweeps import cli
from sweeps.answers import run_frames
from sweeps.answers.curves import curves, side_by_side
from sweeps.answers.differences import differences
from sweeps.answers.sql import ask
from sweeps.answers.verdicts import higher_is_better
from sweeps.cells.edited import shown as shown_studies
from sweeps.console.errors import UserError, close_matches, no_such_study
from sweeps.console.limits import as_whole
from sweeps.console.tables import counted
from sweeps.database.tables import CellRow, Config, Result, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.search_space import first_and_further, stored_search

USAGE = """usage: python -m sweeps.query "select ..." | study=NAME|all | runs=WHERE|all | cells=WHERE|all
                              | run=ID,.. series=METRIC|all | best=METRIC | differences=ID,ID | data=ID,..|all
                              | costs=paper|study|method
                              [show=COLUMN,..] [form=wide|long] [format=table|csv|json|parquet] [to=FILE] [columns=all]
                              [db=sqlite:///results/ablations.sqlite]

  "select ..."     any reading SQL; views without joins: ab_runs, ab_results, ab_cells; tables start with sw_ (sw_run,
                   sw_result, sw_config, sw_study, ...);
                   {mask.ratio} is that option of sw_config, {method} and {scale} what it was made from
  study=NAME       one row a cell and seed, a column an option of its config and a metric, costs last; form=long: one
                   row a metric (a table leaves out columns that are the same in every row, and on a screen those that
                   do not fit, costs first)
  runs=WHERE       the same of any runs: WHERE is SQL over ab_runs, such as "{mask.ratio} > 0.8 and state = 'done'"
  cells=WHERE      one row a study's cell and seed: WHERE is SQL over ab_cells
  show=COLUMN,..   these columns only, in this order, of any question
  columns=all      the table of all columns, however wide
  run, series      a run's learning curve: step and value, as trained last where a run was resumed; of run=1,2 side by
                   side, a column a run
  best=METRIC      a row a study: the cell with the best mean over its seeds
  differences      in what these runs differ: options, seed, data, code, packages, device; a column a run
  data=ID,..       which data each run saw, and its fingerprint
  costs            runs and hours of each paper, study or method
  format, to       how to write it and where (default: a table on the screen; parquet needs to=)

examples:
  python -m sweeps.query "select state, count(*) as runs from sw_run group by state"
  python -m sweeps.query study=masking_ratio format=parquet to=masking_ratio.parquet
  python -m sweeps.query runs="method = 'mae_st'" show=run_id,mask.ratio,ridge/digit_top1
  python -m sweeps.query run=1,2 series=loss format=csv
  python -m sweeps.query differences=3,4"""

QUESTIONS = ("study", "runs", "cells", "run", "best", "differences", "data", "costs")
OPTIONS = (*QUESTIONS, "series", "show", "form", "format", "to", "columns", "db")
FORMATS = ("table", "csv", "json", "parquet")
FIRST = ("study", "row_key", "col_key", "seed", "state", "metric", "value", "run_id")  # last
WIDEST = 40  # letters of a column: what is longer goes on in the next line
NAMED_OUT = 5  # columns that were left out
BEST = """
  select c.study, c.row_key, c.col_key, c.seed, v.value
  from ab_cells c join ab_results v on v.run_id = c.run_id
  where v.metric = :metric and v.value is not null and c.state = 'done'
  order by c.study, c.row_key, c.col_key, c.seed"""
NAMED = ("row_key", "col_key", "seed", "run_id", "metric", "value")  # of a study: shown whether they vary or not


def tidy(engine: Engine, study: str) -> pd.DataFrame:
    """One row a cell, seed and metric of a study's current revision (or of all), its config's options as columns.

    Of a config that several studies ask for, each has the seeds that are its own. A run without results has one row,
    without metric and value; a result that was not finite has no value.
    """
    query = (
        select(
            StudyRow.name.label("study"), CellRow.row_key, CellRow.col_key, RunRow.seed, RunRow.id.label("run_id"),
            RunRow.state, Result.metric, Result.value, RunRow.cpu_seconds, RunRow.gpu_seconds, Config.json,
            CellRow.display,
        )
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .join(Config, Config.id == CellRow.config_id)
        .join(RunRow, and_(RunRow.config_id == Config.id, RunRow.code_epoch == CODE_EPOCH))
        .outerjoin(Result, and_(Result.run_id == RunRow.id, Result.agg == "final"))
        .order_by(StudyRow.name, CellRow.row_key, CellRow.col_key, RunRow.seed, Result.metric)
    )  # fmt: skip
    with engine.connect() as connection:
        known = list(connection.scalars(select(StudyRow.name).order_by(StudyRow.name)))
        if study != "all" and study not in known:
            raise UserError(f"{no_such_study(study, known)}; it has: {', '.join(known) or 'none yet'}")
        rows = connection.execute(query if study == "all" else query.where(StudyRow.name == study)).all()
        asked = known if study == "all" else [study]
        words, seeds = shown_studies(connection, asked), own_seeds(connection, asked)
    rows = [row for row in rows if row.seed in seeds[row.study]]
    named = [
        {key: v for key, v in row._mapping.items() if key not in ("json", "display")}
        | dict(zip(("row_key", "col_key"), words[row.study].cell(row)[:2], strict=True))
        | row.json
        for row in rows
    ]
    if any(one.cells for one in words.values()):  # whose rows may have other keys than those that ordered them
        named.sort(key=lambda row: (row["study"], row["row_key"], row["col_key"], row["seed"], row["metric"] or ""))
    return pd.DataFrame(named)


def best(engine: Engine, metric: str) -> pd.DataFrame:
    """A row a study that has this metric: its cell with the best mean over seeds, or several that share it."""
    with engine.connect() as connection:
        known = list(connection.scalars(select(Result.metric).distinct().order_by(Result.metric)))
        if metric not in known:
            some = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "") or "none"
            raise UserError(f"best={metric}: no run has this metric{close_matches(metric, known)}; there is: {some}")
        if (is_higher := higher_is_better(metric)) is None:
            raise UserError(f"best={metric}: whether more of it is better is not known; ask ab_results")
        seeds = own_seeds(connection, list(connection.scalars(select(StudyRow.name))))
        result = connection.execute(text(BEST), {"metric": metric})
        rows = [row for row in result if row.seed in seeds[row.study]]
    place = ["study", "row_key", "col_key"]
    frame = pd.DataFrame(rows, columns=[*place, "seed", "value"])
    found = frame.groupby(place, as_index=False).agg(mean=("value", "mean"), seeds=("value", "size"))
    of_study = found.groupby("study")["mean"]
    return found[found["mean"] == of_study.transform("max" if is_higher else "min")].reset_index(drop=True)


def own_seeds(connection: Connection, studies: Sequence[str]) -> dict[str, set[int]]:
    """By study the seeds that it asks for or may give a row; a config that it shares may have those of others too."""
    specs = connection.execute(select(StudyRow.name, StudyRow.spec).where(StudyRow.name.in_(studies))).all()
    found = ((name, first_and_further(spec["seeds"], stored_search(spec))) for name, spec in specs)
    return {name: {*first, *further} for name, (first, further) in found}


def run_ids(typed: str, option: str = "run") -> list[int]:
    """`run=1,2` as ids."""
    found = [as_whole(part.strip()) for part in typed.strip("[]").split(",")]
    ids = [run_id for run_id in found if run_id is not None and 1 <= run_id <= cli.LARGEST]
    if len(ids) != len(found) or len(set(ids)) != len(ids):
        raise UserError(
            f"{option} must be ids of different runs such as 1,2, each a whole number of at least 1, got {typed!r}"
        )
    return ids


def as_text(frame: pd.DataFrame, kind: str) -> str:
    """CSV, or JSON with a list of records; what is missing is empty, or null."""
    if kind == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    return str(frame.to_json(orient="records", indent=1, force_ascii=False, double_precision=15)) + "\n"


def readable(frame: pd.DataFrame, main: Sequence[str] = ()) -> tuple[pd.DataFrame, int]:
    """A tidy frame without the columns that say the same in every row, and how many these are."""
    if len(frame) < 2:
        return frame, 0
    keeps = [name for name in frame if name in NAMED or name in main or frame[name].map(str).nunique() > 1]
    return frame[keeps], frame.shape[1] - len(keeps)


def fitting(frame: pd.DataFrame, width: int, main: Sequence[str] = ()) -> pd.DataFrame:
    """The columns that fit in `width` letters beside each other, in order: the first always, what matters most before
    the others, and what has two values before what some rows only lack, as an untrained one lacks a mask. Rows of costs
    follow the other metrics of their run."""
    first = [name for name in (*FIRST[:-1], *main, FIRST[-1]) if name in frame]
    costs = [name for name in frame if name in run_frames.COSTS or str(name).startswith(run_frames.COST)]
    left = width - 1
    taken: list[Any] = []
    others = [name for name in frame if name not in (*first, *costs)]
    others.sort(key=lambda name: frame[name].map(shown).nunique() - frame[name].isna().any() < 2)
    for name in [*first, *others, *costs]:
        needed = 3 + min(WIDEST, max([len(str(name)), *(len(shown(value)) for value in frame[name])]))
        if taken and needed > left:
            break
        taken.append(name)
        left -= needed
    return frame[taken]


def main_metrics(engine: Engine, study: str) -> list[str]:
    """What the tables of a study (or of all) show, in their order."""
    query = select(StudyRow.spec).order_by(StudyRow.name)
    with engine.connect() as connection:
        specs = connection.scalars(query if study == "all" else query.where(StudyRow.name == study)).all()
    return list(dict.fromkeys(metric for spec in specs for metric in spec["metrics"]))


def costs_last(frame: pd.DataFrame, main: Sequence[str]) -> pd.DataFrame:
    """A tidy frame in which each run's `main` metrics come before its others, and its costs after them."""
    place = [run_frames.place_of(str(metric), main) for metric in frame["metric"]]
    keys = [name for name in ("study", "row_key", "col_key", "seed") if name in frame]
    return frame.assign(place=place).sort_values([*keys, "place"], kind="stable").drop(columns="place")


def print_table(frame: pd.DataFrame, *, main: Sequence[str] | None, shows_all: bool) -> None:
    """`frame` on the screen, as wide as that is unless it `shows_all`; all of it where the output goes elsewhere.

    `main` are the metrics of the study that it is of, [] where it is of other runs; None: it is neither.
    """
    if not len(frame):
        cli.console().print("no rows")
        return
    told, console = [], cli.console()
    if main is not None and not shows_all:
        frame, hidden = readable(frame, main)
        if hidden:
            is_one = "is" if hidden == 1 else "are"
            told.append(f"{counted(hidden, 'column')} with one value throughout {is_one} not shown")
    if console.is_terminal and not shows_all:
        if main is not None:
            frame = costs_last(frame, main) if "metric" in frame else frame
            frame = frame.drop(columns=[n for n in frame if n == "col_key" and not frame[n].astype(bool).any()])
        whole, frame = frame, fitting(frame, console.width, main) if main is not None else frame
        if out := [str(name) for name in whole if name not in frame]:
            more = [f"and {len(out) - NAMED_OUT} more"] if len(out) > NAMED_OUT else []
            told.append(f"left out, as this screen has {console.width} letters: {', '.join([*out[:NAMED_OUT], *more])}")
    else:
        widths = (max([len(str(name)), *(len(shown(value)) for value in frame[name])]) for name in frame)
        console.width = max(console.width, sum(3 + width for width in widths) + 1)
    console.print(as_table(frame), soft_wrap=False, crop=False)
    if told:
        console.print(
            f"{'; '.join(told)}. columns=all shows all, format=csv writes them",
            soft_wrap=True,
            markup=False,
            highlight=False,
        )


def as_table(frame: pd.DataFrame) -> Table:
    table = Table(*(escape(str(column)) for column in frame.columns))
    for row in frame.itertuples(index=False):
        table.add_row(*(escape(shown(value)) for value in row))
    return table


def shown(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write(frame: pd.DataFrame, kind: str, path: Path) -> None:
    try:
        if kind == "parquet":
            frame.to_parquet(path, index=False)
        else:
            path.write_text(as_text(frame, "csv" if kind == "table" else kind), encoding="utf-8")
    except OSError as error:
        raise UserError(f"to={path}: cannot be written: {error.strerror or error}") from None


def answer(engine: Engine, question: str, asked: str, arguments: cli.Arguments, shown: Sequence[str]) -> pd.DataFrame:
    """The rows of one of QUESTIONS, `asked` being its value."""
    is_long = arguments.choice("form", ("wide", "long"), "wide") == "long"
    where = "" if asked == "all" else asked
    match question:
        case "study":
            frame = tidy(engine, asked)
            return frame if is_long else run_frames.widened(frame, main_metrics(engine, asked))
        case "runs":
            found = run_frames.results(engine, where, long=is_long)
            # What became of a run, where it is asked for by name.
            told = [name for name in shown if name not in found and name in run_frames.OF_ATTEMPT]
            return found.merge(run_frames.runs(engine, where)[["run_id", *told]], on="run_id") if told else found
        case "cells":
            return run_frames.cells(engine, where)
        case "run":
            ids, metric = run_ids(asked), arguments.values["series"]
            return curves(engine, ids[0], metric) if len(ids) == 1 else side_by_side(engine, ids, metric)
        case "best":
            return best(engine, asked)
        case "differences":
            return differences(engine, run_ids(asked, question))
        case "data":
            return run_frames.data(engine, () if asked == "all" else run_ids(asked, question))
        case _:
            return run_frames.costs(engine, asked)


def chosen(frame: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """These columns. Raises UserError naming those that are not there, with the nearest that are; an answer of no rows
    has whichever are asked for, as it is the rows that bring options and metrics."""
    known = [str(name) for name in frame]
    if frame.empty:
        return frame.reindex(columns=list(columns))
    if wrong := [name for name in columns if name not in known]:
        near = "; ".join(f"{name}{close_matches(name, known)}" for name in wrong)
        raise UserError(f"show: this answer has no column {near}")
    return frame[list(columns)]


def command(words: Sequence[str]) -> int:
    # An option is a word, "=", and a value; SQL has spaces before its first "=".
    statements = [word for word in words if not re.match(r"\w+=", word)]
    arguments = cli.parse([word for word in words if word not in statements], OPTIONS)
    kind = arguments.choice("format", FORMATS, "table")
    questions = [name for name in QUESTIONS if name in arguments.values]
    study, to = arguments.values.get("study"), arguments.values.get("to")
    columns = arguments.choice("columns", ("fit", "all"), "fit")
    shown = [name.strip() for name in arguments.text("show", "").split(",") if name.strip()]
    if len(statements) + len(questions) != 1:
        raise UserError(
            'ask one question: "select ...", study=NAME, runs=WHERE, cells=WHERE, best=METRIC, differences=ID,ID, '
            "data=ID, costs=paper, or run=ID series=METRIC"
        )
    if ("run" in questions) != ("series" in arguments.values):
        raise UserError("run= and series= go together: run=1 series=loss, or series=all")
    if "form" in arguments.values and not {"study", "runs"} & set(questions):
        raise UserError("form= goes with study= and runs=: the others have one form")
    if kind == "parquet" and to is None:
        raise UserError("format=parquet is not for a screen; give to=FILE")
    engine = cli.open_for_reading(arguments)
    try:
        if statements:
            frame = ask(engine, statements[0])
        else:
            frame = answer(engine, questions[0], arguments.values[questions[0]], arguments, shown)
        main = main_metrics(engine, study) if study is not None else [] if "runs" in questions else None
    finally:
        engine.dispose()
    if shown:
        frame, main = chosen(frame, shown), None
    if to is not None:
        write(frame, kind, arguments.path("to"))
        print(f"{counted(len(frame), 'row')} in {to}")
    elif kind == "table":
        print_table(frame, main=main, shows_all=columns == "all")
    else:
        sys.stdout.write(as_text(frame, kind))
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
