"""Studies with their results as one SQLite file, a capsule: written from a database, and merged into one."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update
from sqlalchemy.exc import DBAPIError

from sweeps.cells import edited
from sweeps.cells.registry import is_other_spec, printed_values
from sweeps.console.errors import UserError
from sweeps.console.tables import counted
from sweeps.database import aliases, registering, seen_data
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import (
    FINAL_STATES,
    Alias,
    Artifact,
    Attempt,
    Blob,
    CellRow,
    Chunk,
    Config,
    Environment,
    EvaluationRow,
    Paper,
    Result,
    RunRow,
    Search,
    StudyRow,
    insert_new,
)
from sweeps.study.search_space import is_trial

SAME = "runtime.same_data"

NUM_PER_BATCH = 200  # runs copied at once: their curves are held in memory

# A failed or waiting run of the destination takes the place of nothing: a capsule's ending is better.
REPLACEABLE = ("queued", "failed", "cancelled")


@dataclass
class Merged:
    """What a merge did."""

    studies: int = 0
    runs: int = 0
    known: int = 0  # ended in the destination already
    evaluations: int = 0  # made later, of runs that the destination had
    pictures: int = 0  # likewise
    running: list[int] | None = None  # being trained in the destination: left alone
    differing: list[str] | None = None  # studies of which the destination has another version
    names: dict[str, str] = field(default_factory=dict)  # fingerprint of the source -> the one that its files go by

    def sentence(self) -> str:
        parts = [
            f"{counted(self.studies, 'new study', 'new studies')}, {counted(self.runs, 'new run')}; "
            f"{counted(self.known, 'run')} there already"
        ]
        if self.evaluations:
            parts.append(f"{counted(self.evaluations, 'later evaluation')} of these")
        if self.pictures:
            parts.append(f"{counted(self.pictures, 'later picture')} of these")
        if self.running:
            parts.append(f"left alone, as they are being trained: runs {', '.join(map(str, self.running))}")
        if self.differing:
            parts.append(f"kept the destination's version of: {', '.join(self.differing)}")
        return "; ".join(parts)


def merge(
    source: Connection,
    destination: Connection,
    studies: Sequence[str],
    *,
    with_series: bool = True,
    same: Sequence[str] = (),
) -> Merged:
    """Add `studies` of `source` and their ended runs, in the destination's one transaction.

    Both may be of older code: the destination is brought to today's keys first, and the source's configs are read under
    them. Else the runs of one config would stand under two.

    Raises UserError where the runs of both sides saw other files, but for those that `same` says are equal (pairs
    NOW-BEFORE, here of the source and the destination).
    """
    aliases.apply(destination)
    done = Merged(running=[], differing=[])
    rows = source.execute(select(StudyRow).where(StudyRow.name.in_(studies)).order_by(StudyRow.name)).all()
    words = edited.shown(source, studies)
    cells = {
        row.id: source.execute(
            select(CellRow).where(CellRow.study_id == row.id, CellRow.revision == row.revision)
        ).all()
        for row in rows
    }
    config_ids = _copy_configs(source, destination, sorted({c.config_id for found in cells.values() for c in found}))
    done.names = refuse_other_data(source, destination, config_ids, same)
    for row in rows:
        _copy_study(source, destination, row, words[row.name], cells[row.id], config_ids, done)
    runs = source.execute(
        select(RunRow)
        .where(RunRow.config_id.in_(config_ids), RunRow.state.in_([s for s in FINAL_STATES if s != "cancelled"]))
        .order_by(RunRow.id)
    ).all()
    for start in range(0, len(runs), NUM_PER_BATCH):
        _copy_runs(source, destination, runs[start : start + NUM_PER_BATCH], config_ids, with_series, done)
    for row in rows:
        _copy_trials(source, destination, row, [c for c in cells[row.id] if is_trial(c.row_key)], config_ids)
    return done


def refuse_other_data(
    source: Connection, destination: Connection, config_ids: dict[int, int], same: Sequence[str]
) -> dict[str, str]:
    """Both sides' finished runs of these configs must have seen the same files; returns what `same` says, by NOW."""
    names = dict(pair.split("-", 1) for pair in seen_data.accept(destination, same))
    before = seen_data.recorded(destination, sorted(set(config_ids.values())))
    theirs = seen_data.recorded(source, sorted(config_ids))
    now = [{name: names.get(value, value)} for name, values in theirs.items() for value in sorted(values)]
    seen_data.refuse_other(before, now, instead="keep both, merging into another database: db=sqlite:///NAME.sqlite")
    return names


