"""Runs and attempts may end as collapsed."""

import re
from collections.abc import Sequence

from alembic import op
from sqlalchemy import text

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

CHECKS = (("sw_run", "state"), ("sw_attempt", "outcome"))
ALLOWED = {
    "state": ("queued", "running", "done", "failed", "diverged", "pruned", "cancelled"),
    "outcome": ("done", "preempted", "lost", "failed", "fenced", "diverged", "pruned", "imported"),
}


def upgrade() -> None:
    for table, column in CHECKS:
        before = ALLOWED[column]
        place = before.index("diverged") + 1
        _allow(table, column, before, (*before[:place], "collapsed", *before[place:]))


def downgrade() -> None:
    for table, column in CHECKS:
        op.execute(f"UPDATE {table} SET {column} = 'diverged' WHERE {column} = 'collapsed'")
        before = ALLOWED[column]
        place = before.index("diverged") + 1
        _allow(table, column, (*before[:place], "collapsed", *before[place:]), before)


def _allow(table: str, column: str, before: Sequence[str], after: Sequence[str]) -> None:
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f(f"ck_{table}_{column}"), table, type_="check")
        op.create_check_constraint(op.f(f"ck_{table}_{column}"), table, f"{column} IN {tuple(after)}")
        return
    # SQLite changes a check only in a new table, whose making would drop the old one with all that points to it; or in
    # the text of the schema, which its manual (lang_altertable, section 7) gives for changes that no stored row shows.
    schema = connection.execute(text("SELECT sql FROM sqlite_schema WHERE name = :name"), {"name": table}).scalar_one()
    changed, number = re.subn(re.escape(f"{column} IN {tuple(before)}"), f"{column} IN {tuple(after)}", schema)
    if number != 1:
        raise ValueError(f"{table}: its check of {column} is not the one that this program made: {schema}")
    version = connection.execute(text("PRAGMA schema_version")).scalar_one()
    connection.execute(text("PRAGMA writable_schema = ON"))
    connection.execute(
        text("UPDATE sqlite_schema SET sql = :sql WHERE type = 'table' AND name = :name"),
        {"sql": changed, "name": table},
    )
    connection.execute(text(f"PRAGMA schema_version = {version + 1}"))
    connection.execute(text("PRAGMA writable_schema = OFF"))
