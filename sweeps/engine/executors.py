"""Who starts workers: `inline` (this process) or `local` (processes of this machine, restarted when they die).

An executor is called with what to do (`Job`) and returns when none of its runs is queued or running any more, when it
was asked to stop, or when its workers keep dying. It learns how things stand from the database alone.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError

from core import terminal
from sweeps.console.errors import USER_ERROR, UserError
from sweeps.database.audit import NEW_EVENT
from sweeps.database.opening import open_database
from sweeps.database.tables import FINAL_STATES, RunRow
from sweeps.engine import queue
from sweeps.engine.owner import reap, worker_name
from sweeps.engine.queue import LEASE_S
from sweeps.engine.recorder import AWAY, patiently, reason_of
from sweeps.engine.statements import in_scope

log = logging.getLogger(__name__)
TICK_S = 0.3
MOST_CRASHES = 5  # of workers in a row, without a run that ended in between
OWN_FAULTS = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
VMSTAT = Path("/proc/vmstat")
OOM_WINDOW_S = 5.0  # a worker killed within this of one more kill on the kernel's count ran out of memory
GRACE_S = 120.0  # for workers to finish their step and checkpoint when asked to stop


@dataclass(frozen=True)
class Job:
    """Runs to finish: those in scope of `study` (an id) and `seeds`, or all that are queued."""

    url: str = field(repr=False)  # with its password, which a log of a job would show
    results_dir: Path
    study: int | None = None
    seeds: Sequence[int] | None = None
    lease_s: float = LEASE_S
    runtime: Mapping[str, Any] = field(default_factory=dict)  # runtime.* of every run, without `dir`
    stack: int = 1  # the most runs of one shape that a worker trains together; limits.AUTO_STACK: as many as fit
    gpus_per_run: int = 1  # processes, one a GPU (or on the CPU), that take each step of a run
    # `build` and `train` of `working.work` in place of core's; importable functions, as processes are sent them.
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    # Imported once, before the first worker process is forked.
    preload: Sequence[str] = ("sweeps.engine.working", "timm")


class Ended(NamedTuple):
    """Why an executor returned; all False when every run has ended one way or another."""

    was_interrupted: bool = False  # asked to stop by a signal
    gave_up: bool = False  # workers kept dying: the log says how


Executor = Callable[..., Ended]


def inline(job: Job, *, workers: int = 1, on_tick: Callable[[], None] = lambda: None) -> Ended:
    """Train in this very process; `on_tick` is called from a thread of its own. `workers` must be 1."""
    if workers != 1:
        raise ValueError(f"workers={workers}: executor=inline trains in one process; use executor=local or workers=1")
    # core and torch (3 s) are imported where runs are trained, not by every command that knows executors.
    worker = importlib.import_module("sweeps.engine.working")
    over = threading.Event()
    ticker = threading.Thread(target=_tick, args=(on_tick, over), daemon=True)
    ticker.start()
    engine = open_database(job.url)
    try:
        with worker.stop_on_signals() as stop:
            worker.work(engine, work_of(worker, job, wait=True), stop=stop, **job.functions)
    finally:
        over.set()
        ticker.join()
        engine.dispose()
    on_tick()
    return Ended(was_interrupted=stop.is_set())


def _tick(on_tick: Callable[[], None], over: threading.Event) -> None:
    while not over.wait(TICK_S):
        on_tick()


def local(job: Job, *, workers: int = 2, on_tick: Callable[[], None] = lambda: None) -> Ended:
    """Train in `workers` processes of this machine, each with its share of the cores; `on_tick` runs here.

    Processes are forked from a server that has imported torch and timm once, so starting one costs little; each takes
    run after run until none can be claimed. One that dies is replaced (its run is queued again at once), up to
    MOST_CRASHES in a row; where it died of its run (out of memory, a segmentation fault), that counts as the run's
    failure. SIGTERM, SIGUSR2 and Ctrl-C are passed on as SIGTERM, and waited for.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    pool = _Pool(job, workers)
    stop = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    }
    engine = open_database(job.url)
    crashes, ended_before = 0, -1
    try:
        while not stop.is_set():
            dead = pool.sweep()
            for worker, error in dead.items():
                if error:  # before `look` queues the run as that of a worker who died of something else
                    patiently(engine, functools.partial(queue.fail_held, owner=worker, error=error), stop=stop)
            left, ended = patiently(engine, functools.partial(look, job, unswept=pool.workers()), stop=stop)
            on_tick()
            crashes = len(dead) + (crashes if ended == ended_before else 0)
            ended_before = ended
            if left.num_queued + left.num_running == 0:
                break
            if pool.is_hopeless:
                return Ended(gave_up=True)  # the worker has noted why
            if crashes >= MOST_CRASHES:
                reason = f"{crashes} workers in a row died without finishing a run, the last one {pool.last_end}"
                log.error("%s: giving up", reason)
                patiently(engine, functools.partial(note_giving_up, job, reason), stop=stop)
                return Ended(gave_up=True)
            can_claim = left.num_queued > 0 and left.wait_s == 0
            if can_claim and len(pool.processes) < workers:
                try:
                    pool.start()
                except (EOFError, ConnectionError):  # who ends a group of processes ends the fork server too
                    if not stop.wait(TICK_S):
                        raise
                continue
            pool.wait(TICK_S)
        return Ended(was_interrupted=stop.is_set())
    finally:
        pool.stop()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # Where the database is what went wrong, the runs' leases will end.
        with suppress(SQLAlchemyError), engine.begin() as connection:
            reap(connection)
        engine.dispose()


