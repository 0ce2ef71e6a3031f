"""What a launch writes before any worker starts: the study's revision, its cells, printed values, configs and runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from sweeps.cells import expansion_cache, superseded, untrained
from sweeps.cells.edited import display_of, file_of, launched
from sweeps.cells.expand import Expansion
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database.registering import register_configs, register_runs, requeue
from sweeps.database.tables import CellRow, Config, Paper, RunRow, StudyRow, insert_new
from sweeps.study.identity import CODE_EPOCH, canonical_json
from sweeps.study.model import Cell, Study
from sweeps.study.search_space import TRIAL, is_trial
from sweeps.study.seed_rule import without_file


@dataclass(frozen=True)
class Registered:
    """A study instance in the database, and the runs that its current revision asks for."""

    study_id: int
    name: str
    revision: int
    seeds: list[int]
    run_ids: list[int]


def launch_hash(request: Request, fingerprint: str) -> str:
    """Equal for two launches that cannot resolve differently: same files' content, arguments and code of core."""
    content: list[Any] = [request.spec(), list(request.overrides), fingerprint]
    if files := request.contents():
        content.append(files)
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def find_registered(connection: Connection, request: Request, spec_hash: str) -> Registered | None:
    """This very launch, if it is in the database as it would be written now, with all its runs."""
    row = connection.execute(
        select(StudyRow.id, StudyRow.revision, StudyRow.spec_hash).where(StudyRow.name == request.instance)
    ).one_or_none()
    if row is None or not expansion_cache.is_same(spec_hash, row.spec_hash):
        return None
    seeds = request.wanted_seeds
    here = (CellRow.study_id == row.id, CellRow.revision == row.revision)
    configs = select(CellRow.config_id).where(*here).distinct()
    runs = connection.execute(
        select(RunRow.id, RunRow.config_id)
        .where(RunRow.config_id.in_(configs), RunRow.seed.in_(seeds), RunRow.code_epoch == CODE_EPOCH)
        .order_by(RunRow.id)
    ).all()
    # A search gives its trials their seeds: only of the other rows all must be there.
    own = set(connection.scalars(configs.where(~CellRow.row_key.startswith(TRIAL, autoescape=True))))
    if sum(run.config_id in own for run in runs) < len(own) * len(seeds):
        return None
    return Registered(row.id, request.instance, row.revision, seeds, [run.id for run in runs])


def registered_configs(connection: Connection, request: Request, spec_hash: str) -> list[tuple[str, int]] | None:
    """Config hash and steps of each cell of this very launch, or None when it is not in the database."""
    stored = connection.scalar(select(StudyRow.spec_hash).where(StudyRow.name == request.instance))
    if stored is None or not expansion_cache.is_same(spec_hash, stored):
        return None
    return current_configs(connection, request.instance) or None


def current_configs(connection: Connection, name: str) -> list[tuple[str, int]]:
    """Config hash and steps of each cell of a study of the database."""
    rows = connection.execute(
        select(Config.hash, Config.json["optim.steps"].as_integer())
        .join(CellRow, CellRow.config_id == Config.id)
        .join(StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision))
        .where(StudyRow.name == name)
    ).all()
    return [(config, steps or 0) for config, steps in rows]


def stored_cells(connection: Connection, request: Request) -> list[tuple[Cell, dict[str, Any]]]:
    """The study's cells with the options that the database has of them; without those that it has not."""
    rows = connection.execute(
        select(CellRow.row_key, CellRow.col_key, Config.json)
        .join(Config, CellRow.config_id == Config.id)
        .join(StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision))
        .where(StudyRow.name == request.instance)
    )
    configs = {(row.row_key, row.col_key): row.json for row in rows}
    cells = request.study.cells(request.scale)
    return [(cell, configs[at]) for cell in cells if (at := (cell.row_key, cell.col_key)) in configs]


def register_study(connection: Connection, expansion: Expansion, spec_hash: str, *, priority: int = 0) -> Registered:
    """Write what is new of a study, in the caller's transaction. Safe to repeat, and from two launchers at once.

    An edited study (other content or other configs) becomes a new revision; older cells and all runs are kept, and
    finished ones that no table shows any more are marked so (`superseded`). One that is there as it would be written
    now is left as it is, with the `spec_hash` of the code that wrote it: a later comment in core is no other study, and
    a database that is kept in a repository is not to change for it. This machine remembers that both are one.
    A run that a search had pruned is queued again: a table wants its end. `priority` only ever raises a run's.
    """
    request = expansion.request
    configs = untrained.settled(connection, request.instance, [config for _, config in expansion.cells])
    config_ids = register_configs(connection, configs)
    if expansion.runs:
        name_presets(connection, config_ids, expansion.runs)
    cells = [_cell_values(cell, i) for (cell, _), i in zip(expansion.cells, config_ids, strict=True)]
    source = shown_path(request.study.path)
    new = {"name": request.instance, "spec": expansion.spec, "spec_hash": spec_hash, "revision": 0, "source": source}
    insert_new(connection, StudyRow, [new])
    row = connection.execute(
        select(StudyRow.id, StudyRow.revision, StudyRow.spec, StudyRow.spec_hash, StudyRow.source)
        .where(StudyRow.name == request.instance)
        .with_for_update()
    ).one()
    revision = row.revision
    if revision == 0 or _differs(connection, row.id, revision, row.spec, expansion.spec, cells):
        revision += 1
        connection.execute(insert(CellRow), [{"study_id": row.id, "revision": revision} | values for values in cells])
        connection.execute(delete(Paper).where(Paper.study_id == row.id))
        insert_new(connection, Paper, [{"study_id": row.id} | values for values in printed_values(request.study)])
    # As text: equal mappings may have their keys in other orders, and tables follow them.
    if (row.revision, row.source, json.dumps(row.spec)) != (revision, source, json.dumps(expansion.spec)):
        values = {"revision": revision, "spec": expansion.spec, "spec_hash": spec_hash, "source": source}
        connection.execute(update(StudyRow).where(StudyRow.id == row.id).values(values))
    elif row.spec_hash != spec_hash:
        expansion_cache.write_same(spec_hash, row.spec_hash)
    # A search says which of its trials it goes on with: `Search` marks the others.
    if revision > max(row.revision, 1) and "search" not in expansion.spec:
        superseded.mark(connection, row.id)
    seeds = request.wanted_seeds
    # Seed by seed, which is the order they are claimed in: after the first, every cell of the table has a number.
    run_ids = [
        run_id
        for seed in seeds
        for run_id in register_runs(
            connection, [(config_id, seed) for config_id in dict.fromkeys(config_ids)], priority=priority
        )
    ]
    requeue(connection, run_ids, states=("pruned",))
    return Registered(row.id, request.instance, revision, seeds, sorted(run_ids))


