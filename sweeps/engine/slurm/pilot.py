"""What runs inside a Slurm job: a worker that knows how long it may go on."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, replace

import submitit
from sqlalchemy import Connection, select
from submitit.core.utils import DelayedSubmission

from sweeps.database.opening import open_database
from sweeps.database.tables import Attempt, RunRow
from sweeps.engine import next_run, queue
from sweeps.engine.executors import Job, threads_per_worker, work_of
from sweeps.engine.recorder import patiently
from sweeps.engine.slurm.options import Options

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pilot:
    """What runs inside a job, once for each GPU of it. It keeps nothing: a requeued job begins anew with the same."""

    job: Job
    options: Options

    def __call__(self) -> dict[str, int]:
        """Train what can be claimed; returns how many runs ended how."""
        start = time.monotonic()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        # As in executors.inline: core and torch are imported where runs are trained.
        worker, torch = importlib.import_module("sweeps.engine.working"), importlib.import_module("torch")
        # submitit's own handlers ignore SIGTERM and leave in the middle of a step on SIGUSR2; they rule until here.
        with worker.stop_on_signals() as stop:
            torch.set_num_threads(self.num_threads())
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["SLURM_LOCALID"]) % torch.cuda.device_count())
            end = start + seconds_left(otherwise=60.0 * self.options.time_min) - self.options.warn_s
            what = replace(
                work_of(worker, self.job, wait=True, starter=self.options.starter(), address=os.uname().nodename),
                # A run lost by a neighbour comes back to the queue within a lease; nobody is waited for longer.
                idle_s=self.job.lease_s,
                has_time=functools.partial(self.has_time, end),
            )
            engine = open_database(self.job.url)
            outcomes: Counter[str] = worker.work(engine, what, stop=stop, **self.job.functions)
            log.info("this job trained: %s", dict(outcomes))
            if patiently(engine, self.is_needed_again, stop=stop):
                requeue()
            engine.dispose()
        return dict(outcomes)

    def checkpoint(self) -> DelayedSubmission:
        """What submitit submits again when SIGUSR2 comes before our own handlers are there: the very same."""
        return DelayedSubmission(self)

    def has_time(self, end: float, connection: Connection, *, run: int | None = None, stack: int = 1) -> bool:
        """Whether the next run, or a stack of runs like `run`, would be over before `end` (of time.monotonic).

        A pilot's first run is taken without asking, so one that is longer than a whole job advances by a job's worth.
        """
        needed = next_run.seconds(connection, study=self.job.study, seeds=self.job.seeds, run=run, stack=stack)
        left = end - time.monotonic()
        if needed is None or needed <= left:
            return True
        if run is None:
            log.info("the next run needs about %.0f s and %.0f s are left: left to the next job", needed, left)
        elif stack > 1:
            log.info("a stack of %d may need %.0f s and %.0f s are left: a smaller one", stack, needed, left)
        return False

    def is_needed_again(self, connection: Connection) -> bool:
        """Whether this job should run once more: work is queued, and no other worker of the job is busy with a run."""
        if queue.pending(connection, study=self.job.study, seeds=self.job.seeds).num_queued == 0:
            return False
        busy = (
            select(Attempt.run_id)
            .join(RunRow, (RunRow.id == Attempt.run_id) & (RunRow.attempt == Attempt.n))
            .where(RunRow.state == "running", Attempt.slurm_job == this_job())
        )
        return connection.execute(busy).first() is None

    def num_threads(self) -> int:
        if "SLURM_CPUS_PER_TASK" in os.environ:
            return int(os.environ["SLURM_CPUS_PER_TASK"])
        here = max(self.options.num_tasks, self.options.gpus_per_run // self.options.nodes)
        return max(1, int(os.environ.get("SLURM_CPUS_ON_NODE", threads_per_worker(1))) // here)


def this_job() -> str:
    """As Slurm's commands name it. An array's last task has the array's number as its own: `1234_7`, never 1234."""
    return str(submitit.JobEnvironment().job_id)


def seconds_left(*, otherwise: float) -> float:
    """Until Slurm ends this job, by Slurm's own word; `otherwise` when it does not answer or sets no limit."""
    answer = ask("squeue", "--noheader", "--format=%L", f"--jobs={this_job()}")
    words = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", answer or "")
    if words is None:
        log.warning("Slurm says %r for the time that is left; assuming %.0f s", answer, otherwise)
        return otherwise
    days, hours, minutes, seconds = (int(word or 0) for word in words.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def requeue() -> None:
    """Put this very job back into Slurm's queue, unless Slurm is ending it for a reason of its own.

    That is a cancellation, which must be obeyed, or a requeueing that has begun already.
    """
    job = this_job()
    state = ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if state != "RUNNING":
        log.info("not requeued: Slurm has this job as %s", state or "gone")
    elif ask("scontrol", "requeue", job) is not None:
        log.info("requeued: work is left")


def ask(*command: str) -> str | None:
    """What a command of Slurm prints; None, and a warning, where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("%s: %s", command[0], error)
        return None
    if done.returncode:
        log.warning("%s: %s", command[0], " ".join(done.stderr.split()))
        return None
    return done.stdout.strip()
