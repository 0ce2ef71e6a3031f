"""Runs that a study has not asked for yet, and will while it is trained: a search's trials, the seeds of a rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, select

from sweeps.cells.request import Request
from sweeps.database.tables import CellRow, Config, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.search_space import DEFAULT_ROW, TRIAL, parse_search, search_name
from sweeps.study.seed_rule import further_seeds

RunKey = tuple[str, int]  # config hash, seed


class Trials(NamedTuple):
    """A search so far, and how many runs it will ask for further, at most."""

    steps: dict[RunKey, int]  # of the runs that there are
    num_left: int


def trials(connection: Connection | None, request: Request, configs: Mapping[str, int]) -> Trials:
    """`configs` are the study's own cells, hash -> steps. An edited budget goes on; another space begins anew."""
    wanted = request.study.search(request.scale)
    if wanted is None:
        return Trials({}, 0)
    row = _study(connection, request.instance)
    cells = [] if connection is None or row is None else _cells(connection, row)
    default = next((cell for cell in cells if cell.row_key == DEFAULT_ROW), None)
    if row is None or default is None or default.hash not in configs:
        return Trials({}, wanted.num_runs)
    section = row.spec["search"]
    spec = parse_search(section)
    per_trial = spec.seeds.per_trial
    if (spec.space, spec.direction, per_trial) != (wanted.space, wanted.direction, wanted.seeds.per_trial):
        return Trials({}, wanted.num_runs)
    spec = dataclasses.replace(spec, seeds=wanted.seeds)
    seed = request.wanted_seeds[0]
    name = search_name(request.instance, default.json, seed, section, spec)
    mine = [c for c in cells if c.row_key.startswith(TRIAL) and c.display["trial"]["study"] == name]
    num_charged = sum(not cell.display["trial"]["is_cached"] for cell in mine)
    num_left = max(0, wanted.budget - num_charged) * spec.seeds.per_trial
    assert connection is not None
    # As above: a search is compared with scipy.
    from sweeps.answers import search_rounds

    rounds = search_rounds.read(connection, row.id, name, spec, seed)
    known = {cell.config_id: (cell.hash, int(cell.json.get("optim.steps", 0))) for cell in (*mine, default)}
    runs = {run for run in rounds.states() if run[0] != default.config_id}
    lacking = rounds.lacking()
    if num_left or lacking:
        further = spec.seeds.num_further
    else:
        asked = rounds.wanted()
        runs |= {run for run in asked if run in rounds.states()}
        is_judging_to_come = rounds.is_promoting() and spec.seeds.judging
        further = sum(run not in rounds.states() for run in asked) + (
            2 * spec.seeds.judging if is_judging_to_come else 0
        )
    steps = {(known[config][0], seed): known[config][1] for config, seed in runs}
    return Trials(steps, num_left + len(lacking) + further)


def further_runs(connection: Connection | None, request: Request, configs: Mapping[str, int]) -> set[RunKey]:
    """The runs that a rule for seeds has asked for already."""
    seeds = [] if request.seeds else further_seeds(request.study.seeds_spec(request.scale))
    if connection is None or not seeds:
        return set()
    found = connection.execute(
        select(Config.hash, RunRow.seed)
        .join(RunRow, RunRow.config_id == Config.id)
        .where(Config.hash.in_(configs), RunRow.seed.in_(seeds), RunRow.code_epoch == CODE_EPOCH)
    )
    return {(config, seed) for config, seed in found}


def by_rule(connection: Connection | None, request: Request, configs: Mapping[str, int]) -> set[RunKey]:
    """The runs that it will ask for further if no spread changes; all that it may where nothing is known."""
    value = request.study.seeds_spec(request.scale)
    if request.seeds or not (seeds := further_seeds(value)):
        return set()
    row = _study(connection, request.instance)
    cells = [] if connection is None or row is None else _cells(connection, row)
    if connection is None or row is None or {cell.hash for cell in cells} != configs.keys():
        trained = [config for config, steps in configs.items() if steps]  # not the random initialisation
        return {(config, seed) for config in trained for seed in seeds} - further_runs(connection, request, configs)
    # scipy takes a third of a second to import: only for studies with a rule.
    from sweeps.answers import arms
    from sweeps.search import seeds as rules

    spec = row.spec | {"seeds": value, "baseline": request.study.baseline}
    chosen = rules.of_study(rules.expected, arms.read(connection, row, value).columns, spec)
    hashes = {cell.config_id: cell.hash for cell in cells}
    return {(hashes[config_id], seed) for config_id, seed in chosen}


def _study(connection: Connection | None, name: str) -> Any:
    return None if connection is None else connection.execute(
        select(StudyRow).where(StudyRow.name == name)
    ).one_or_none()  # fmt: skip


def _cells(connection: Connection, study: Any) -> list[Any]:
    here = and_(CellRow.study_id == study.id, CellRow.revision == study.revision)
    return list(
        connection.execute(
            select(CellRow.row_key, CellRow.config_id, CellRow.display, Config.hash, Config.json)
            .join(Config, Config.id == CellRow.config_id)
            .where(here)
        )
    )
