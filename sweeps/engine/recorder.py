"""A run's numbers on their way to the database, and its lease kept alive meanwhile.

The trainer's thread only appends: `log` writes to the journal on disk and returns. A background thread renews the
lease, sends closed generations of points as chunks and writes the TensorBoard events; it survives a database that is
away, and when the lease is lost it makes `should_stop` true. `finish` sends what is left, the results and the final
state in one transaction.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from sqlalchemy import Connection, Engine, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from core.terminal import without_passwords
from sweeps.database import artifacts, seen_data, series
from sweeps.database.artifacts import Kept
from sweeps.database.tables import Attempt, RunRow
from sweeps.engine import queue
from sweeps.engine.attempt_folder import adopt, remove_earlier
from sweeps.engine.events import EventFile
from sweeps.engine.journal import Generation, Journal, leftovers
from sweeps.engine.queue import Claim, Fenced, Usage

log = logging.getLogger(__name__)
T = TypeVar("T")
SYNC_S = 5.0  # how often the database hears of the step a run is at
CHUNK_S = 30.0  # how long points wait to be sent together ...
CHUNK_POINTS = 500  # ... unless there are this many steps of them
PATIENCE_S = 600.0  # how long an ending waits for a database that is away
AWAY = (OperationalError, InterfaceError, PoolTimeout)


def patiently(
    engine: Engine, action: Callable[[Connection], T], *, patience_s: float = PATIENCE_S, stop: threading.Event
) -> T:
    """`action` in a transaction of its own, again and again while the database is away, for up to `patience_s`.

    `action` may run more than once. When `stop` is set it is tried once more only. Raises the last error.
    """
    deadline, wait_s = time.monotonic() + patience_s, 0.2
    while True:
        try:
            with engine.begin() as connection:
                return action(connection)
        except AWAY as error:
            if time.monotonic() > deadline:
                raise
            log.warning("the database does not answer (%s); trying again in %.1f s", reason_of(error), wait_s)
            if stop.wait(wait_s):
                deadline = 0.0
            wait_s = min(2 * wait_s, 15.0)


def reason_of(error: SQLAlchemyError) -> str:
    """What the database's driver said, in one line."""
    return without_passwords(" ".join(str(getattr(error, "orig", None) or error).split()))


class Parcel(NamedTuple):
    """What one transaction sends."""

    generations: list[Generation]
    checkpoint: tuple[int, str] | None  # step and path


