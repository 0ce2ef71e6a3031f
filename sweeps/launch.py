"""From a study file to its table: train what is missing, record every run, write the table and the figures.

python -m sweeps.launch study=masking_ratio
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.logging import RichHandler
from sqlalchemy import Engine

from core.handing_over import NotInstalled, hand_over
from sweeps import cli
from sweeps.cells import edited, untrained
from sweeps.cells.expand import Expansion, expand_checked, fingerprint
from sweeps.cells.registry import Registered, find_registered, launch_hash, register_study, settled
from sweeps.cells.request import Request
from sweeps.cli import Arguments
from sweeps.console import on_screen
from sweeps.console.errors import UserError
from sweeps.console.offered import Place
from sweeps.database import aliases, registering, seen_data, shared_disk
from sweeps.database.opening import open_database, upgrade
from sweeps.engine import counting, slurm, together
from sweeps.engine.cards import chosen_workers
from sweeps.engine.executors import EXECUTORS, Ended, Executor, Job
from sweeps.engine.queue import LEASE_S
from sweeps.engine.slurm import options as slurm_options
from sweeps.progress import ending, study_status
from sweeps.progress.live import Progress
from sweeps.progress.study_status import StudyStatus
from sweeps.progress.to_finish import UNFINISHED
from sweeps.search.director import Director, direct, find_director
from sweeps.study.overrides import ROOTS, plain

USAGE = """usage: python -m sweeps.launch study=NAME [key=value ...]

Trains the runs of a study that the database does not have yet, then prints and writes its table and figures.
Safe to run again, also while it runs elsewhere: it goes on where it stopped, and a finished study is only printed.

  study=NAME           a file under studies/ by its name, or a path to a .yaml
  scale=cpu            smoke (seconds), cpu (minutes on 2 cores), lab (real pictures: STL-10 or yours, a night on a
                       GPU), gpu (generated ones, an hour or two on one), paper (as printed)
  workers=N            processes training at once (default: one a core; of GPUs as many each as have room for a step)
  executor=local       local (processes of this machine), inline (this very process) or slurm (jobs of a cluster)
  slurm.KEY=VALUE      with executor=slurm: partition, time_min=60, gpus=0, cpus, array=4 (most jobs at once),
                       gpus_per_run, nodes, warn_s=120 (before the time is over),
                       extra='{account: vision, mem: 16G}' (any option of sbatch)
  db=sqlite:///results/ablations.sqlite     or postgresql://user@host/name
  results_dir=results  tables/, figures/ and runs/ (checkpoints, TensorBoard events) are written in it
  seeds=[0,1,2]        instead of the study's own; or a rule: seeds="{start: 3, until: decided, max: 12}"
  stack=1              train up to this many runs of one shape together in a worker: a row's seeds, or rows that differ
                       in values; numbers are then those of runs alone to rounding. auto: as many as the device takes
  gpus_per_run=1       so many processes, a GPU each, take every step of a run; on Slurm: slurm.gpus_per_run=8, maybe
                       spread over slurm.nodes=2. The batch stays what it is: each takes its share of it
  priority=0           runs of a larger priority are claimed first, among all studies of the database
  lease_s=300          after this long without a sign of life a run is given to another worker
  retry=true           try failed runs again
  plugins=[my_lab.masks]   modules out of this tree that register components, beside those of the file: docs/plugins.md
  name=WORD            what the table is called when options are overridden (default: the overrides)
  runtime.KEY=VALUE    where and how runs are computed: runtime.device=cuda, runtime.cache=..., runtime.data_root=...
  any.key=VALUE        overrides that option in every cell: another study instance, with a table of its own

Ctrl-C once: every worker finishes its step, writes a checkpoint and gives its run back.

examples:
  python -m sweeps.launch study=masking_ratio
  python -m sweeps.launch study=ijepa_masking_strategy workers=2 seeds=[0,1,2,3,4]
  python -m sweeps.launch study=ijepa_targets data=image_folder data.path=clothing_small_96 data.size=64"""

OPTIONS = (
    "study", "scale", "workers", "executor", "db", "results_dir", "seeds", "lease_s", "retry", "name", "priority",
    "stack", "gpus_per_run", "plugins",
)  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A command line, checked as far as it can be without the database and core."""

    request: Request
    job: Job  # without the study's id, which the database gives
    executor: str
    workers: int  # 0: as many as make sense
    retry: bool
    priority: int
    slurm: slurm_options.Options | None = None


