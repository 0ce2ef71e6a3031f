"""What a worker does: claim a run, train it with core, record it, repeat until there is nothing to claim."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import re
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.configuring.config import ConfigError, Run, Runtime, from_flat
from core.running.checkpoint import CheckpointError
from core.running.ranks.processes import Together
from core.running.ranks.processes import train_together as train_in_processes
from core.running.stacked import train_stacked
from core.running.trainer import train
from core.terminal import FULL, blamed
from core.types import Recorder
from sweeps.console.errors import UserError
from sweeps.database import shared_disk
from sweeps.database.tables import Environment as EnvironmentRow
from sweeps.database.tables import insert_new
from sweeps.engine import queue
from sweeps.engine.owner import reap, worker_name
from sweeps.engine.provenance import Meter, attempt_columns, environment
from sweeps.engine.pruning import Judge, find_judge
from sweeps.engine.queue import LEASE_S, Claim, Usage
from sweeps.engine.recorder import DatabaseRecorder, patiently
from sweeps.engine.siblings import Siblings
from sweeps.engine.stacks import HasTime, SharedMeter, Stacks, in_time
from sweeps.study.identity import canonical_json

log = logging.getLogger(__name__)

POLL_S = 1.0  # how often a waiting worker looks for work


class DiskFull(UserError):
    """The results folder takes no more; nothing that was written before is lost."""


@dataclass(frozen=True)
class Work:
    """Which runs a worker takes, and what it gives them."""

    results_dir: Path
    study: int | None = None  # an id: only runs of its current cells
    seeds: Sequence[int] | None = None
    lease_s: float = LEASE_S
    wait: bool = False  # while runs in scope are queued or running, though none can be claimed now ...
    idle_s: float = math.inf  # ... but at most this long after the last run
    has_time: HasTime | None = None  # for one more run: asked before each but the first, and of every stack's size
    runtime: Mapping[str, Any] = field(default_factory=dict)  # runtime.* of every run, without `dir`
    siblings: Siblings = field(default_factory=Siblings)
    stack: int = 1  # the most runs of one shape to train together; limits.AUTO_STACK: as many as the device takes
    stacks: Stacks = field(default_factory=Stacks)
    together: Together = field(default_factory=Together)  # the processes, one a GPU, that take each step of a run


def work(
    engine: Engine,
    what: Work,
    *,
    stop: threading.Event,
    build: Callable[..., Run] = from_flat,
    train: Callable[[Run, Recorder], None] = train,
    train_together: Callable[..., Sequence[Exception | None]] = train_stacked,
) -> Counter[str]:
    """Train what can be claimed; returns how many runs ended how (done, failed, preempted, fenced, ...).

    Returns when nothing can be claimed (with `what.wait`: when nothing is left), when there is no time for one more, or
    when `stop` is set. An error of a run is recorded with the run; errors of the database are raised once it has been
    away for longer than patience.
    """
    refuse_ranks()
    if what.together.size > 1:
        train = functools.partial(train_in_processes, together=what.together)
    device = str(what.runtime.get("device", "auto"))
    columns, worker = attempt_columns(device), worker_name()
    outcomes: Counter[str] = Counter()
    patiently(engine, shared_disk.check, stop=stop)
    seen = environment()
    rows = [{"hash": seen.hash, "packages": seen.packages}]
    patiently(engine, functools.partial(insert_new, table=EnvironmentRow, rows=rows), stop=stop)
    take = functools.partial(
        queue.claim, worker=worker, lease_s=what.lease_s, study=what.study, seeds=what.seeds, provenance=columns
    )
    take_more = functools.partial(what.stacks.more, study=what.study, seeds=what.seeds, provenance=columns)
    idle_since = time.monotonic()
    while not stop.is_set():
        if outcomes and what.has_time is not None and not patiently(engine, what.has_time, stop=stop):
            break
        claim = patiently(engine, take, stop=stop)
        if claim is not None:
            claims = [claim]
            size = 1 if what.stack == 1 else what.stacks.size(claim, what.stack, build, what.runtime)
            if size > 1 and what.has_time is not None:
                fitting = functools.partial(in_time, has_time=what.has_time, first=claim, size=size)
                size = patiently(engine, fitting, stop=stop)
            if size > 1:
                claims = patiently(engine, functools.partial(take_more, first=claim, size=size), stop=stop)
            outcomes.update(
                attempt(engine, claims, what, stop=stop, build=build, train=train, train_together=train_together)
            )
            idle_since = time.monotonic()
            continue
        if patiently(engine, reap, stop=stop):
            continue
        left = patiently(engine, functools.partial(queue.pending, study=what.study, seeds=what.seeds), stop=stop)
        is_over = left.num_queued + left.num_running == 0 or time.monotonic() - idle_since > what.idle_s
        if is_over or not what.wait:
            break
        stop.wait(min(max(left.wait_s, 0.05), POLL_S))
    return outcomes


def refuse_ranks() -> None:
    """Under torchrun every rank would claim a run of its own, and core would average their gradients."""
    if (size := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(
            f"WORLD_SIZE={size}: a worker starts the processes of its runs itself, so start workers without torchrun, "
            "one a GPU (workers=N, or slurm.gpus=N); for a run on several GPUs: gpus_per_run=N"
        )


def attempt(
    engine: Engine,
    claims: list[Claim],
    what: Work,
    *,
    stop: threading.Event,
    build: Callable[..., Run] = from_flat,
    train: Callable[[Run, Recorder], None] = train,
    train_together: Callable[..., Sequence[Exception | None]] = train_stacked,
) -> list[str]:
    """Train the claimed runs, of one shape, each to whatever its outcome is, and record it."""
    opened: list[Opened] = []
    meter = SharedMeter(
        Meter(str(what.runtime.get("device", "auto")), what.together.size),
        lambda: sum(each.record.outcome is None for each in opened),
    )
    try:
        for claim in claims:
            opened.append(open_attempt(engine, claim, what, stop=stop, usage=meter.usage, stack=len(claims)))
    except DiskFull:
        for claim in claims[: len(opened)] + claims[len(opened) + 1 :]:  # the one between is released already
            patiently(engine, functools.partial(queue.release, claim=claim), patience_s=10.0, stop=stop)
        raise
    full: DiskFull | None = None
    with contextlib.ExitStack() as recorders:
        for each in opened:
            recorders.enter_context(each.record)
        errors = train_all(opened, what, stop=stop, build=build, train=train, train_together=train_together)
        for each, error in zip(opened, errors, strict=True):
            full = settle(each, what, error) or full
    if any(isinstance(error, torch.OutOfMemoryError) for error in errors) and torch.cuda.is_available():
        torch.cuda.empty_cache()  # the next run of this process starts with an empty card
    for each in opened:
        if each.judge is not None:
            each.judge.close()
        if what.together.size > 1 and each.record.outcome == "preempted" and not each.record.should_stop():
            stop.set()  # another process of the run was asked to stop: so is this one, whatever it would claim next
    if full is not None:
        raise full
    return [str(each.record.outcome) for each in opened]


class Opened(NamedTuple):
    """A claimed run that is about to be trained."""

    claim: Claim
    folder: Path
    record: DatabaseRecorder
    judge: Judge | None

    def runtime(self, what: Work) -> dict[str, Any]:
        every = {"eval_every": self.judge.eval_every} if self.judge else {}
        return {**every, **what.runtime, "dir": str(self.folder)}


def open_attempt(
    engine: Engine,
    claim: Claim,
    what: Work,
    *,
    stop: threading.Event,
    usage: Callable[[int | None], Usage],
    stack: int,
) -> Opened:
    judge = patiently(engine, functools.partial(find_judge, engine=engine, claim=claim), stop=stop)
    try:
        folder = run_folder(what.results_dir, claim)
        record = DatabaseRecorder(
            engine, claim, folder, results_dir=what.results_dir, stop=stop, usage=usage, stack=stack,
            processes=what.together.size,
            should_prune=judge.should_prune if judge else None,
        )  # fmt: skip
    except OSError as caught:
        if caught.errno not in FULL:
            raise
        patiently(engine, functools.partial(queue.release, claim=claim), patience_s=10.0, stop=stop)
        raise disk_full(what, claim, caught, claim.checkpoint_step) from caught
    return Opened(claim, folder, record, judge)


def train_all(
    opened: Sequence[Opened],
    what: Work,
    *,
    stop: threading.Event,
    build: Callable[..., Run],
    train: Callable[[Run, Recorder], None],
    train_together: Callable[..., Sequence[Exception | None]],
) -> list[Exception | None]:
    """What each run raised. What the database raised at a run's ending is raised: it is no outcome of the run."""
    errors: list[Exception | None] = [None] * len(opened)
    runs: dict[int, Run] = {}
    for i, each in enumerate(opened):
        try:
            adopt = functools.partial(
                what.siblings.adopt, claim=each.claim, results_dir=what.results_dir, folder=each.record.folder
            )
            if (adopted := patiently(each.record.engine, adopt, stop=stop)) is not None:
                each.record.checkpointed(*adopted)
            runs[i] = build(each.claim.config, seed=each.claim.seed, runtime=each.runtime(what))
        except Exception as caught:
            errors[i] = caught
    is_together = len(runs) > 1
    if is_together:
        try:
            found = train_together(list(runs.values()), [opened[i].record for i in runs])
            errors = [dict(zip(runs, found, strict=True)).get(i, error) for i, error in enumerate(errors)]
        except ConfigError as refusal:  # before any of them trained
            log.info("%s", refusal)
            is_together = False
    if not is_together:
        for i, run in runs.items():
            try:
                train(run, opened[i].record)
            except Exception as caught:
                errors[i] = caught
    return errors