class DatabaseRecorder:
    """`core.types.Recorder` for a claimed run. Use as a context: leaving it ends the background thread."""

    def __init__(
        self,
        engine: Engine,
        claim: Claim,
        run_folder: Path,
        *,
        results_dir: Path,
        stop: threading.Event,
        usage: Callable[[int | None], Usage] = Usage,
        should_prune: Callable[[int, Mapping[str, float]], bool] | None = None,
        stack: int = 1,
        processes: int = 1,
        sync_s: float = SYNC_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`run_folder` is for all attempts of the run; `folder`, for checkpoints, is this attempt's.

        `stop` is the wish of whoever asks this process to end; `usage(step)` is what the run has used so far.

        `stack` is how many runs began together in this one's steps, `processes` how many take them.

        `should_prune` is asked with everything that is logged; once it says so, the run stops and ends as `pruned`.
        """
        self.engine, self.claim, self.run_folder, self.results_dir = engine, claim, run_folder, results_dir
        self.usage, self.sync_s, self.patience_s = usage, min(sync_s, claim.lease_s / 4), patience_s
        self.stop, self.fenced, self.closing = stop, threading.Event(), threading.Event()
        self._wake = threading.Event()
        self.should_prune, self.is_pruned = should_prune, False
        self.shape = {name: n for name, n in (("stack", stack), ("processes", processes)) if n > 1}
        self.outcome: str | None = None
        self.step = claim.checkpoint_step  # last step known to be reached: where an error happened, twice or not
        self.loss: float | None = None  # at that step
        self.resume_step: int | None = None
        self._checkpoint: tuple[int, str] | None = None
        self._kept: list[Kept] = []
        self._journal = Journal(run_folder, claim.attempt)
        self.folder = adopt(run_folder, claim.attempt)
        # Generations the database does not have. After `adopt`: a worker that was only asleep may be adding to them,
        # and every point up to the checkpoint that this attempt goes on from must be among them.
        self._waiting = leftovers(run_folder, before=claim.attempt)
        self._opened = time.monotonic()  # when the current generation was
        self._is_urgent = False  # whether it is not to wait for more points
        self._events: EventFile | None = None
        self._has_events = True
        self._broken: BaseException | None = None
        self._lock = threading.Lock()  # guards what the trainer's thread shares with the background's
        self._thread = threading.Thread(target=self._keep_alive, name=f"recorder of run {claim.run_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thread()
        self._journal.close()
        if self._events is not None:
            self._events.close()

    # ---- what the trainer calls --------------------------------------------------------------------------------------

    def saw(self, data: Mapping[str, str]) -> None:
        """Recorded with the attempt before its numbers. Raises UserError where the runs beside it saw other files."""

        def tell(connection: Connection) -> None:
            mine = (Attempt.run_id == self.claim.run_id, Attempt.n == self.claim.attempt)
            connection.execute(update(Attempt).where(*mine).values(data=dict(data)))
            config_id = connection.scalar(select(RunRow.config_id).where(RunRow.id == self.claim.run_id))
            assert config_id is not None
            before = seen_data.recorded(connection, seen_data.beside(connection, config_id))
            now = seen_data.of_config(self.claim.config, data)
            seen_data.refuse_other(before, [now], configs=[self.claim.config])

        patiently(self.engine, tell, patience_s=self.patience_s, stop=self.stop)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._broken is not None:
            raise RuntimeError(f"run {self.claim.run_id}: its recording stopped") from self._broken
        with self._lock:
            self._journal.append(step, metrics)
            if "loss" in metrics:
                self.loss = float(metrics["loss"]) if math.isfinite(metrics["loss"]) else None
            elif step != self.step:
                self.loss = None  # of an earlier step, which it would be shown beside
            self.step = step
            if "monitor/collapsed" in metrics:  # whoever watches can spare the rest of the run
                self._is_urgent = True
                self._wake.set()
            if self.resume_step is None:
                # A run resumed at its end logs its evaluation at the checkpoint's step: it trained from the next on.
                self.resume_step = step + 1 if step == self.claim.checkpoint_step else step
                self._wake.set()
        if self.should_prune is not None and not self.is_pruned:
            self.is_pruned = self.should_prune(step, metrics)

    def checkpointed(self, step: int, path: Path) -> None:
        with self._lock:
            self._checkpoint = step, str(path.relative_to(self.results_dir))

    def should_stop(self) -> bool:
        return self.stop.is_set() or self.fenced.is_set() or self.is_pruned

    def keep(self, name: str, kind: str, content: bytes) -> None:
        """Into the run's folder now, into the database with the results."""
        self._kept.append(artifacts.write_file(self.run_folder / name, kind, content, results_dir=self.results_dir))

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Write the rest of the points, the results and the ending together; nothing when the lease was lost."""
        told = _plain(facts) | self.shape
        if outcome == "preempted" and self.is_pruned:
            outcome = "pruned"

        def end(connection: Connection, usage: Usage) -> None:
            if outcome == "preempted":
                queue.release(connection, self.claim, usage=usage, facts=told)
            else:
                queue.finish(connection, self.claim, outcome, results=results, step=self.step, facts=told, usage=usage)

        self._finally(outcome, end)

    def fail(self, error: str, *, is_final: bool = False) -> None:
        """Record that the run ended in `error` (see `sweeps.engine.queue.fail`)."""

        def end(connection: Connection, usage: Usage) -> None:
            queue.fail(connection, self.claim, error, step=self.step, usage=usage, is_final=is_final)

        self._finally("failed", end)

    # ---- to the database ---------------------------------------------------------------------------------------------

    def _finally(self, outcome: str, end: Callable[[Connection, Usage], None]) -> None:
        assert self.outcome is None, f"the run has ended already: {self.outcome}"
        self._end_thread()
        if self.fenced.is_set():
            self.outcome = "fenced"
            return
        parcel, usage = self._pack(everything=True), self._used()

        def write(connection: Connection) -> None:
            if not queue.is_ended(connection, self.claim, outcome):
                self._write(connection, parcel, usage)
                artifacts.store(connection, self.claim.run_id, self.claim.attempt, self._kept)
            end(connection, usage)

        try:
            patiently(self.engine, write, patience_s=self.patience_s, stop=self.stop)
        except Fenced:
            self._lost()
            self.outcome = "fenced"
            return
        self.outcome = outcome
        self._sent(parcel)

    def _keep_alive(self) -> None:
        """Until `closing`: renew the lease and send what there is, at the first point and every `sync_s`."""
        while True:
            self._wake.wait(self.sync_s)
            self._wake.clear()
            if self.closing.is_set():
                return
            try:
                parcel = self._pack(everything=False)
                with self.engine.begin() as connection:
                    self._write(connection, parcel, self._used())
                self._sent(parcel)
            except Fenced:
                self._lost()
                return
            except SQLAlchemyError as error:
                # Training goes on: points wait on disk, and the lease is renewed as soon as the database is back.
                reason = " ".join(str(getattr(error, "orig", None) or error).split())
                log.warning("run %d: the database does not answer (%s)", self.claim.run_id, reason)
            except BaseException as error:
                self._broken = error  # without this thread the lease ends: the next log() raises it
                return

    def _used(self) -> Usage:
        """So far, with the newest loss: its curve waits up to CHUNK_S for more points, whoever watches need not."""
        with self._lock:
            step, loss = self.step, self.loss
        return self.usage(step)._replace(loss=loss)

    def _pack(self, *, everything: bool) -> Parcel:
        """What to send: the generations that wait, and the current one once it is old or large enough."""
        with self._lock:
            is_first = self._journal.seq == 0  # whoever watches learns at once that, and where, training began
            is_due = (
                is_first
                or self._is_urgent
                or len(self._journal.points) >= CHUNK_POINTS
                or time.monotonic() - self._opened > CHUNK_S
            )
            closed, self._is_urgent = self._journal.rotate() if everything or is_due else None, False
            if closed is not None:
                self._opened = time.monotonic()
                self._waiting.append(closed)
            parcel = Parcel(list(self._waiting), self._checkpoint)
        if closed is not None and self._has_events:
            try:
                self._write_events(closed)
            except OSError as error:  # a convenience: the points themselves are in the journal
                log.warning("run %d: no more TensorBoard events: %s", self.claim.run_id, error)
                self._has_events = False
        return parcel

    def _write_events(self, closed: Generation) -> None:
        if self._events is None:
            assert self.resume_step is not None
            self._events = EventFile(self.run_folder / "events", resume_step=self.resume_step)
        self._events.write(closed.points)

    def _write(self, connection: Connection, parcel: Parcel, usage: Usage) -> None:
        """The lease first, then points, where each attempt began and the checkpoint, in the caller's transaction."""
        queue.hold(connection, self.claim, usage)
        begun = {self.claim.attempt: self.resume_step}
        for generation in parcel.generations:
            series.write(connection, generation.chunk_rows(self.claim.run_id))
            if generation.points:
                begun.setdefault(generation.attempt, generation.points[0][0])
        for attempt, step in begun.items():
            connection.execute(
                update(Attempt)
                .where(Attempt.run_id == self.claim.run_id, Attempt.n == attempt, Attempt.resume_step.is_(None))
                .values(resume_step=step)
            )
        if parcel.checkpoint is not None:
            queue.checkpointed(connection, self.claim, *parcel.checkpoint)

    def _sent(self, parcel: Parcel) -> None:
        for generation in parcel.generations:
            generation.path.unlink(missing_ok=True)
        if parcel.checkpoint is not None:
            remove_earlier(self.folder)
        with self._lock:
            del self._waiting[: len(parcel.generations)]
            if self._checkpoint is parcel.checkpoint:
                self._checkpoint = None

    def _lost(self) -> None:
        log.warning("run %d is no longer attempt %d's: stopping", self.claim.run_id, self.claim.attempt)
        self.fenced.set()

    def _end_thread(self) -> None:
        self.closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` as JSON has it: what is not finite becomes null, what JSON does not know its string."""
    finite = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in facts.items()
    }
    return dict(json.loads(json.dumps(finite, default=str)))