def parse(words: Sequence[str]) -> Launch:
    """Raises UserError or StudyError naming the option, its value and what is allowed."""
    wrong = cli.Wrong()
    of_slurm = [word for word in words if word.startswith("slurm.")]
    arguments = cli.parse([word for word in words if word not in of_slurm], OPTIONS, overrides=ROOTS, wrong=wrong)
    request: Request | None = None
    options: slurm_options.Options | None = None
    if "study" in arguments.values:
        request = cli.asked_at_once(arguments.values["study"], arguments, wrong)
    elif "study" not in arguments.refused:
        wrong.add("study is missing: which one? `python -m sweeps.launch --help` shows how")
    typed = [word for word in arguments.overrides if word.startswith("runtime.")]
    parts = (word.removeprefix("runtime.").partition("=") for word in typed)
    runtime: dict[str, Any] = {name: plain(value) for name, _, value in parts}
    with wrong.collected():
        executor, workers, options = _executor(arguments, of_slurm)
    if arguments.text("executor", "") != "slurm":  # jobs of a cluster see other machines than this one
        with wrong.collected():
            check_machine(runtime)
    with wrong.collected():
        if "same_data" in runtime:
            runtime["same_data"] = seen_data.typed(typed)
        if "dir" in runtime:
            raise UserError("runtime.dir: every run has a folder of its own under results_dir; set results_dir=")
    with wrong.collected():
        results_dir = cli.writable_folder(arguments.text("results_dir", "results"), "results_dir")
    with wrong.collected():
        lease_s = arguments.number("lease_s", LEASE_S, above=0)
    with wrong.collected():
        stack = arguments.stack()
    with wrong.collected():
        priority = arguments.whole("priority", 0, least=0, most=2**31 - 1)
    with wrong.collected():
        retry = arguments.flag("retry")
    with wrong.collected():
        gpus_per_run = together.asked(arguments, options, str(runtime.get("device", "auto")))
    cli.refuse_all(wrong, [request])
    assert request is not None
    job = Job(
        url=arguments.text("db", cli.DEFAULT_DATABASE),
        results_dir=results_dir,
        seeds=request.wanted_seeds + request.further_seeds,
        lease_s=lease_s,
        runtime=runtime,
        stack=stack,
        gpus_per_run=gpus_per_run,
    )
    return Launch(request, job, executor, workers, retry, priority, options)


def check_machine(runtime: Mapping[str, Any]) -> None:
    """Raises UserError for a device or a cache that workers of this machine could not use."""
    if runtime.get("device") == "cuda":
        from core.configuring.config import ConfigError, check_device  # imports torch

        try:
            check_device("cuda")
        except ConfigError as error:
            raise UserError(str(error)) from None
    if "cache" in runtime:
        cli.writable_folder(runtime["cache"], "runtime.cache")


def _executor(arguments: Arguments, of_slurm: Sequence[str]) -> tuple[str, int, slurm_options.Options | None]:
    executor = arguments.text("executor", "local")
    if executor not in (*EXECUTORS, "slurm"):
        raise UserError(f"executor must be one of {', '.join(EXECUTORS)}, slurm, got {executor!r}")
    if executor == "slurm":
        if "workers" in arguments.values:
            raise UserError("workers: with executor=slurm say slurm.array=N, the most jobs at once")
        options, pilots = slurm_options.parse(of_slurm)
        return executor, pilots, options
    if of_slurm:
        raise UserError(f"{of_slurm[0]} is for executor=slurm, this is executor={executor}")
    workers = arguments.whole("workers", 1 if executor == "inline" else 0, least=1)
    if executor == "inline" and workers != 1:
        raise UserError(f"workers={workers}: executor=inline trains in one process; use executor=local or workers=1")
    return executor, workers, None


def register(
    engine: Engine, request: Request, priority: int = 0, gpus_per_run: int = 1, ready: Callable[[], object] = bool,
    before: Expansion | None = None,
) -> Registered:  # fmt: skip
    """The study in the database, expanded through core only when this very launch is not there yet.

    `before` is taken where it is of this request. All that can be wrong with a study, or with what would train it
    (`ready`), is found before anything is written.
    """
    key = launch_hash(request, fingerprint())
    with engine.connect() as connection:
        known = find_registered(connection, request, key)
        files = seen_data.files_of(connection, known.run_ids) if known is not None else []
    is_done = known is not None and not _is_waiting(read_status(engine, known.name))
    if known is not None and is_done and not (files and seen_data.is_here(request.data_root, files)):
        if files:
            print(f"{known.name}: its data is not on this machine, so that it was not compared with what its runs saw")
        return known
    expansion = before if before is not None and before.request == request else expand_checked(request)
    together.refuse_shares(expansion.cells, gpus_per_run)
    refuse_other_data(engine, expansion)
    if known is not None and is_done:
        return known
    ready()
    with engine.begin() as connection:
        return register_study(connection, expansion, key, priority=priority)


def refuse_other_data(engine: Engine, expansion: Expansion) -> None:
    """Raises UserError where the study's finished runs saw other files than its cells would see now."""
    with engine.connect() as connection:
        asked = [config for _, config in expansion.cells]
        known = registering.known_configs(connection, untrained.settled(connection, expansion.request.instance, asked))
        before = seen_data.recorded(connection, sorted(known))
    if before:
        cells = zip(expansion.cells, expansion.data(), strict=True)
        now = [seen_data.of_config(config, data) for (_, config), data in cells]
        seen_data.refuse_other(before, now, configs=asked)


def _is_waiting(study: StudyStatus) -> bool:
    return bool(study.of(*UNFINISHED))


