"""What launching a study would train, what others have trained already, and what finishing it will cost.

python -m sweeps.plan study=masking_ratio
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from sqlalchemy import Connection, Engine

from sweeps import cli, expansion_cache, fair_rows, room, untrained, work
from sweeps.cli import UserError
from sweeps.db import FINAL_STATES
from sweeps.estimate import Cost, Estimator, Recorded, RunKey, recorded
from sweeps.expand import Expansion, Request, expand, expand_checked, fingerprint
from sweeps.identity import digest
from sweeps.launch import check_machine, refuse_other_data
from sweeps.registry import launch_hash, registered_configs, settled, stored_cells
from sweeps.study import DEFAULT_SCALE, Cell, names, read
from sweeps.to_come import by_rule, further_runs, trials

USAGE = """usage: python -m sweeps.plan [study=NAME|all] [scale=cpu] [seeds=[0,1,2]] [any.key=value ...]
                             [db=sqlite:///results/ablations.sqlite] [results_dir=results]
                             [gpus=1] [gpu_memory=80]

With gpus= or gpu_memory= (GiB of each) it says instead whether a training step of each study's cells fits, and which of
runtime.accumulate, runtime.checkpoint_blocks or more GPUs to set if not; data need not be here.

Nothing is trained or registered. A study that is named is checked as a launch would check it, and every option in
which a row differs from the baseline is printed. A run that several studies ask for counts once in the total.

  cells, runs      places in the table; distinct runs (config x seed)
  shared           of those, also asked for by another study of this plan
  done             trained already, by whichever study
  to come          runs that results decide on: the rest of a search's budget; the seeds that a rule will ask for
                   if no spread changes, all it may ask for where nothing is known yet
  to finish        CPU-hours and GPU-hours of what is left and to come, from the recorded cost of runs of the same
                   config, else from its operations (counted, not computed) over the rate of the recorded runs that
                   are most alike, or before any on such a device over a stated one: the line below says which. Of a
                   run half done, the rest. "?" where the data is elsewhere and nothing of the study has been run

example: python -m sweeps.plan study=all scale=cpu"""

UNFINISHED = ("missing", "queued", "running", "cancelled")
# results_dir as launches have it: nothing is written.
OPTIONS = ("study", "scale", "seeds", "name", "db", "results_dir", "gpus", "gpu_memory")
WORTH_A_PROCESS = 10  # studies: fewer expand sooner here than a new process imports core


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
    """One study of the plan."""

    name: str
    num_cells: int
    runs: frozenset[RunKey]
    shared: int
    done: frozenset[RunKey]
    running: int
    left: dict[RunKey, Cost | None]  # None: nothing like it was ever run
    to_come: tuple[Cost | None, ...] = ()


# ---- what is wanted --------------------------------------------------------------------------------------------------


def wanted(connection: Connection | None, request: Request, core: str, measured: Collection[str] = ()) -> Wanted:
    """From the database when this launch is in it as it would be written now, else by expanding the study once."""
    if connection is not None:
        request = settled(connection, request)
    launch = launch_hash(request, core)
    known = registered_configs(connection, request, launch) if connection is not None else None
    hashes = known or expansion_cache.read(launch)
    if hashes is None:
        hashes = expanded(request, launch, measured)
    if connection is not None and not known and not all(steps for _, steps in hashes):
        inits = untrained.stored(connection, request.instance)
        hashes = [(digest(inits[config]) if config in inits else config, steps) for config, steps in hashes]
    of = dict(hashes)
    search, seeds = trials(connection, request, of), further_runs(connection, request, of)
    steps = {(config, seed): steps for config, steps in hashes for seed in request.wanted_seeds}
    asked = {key: of[key[0]] for key in seeds}
    further = {key: of[key[0]] for key in by_rule(connection, request, of)}
    return Wanted(request.instance, len(hashes), steps | search.steps | asked, further, search.num_left, request.scale)


def expanded(request: Request, launch: str, measured: Collection[str] = ()) -> expansion_cache.ConfigSteps:
    """The study's configs and steps, and what those that were not `measured` compute; remembered for the next time."""
    cells = [(digest(flat), flat) for _, flat in expand(request).cells]
    for config, flat in dict(cells).items():
        if config not in measured and work.known(config) is None:
            work.counted(flat)
    hashes = [(config, int(flat["optim.steps"])) for config, flat in cells]
    expansion_cache.write(launch, hashes)
    return hashes


def expand_ahead(
    connection: Connection | None, requests: Sequence[Request], core: str, measured: Collection[str] = ()
) -> None:
    """Expand many studies that nothing remembers on several processors; `wanted` then finds them in the cache."""
    new = []
    for request in requests:
        launch = launch_hash(request, core)
        known = registered_configs(connection, request, launch) if connection is not None else None
        if not known and expansion_cache.read(launch) is None:
            new.append((request, launch, measured))
    num_processes = min(os.cpu_count() or 1, len(new) // WORTH_A_PROCESS)
    if num_processes > 1:
        # Not forked: this process may have threads by now.
        with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"), gc.disable) as pool:
            each = pool.map(_expand_quietly, *zip(*new, strict=True))
            list(track(each, "expanding studies, counting operations", len(new), console=Console(stderr=True)))


def _expand_quietly(request: Request, launch: str, measured: Collection[str]) -> None:
    with contextlib.suppress(UserError):  # `wanted` meets it again, and tells the person
        expanded(request, launch, measured)


# ---- what there is, what is left -------------------------------------------------------------------------------------


def lines(studies: Sequence[Wanted], estimator: Estimator) -> list[Line]:
    """What each study has and still needs. A diverged or failed run is an outcome: launching does not repeat it."""
    by_key = estimator.runs
    found = []
    for study in studies:
        others = {key for other in studies if other is not study for key in other.steps}
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
                shared=len(others & study.steps.keys()),
                done=frozenset(key for key, state in states.items() if state == "done"),
                running=sum(state == "running" for state in states.values()),
                left=costs,
                to_come=tuple(to_come),
            )
        )
    return found