def settle(each: Opened, what: Work, caught: Exception | None) -> DiskFull | None:
    """Record what a run raised as its outcome; returns the full disk that it was, which ends this worker."""
    claim, record = each.claim, each.record
    if caught is None:
        if record.outcome is None:
            record.fail("RuntimeError: the trainer returned without an outcome", is_final=True)
        return None
    # What the run raised is its outcome; what the database raised at its ending is not.
    if record.outcome is not None or isinstance(caught, SQLAlchemyError):
        raise caught
    reason = caught.__cause__ or caught  # the recorder raises its thread's errors anew
    if isinstance(reason, OSError) and reason.errno in FULL:
        # No fault of the run, and the next would fare no better: give it back and end.
        record.patience_s = 10.0  # the database may sit on the same disk
        record.finish("preempted", {}, {})
        full = disk_full(what, claim, reason, record.step)
        full.__cause__ = caught
        return full
    error, is_final = describe(caught), isinstance(caught, ConfigError | CheckpointError | UserError)
    keep_traceback(each.folder, claim, caught)
    log.error("run %d, attempt %d: %s (see %s)", claim.run_id, claim.attempt, error, each.folder / "errors.txt")
    record.fail(error, is_final=is_final)
    return None


def disk_full(what: Work, claim: Claim, error: OSError, step: int | None) -> DiskFull:
    where = f"run {claim.run_id}, step {step or 0}"
    folders = {"results_dir": what.results_dir, "runtime.cache": Path(what.runtime.get("cache", Runtime.cache))}
    # What names no file is a checkpoint: it is written last.
    at_fault = blamed(error, folders) or f"results_dir={what.results_dir}: {error.strerror}"
    return DiskFull(f"{at_fault} ({where}); earlier checkpoints are intact: make room and launch again")


