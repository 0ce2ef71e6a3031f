"""Questions to the database: SQL on a connection that cannot write, or a study as a tidy frame.

python -m sweeps.query "select name, revision from sw_study"
python -m sweeps.query study=masking_ratio format=csv to=masking_ratio.csv
python -m sweeps.query run=1 series=loss format=csv
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine, and_, select, text
from sqlalchemy.exc import DBAPIError

from sweeps import cli, series
from sweeps.cli import UserError
from sweeps.db import Base, CellRow, Config, Result, RunRow, StudyRow
from sweeps.edited import shown as shown_studies
from sweeps.identity import CODE_EPOCH
from sweeps.study_files import close_matches

USAGE = """usage: python -m sweeps.query "select ..." | study=NAME|all | run=ID series=METRIC|all
                              [format=table|csv|json|parquet] [to=FILE] [db=sqlite:///results/ablations.sqlite]

  "select ..."     any reading SQL; tables start with sw_ (sw_run, sw_result, sw_config, sw_study, ...);
                   {mask.ratio} is that option of sw_config, {method} and {scale} what it was made from
  study=NAME       one row a cell, seed and metric, with every option of its config as a column (a table on the screen
                   leaves out those that are the same in every row)
  run, series      a run's learning curve: step and value, as trained last where a run was resumed
  format, to       how to write it and where (default: a table on the screen; parquet needs to=)

examples:
  python -m sweeps.query "select state, count(*) as runs from sw_run group by state"
  python -m sweeps.query study=masking_ratio format=parquet to=masking_ratio.parquet
  python -m sweeps.query run=1 series=loss format=csv"""

OPTIONS = ("study", "run", "series", "format", "to", "db")
OPTION = re.compile(r"\{([a-z_]\w*(?:\.\w+)*)\}")
COLUMNS = ("method", "scale")  # of sw_config: the presets that a config was first made from
# As SQLite and PostgreSQL say it: no such column: r.stat, column r.stat does not exist, relation "sw_runs" does not ...
NO_SUCH = re.compile(r"(?:no such (?:table|column): |(?:relation|column) \"?)([\w.]+)")
FORMATS = ("table", "csv", "json", "parquet")
NAMED = ("row_key", "col_key", "seed", "run_id", "metric", "value")  # of a study: shown whether they vary or not


def ask(engine: Engine, sql: str) -> pd.DataFrame:
    """The rows of one reading statement. Raises UserError for one that writes or that the database cannot run."""
    # text() reads ":name" as a parameter, and the driver "%": the statement is taken as it stands.
    check_options(engine, sql)
    statement = text(with_options(sql, engine.dialect.name).replace(":", r"\:"))
    try:
        with engine.connect() as connection:
            result = connection.execute(statement)
            if not result.returns_rows:
                raise UserError(f"this statement gives no rows; only reading is possible here: {sql}")
            return pd.DataFrame(result.fetchall(), columns=list(result.keys()))
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        if re.search(r"read-?only", reason, re.IGNORECASE):
            raise UserError(f"this statement writes; the connection is read-only, nothing was changed: {sql}") from None
        raise UserError(f"the database cannot run it: {reason}{hint(reason)}: {sql}") from None


def hint(reason: str) -> str:
    """The nearest tables or columns where the database says, in its own words, that it has none of a name."""
    found = NO_SUCH.search(reason)
    if found is None:
        return ""
    tables = Base.metadata.tables
    columns = {column.name for table in tables.values() for column in table.columns}
    is_table = "table" in found[0] or "relation" in found[0]
    return close_matches(found[1].rpartition(".")[2], tables if is_table else columns)


def check_options(engine: Engine, sql: str) -> None:
    """Raises UserError naming the nearest options for a `{mask.ratios}` that no config of the database has."""
    asked = set(OPTION.findall(sql)) - set(COLUMNS)
    if not asked:
        return
    with engine.connect() as connection:
        known = {key for config in connection.scalars(select(Config.json)) for key in config}
    wrong = [
        f"{{{name}}}: no config of this database has that option{close_matches(name, [*known, *COLUMNS])}"
        for name in sorted(asked - known if known else ())
    ]
    if wrong:
        raise UserError("\n".join(wrong))


def with_options(sql: str, dialect: str) -> str:
    """`{mask.ratio}` as the expression that reads this option from sw_config, which databases write differently."""
    # SQLite takes a bare 'mask.ratio' for a path into a nested object before 3.45.
    path = """'$."{}"'""" if dialect == "sqlite" else "'{}'"

    def expression(found: re.Match[str]) -> str:
        return f"sw_config.{found[1]}" if found[1] in COLUMNS else f"(sw_config.json ->> {path.format(found[1])})"

    return OPTION.sub(expression, sql)


def tidy(engine: Engine, study: str) -> pd.DataFrame:
    """One row a cell, seed and metric of a study's current revision (or of all), its config's options as columns.

    A run without results has one row, without metric and value; a result that was not finite has no value.
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
            raise UserError(
                f"study={study}: the database has no such study{close_matches(study, known)}; "
                f"it has: {', '.join(known) or 'none yet'}"
            )
        rows = connection.execute(query if study == "all" else query.where(StudyRow.name == study)).all()
        words = shown_studies(connection, known if study == "all" else [study])
    named = [
        {key: v for key, v in row._mapping.items() if key not in ("json", "display")}
        | dict(zip(("row_key", "col_key"), words[row.study].cell(row)[:2], strict=True))
        | row.json
        for row in rows
    ]
    if any(one.cells for one in words.values()):  # whose rows may have other keys than those that ordered them
        named.sort(key=lambda row: (row["study"], row["row_key"], row["col_key"], row["seed"], row["metric"] or ""))
    return pd.DataFrame(named)


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


def as_text(frame: pd.DataFrame, kind: str) -> str:
    """CSV, or JSON with a list of records; what is missing is empty, or null."""
    if kind == "csv":
        return frame.to_csv(index=False, lineterminator="\n")
    return str(frame.to_json(orient="records", indent=1, force_ascii=False, double_precision=15)) + "\n"


def readable(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """A tidy frame without the columns that say the same in every row, and how many these are."""
    if len(frame) < 2:
        return frame, 0
    keeps = [name for name in frame if name in NAMED or frame[name].map(str).nunique() > 1]
    return frame[keeps], frame.shape[1] - len(keeps)


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


def command(words: Sequence[str]) -> int:
    # An option is a word, "=", and a value; SQL has spaces before its first "=".
    statements = [word for word in words if not re.match(r"\w+=", word)]
    arguments = cli.parse([word for word in words if word not in statements], OPTIONS)
    kind = arguments.choice("format", FORMATS, "table")
    study, to = arguments.values.get("study"), arguments.values.get("to")
    run = arguments.whole("run", 0, least=1)
    if len(statements) + (study is not None) + (run > 0) != 1:
        raise UserError('ask one question: "select ...", study=NAME, or run=ID series=METRIC')
    if (run > 0) != ("series" in arguments.values):
        raise UserError("run= and series= go together: run=1 series=loss, or series=all")
    if kind == "parquet" and to is None:
        raise UserError("format=parquet is not for a screen; give to=FILE")
    engine = cli.open_for_reading(arguments)
    try:
        if run:
            frame = curves(engine, run, arguments.values["series"])
        else:
            frame = ask(engine, statements[0]) if study is None else tidy(engine, study)
    finally:
        engine.dispose()
    if to is not None:
        write(frame, kind, arguments.path("to"))
        print(f"{len(frame)} rows in {to}")
    elif kind == "table":
        console, hidden = cli.console(), 0
        if study is not None:
            frame, hidden = readable(frame)
        console.print(as_table(frame) if len(frame) else "no rows")
        if hidden:
            console.print(f"{hidden} columns with one value throughout are not shown; format=csv has them all")
    else:
        sys.stdout.write(as_text(frame, kind))
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
