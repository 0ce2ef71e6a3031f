"""What happened to runs, a line each: the rows of `sw_event`, written with what they tell of."""

from __future__ import annotations

from sqlalchemy import Connection, insert

from sweeps.database.tables import Event, database_now

NEW_EVENT = insert(Event).values(time=database_now())


def note(
    connection: Connection,
    kind: str,
    run_id: int | None = None,
    attempt: int | None = None,
    worker: str | None = None,
    detail: str | None = None,
) -> None:
    """Write that something happened: to a run, or with no `run_id` to the database as a whole."""
    connection.execute(
        NEW_EVENT, {"kind": kind, "run_id": run_id, "attempt": attempt, "worker": worker, "detail": detail}
    )