def look(job: Job, connection: Connection, *, unswept: Collection[str] = ()) -> tuple[queue.Pending, int]:
    """What is left in scope, once the runs of dead workers and ended leases are back in the queue; and what ended.

    The launcher's own workers in `unswept` may have died since it swept; it has yet to find out what of, so their runs
    stay theirs.
    """
    reap(connection, but=unswept)
    scope = in_scope(RunRow, job.study, job.seeds)
    ended = connection.scalar(select(func.count()).where(RunRow.state.in_(FINAL_STATES), *scope))
    return queue.pending(connection, study=job.study, seeds=job.seeds), int(ended or 0)


def note_giving_up(job: Job, reason: str, connection: Connection) -> None:
    """Into the audit, for each run that is left waiting: `sweeps.status` shows it until somebody claims the run."""
    waiting = connection.scalars(
        select(RunRow.id).where(RunRow.state == "queued", *in_scope(RunRow, job.study, job.seeds))
    ).all()
    told = {"kind": "gave_up", "attempt": None, "worker": worker_name(), "detail": f"gave up: {reason}"}
    if waiting:
        connection.execute(NEW_EVENT, [told | {"run_id": run_id} for run_id in waiting])


class _Pool:
    """The worker processes of one launcher."""

    def __init__(self, job: Job, size: int) -> None:
        self.job, self.size = job, size
        method = "forkserver" if sys.platform == "linux" else "spawn"
        self.context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            self.context.set_forkserver_preload(list(job.preload))
        self.processes: dict[int, ForkServerProcess | SpawnProcess] = {}  # slot -> process
        self.names: dict[int, str] = {}  # slot -> the worker's name in the database
        self.num_oom_kills, self.oom_seen_s = oom_kills(), -math.inf
        self.is_hopeless = False  # a worker said that a person must mend something first
        self.last_end = ""  # how the last worker died

    def start(self) -> None:
        slot = next(slot for slot in range(self.size) if slot not in self.processes)
        # Not daemonic: a worker may need loader processes of its own.
        process = self.context.Process(target=_serve, args=(self.job, slot, self.size), name=f"worker {slot}")
        with terminal.interrupts_held():
            process.start()
        self.processes[slot], self.names[slot] = process, worker_name(process.pid)

    def sweep(self) -> dict[str, str]:
        """Forget the processes that ended; returns those that died, and the error where their run is to blame."""
        dead = {}
        # The kernel counts a kill before the process is gone, so the count may rise a sweep earlier than it dies.
        if (num := oom_kills()) > self.num_oom_kills:
            self.num_oom_kills, self.oom_seen_s = num, time.monotonic()
        for slot, process in list(self.processes.items()):
            if process.is_alive():
                continue
            process.join()
            del self.processes[slot]
            self.is_hopeless |= process.exitcode == USER_ERROR
            if process.exitcode:
                error = blame(process.exitcode, ran_out_of_memory=time.monotonic() - self.oom_seen_s < OOM_WINDOW_S)
                self.last_end = error or _cause(process.exitcode)
                log.warning("%s (process %d) died: %s", process.name, process.pid, self.last_end)
                dead[self.names[slot]] = error
            process.close()
        return dead

    def workers(self) -> list[str]:
        """The names of those not known to have died."""
        return [self.names[slot] for slot in self.processes]

    def wait(self, timeout_s: float) -> None:
        """Until a process ends, at most `timeout_s`."""
        sentinels = [process.sentinel for process in self.processes.values()]
        if sentinels:
            wait(sentinels, timeout_s)
        else:
            threading.Event().wait(timeout_s)

    def stop(self) -> None:
        """Ask every process to give its run back, wait for it, and kill what does not listen."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.join(GRACE_S)
            if process.is_alive():
                log.warning("%s does not stop: killed; its run goes on from its last checkpoint", process.name)
                process.kill()
                process.join()
        self.processes.clear()


def oom_kills() -> int:
    """How many processes the kernel has killed since it started because memory ran out; 0 where it does not say."""
    lines = VMSTAT.read_text(encoding="ascii").splitlines() if VMSTAT.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def blame(exit_code: int, *, ran_out_of_memory: bool) -> str:
    """What the run did to its process, as the run's error; empty for an end that came from outside."""
    if exit_code == -signal.SIGKILL and ran_out_of_memory:
        return "out_of_memory: host (the system killed the worker)"
    return f"crash: {_cause(exit_code)}" if -exit_code in OWN_FAULTS else ""


