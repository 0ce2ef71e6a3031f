"""What studies still need, and what that will cost: one answer for `plan`, `status`, the site and the server.

Imports no torch, and reads none of what core makes of a study: what configs compute was counted
before (`sweeps.cells.work`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from sqlalchemy import Connection, select

from sweeps.cells import work
from sweeps.cells.edited import launched
from sweeps.cells.estimate import Cost as Cost
from sweeps.cells.estimate import Estimator as Estimator
from sweeps.cells.estimate import Recorded, RunKey
from sweeps.cells.estimate import recorded as recorded
from sweeps.cells.registry import current_configs
from sweeps.cells.request import Request
from sweeps.database.tables import FINAL_STATES, StudyRow
from sweeps.progress.to_come import by_rule, further_runs, trials
from sweeps.study.model import DEFAULT_SCALE

_FEW_SECONDS = 60
UNFINISHED = ("missing", "queued", "running", "cancelled")


@dataclass(frozen=True)
class Wanted:
    """A study's cells and the runs they ask for: hash of the config and seed -> steps."""

    name: str
    num_cells: int
    steps: dict[RunKey, int]
    further: dict[RunKey, int] = field(default_factory=dict)  # likewise, those that a rule for seeds will ask for
    num_trials: int = 0  # runs that a search will ask for
    scale: str = DEFAULT_SCALE


@dataclass(frozen=True)
class Line:
    """One study: what it has, what is left and to come, and at what cost."""

    name: str
    num_cells: int
    runs: frozenset[RunKey]
    shared: int
    done: frozenset[RunKey]
    running: int
    left: dict[RunKey, Cost | None]  # None: nothing like it was ever run
    to_come: tuple[Cost | None, ...] = ()

    @property
    def costs(self) -> list[Cost | None]:
        """Of everything until it is finished."""
        return [*self.left.values(), *self.to_come]


# ---- what is wanted --------------------------------------------------------------------------------------------------


def asked_for(connection: Connection | None, request: Request, configs: Sequence[tuple[str, int]]) -> Wanted:
    """What a study of these cells, hash and steps of each, asks for and will ask for."""
    of = dict(configs)
    search, seeds = trials(connection, request, of), further_runs(connection, request, of)
    steps = {(config, seed): steps for config, steps in configs for seed in request.wanted_seeds}
    asked = {key: of[key[0]] for key in seeds}
    further = {key: of[key[0]] for key in by_rule(connection, request, of)}
    return Wanted(request.instance, len(configs), steps | search.steps | asked, further, search.num_left, request.scale)


def stored(connection: Connection, names: Sequence[str]) -> list[Wanted]:
    """What these studies of the database ask for, as they were launched."""
    rows = connection.execute(select(StudyRow.name, StudyRow.spec).where(StudyRow.name.in_(names))).all()
    specs: dict[str, Mapping[str, Any]] = {row.name: row.spec for row in rows}
    found = []
    for name in names:
        spec = specs[name]
        scale, overrides = str(spec.get("scale", DEFAULT_SCALE)), tuple(spec.get("overrides", ()))
        request = Stored(launched(name, spec), scale, overrides, name=name)
        found.append(asked_for(connection, request, current_configs(connection, name)))
    return found


class Stored(Request):
    """A launch as the database has it: `name` is the whole name of the instance."""

    @property
    def instance(self) -> str:
        return self.name


# ---- what there is, what is left -------------------------------------------------------------------------------------


def of_database(
    connection: Connection, names: Sequence[str], known: Callable[[Connection], Estimator] | None = None
) -> tuple[dict[str, Line], Estimator]:
    """Each of these studies of the database, by name, and the estimator that told their costs.

    What other seeds of a config have cost, its own runs tell. Where a run is left of a config that has ended with no
    seed, all others of the database are read, as they tell rates; `known` is for who keeps them. Nothing is counted
    here: a launch records what its configs compute.
    """
    studies = stored(connection, names)
    estimator = Estimator(recorded(connection, names), {})
    if left := configs_left(studies, estimator.runs):
        if not left <= estimator.measured:
            estimator = Estimator(recorded(connection), {}) if known is None else known(connection)
        estimator = estimator.of(work.of_configs(connection, left, counting=False))
    return {line.name: line for line in lines(studies, estimator)}, estimator


def lines(studies: Sequence[Wanted], estimator: Estimator) -> list[Line]:
    """What each study has and still needs. A failed, diverged or collapsed run is an outcome, and not repeated."""
    by_key = estimator.runs
    num_askers = Counter(key for study in studies for key in study.steps)
    found = []
    for study in studies:
        states = {key: by_key[key].state if key in by_key else "missing" for key in study.steps}
        left = [key for key, state in states.items() if state in UNFINISHED]
        mine = estimator.for_study(study.scale, study.steps)
        costs = {key: mine.left(key, study.steps[key], list(study.steps)) for key in left}
        to_come = [mine.left(key, steps, list(study.steps)) for key, steps in study.further.items()]
        if study.num_trials:
            to_come += [of_a_trial(study, mine)] * study.num_trials
        found.append(
            Line(
                name=study.name,
                num_cells=study.num_cells,
                runs=frozenset(study.steps),
                shared=sum(num_askers[key] > 1 for key in study.steps),
                done=frozenset(key for key, state in states.items() if state == "done"),
                running=sum(state == "running" for state in states.values()),
                left=costs,
                to_come=tuple(to_come),
            )
        )
    return found


def configs_left(studies: Sequence[Wanted], runs: Mapping[RunKey, Recorded]) -> set[str]:
    """Configs of which a run is left or to come: what others compute need not be counted."""
    return {
        config
        for study in studies
        for config, seed in (*study.steps, *study.further)
        if study.num_trials or (config, seed) not in runs or runs[config, seed].state in UNFINISHED
    }


def of_a_trial(study: Wanted, estimator: Estimator) -> Cost | None:
    """What a run of the study cost so far, those that a search stopped early counted in; before any, its estimate."""
    trained = [key for key, steps in study.steps.items() if steps]
    ended = [estimator.runs[key] for key in trained if key in estimator.runs]
    costs = [run.cost for run in ended if run.state in FINAL_STATES and run.state != "cancelled"]
    costs = costs or [cost for key in trained if (cost := estimator.left(key, study.steps[key])) is not None]
    if not costs:
        return None
    return Cost(mean(cost.cpu_seconds for cost in costs), mean(cost.gpu_seconds for cost in costs))


# ---- showing ---------------------------------------------------------------------------------------------------------


def hours(costs: Iterable[Cost | None], *, gpu: bool) -> str:
    """The sum, `1.20 h` or `40 s`; `?` when nothing of it is known, `> 1.20 h` when only a part is."""
    listed = list(costs)
    known = [cost for cost in listed if cost is not None]
    if listed and not known:
        return "?"
    value = sum(cost.gpu_seconds if gpu else cost.cpu_seconds for cost in known)
    # Of a few smoke runs hours would be 0.00.
    told = f"{math.ceil(value)} s" if 0 < value < _FEW_SECONDS else f"{value / 3600:.2f} h"
    return f"{'> ' if len(known) < len(listed) else ''}{told}"


def said(costs: Sequence[Cost | None], estimator: Estimator | None) -> str:
    """`to finish: 0.78 h of CPU, 0.00 h of GPU (rates: 41 runs of this database)`; empty where nothing is left."""
    if not costs:
        return ""
    basis = estimator.said() if estimator is not None else ""
    told = f"to finish: {hours(costs, gpu=False)} of CPU, {hours(costs, gpu=True)} of GPU"
    return told + (f" ({basis})" if basis else "")