def read_status(engine: Engine, name: str) -> StudyStatus:
    with engine.connect() as connection:
        return study_status.read(connection, name)


def expanded_first(launch: Launch) -> Expansion | None:
    """The study where its database has yet to be made, so that a mistake in the study leaves no empty one behind."""
    if not cli.is_absent(launch.job.url):
        return None
    expansion = expand_checked(launch.request)
    together.refuse_shares(expansion.cells, launch.job.gpus_per_run)
    return expansion


def open_for_launching(launch: Launch) -> Engine:
    engine = cli.connect(launch.job.url, read_only=False)
    try:
        upgrade(engine)
        aliases.apply_to(engine)
    except ValueError as error:
        raise UserError(str(error)) from None
    with engine.connect() as connection:
        shared_disk.check(connection)
    return engine


def settle(engine: Engine, launch: Launch) -> Launch:
    """The launch under a name of its own, with what was said of equal files, now or before."""
    with engine.begin() as connection:
        request = settled(connection, launch.request)
        pairs = seen_data.accept(connection, seen_data.typed(request.runtime))
    if not pairs:
        return dataclasses.replace(launch, request=request)
    request = dataclasses.replace(request, runtime=seen_data.with_pairs(request.runtime, pairs))
    job = dataclasses.replace(launch.job, runtime=dict(launch.job.runtime) | {"same_data": pairs})
    return dataclasses.replace(launch, request=request, job=job)


# ---- training --------------------------------------------------------------------------------------------------------


def train(engine: Engine, launch: Launch, registered: Registered, director: Director | None = None) -> bool:
    """Start workers on what is left of the study; False when the person asked to stop first."""
    open_database(launch.job.url).dispose()  # its log, before many write to it at once
    left = read_status(engine, registered.name).of(*UNFINISHED)
    job = dataclasses.replace(launch.job, study=registered.study_id)
    executor: Executor = (
        functools.partial(slurm.slurm, options=launch.slurm) if launch.slurm else EXECUTORS[launch.executor]
    )
    with counting.beside(engine, job, executor=launch.executor), Progress(engine, registered.name) as progress:
        logging.basicConfig(
            level=logging.WARNING,
            format="%(message)s",
            handlers=[RichHandler(console=progress.console, show_path=False)],
        )
        if director is None:
            workers = launch.workers or chosen_workers(engine, job, len(left), launch.executor)
            ended = executor(job, workers=workers, on_tick=progress.update)
            return not ended.was_interrupted
        workers = launch.workers or chosen_workers(engine, job, sys.maxsize, launch.executor)

        def start(tick: Callable[[], None]) -> Ended:
            def on_tick() -> None:
                progress.update()
                tick()

            return executor(job, workers=workers, on_tick=on_tick)

        ended = direct(
            director,
            start,
            width=workers,
            is_waiting=lambda: _is_waiting(read_status(engine, registered.name)),
            while_training=launch.executor != "inline",
        )
    return not ended.was_interrupted


# ---- the end ---------------------------------------------------------------------------------------------------------


def write_report(engine: Engine, name: str, results_dir: Path, place: Place) -> None:
    """The study's table on the screen, and its tables and figures under `results_dir`."""
    try:
        paths: list[Path] = hand_over("sweeps.launch", engine, [name], results_dir, place)
    except NotInstalled as error:
        raise UserError(f"{error}; the runs are recorded") from None
    for path in paths:
        if path == results_dir / "tables" / f"{name}.md":
            on_screen.show(path)
    # A page a run would fill the screen: the site is named once.
    site = results_dir / "report"
    shown = [path for path in paths if path.stem != "index" and site not in path.parents]
    print(f"written: {on_screen.files([*shown, site / 'studies' / f'{name}.html'])}")


def command(words: Sequence[str]) -> int:
    launch = parse(words)
    before = expanded_first(launch)
    engine = open_for_launching(launch)
    try:
        launch = settle(engine, launch)
        ready = slurm.check if launch.slurm else bool
        registered = register(engine, launch.request, launch.priority, launch.job.gpus_per_run, ready, before)
        with engine.connect() as connection:
            edited.remember(connection, registered.name, launch.request.study.path, launch.request.data_root)
        if launch.retry:
            failed = [run.run_id for run in read_status(engine, registered.name).of("failed")]
            with engine.begin() as connection:
                registering.requeue(connection, [run_id for run_id in failed if run_id is not None])
        director = find_director(engine, launch.request, registered, launch.priority)
        is_open = director is not None or _is_waiting(read_status(engine, registered.name))
        try:
            is_stopped = is_open and not train(engine, launch, registered, director)
        finally:
            if director is not None:
                director.close()
        if is_stopped:
            study = read_status(engine, registered.name)
            print(ending.stopped(study, words, on_slurm=launch.slurm is not None), file=sys.stderr)
            return cli.INTERRUPTED
        write_report(engine, registered.name, launch.job.results_dir, Place.typed(words))
        is_search = launch.request.study.search(launch.request.scale) is not None
        return ending.verdict(read_status(engine, registered.name), words, is_search=is_search)
    finally:
        engine.dispose()


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