def _copy_configs(source: Connection, destination: Connection, ids: Sequence[int]) -> dict[int, int]:
    """The destination's id of each config."""
    rows = source.execute(select(Config.id, Config.hash, Config.json).where(Config.id.in_(ids))).all()
    new_ids = dict(
        zip(
            [row.id for row in rows],
            registering.register_configs(destination, [aliases.migrated(row.json) for row in rows]),
            strict=True,
        )
    )
    hashes = {row.hash: new_ids[row.id] for row in rows}
    known = set(destination.scalars(select(Config.hash).where(Config.hash.in_(hashes))))
    named = source.execute(select(Alias).where(Alias.config_id.in_(ids))).all()
    older = [
        {"old_hash": row.old_hash, "config_id": new_ids[row.config_id], "migration": row.migration} for row in named
    ]
    # A config whose stored hash is not what this program computes goes by both.
    older += [{"old_hash": h, "config_id": i, "migration": "merged"} for h, i in hashes.items() if h not in known]
    insert_new(destination, Alias, older)
    return new_ids


def _copy_study(
    source: Connection,
    destination: Connection,
    row: Any,
    words: edited.Shown,
    cells: Sequence[Any],
    config_ids: dict[int, int],
    done: Merged,
) -> None:
    if (there := edited.shown(destination, [row.name]).get(row.name)) is not None:
        assert done.differing is not None
        if is_other_spec(there.spec, words.spec):
            done.differing.append(row.name)
        return
    new = {"name": row.name, "spec": words.spec, "spec_hash": row.spec_hash, "revision": 1, "source": row.source}
    study_id = destination.execute(insert(StudyRow).values(new).returning(StudyRow.id)).scalar_one()
    insert_new(
        destination,
        CellRow,
        [
            words.cell(cell)._asdict() | {"study_id": study_id, "revision": 1, "config_id": config_ids[cell.config_id]}
            for cell in cells
        ],
    )
    insert_new(destination, Paper, [{"study_id": study_id} | value for value in printed_values(words.study)])
    done.studies += 1


def _copy_trials(
    source: Connection, destination: Connection, study: Any, cells: Sequence[Any], config_ids: dict[int, int]
) -> None:
    """A search's trials as cells and the runs they stand for, where the destination has the same search less far.

    One that went another way there keeps its own trials: both have numbered theirs from 0.
    """
    there = destination.execute(select(StudyRow.id, StudyRow.revision).where(StudyRow.name == study.name)).one()
    mine = (CellRow.study_id == there.id, CellRow.revision == there.revision)
    known = destination.execute(select(CellRow.row_key, CellRow.config_id, CellRow.display).where(*mine)).all()
    told = {cell.row_key: (config_ids[cell.config_id], cell.display["trial"]["study"]) for cell in cells}
    if any(
        told.get(cell.row_key) != (cell.config_id, cell.display["trial"]["study"])
        for cell in known
        if is_trial(cell.row_key)
    ):
        return
    at = {"study_id": there.id, "revision": there.revision}
    insert_new(destination, CellRow, [_values(cell) | at | {"config_id": config_ids[cell.config_id]} for cell in cells])
    links = source.execute(
        select(Search.optuna_study, Search.trial_number, RunRow.config_id, RunRow.seed, RunRow.code_epoch)
        .join(RunRow, RunRow.id == Search.run_id)
        .where(Search.study_id == study.id, RunRow.config_id.in_(config_ids))
    ).all()
    runs = {
        (run.config_id, run.seed, run.code_epoch): run.id
        for run in destination.execute(
            select(RunRow).where(RunRow.config_id.in_([config_ids[link.config_id] for link in links]))
        )
    }
    rows = [
        {
            "study_id": there.id, "optuna_study": link.optuna_study, "trial_number": link.trial_number,
            "run_id": runs[key],
        }
        for link in links
        if (key := (config_ids[link.config_id], link.seed, link.code_epoch)) in runs
    ]  # fmt: skip
    insert_new(destination, Search, rows)