def name_presets(connection: Connection, config_ids: Sequence[int], runs: Sequence[Any]) -> None:
    """Record of each config the method and scale it was first made from, which its options do not say."""
    for config_id, run in dict(zip(reversed(config_ids), reversed(runs), strict=True)).items():
        connection.execute(
            update(Config)
            .where(Config.id == config_id, Config.method.is_(None))
            .values(method=run.method, scale=run.scale)
        )


def settled(connection: Connection, request: Request) -> Request:
    """The request under a name that no other experiment's table has.

    Folders of one name elsewhere (a/photos, b/photos) shorten to one word: whoever comes second gets a word more. A
    name that was typed is not bent: raises UserError where it is another experiment's.
    """
    told = sorted(request.overrides)
    for name in (request.name, f"{request.words}-{hashlib.sha256(canonical_json(told).encode()).hexdigest()[:6]}"):
        candidate = dataclasses.replace(request, name=name)
        row = connection.execute(
            select(StudyRow.spec, StudyRow.source).where(StudyRow.name == candidate.instance)
        ).one_or_none()
        spec = {} if row is None else row.spec
        if row is None or (sorted(spec.get("overrides", [])), spec.get("scale")) == (told, request.scale):
            if row is not None:
                _refuse_another_file(connection, candidate, row.spec, row.source)
            return candidate
        if request.name:
            others = " ".join(sorted(spec.get("overrides", []))) or "no overrides"
            raise UserError(
                f"name={request.name}: {candidate.instance} is the table of another experiment (scale "
                f"{spec.get('scale')}, {others}); give another name"
            )
    raise UserError(f"name: {candidate.instance} is the table of another experiment; give one with name=WORD")


def _refuse_another_file(connection: Connection, request: Request, spec: Mapping[str, Any], source: str | None) -> None:
    """Raises UserError where the table's runs were asked for by another study file of this file's name.

    A file that was edited or moved is the same study, and so is a copy of it; one beside which the table's own file
    still lies is another. Where this machine does not know that file (another launched it, or it is gone), another
    title over rows of which none is the table's tells.
    """
    path = request.study.path
    own = file_of(connection, request.instance, source)
    if own is not None:
        if own.resolve() == path.resolve() or own.read_bytes() == path.read_bytes():
            return
        other = f"the study of {own}, which is another file"
    else:
        before = launched(request.instance, spec)
        shared = {row.key for row in before.rows} & {row.key for row in request.study.rows}
        if shared or before.title == request.study.title:
            return
        other = f"another study, {before.title!r}"
    raise UserError(
        f"study={path}: the table {request.instance} is of {other}; give this one a table of its own with name=WORD, "
        "or rename the file"
    )


def shown_path(path: Path) -> str:
    """Below `studies/` where it lies there, else the file's name: the database names no machine's folders."""
    parts = path.parts
    return "/".join(parts[parts.index("studies") :] if "studies" in parts else parts[-1:])


def printed_values(study: Study) -> list[dict[str, Any]]:
    if study.printed is None:
        return []
    return [
        {"row_key": row, "col_key": column, "value": value, "source": study.printed.source}
        for row, values in study.printed.values.items()
        for column, value in values.items()
    ]


def _cell_values(cell: Cell, config_id: int) -> dict[str, Any]:
    return {"row_key": cell.row_key, "col_key": cell.col_key, "config_id": config_id, "display": display_of(cell)}


def is_other_spec(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether two launches asked otherwise: the seeds that a file had beside those that were asked for do not count."""
    return canonical_json(without_file(old)) != canonical_json(without_file(new))


def _differs(
    connection: Connection, study_id: int, revision: int, old: Any, new: Any, cells: list[dict[str, Any]]
) -> bool:
    if is_other_spec(old, new):
        return True
    found = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display).where(
            CellRow.study_id == study_id, CellRow.revision == revision
        )
    ).all()
    stored = [row for row in found if not is_trial(row.row_key)]  # trials are added while the study runs
    return sorted((row.row_key, row.col_key, row.config_id, canonical_json(row.display)) for row in stored) != sorted(
        (cell["row_key"], cell["col_key"], cell["config_id"], canonical_json(cell["display"])) for cell in cells
    )
