"""Run by Alembic: migrate the connection that `sweeps.database.opening.migrations` was given."""

from alembic import context

from sweeps.database.tables import VERSION_TABLE, Base


def is_ours(item: object, name: str | None, kind: str, reflected: bool, compared_to: object) -> bool:
    """Whether `alembic check` looks at it: not at Optuna's tables, nor at an index by an expression (priority DESC),
    which it cannot compare."""
    return (name or "").startswith("sw_") if kind == "table" else name != "ix_sw_run_queued"


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    include_object=is_ours,
    render_as_batch=True,  # SQLite cannot alter a column in place
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