def _copy_runs(
    source: Connection,
    destination: Connection,
    runs: Sequence[Any],
    config_ids: dict[int, int],
    with_series: bool,
    done: Merged,
) -> None:
    """Each run that has not ended in the destination, with its attempts numbered after those it has there."""
    there = {
        (run.config_id, run.seed, run.code_epoch): run
        for run in destination.execute(
            select(RunRow).where(RunRow.config_id.in_([config_ids[run.config_id] for run in runs])).with_for_update()
        )
    }
    moved: dict[int, tuple[int, int]] = {}  # id in the source -> id in the destination, attempts it has there
    for run in runs:
        config_id = config_ids[run.config_id]
        known = there.get((config_id, run.seed, run.code_epoch))
        if known is None:
            values = _values(run) | {"config_id": config_id, "owner": None, "lease_until": None}
            new_id = destination.execute(
                insert(RunRow).values(values | {"checkpoint": None}).returning(RunRow.id)
            ).scalar_one()
            moved[run.id] = (new_id, 0)
        elif known.state == "running":
            assert done.running is not None
            done.running.append(known.id)
        elif known.state in REPLACEABLE and run.state != "failed":
            ended = {
                "state": run.state,
                "attempt": known.attempt + run.attempt,
                "cpu_seconds": known.cpu_seconds + run.cpu_seconds,
                "gpu_seconds": known.gpu_seconds + run.gpu_seconds,
            }
            destination.execute(update(RunRow).where(RunRow.id == known.id).values(ended))
            moved[run.id] = (known.id, known.attempt)
        else:
            done.known += 1
            if known.state == run.state == "done":
                done.evaluations += _copy_evaluations(source, destination, run.id, known)
                done.pictures += _copy_pictures(source, destination, run.id, known)
    done.runs += len(moved)
    attempts = source.execute(select(Attempt).where(Attempt.run_id.in_(moved))).all()
    environments = {attempt.env_hash for attempt in attempts if attempt.env_hash}
    packages = source.execute(select(Environment).where(Environment.hash.in_(environments))).all()
    insert_new(destination, Environment, [_values(row) for row in packages])
    insert_new(destination, Attempt, [_moved(row, moved, "n") | _data(row, done.names) for row in attempts])
    for evaluation in source.execute(select(EvaluationRow).where(EvaluationRow.run_id.in_(moved))):
        insert_new(destination, EvaluationRow, [_values(evaluation) | {"run_id": moved[evaluation.run_id][0]}])
    for table in (Result, Chunk) if with_series else (Result,):
        rows = source.execute(select(table).where(table.run_id.in_(moved))).all()
        insert_new(destination, table, [_moved(row, moved, "attempt") for row in rows])
    files = source.execute(select(Artifact).where(Artifact.run_id.in_(moved))).all()
    _copy_contents(source, destination, files)
    insert_new(destination, Artifact, [_moved(row, moved, "attempt") for row in files])


def _copy_contents(source: Connection, destination: Connection, files: Sequence[Any]) -> None:
    for digest in sorted({file.sha256 for file in files if file.sha256}):
        for content in source.scalars(select(Blob.content).where(Blob.sha256 == digest)):
            insert_new(destination, Blob, [{"sha256": digest, "content": content}])


def _copy_evaluations(source: Connection, destination: Connection, run_id: int, known: Any) -> int:
    """What was evaluated later of a run that both have: those names that the destination does not have."""
    names = set(destination.scalars(select(EvaluationRow.name).where(EvaluationRow.run_id == known.id)))
    new = source.execute(
        select(EvaluationRow).where(EvaluationRow.run_id == run_id, EvaluationRow.name.not_in(names))
    ).all()
    for row in new:
        insert_new(destination, EvaluationRow, [_values(row) | {"run_id": known.id}])
        found = source.execute(select(Result).where(Result.run_id == run_id, Result.metric.in_(row.metrics))).all()
        insert_new(destination, Result, [_values(f) | {"run_id": known.id, "attempt": known.attempt} for f in found])
    return len(new)