def _cause(exit_code: int) -> str:
    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _serve(job: Job, slot: int, num_slots: int) -> None:
    """A worker process: take runs until none can be claimed, the launcher is gone, or a signal says stop."""
    # As in `inline`; here both are already imported by the fork server.
    worker, torch = importlib.import_module("sweeps.engine.working"), importlib.import_module("torch")
    first_gpu = 0
    torch.set_num_threads(threads_per_worker(num_slots * job.gpus_per_run))
    if torch.cuda.is_available():
        sets = torch.cuda.device_count() // job.gpus_per_run  # of as many cards as a run takes
        torch.cuda.set_device(first_gpu := job.gpus_per_run * (slot % max(1, sets)))
    with worker.stop_on_signals() as stop:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the launcher too, which tells us once
        launcher = multiprocessing.parent_process()
        if launcher is not None:
            threading.Thread(target=_follow, args=(launcher.sentinel, stop), daemon=True).start()
        try:
            engine = open_database(job.url)
        except ValueError as error:  # its launcher had it open: a server has gone since
            log.error("worker %d ends, another takes its place when the database answers again (%s)", slot, error)
            sys.exit(1)
        try:
            what = work_of(worker, job, wait=False, first_gpu=first_gpu)
            worker.work(engine, what, stop=stop, **job.functions)
        except UserError as error:
            log.error("%s", error)
            # The database may be what a person must mend.
            with suppress(SQLAlchemyError), engine.begin() as connection:
                note_giving_up(job, str(error), connection)
            sys.exit(USER_ERROR)
        except AWAY as error:  # no fault in the code that a traceback would show
            log.error("worker %d ends, its run goes on when the database answers again (%s)", slot, reason_of(error))
            sys.exit(1)
        engine.dispose()


def _follow(sentinel: int, stop: threading.Event) -> None:
    """A worker whose launcher was killed gives its run back instead of training on unwatched."""
    wait([sentinel])
    stop.set()


def threads_per_worker(num_workers: int) -> int:
    """An equal share of the cores this process may use; more threads than cores make every one of them slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // num_workers)


def default_workers(num_waiting: int, gpus_per_run: int = 1) -> int:
    """One a core, each with one thread: two such finish more small runs than one with two. Never more than runs."""
    return max(1, min(threads_per_worker(gpus_per_run), num_waiting))


def work_of(worker: Any, job: Job, *, wait: bool, **place: Any) -> Any:
    """`place`: where the processes of a run are, see `core.running.ranks.processes.Together`."""
    return worker.Work(
        job.results_dir, study=job.study, seeds=job.seeds, lease_s=job.lease_s, wait=wait, runtime=job.runtime,
        stack=job.stack, together=worker.Together(job.gpus_per_run, **place),
    )  # fmt: skip


EXECUTORS: dict[str, Executor] = {"inline": inline, "local": local}
