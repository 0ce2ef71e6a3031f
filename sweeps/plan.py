"""What launching a study would train, what others have trained already, and what finishing it will cost.

python -m sweeps.plan study=masking_ratio
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table
from sqlalchemy import Connection, Engine

from core import terminal
from sweeps import cli
from sweeps.cells import expansion_cache, gpu_memory, untrained, work
from sweeps.cells.estimate import Cost, Estimator, RunKey, recorded
from sweeps.cells.expand import Expansion, expand, expand_checked, fingerprint
from sweeps.cells.registry import launch_hash, registered_configs, settled, stored_cells
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database import seen_data
from sweeps.launch import check_machine, refuse_other_data
from sweeps.progress.to_finish import Line, Wanted, asked_for, configs_left, hours, lines
from sweeps.study import fair_rows
from sweeps.study.files import names
from sweeps.study.identity import digest
from sweeps.study.model import Cell
from sweeps.study.overrides import ROOTS

USAGE = """usage: python -m sweeps.plan [study=NAME|all] [scale=cpu] [seeds=[0,1,2]] [any.key=value ...]
                             [db=sqlite:///results/ablations.sqlite] [results_dir=results]
                             [gpus=1] [gpu_memory=80] [plugins=[my_lab.masks]]

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

# results_dir as launches have it: nothing is written.
OPTIONS = ("study", "scale", "seeds", "name", "db", "results_dir", "gpus", "gpu_memory", "plugins")
WORTH_A_PROCESS = 10  # studies: fewer expand sooner here than a new process imports core


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
    return asked_for(connection, request, hashes)


def expanded(request: Request, launch: str, measured: Collection[str] = ()) -> expansion_cache.ConfigSteps:
    """The study's configs and steps, and what those that were not `measured` compute; remembered for the next time."""
    cells = [(digest(flat), flat) for _, flat in expand(request).cells]
    for config, flat in dict(cells).items():
        if config not in measured and work.known(config) is None:
            work.counted(flat, request.data_root)
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
            with terminal.interrupts_held():
                each = pool.map(_expand_quietly, *zip(*new, strict=True))
            list(track(each, "expanding studies, counting operations", len(new), console=Console(stderr=True)))


def _expand_quietly(request: Request, launch: str, measured: Collection[str]) -> None:
    with contextlib.suppress(UserError):  # `wanted` meets it again, and tells the person
        expanded(request, launch, measured)


# ---- showing ---------------------------------------------------------------------------------------------------------


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
        of_both = (hours(line.costs, gpu=gpu) for gpu in (False, True))
        table.add_row(escape(line.name), *map(str, numbers), *more, *of_both)
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
    if engine is None:
        return expand_checked(request, needs_files=False)
    with engine.connect() as connection:
        pairs = seen_data.holding([*seen_data.accepted(connection), *seen_data.typed(request.runtime)])
    request = dataclasses.replace(request, runtime=seen_data.with_pairs(request.runtime, pairs))
    expansion = expand_checked(request, needs_files=False)
    refuse_other_data(engine, expansion)
    return expansion


def looked_at(engine: Engine | None, request: Request, line: Line) -> Iterable[str]:
    """What its rows differ in. A study that has nothing left is only shown by a launch, and may lack its data here: its
    options are those of the database, and its data is compared with what its runs saw only where it is here.

    Raises UserError for what a launch would refuse.
    """
    if line.left or line.to_come or engine is None or _has_data(engine, request):
        return compared(request, check(engine, request).cells)
    with engine.connect() as connection:
        return compared(request, stored_cells(connection, request))


def _has_data(engine: Engine, request: Request) -> bool:
    """Whether the files that the study's runs saw are where this command would have them read."""
    with engine.connect() as connection:
        # Not only of this very launch: another's seeds, or the file before an edit, saw the same data.
        configs = [config for _, config in stored_cells(connection, settled(connection, request))]
    files = seen_data.files_in(configs)
    return bool(files) and seen_data.is_here(request.data_root, files)


def compared(request: Request, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[str]:
    """A line a row: every option in which it differs from the baseline, in whichever column."""
    if request.study.search(request.scale) is not None:
        return
    rows = fair_rows.by_row(fair_rows.differences(request.study, request.scale, cells), lambda cell: cell.row_key)
    if rows:
        yield f"{request.instance}: what differs from the baseline {request.study.baseline}"
    yield from (f"  {row}: {'; '.join(texts)}" for row, texts in rows.items())


def command(words: Sequence[str]) -> int:
    wrong = cli.Wrong()
    arguments = cli.parse(words, OPTIONS, overrides=ROOTS, wrong=wrong)
    stem = arguments.text("study", "all")
    if "study" in arguments.refused:
        wrong.settle()
    gpus, memory = 1, 80.0
    with wrong.collected():
        gpus = arguments.whole("gpus", gpus, least=1)
    with wrong.collected():
        memory = arguments.number("gpu_memory", memory, above=0)
    found = [
        cli.asked_at_once(name, arguments, wrong)
        for name in (names() if stem == "all" else dict.fromkeys(stem.split(",")))
    ]
    cli.refuse_all(wrong, found if stem != "all" else [])
    requests = [request for request in found if request is not None]
    if "gpu_memory" in arguments.values or "gpus" in arguments.values:
        advice = list(gpu_memory.advice(requests, gpus=gpus, gpu_memory=memory))
        cli.console().print(gpu_memory.as_table(advice, gpus=gpus, gpu_memory=memory))
        return cli.OK
    core, engine = fingerprint(), None
    if cli.is_absent(arguments.text("db", cli.DEFAULT_DATABASE)):  # then everything is still to do
        expand_ahead(None, requests, core)
        studies = [wanted(None, request, core) for request in requests]
        estimator = Estimator([], work.of_configs(None, configs_left(studies, {})))
    else:
        engine = cli.open_for_reading(arguments)
        with engine.connect() as connection:
            runs = recorded(connection)
            measured = {run.key[0] for run in runs if run.state == "done"}
            expand_ahead(connection, requests, core, measured)
            studies = [wanted(connection, request, core, measured) for request in requests]
            known = Estimator(runs, {})
            estimator = known.of(work.of_configs(connection, configs_left(studies, known.runs)))
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
