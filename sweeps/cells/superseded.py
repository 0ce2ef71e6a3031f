"""Finished runs that no table shows any more: kept with their numbers, and marked in the database."""

from __future__ import annotations

from sqlalchemy import Connection, Select, and_, func, select

from sweeps.database.audit import note
from sweeps.database.tables import CellRow, Event, RunRow, StudyRow

SUPERSEDED = "superseded"  # the event that marks them


def mark(connection: Connection, study_id: int) -> list[int]:
    """Mark those finished runs of a study's older revisions that no study's newest revision asks for; returns them.

    Safe to repeat: a run is marked once. One that a study asks for again keeps its mark, and `said` is silent.
    """
    study = connection.execute(select(StudyRow.name, StudyRow.revision).where(StudyRow.id == study_id)).one()
    older = (
        select(CellRow.config_id, func.max(CellRow.revision).label("until"))
        .where(CellRow.study_id == study_id, CellRow.revision < study.revision)
        .group_by(CellRow.config_id)
        .subquery()
    )
    marked = select(Event.id).where(Event.run_id == RunRow.id, Event.kind == SUPERSEDED).exists()
    rows = connection.execute(
        select(RunRow.id, older.c.until)
        .join(older, older.c.config_id == RunRow.config_id)
        .where(RunRow.state == "done", ~RunRow.config_id.in_(_asked_for()), ~marked)
        .order_by(RunRow.id)
    ).all()
    for row in rows:
        detail = f"{study.name} asked for it until its revision {row.until}; another launch took its place"
        note(connection, SUPERSEDED, row.id, detail=detail)
    return [row.id for row in rows]


def said(connection: Connection, run_id: int) -> str | None:
    """By what a run was superseded; None for one that was not, or that a table shows again."""
    config = select(RunRow.config_id).where(RunRow.id == run_id).scalar_subquery()
    if connection.scalar(select(config.in_(_asked_for()))):
        return None
    return connection.scalar(
        select(Event.detail).where(Event.run_id == run_id, Event.kind == SUPERSEDED).order_by(Event.id.desc()).limit(1)
    )


def _asked_for() -> Select[int]:
    """The configs in the cells of all studies' newest revisions."""
    return select(CellRow.config_id).join(
        StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision)
    )
