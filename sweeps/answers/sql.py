"""Reading SQL as data frames: `{mask.ratio}` is that option of `sw_config`; a wrong name is told the nearest."""

from __future__ import annotations

import math
import re

import pandas as pd
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from sweeps.answers.curves import curves
from sweeps.console.errors import UserError, close_matches
from sweeps.database.tables import Base, Config
from sweeps.database.views import VIEWS

OPTION = re.compile(r"\{([a-z_]\w*(?:\.\w+)*)\}")
COLUMNS = ("method", "scale")  # of sw_config: the presets that a config was first made from
CURVE = re.compile(r"\{curve (\d{1,18}) ([^{}\s]+)\}")
# As SQLite and PostgreSQL say it: no such column: r.stat, column r.stat does not exist, relation "sw_runs" does not ...
NO_SUCH = re.compile(r"(?:no such (?:table|column): |(?:relation|column) \"?)([\w.]+)")


def ask(engine: Engine, sql: str) -> pd.DataFrame:
    """The rows of one reading statement. Raises UserError for one that writes or that the database cannot run."""
    # text() reads ":name" as a parameter, and the driver "%": the statement is taken as it stands.
    check_options(engine, sql)
    statement = text(with_curves(engine, with_options(sql, engine.dialect.name)).replace(":", r"\:"))
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
    tables = [*Base.metadata.tables, *VIEWS]
    columns: dict[str, list[str]] = {}
    for table in Base.metadata.tables.values():
        for column in table.columns:
            columns.setdefault(column.name, []).append(table.name)
    is_table = "table" in found[0] or "relation" in found[0]
    name = found[1].rpartition(".")[2]
    if not is_table and name in columns:
        return f" (it is a column of {', '.join(columns[name])})"
    return close_matches(name, tables if is_table else columns)


def check_options(engine: Engine, sql: str) -> None:
    """Raises UserError naming the nearest options for a `{mask.ratios}` that no config of the database has, or what to
    read where the statement reads no configs."""
    if (found := OPTION.search(sql)) and "sw_config" not in sql:
        raise UserError(
            f"{found[0]} is an option of sw_config, which this statement does not read: of ab_runs or ab_cells add "
            f"join sw_config on sw_config.id = config_id, or ask with runs=WHERE or cells=WHERE and show={found[1]}"
        )
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


def with_curves(engine: Engine, sql: str) -> str:
    """`{curve 3 loss}` as a table of `step` and `value`: what run 3 logged, whose points are stored packed.

    Raises UserError for a run that is not there, or that has no such series.
    """

    def table(found: re.Match[str]) -> str:
        points = curves(engine, int(found[1]), found[2])
        values = (
            f"({step}, {value!r})" if math.isfinite(value) else f"({step}, null)"
            for step, value in zip(points["step"].tolist(), points["value"].tolist(), strict=True)
        )
        # Both databases call the columns of VALUES so.
        return f"(select column1 as step, column2 as value from (values {', '.join(values)}) as points)"

    return CURVE.sub(table, sql)