def configs_left(studies: Sequence[Wanted], runs: Iterable[Recorded]) -> set[str]:
    """Configs of which a run is left or to come: what others compute need not be counted."""
    states = {run.key: run.state for run in runs}
    return {
        config
        for study in studies
        for config, seed in (*study.steps, *study.further)
        if study.num_trials or states.get((config, seed), UNFINISHED[0]) in UNFINISHED
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
    """The sum, `?` when nothing of it is known, `> 1.2 h` when only a part is."""
    listed = list(costs)
    known = [cost for cost in listed if cost is not None]
    if listed and not known:
        return "?"
    value = sum(cost.gpu_seconds if gpu else cost.cpu_seconds for cost in known) / 3600
    return f"{'> ' if len(known) < len(listed) else ''}{value:.2f} h"


def as_table(plan: Sequence[Line]) -> Table:
    table = Table(title="Plan")
    table.add_column("study", no_wrap=True)
    # A column that most plans leave empty would cut the others' headers on a narrow terminal.
    has_more = any(line.to_come for line in plan)
    headers = ["cells", "runs", "shared", "done", "running", "left", *(["to come"] if has_more else [])]
    for header in (*headers, "CPU to finish", "GPU to finish"):
        table.add_column(header, justify="right")
    for line in plan:
        numbers = [line.num_cells, len(line.runs), line.shared, len(line.done), line.running, len(line.left)]
        more = [str(len(line.to_come) or "·")] if has_more else []
        costs = [*line.left.values(), *line.to_come]
        table.add_row(escape(line.name), *map(str, numbers), *more, hours(costs, gpu=False), hours(costs, gpu=True))
    if len(plan) > 1:
        runs = frozenset(key for line in plan for key in line.runs)
        done = frozenset(key for line in plan for key in line.done)
        left: dict[RunKey, Cost | None] = {}
        for line in plan:  # an estimate from any study that asks for the run will do
            left |= {key: cost or left.get(key) for key, cost in line.left.items()}
        to_come = [cost for line in plan for cost in line.to_come]
        more = [str(len(to_come))] if has_more else []
        costs = [*left.values(), *to_come]
        table.add_section()
        table.add_row(
            "all, shared runs once", str(sum(line.num_cells for line in plan)), str(len(runs)), "", str(len(done)), "",
            str(len(left)), *more, hours(costs, gpu=False), hours(costs, gpu=True),
        )  # fmt: skip
    return table


# ---- command line ----------------------------------------------------------------------------------------------------


def check(engine: Engine | None, request: Request) -> Expansion:
    """Raises UserError for what a launch would refuse, also where the study's cells are registered or remembered."""
    check_machine(dict(word.removeprefix("runtime.").split("=", 1) for word in request.runtime))
    expansion = expand_checked(request)
    if engine is not None:
        refuse_other_data(engine, expansion)
    return expansion


def looked_at(engine: Engine | None, request: Request, line: Line) -> Iterable[str]:
    """What its rows differ in. A study that has nothing left is only shown by a launch, and may lack its data here: its
    options are those of the database.

    Raises UserError for what a launch would refuse.
    """
    if line.left or line.to_come or engine is None:
        return compared(request, check(engine, request).cells)
    with engine.connect() as connection:
        return compared(request, stored_cells(connection, request))


def compared(request: Request, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[str]:
    """A line a row: every option in which it differs from the baseline, in whichever column."""
    if request.study.search(request.scale) is not None:
        return
    rows = fair_rows.by_row(fair_rows.differences(request.study, request.scale, cells), lambda cell: cell.row_key)
    if rows:
        yield f"{request.instance}: what differs from the baseline {request.study.baseline}"
    yield from (f"  {row}: {'; '.join(texts)}" for row, texts in rows.items())


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS, takes_overrides=True)
    stem = arguments.text("study", "all")
    requests = [Request.of(read(name), arguments) for name in (names() if stem == "all" else stem.split(","))]
    if "gpu_memory" in arguments.values or "gpus" in arguments.values:
        gpus, memory = arguments.whole("gpus", 1, least=1), arguments.number("gpu_memory", 80.0, above=0)
        found = list(room.advice(requests, gpus=gpus, gpu_memory=memory))
        cli.console().print(room.as_table(found, gpus=gpus, gpu_memory=memory))
        return cli.OK
    core, engine = fingerprint(), None
    if cli.is_absent(arguments.text("db", cli.DEFAULT_DATABASE)):  # then everything is still to do
        expand_ahead(None, requests, core)
        studies = [wanted(None, request, core) for request in requests]
        estimator = Estimator([], work.of_configs(None, configs_left(studies, [])))
    else:
        engine = cli.open_for_reading(arguments)
        with engine.connect() as connection:
            runs = recorded(connection)
            measured = {run.key[0] for run in runs if run.state == "done"}
            expand_ahead(connection, requests, core, measured)
            studies = [wanted(connection, request, core, measured) for request in requests]
            estimator = Estimator(runs, work.of_configs(connection, configs_left(studies, runs)))
    plan = lines(studies, estimator)
    differing: list[str] = []
    if stem != "all":  # a plan of everything is asked for what it costs, and answered in seconds
        for request, line in zip(requests, plan, strict=True):
            differing += looked_at(engine, request, line)
    if engine is not None:
        engine.dispose()
    cli.console().print(as_table(plan))
    if said := estimator.said():
        cli.console().print(said, style="dim", highlight=False)
    for text in differing:
        cli.console().print(escape(text), highlight=False)
    return cli.OK


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
