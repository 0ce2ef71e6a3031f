"""Workers as Slurm jobs: `executor=slurm` submits an array of pilots and watches the database.

A pilot holds nothing but where the database is. It claims run after run until the queue is empty, and when it is told
to end (SIGUSR2 before the time limit, SIGTERM on preemption) or sees that the next run would not fit, it gives its run
back at a checkpoint and puts its own job back into Slurm's queue. The watcher may go and come back at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import submitit
import yaml
from sqlalchemy import Connection, Engine, select
from sqlalchemy.engine import make_url
from submitit.core.utils import DelayedSubmission, FailedJobError, FailedSubmissionError

from sweeps import next_run, queue, terminal
from sweeps.cli import UserError
from sweeps.db import Attempt, RunRow, StudyRow, open_database
from sweeps.executors import TICK_S, Ended, Job, look, note_giving_up, threads_per_worker, work_of
from sweeps.recorder import patiently
from sweeps.study_files import close_matches

log = logging.getLogger(__name__)
PILOTS = 4  # at once, where slurm.array does not say
ASK_S = 10.0  # how often Slurm is asked which pilots there are
MOST_SUBMISSIONS = 3  # in a row, without a run that ended in between
COMMANDS = ("sbatch", "srun", "squeue", "scontrol")
# What we set ourselves, and the option that is meant for it.
TAKEN = {
    "partition": "slurm.partition", "time": "slurm.time_min", "gpus": "slurm.gpus", "gpus-per-node": "slurm.gpus",
    "cpus-per-task": "slurm.cpus", "array": "slurm.array", "signal": "slurm.warn_s", "job-name": "", "output": "",
    "error": "", "open-mode": "", "requeue": "", "nodes": "", "ntasks": "", "ntasks-per-node": "",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What is asked of Slurm for one pilot; how many there are is the executor's `workers`."""

    partition: str = ""  # empty: the cluster's default
    time_min: int = 60
    gpus: int = 0  # each trains a run of its own
    cpus: int = 0  # for each run; 0: the cluster's default
    warn_s: int = 120  # SIGUSR2 comes that long before the time is over: a step and a checkpoint must fit
    extra: dict[str, str] = field(default_factory=dict)  # any other option of sbatch, by its long name

    @property
    def num_tasks(self) -> int:
        """Worker processes in a pilot."""
        return max(1, self.gpus)

    def parameters(self, name: str) -> dict[str, Any]:
        """As submitit calls them."""
        asked: dict[str, Any] = {
            "job_name": name,
            "time": self.time_min,
            "ntasks_per_node": self.num_tasks,
            "signal_delay_s": self.warn_s,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.extra},
        }
        if self.partition:
            asked["partition"] = self.partition
        if self.gpus:
            asked["gpus_per_node"] = self.gpus
        if self.cpus:
            # Since Slurm 22.05 srun no longer takes this over from the job.
            asked |= {"cpus_per_task": self.cpus, "srun_args": [f"--cpus-per-task={self.cpus}"]}
        return asked


# ---- the command line ------------------------------------------------------------------------------------------------


def parse(words: Sequence[str]) -> tuple[Options, int]:
    """The words ``slurm.key=value`` as options, and the number of pilots. Raises UserError."""
    if (repeated := terminal.given_twice(words)) is not None:
        raise UserError(repeated)
    given: dict[str, str] = {}
    allowed = ("partition", "time_min", "gpus", "cpus", "array", "warn_s", "extra")
    for word in words:
        name, equals, value = word.removeprefix("slurm.").partition("=")
        if name not in allowed:
            known = ", ".join(f"slurm.{other}" for other in allowed)
            raise UserError(f"slurm.{name}: unknown option{close_matches(name, allowed)}; options: {known}")
        if not equals or not value:
            raise UserError(f"slurm.{name} needs a value: slurm.{name}=...")
        given[name] = value
    numbers = {"time_min": 1, "gpus": 0, "cpus": 1, "array": 1, "warn_s": 1}
    for name, least in numbers.items():
        if name in given and (not given[name].isdecimal() or int(given[name]) < least):
            raise UserError(f"slurm.{name} must be a whole number of at least {least}, got {given[name]!r}")
    whole = {name: int(given[name]) for name in numbers if name in given}
    pilots = whole.pop("array", PILOTS)
    options = Options(partition=given.get("partition", ""), extra=_extra(given.get("extra", "{}")), **whole)
    if options.warn_s >= 60 * options.time_min:
        raise UserError(f"slurm.warn_s must be below slurm.time_min ({options.time_min} min), got {options.warn_s} s")
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"executor=slurm: {missing[0]} is not on the PATH of {os.uname().nodename}: "
            "launch on a login node of the cluster, or use executor=local"
        )
    return options, pilots


