"""One run on a page: what it was told, how that differs from the baseline, what it gave, and where it was trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, and_, select

from sweeps.answers import plateau
from sweeps.answers.collapse import shown_facts
from sweeps.cells import edited, superseded
from sweeps.cells.edited import Shown, label_of
from sweeps.console.errors import UserError
from sweeps.console.tables import duration
from sweeps.database.tables import (
    OUTCOMES_FIRST,
    Artifact,
    Attempt,
    Blob,
    CellRow,
    Config,
    Environment,
    Result,
    RunRow,
    StudyRow,
    database_now,
)
from sweeps.study.overrides import format_override

PACKAGES = ("python", "torch", "torchvision", "timm", "numpy", "hydra-core")  # that make the numbers


class Place(NamedTuple):
    """A cell that asks for the run, and the config of the baseline in its column."""

    study: str
    label: str
    baseline: dict[str, Any] | None  # None where the column has no baseline cell


def run_page(connection: Connection, run_id: int) -> Group:
    """Raises UserError when there is no such run."""
    run = connection.execute(select(RunRow).where(RunRow.id == run_id)).one_or_none()
    if run is None:
        raise UserError(
            f"run={run_id}: the database has no such run; these are there: "
            'python -m sweeps.query "select id, state from sw_run"'
        )
    config = connection.execute(select(Config.json, Config.hash).where(Config.id == run.config_id)).one()
    places = read_places(connection, run.config_id)
    parts = [_facts(connection, run, config.hash, places), *_differences(config.json, places)]
    results = connection.execute(select(Result).where(Result.run_id == run_id).order_by(*OUTCOMES_FIRST)).all()
    if results:
        table = Table("metric", "value", title="Results")
        for result in results:
            table.add_row(escape(result.metric), "not finite" if result.value is None else f"{result.value:.4g}")
        parts.append(table)
    attempts = connection.execute(select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.n)).all()
    parts += [_attempt_table(connection, attempt) for attempt in attempts]
    options = Table("option", "value", title="Options")
    for key, value in sorted(config.json.items()):
        options.add_row(escape(key), escape(shown(value)))
    return Group(*parts, options)


def read_places(connection: Connection, config_id: int) -> list[Place]:
    cells = connection.execute(
        select(
            StudyRow.name, CellRow.study_id, CellRow.revision, CellRow.row_key, CellRow.col_key, CellRow.display,
        )
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .where(CellRow.config_id == config_id)
        .order_by(StudyRow.name)
    ).all()  # fmt: skip
    words = edited.shown(connection, {cell.name for cell in cells})
    return [
        Place(cell.name, label_of(words[cell.name].cell(cell).display), _baseline(connection, cell, words[cell.name]))
        for cell in cells
    ]


def _baseline(connection: Connection, cell: Any, words: Shown) -> dict[str, Any] | None:
    place = (words.study.baseline, words.cell(cell).col_key)
    rows = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.display, CellRow.config_id).where(
            CellRow.study_id == cell.study_id, CellRow.revision == cell.revision
        )
    )
    ids = [row.config_id for row in rows if words.cell(row)[:2] == place]
    found: dict[str, Any] | None = connection.scalar(select(Config.json).where(Config.id.in_(ids)))
    return found


def shown(value: Any) -> str:
    """As it would be typed on a command line."""
    return format_override("", value).removeprefix("=")


def _facts(connection: Connection, run: Any, config_hash: str, places: Sequence[Place]) -> Table:
    facts = Table("", "", title=f"Run {run.id}", show_header=False)
    facts.add_row("state", run.state)
    facts.add_row("seed", str(run.seed))
    facts.add_row("config", config_hash[:12])
    if presets := connection.execute(select(Config.method, Config.scale).where(Config.id == run.config_id)).one():
        facts.add_row("method, scale", escape(", ".join(word or "not recorded" for word in presets)))
    if (curve := plateau.read(connection, [run.id]).get(run.id)) is not None:
        facts.add_row("plateau", plateau.described(curve))
    facts.add_row("cost", f"{duration(run.cpu_seconds)} CPU, {duration(run.gpu_seconds)} GPU")
    if run.checkpoint:
        facts.add_row("checkpoint", escape(f"{run.checkpoint} (step {run.checkpoint_step}) in the results folder"))
    inline = select(Blob.sha256).where(Blob.sha256 == Artifact.sha256).exists().label("is_inline")
    for file in connection.execute(select(Artifact, inline).where(Artifact.run_id == run.id).order_by(Artifact.name)):
        where = "also in the database" if file.is_inline else "in the results folder"
        facts.add_row(escape(file.kind), escape(f"{file.uri} ({(file.bytes or 0) / 1e3:.1f} kB, {where})"))
    for place in places:
        facts.add_row("asked for by", escape(f"{place.study}: {place.label}"))
    if (by := superseded.said(connection, run.id)) is not None:
        facts.add_row("superseded", escape(by))
    return facts


def _differences(config: dict[str, Any], places: Sequence[Place]) -> list[Table]:
    """A table for each study whose baseline is another config."""
    tables = []
    for place in places:
        if place.baseline is None or place.baseline == config:
            continue
        table = Table("option", "this run", "baseline", title=f"Other than the baseline of {escape(place.study)}")
        for key in sorted(config.keys() | place.baseline.keys()):
            here, there = (shown(c[key]) if key in c else "–" for c in (config, place.baseline))
            if here != there:
                table.add_row(escape(key), escape(here), escape(there))
        tables.append(table)
    return tables


def _attempt_table(connection: Connection, attempt: Any) -> Table:
    """Where and with what one attempt ran."""
    packages = connection.scalar(select(Environment.packages).where(Environment.hash == attempt.env_hash)) or {}
    now = connection.scalar(select(database_now())) or 0.0
    dirty = {True: " with local changes", False: " clean", None: ""}[attempt.dirty]
    memory = ", ".join(
        f"{size / 2**30:.2f} GiB{where}"
        for size, where in ((attempt.peak_memory, ""), (attempt.peak_gpu_memory, " on the GPU"))
        if size
    )
    has_cost = attempt.cpu_seconds is not None or attempt.gpu_seconds is not None
    rows = {
        "outcome": attempt.outcome or "running",
        "error": attempt.error,
        "worker": attempt.worker,
        "host": attempt.host,
        "Slurm job": attempt.slurm_job,
        "device": attempt.device,
        "code": f"{attempt.git_sha[:12]}{dirty}" if attempt.git_sha else None,
        "packages": ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages),
        "environment": (attempt.env_hash or "")[:12],
        "started": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(attempt.started)),
        "lasted": duration((attempt.ended or now) - attempt.started),
        "steps": f"{attempt.resume_step or 0} to {attempt.step or 0}",
        "cost": f"{duration(attempt.cpu_seconds)} CPU, {duration(attempt.gpu_seconds)} GPU" if has_cost else None,
        "peak memory": memory,
        **{f"fingerprint of {group}": value for group, value in sorted((attempt.data or {}).items())},
        **({} if attempt.data else {"data": "unknown: recorded before fingerprints were"}),
        **shown_facts(attempt.facts),
    }
    table = Table("", "", title=f"Attempt {attempt.n}", show_header=False)
    for name, value in rows.items():
        if isinstance(value, list):  # names of files, one a line
            value = "\n".join(map(str, value))
        if value not in (None, ""):
            table.add_row(escape(name), escape(f"{value:.4g}" if isinstance(value, float) else str(value)))
    return table
