"""What people already have, as runs of this database: an Optuna study or a Hydra multirun folder.

    python -m sweeps.importing optuna=sqlite:///old.db study_name=lr map={lr: optim.lr_peak} method=mae
    python -m sweeps.importing multirun=multirun/2026-05-01 metrics=result.json method=ijepa

Every trial or job becomes a run whose one attempt has the outcome `imported`, below a study of its own. An imported
number was made by other code, so it never fills a cell of one of our tables: the config of such a run says where it
comes from (`imported.from`), which keeps it apart from the run we would train ourselves.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sqlalchemy import Connection, delete, insert, select, update

from sweeps import cli
from sweeps.console.errors import UserError, close_matches
from sweeps.console.tables import counted
from sweeps.database import registering, series
from sweeps.database.audit import note
from sweeps.database.import_sources import Item, Source, hydra_multirun, optuna_study
from sweeps.database.opening import upgrade
from sweeps.database.tables import Attempt, CellRow, Config, Result, RunRow, StudyRow, database_now, insert_new
from sweeps.study.identity import CODE_EPOCH, canonical_json, digest
from sweeps.study.overrides import ROOTS

USAGE = """usage: python -m sweeps.importing optuna=URL study_name=NAME | multirun=FOLDER metrics=FILE
                                  method=NAME [map={theirs: ours}] [metric_map={theirs: ours}] [name=WORD]
                                  [any.key=value ...] [db=sqlite:///results/ablations.sqlite]

  optuna, study_name   an Optuna database (sqlite:///old.db, postgresql://user@host/name) and a study in it
  multirun, metrics    Hydra's folder, and the file every job left: result.json, metrics.csv, log.jsonl
  method, any.key      what all of them had in common and the source does not say: method=mae scale=gpu data.size=64
  map                  their names for our options: map={lr: optim.lr_peak, random_state: seed};
                       what has no name here is kept as imported.NAME: map={dropout: imported.dropout}
  metric_map           the same for metrics: metric_map={val_acc: ridge/digit_top1}
  name                 what the study is called here (default: the Optuna study's or the folder's name)

Importing again adds only what is new. The source is only read. Imported runs are shown by
status, query and report under their own study and never fill a cell of another."""

OPTIONS = ("optuna", "study_name", "multirun", "metrics", "map", "metric_map", "name", "db", "plugins")
FROM, OWN = "imported.from", "imported."


@dataclass(frozen=True)
class Run:
    """An item under this project's names."""

    item: Item
    config: dict[str, Any]  # identity config with its imported.* keys
    seed: int | None  # None: the source gives none


@dataclass
class Imported:
    runs: int = 0
    known: int = 0


# ---- names -----------------------------------------------------------------------------------------------------------


def named(params: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`params` under our names. Raises UserError where two of theirs would be one of ours."""
    found: dict[str, Any] = {}
    for key, value in params.items():
        ours = names.get(key, key)
        if ours in found:
            raise UserError(f"map: two of their options would be {ours}: {key} and another")
        found[ours] = value
    return found


def resolve(source: Source, origin: str, names: Mapping[str, str], base: Sequence[str]) -> list[Run]:
    """Each item's config through core. Raises UserError naming all unknown options at once, or the item's fault."""
    # core.configuring.config imports torch: not for --help or a mistake in the command.
    from core.configuring.config import (
        GROUPS,
        SECTIONS,
        TOP_LEVEL,
        ConfigError,
        build,
        flatten,
        identity,
        layered,
        parse,
    )

    theirs = {key for item in source.items for key in item.params}
    if spare := [key for key in names if key not in theirs]:
        raise UserError(
            f"map: they have no {spare[0]}{close_matches(spare[0], sorted(theirs))}; they have: {_list(theirs)}"
        )
    known = {*GROUPS, *SECTIONS, *TOP_LEVEL, "evals", "imported"}
    unknown = sorted({key for key in theirs if names.get(key, key).split(".")[0] not in known})
    if unknown:
        kept = ", ".join(f"{key}: {OWN}{re.sub(r'[^A-Za-z0-9_]', '_', key)}" for key in unknown)
        raise UserError(
            f"not an option here: {', '.join(unknown)}; say what it is called, map={{{unknown[0]}: optim.lr_peak}}, "
            f"or keep it under its own name, map={{{kept}}}"
        )
    try:
        shared = parse(base)
    except ConfigError as error:
        raise UserError(str(error)) from None
    runs = []
    for item in source.items:
        settings = named(item.params, names)
        if "method" not in shared and "method" not in settings:
            raise UserError("method is missing: which one gives the options that the source does not, method=mae?")
        own = {key: value for key, value in settings.items() if key.startswith(OWN)}
        seed = settings.pop("seed", None)
        if seed is not None and (type(seed) is not int or seed < 0):
            raise UserError(f"{origin}, {item.key}: seed must be a whole number of at least 0, got {seed!r}")
        # A value like ${oc.env:HOME} would be resolved when the config is built: what is read is data, not code.
        if risky := [key for key, value in settings.items() if "${" in str(value)]:
            raise UserError(f"{origin}, {item.key}: {risky[0]}={settings[risky[0]]}: a reference, not a value")
        try:
            flat = flatten(build(layered(shared | {k: v for k, v in settings.items() if k not in own})))
            config = identity(flat) | own | {FROM: origin}
            digest(config)
        except (ConfigError, ValueError) as error:
            raise UserError(f"{origin}, {item.key}: {error}") from None
        runs.append(Run(item, config, seed))
    return runs


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


# ---- writing ---------------------------------------------------------------------------------------------------------


def write(
    connection: Connection, name: str, origin: str, runs: Sequence[Run], *, source: Source, scale: str = "cpu"
) -> Imported:
    """The runs that are not here yet, and their study, in the caller's transaction."""
    whence = f"imported from {origin}"
    new = {"name": name, "spec": {}, "spec_hash": "", "revision": 1, "source": whence}
    insert_new(connection, StudyRow, [new])
    # Locked, so that of two imports at one moment the second sees what the first has written.
    study = connection.execute(select(StudyRow).where(StudyRow.name == name).with_for_update()).one()
    if study.source != whence:
        raise UserError(f"name={name}: the database has another study of that name ({study.source}); give name=")
    facts = connection.scalars(select(Attempt.facts).where(Attempt.outcome == "imported"))
    known = {fact["item"] for fact in facts if fact and fact.get("from") == origin}
    done = Imported(known=sum(run.item.key in known for run in runs))
    for run in runs:
        if run.item.key not in known:
            _write_run(connection, origin, run)
            done.runs += 1
    if done.runs:
        _write_study(connection, study, origin, scale, source)
    return done


def _write_run(connection: Connection, origin: str, run: Run) -> None:
    config_id = registering.register_configs(connection, [run.config])[0]
    taken = set(connection.scalars(select(RunRow.seed).where(RunRow.config_id == config_id)))
    seed = run.seed if run.seed is not None else next(i for i in range(len(taken) + 1) if i not in taken)
    if seed in taken:
        raise UserError(
            f"{origin}, {run.item.key}: another one has the same options and seed={seed}; give one of them up"
        )
    now = float(connection.scalar(select(database_now())) or 0.0)
    values = {"config_id": config_id, "seed": seed, "code_epoch": CODE_EPOCH, "state": run.item.state, "created": now}
    run_id = connection.execute(insert(RunRow).values(values | {"attempt": 1}).returning(RunRow.id)).scalar_one()
    steps = [points[-1][0] for points in run.item.series.values()]
    attempt = {"run_id": run_id, "n": 1, "outcome": "imported", "step": max(steps, default=None)}
    times = {"started": run.item.started or now, "ended": run.item.ended or run.item.started or now}
    facts = run.item.facts | {"from": origin, "item": run.item.key}
    connection.execute(insert(Attempt).values(attempt | times | {"facts": facts}))
    results = [
        {
            "run_id": run_id, "metric": metric, "agg": "final", "attempt": 1, "step": attempt["step"],
            "value": float(value) if math.isfinite(value) else None,
        }
        for metric, value in run.item.results.items()
    ]  # fmt: skip
    insert_new(connection, Result, results)
    curves = run.item.series.items()
    series.write(
        connection, [series.chunk_row(run_id, 1, 0, m, [s for s, _ in p], [v for _, v in p]) for m, p in curves]
    )
    note(connection, "imported", run_id, 1, detail=f"{origin}, {run.item.key}")


def _write_study(connection: Connection, study: Any, origin: str, scale: str, source: Source) -> None:
    """One row a config, named by what differs between them; as tables, figures and queries read it."""
    imported = connection.execute(
        select(Attempt.facts, RunRow.config_id, RunRow.seed, Config.json)
        .join(RunRow, RunRow.id == Attempt.run_id)
        .join(Config, Config.id == RunRow.config_id)
        .where(Attempt.outcome == "imported")
        .order_by(RunRow.id)
    ).all()
    mine = [row for row in imported if row.facts.get("from") == origin]
    rows: dict[int, Any] = {}
    for row in mine:
        rows.setdefault(row.config_id, row)
    values: dict[str, set[str]] = {}
    for row in rows.values():
        for key, value in row.json.items():
            values.setdefault(key, set()).add(canonical_json(value))
    varied = sorted(key for key, seen in values.items() if len(seen) > 1)
    labels = [
        ", ".join(f"{key}={row.json[key]}" for key in varied if key in row.json) or row.facts["item"]
        for row in rows.values()
    ]
    keys = [row.facts["item"] for row in rows.values()]
    metrics = dict.fromkeys(metric for item in source.items for metric in item.results)
    spec = {
        "title": f"Imported: {origin}",
        "question": "What had been measured before?",
        "rows": [{"key": key, "label": label} for key, label in zip(keys, labels, strict=True)],
        "base": {}, "scales": {}, "random_init": False, "seeds": sorted({row.seed for row in mine}),
        "metrics": list(dict.fromkeys(study.spec.get("metrics", [])) | metrics),
        "notes": f"Not trained by this project. {source.notes}", "scale": scale, "overrides": [],
    }  # fmt: skip
    places = enumerate(zip(keys, labels, rows, strict=True))
    cells = [
        {
            "study_id": study.id, "revision": 1, "row_key": key, "col_key": "", "config_id": config_id,
            "display": {
                "row_label": label, "col_label": "", "row_order": i, "col_order": 0, "is_random_init": False,
            },
        }
        for i, (key, label, config_id) in places
    ]  # fmt: skip
    connection.execute(delete(CellRow).where(CellRow.study_id == study.id))
    connection.execute(insert(CellRow), cells)
    connection.execute(update(StudyRow).where(StudyRow.id == study.id).values(spec=spec, spec_hash=digest(spec)))


# ---- command line ----------------------------------------------------------------------------------------------------


def mapping(text: str, option: str) -> dict[str, str]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = text
    if not isinstance(found, dict) or not all(isinstance(part, str) for pair in found.items() for part in pair):
        raise UserError(f"{option} must be of the form {{theirs: ours, ...}}, got {text!r}")
    return found


def read_source(values: Mapping[str, str]) -> tuple[str, Source]:
    """Where it comes from ("optuna lr"), without any machine's path, and what is there."""
    pairs = (("optuna", "study_name"), ("multirun", "metrics"))
    given = [pair for pair in pairs if pair[0] in values]
    if len(given) != 1:
        raise UserError("say what to import: optuna=URL study_name=NAME, or multirun=FOLDER metrics=FILE")
    kind, also = given[0]
    if also not in values:
        raise UserError(f"{also} is missing: {kind}= goes with {also}=")
    if kind == "optuna":
        return "optuna", optuna_study(values["optuna"], values["study_name"])
    return "hydra", hydra_multirun(Path(values["multirun"]), values["metrics"])


def rename_metrics(source: Source, names: Mapping[str, str]) -> Source:
    theirs = {metric for item in source.items for metric in (*item.results, *item.series)}
    if spare := [key for key in names if key not in theirs]:
        raise UserError(
            f"metric_map: they have no {spare[0]}{close_matches(spare[0], sorted(theirs))}; {_list(theirs)}"
        )
    items = [
        Item(
            **vars(item)
            | {
                "results": {names.get(m, m): value for m, value in item.results.items()},
                "series": {names.get(m, m): points for m, points in item.series.items()},
            }
        )
        for item in source.items
    ]
    return Source(source.name, items, source.left_out, source.notes)


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS, overrides=ROOTS)
    arguments.load_plugins()
    names = mapping(arguments.text("map", "{}"), "map")
    metric_names = mapping(arguments.text("metric_map", "{}"), "metric_map")
    kind, source = read_source(arguments.values)
    source = rename_metrics(source, metric_names)
    if not any(item.results for item in source.items):
        raise UserError(
            f"nothing to import: no finished run in it; left out: {', '.join(source.left_out) or 'nothing'}"
        )
    name = re.sub(r"[^\w.+-]+", "_", arguments.text("name", source.name))
    origin = f"{kind} {name}"
    runs = resolve(source, origin, names, arguments.overrides)
    scale = next((word.partition("=")[2] for word in arguments.overrides if word.startswith("scale=")), "cpu")
    engine = cli.connect(arguments.text("db", cli.DEFAULT_DATABASE), read_only=False)
    try:
        upgrade(engine)
        with engine.begin() as connection:
            done = write(connection, name, origin, runs, source=source, scale=scale)
    finally:
        engine.dispose()
    print(f"{name}: {counted(done.runs, 'run')} imported, {done.known} there already")
    if source.left_out:
        print(f"left out: {', '.join(source.left_out)}")
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