def _extra(text: str) -> dict[str, str]:
    try:
        extra = yaml.safe_load(text)
    except yaml.YAMLError:
        extra = None
    if not isinstance(extra, dict):
        raise UserError(f"slurm.extra must be a mapping such as '{{account: vision, mem: 16G}}', got {text!r}")
    named = {str(key).replace("_", "-"): value for key, value in extra.items()}
    for key, value in named.items():
        if re.fullmatch(r"[a-z][a-z0-9-]+", key) is None:
            raise UserError(f"slurm.extra: {key!r} is no long option of sbatch, such as account or mem")
        if key in TAKEN:
            raise UserError(f"slurm.extra: {key} " + (f"is {TAKEN[key]}" if TAKEN[key] else "is set by the launcher"))
        if value is not True and not isinstance(value, str | int | float):
            raise UserError(f"slurm.extra: {key} must be text, a number or true, got {value!r}")
    return named


# ---- the pilot -------------------------------------------------------------------------------------------------------


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
        worker, torch = importlib.import_module("sweeps.worker"), importlib.import_module("torch")
        # submitit's own handlers ignore SIGTERM and leave in the middle of a step on SIGUSR2; they rule until here.
        with worker.stop_on_signals() as stop:
            torch.set_num_threads(self.num_threads())
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ["SLURM_LOCALID"]) % torch.cuda.device_count())
            end = start + seconds_left(otherwise=60.0 * self.options.time_min) - self.options.warn_s
            what = replace(
                work_of(worker, self.job, wait=True),
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

    def has_time(self, end: float, connection: Connection) -> bool:
        """Whether the next run would be over before `end` (of time.monotonic).

        A pilot's first run is taken without asking, so one that is longer than a whole job advances by a job's worth.
        """
        needed = next_run.seconds(connection, study=self.job.study, seeds=self.job.seeds)
        left = end - time.monotonic()
        if needed is None or needed <= left:
            return True
        log.info("the next run needs about %.0f s and %.0f s are left: left to the next job", needed, left)
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
        return max(1, int(os.environ.get("SLURM_CPUS_ON_NODE", threads_per_worker(1))) // self.options.num_tasks)


def this_job() -> str:
    """As Slurm's commands name it. An array's last task has the array's number as its own: `1234_7`, never 1234."""
    return str(submitit.JobEnvironment().job_id)


def seconds_left(*, otherwise: float) -> float:
    """Until Slurm ends this job, by Slurm's own word; `otherwise` when it does not answer or sets no limit."""
    answer = _ask("squeue", "--noheader", "--format=%L", f"--jobs={this_job()}")
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
    state = _ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if state != "RUNNING":
        log.info("not requeued: Slurm has this job as %s", state or "gone")
    elif _ask("scontrol", "requeue", job) is not None:
        log.info("requeued: work is left")


def _ask(*command: str) -> str | None:
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


# ---- submitting ------------------------------------------------------------------------------------------------------


def job_name(job: Job, study: str) -> str:
    """One name for all pilots with this work: launching again finds those that are there by it."""
    scope = f"{job.url}\n{job.results_dir}\n{job.study}\n{sorted(job.seeds or [])}"
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", study)[:60]
    return f"{readable}-{hashlib.sha256(scope.encode()).hexdigest()[:8]}"


def absolute(job: Job) -> Job:
    """The same work, said so that it does not depend on the folder one is in."""
    url = make_url(job.url)
    if url.get_backend_name() == "sqlite" and url.database:
        url = url.set(database=str(Path(url.database).absolute()))
    return replace(job, url=url.render_as_string(hide_password=False), results_dir=job.results_dir.absolute())


def pilots_alive(name: str) -> Counter[str] | None:
    """How many pilots of that name Slurm has in which state, with why it lets them wait; None: it does not answer."""
    answer = _ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--name={name}", "--format=%T (%r)")
    if answer is None:
        return None
    return Counter(re.sub("^[A-Z]+", lambda state: state[0].lower(), line) for line in answer.splitlines())


def submit(pilot: Pilot, name: str, number: int) -> str:
    """Submit `number` pilots as one array; returns the job's id. Raises UserError with what Slurm says against it."""
    executor = submitit.SlurmExecutor(folder=_folder(pilot.job), max_num_timeout=10**6)  # time-outs are no failures
    executor.update_parameters(**pilot.options.parameters(name))
    try:
        # submitit prints what sbatch says, and raises it too.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(pilot) for _ in range(number)]
    except (FailedJobError, FailedSubmissionError) as error:
        raise UserError(f"Slurm does not take the job: {' '.join(str(error).split())}") from None
    return str(jobs[0].job_id).partition("_")[0]


def _folder(job: Job) -> Path:
    """For submitit's files and the pilots' logs. Its owner's only: the database's password is in them."""
    folder = job.results_dir / "slurm"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def _alone(job: Job) -> Iterator[None]:
    """Two launchers of one study, one after the other: the second counts the pilots of the first."""
    fcntl = importlib.import_module("fcntl")  # of Unix, like Slurm
    with (_folder(job) / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# ---- the executor ----------------------------------------------------------------------------------------------------


def slurm(
    job: Job, *, workers: int = PILOTS, options: Options = Options(), on_tick: Callable[[], None] = lambda: None
) -> Ended:
    """Train in up to `workers` Slurm jobs; submits as many as the runs that are left keep busy, less those there are.

    Watches the database until all runs ended. SIGTERM and Ctrl-C end the watching and leave the jobs alone.
    """
    log.setLevel(logging.INFO)  # what Slurm does is news also where only warnings are
    job = absolute(job)
    engine = open_database(job.url)
    watch = _Watch(engine, job, options, workers)
    stop = threading.Event()
    handlers = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        while not stop.is_set():
            left, ended = patiently(engine, functools.partial(look, job), stop=stop)
            on_tick()
            if left.num_queued + left.num_running == 0:
                return Ended()
            if not watch.keep_enough(left, ended):
                reason = f"{watch.num_submissions} Slurm jobs in a row ended without finishing a run"
                patiently(engine, functools.partial(note_giving_up, job, reason), stop=stop)
                return Ended(gave_up=True)
            stop.wait(TICK_S)
        print(watch.farewell(), file=sys.stderr)
        return Ended(was_interrupted=True)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        engine.dispose()


class _Watch:
    """Keeps enough pilots submitted, and says what Slurm does with them."""

    def __init__(self, engine: Engine, job: Job, options: Options, workers: int) -> None:
        self.job, self.options, self.workers = job, options, workers
        with engine.connect() as connection:
            study = connection.scalar(select(StudyRow.name).where(StudyRow.id == job.study))
        self.name = job_name(job, study or "queue")
        self.asked, self.ended, self.num_submissions = -ASK_S, -1, 0
        self.seen: Counter[str] | None = None

    def keep_enough(self, left: queue.Pending, ended: int) -> bool:
        """False when pilots have come and gone too often without finishing a run."""
        if time.monotonic() - self.asked < ASK_S:
            return True
        self.asked = time.monotonic()
        if ended != self.ended:
            self.ended, self.num_submissions = ended, 0
        with _alone(self.job):
            alive = pilots_alive(self.name)
            if alive is None and self.num_submissions == 0 and self.seen is None:
                raise UserError("executor=slurm: squeue fails on this machine, see above; is the controller up?")
            if alive is None:
                return True  # the jobs go on without being watched
            self._tell(alive)
            at_once = -(-(left.num_queued + left.num_running) // self.options.num_tasks)
            lacking = min(self.workers, at_once) - alive.total() if left.num_queued else 0
            if lacking <= 0:
                return True
            if self.num_submissions >= MOST_SUBMISSIONS:
                log.error("%d submissions in a row ended without finishing a run: giving up\n%s", *self._last_words())
                return False
            number = submit(Pilot(self.job, self.options), self.name, lacking)
        self.num_submissions += 1
        log.info("submitted %d pilots as Slurm job %s; logs: %s", lacking, number, self.job.results_dir / "slurm")
        return True

    def _tell(self, alive: Counter[str]) -> None:
        if alive != self.seen:
            self.seen = alive
            said = ", ".join(f"{count} {state.removesuffix(' (None)')}" for state, count in sorted(alive.items()))
            log.info("pilots in Slurm (%s): %s", self.name, said or "none")

    def _last_words(self) -> tuple[int, str]:
        """The end of the newest log of a pilot."""
        logs = sorted((self.job.results_dir / "slurm").glob("*_log.out"), key=lambda path: path.stat().st_mtime)
        if not logs:
            return self.num_submissions, f"and none wrote a log below {self.job.results_dir / 'slurm'}"
        lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return self.num_submissions, "\n".join([f"the end of {logs[-1]}:", *lines])

    def farewell(self) -> str:
        return (
            f"the Slurm jobs go on without this terminal; see them: squeue --me --name={self.name}; "
            f"end them: scancel --me --name={self.name}"
        )
