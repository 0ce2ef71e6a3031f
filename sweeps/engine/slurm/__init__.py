"""Workers as Slurm jobs: `executor=slurm` submits an array of pilots and watches the database.

A pilot holds nothing but where the database is. It claims run after run until the queue is empty, and when it is told
to end (SIGUSR2 before the time limit, SIGTERM on preemption) or sees that the next run would not fit, it gives its run
back at a checkpoint and puts its own job back into Slurm's queue. The watcher may go and come back at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import submitit
from sqlalchemy import Engine, select
from sqlalchemy.engine import make_url
from submitit.core.utils import FailedJobError, FailedSubmissionError

from core.file_lock import locked
from sweeps.console.errors import UserError
from sweeps.console.url import mask_url
from sweeps.database.opening import open_database
from sweeps.database.tables import StudyRow
from sweeps.engine import queue
from sweeps.engine.executors import TICK_S, Ended, Job, look, note_giving_up
from sweeps.engine.recorder import patiently
from sweeps.engine.slurm.options import PILOTS, PLAIN, Options
from sweeps.engine.slurm.pilot import Pilot, ask

log = logging.getLogger(__name__)
ASK_S = 10.0  # how often Slurm is asked which pilots there are
MOST_SUBMISSIONS = 3  # in a row, without a run that ended in between


# ---- submitting ------------------------------------------------------------------------------------------------------


def job_name(job: Job, study: str) -> str:
    """One name for all pilots with this work: launching again finds those that are there by it."""
    scope = f"{mask_url(job.url)}\n{job.results_dir}\n{job.study}\n{sorted(job.seeds or [])}"
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
    answer = ask("squeue", "--noheader", "--array", f"--user={os.getuid()}", f"--name={name}", "--format=%T (%r)")
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
    if mask_url(job.url) != job.url:
        folder.chmod(0o700)  # it may have been there already, open to all
    return folder


# ---- the executor ----------------------------------------------------------------------------------------------------


def slurm(
    job: Job, *, workers: int = PILOTS, options: Options = PLAIN, on_tick: Callable[[], None] = lambda: None
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


def check() -> None:
    """Raises UserError where no controller answers: nothing could be submitted."""
    if ask("squeue", "--noheader", "--states=RUNNING", "--format=%i") is None:
        raise UserError("executor=slurm: squeue fails on this machine, see above; is the controller up?")


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
        # Two launchers of one study, one after the other: the second counts the pilots of the first.
        with locked(_folder(self.job) / "lock"):
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