def describe(error: BaseException) -> str:
    """One line that is the same whenever the same thing goes wrong: no addresses, and no amounts of memory."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return "out_of_memory: GPU"
    if isinstance(error, MemoryError) or re.search(r"out of memory|can't allocate memory", text, re.IGNORECASE):
        return "out_of_memory: host"
    return re.sub(r"0x[0-9a-fA-F]+", "0x…", f"{type(error).__name__}: {text}")[:500]


def keep_traceback(folder: Path, claim: Claim, error: BaseException) -> None:
    with (folder / "errors.txt").open("a", encoding="utf-8") as file:
        file.write(f"---- attempt {claim.attempt} on {claim.worker}\n{''.join(traceback.format_exception(error))}\n")


def run_folder(results_dir: Path, claim: Claim) -> Path:
    """The folder of a run, one for all its attempts: ``results_dir/runs/<run id>``, made if missing.

    `run.json` in it says whose it is. Where another database's run of that number left a folder, ours is
    ``<run id>-2`` and so on: a checkpoint of another run must never be resumed.
    """
    owner = canonical_json({"config": claim.config_hash, "seed": claim.seed, "registered": claim.created})
    for name in _folder_names(claim.run_id):
        folder = results_dir / "runs" / name
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(owner, encoding="utf-8")
        marker = folder / "run.json"
        if marker.exists() and marker.read_text(encoding="utf-8") == owner:
            return folder
    raise AssertionError("unreachable: names do not end")


def _folder_names(run_id: int) -> Iterator[str]:
    yield str(run_id)
    number = 2
    while True:
        yield f"{run_id}-{number}"
        number += 1


@contextlib.contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM, SIGUSR2 (Slurm's warning) and Ctrl-C set. A second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