def _copy_pictures(source: Connection, destination: Connection, run_id: int, known: Any) -> int:
    """What was drawn later of a run that both have: those names that the destination does not have."""
    names = set(destination.scalars(select(Artifact.name).where(Artifact.run_id == known.id)))
    new = source.execute(select(Artifact).where(Artifact.run_id == run_id, Artifact.name.not_in(names))).all()
    _copy_contents(source, destination, new)
    insert_new(destination, Artifact, [_values(row) | {"run_id": known.id, "attempt": known.attempt} for row in new])
    return len(new)


def _values(row: Any) -> dict[str, Any]:
    """A row's columns, without the id that its own database gave it."""
    return {key: value for key, value in row._mapping.items() if key != "id"}


def _data(row: Any, names: dict[str, str]) -> dict[str, Any]:
    return {"data": row.data and {group: names.get(value, value) for group, value in row.data.items()}}


def _moved(row: Any, moved: dict[int, tuple[int, int]], attempt: str) -> dict[str, Any]:
    run_id, offset = moved[row.run_id]
    values = dict(row._mapping)
    return values | {"run_id": run_id, attempt: values[attempt] + offset}


def write_capsule(database: Engine, path: Path, studies: Sequence[str], *, with_series: bool = True) -> Merged:
    """Add studies to the capsule at `path`, made if need be. It is replaced when all is written, or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".capsule-") as folder:
        draft = Path(folder) / path.name
        if path.exists():
            _copy_database(path, draft, "to")
        capsule = _open(draft, "to", path)
        try:
            with database.connect() as source, capsule.begin() as destination:
                merged = merge(source, destination, studies, with_series=with_series)
        except DBAPIError as error:  # what is read is opened for reading only: its disk is never full
            if getattr(error.orig, "sqlite_errorname", "") not in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):
                raise
            raise UserError(f"to={path}: cannot be written: {error.orig}; make room or give another") from None
        finally:
            capsule.dispose()
        # One file that also opens on a read-only disk: WAL would need two more beside it.
        connection = sqlite3.connect(draft)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.close()
        draft.replace(path)
    return merged


def read_capsule(path: Path, database: Engine, same: Sequence[str] = ()) -> Merged:
    """Add a capsule's studies and ended runs to the database; the capsule itself is not touched."""
    if not path.is_file():
        raise UserError(f"from={path}: there is no such file")
    with tempfile.TemporaryDirectory(prefix="capsule-") as folder:
        copy = Path(folder) / path.name  # it may be of an older schema, and is brought to ours
        _copy_database(path, copy, "from")
        capsule = _open(copy, "from", path)
        try:
            with capsule.connect() as source, database.begin() as destination:
                studies = _study_names(source)
                if not studies:
                    raise UserError(f"from={path}: not a capsule: there is no study in it")
                return merge(source, destination, studies, same=same)
        finally:
            capsule.dispose()


def _copy_database(path: Path, copy: Path, option: str) -> None:
    """Through SQLite, so that a database which is being written to is copied whole and at one moment."""
    source, target = sqlite3.connect(f"file:{path}?mode=ro", uri=True), sqlite3.connect(copy)
    try:
        source.backup(target)
    except sqlite3.DatabaseError as error:
        raise UserError(f"{option}={path}: not a capsule: {error}") from None
    finally:
        source.close()
        target.close()


def _open(file: Path, option: str, shown: Path) -> Engine:
    try:
        engine = open_database(f"sqlite:///{file}")
        upgrade(engine)
    except ValueError as error:
        raise UserError(f"{option}={shown}: not a capsule: {str(error).replace(str(file), str(shown))}") from None
    return engine


def _study_names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(StudyRow.name).order_by(StudyRow.name)))
