"""How a launch is doing, for the person watching: live on a terminal, a line now and then where there is none."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sweeps.cells.estimate import Estimator
from sweeps.console.tables import counted, duration
from sweeps.database.tables import BROKEN, WITHOUT_NUMBER
from sweeps.progress import study_status, to_finish
from sweeps.progress.study_status import StudyStatus, shown_step
from sweeps.progress.to_finish import UNFINISHED, Line

REFRESH_S = 1.0
ESTIMATE_EVERY_S = 60.0  # runs that ended since tell what others will cost; sooner while these are being counted
LINE_EVERY_S = 15.0  # without a terminal, unless a run ended in between


class Progress:
    """Asks the database how a study stands, at most once a second, whichever thread calls `update`."""

    def __init__(self, engine: Engine, name: str, *, console: Console | None = None) -> None:
        self.engine, self.name = engine, name
        self.console = console or Console(stderr=True)
        self.lock, self.last_asked, self.last_line, self.last_done = threading.Lock(), 0.0, 0.0, -1
        self.estimator: Estimator | None = None
        self.line: Line | None = None
        self.last_estimated, self.estimate_every_s = -ESTIMATE_EVERY_S, REFRESH_S
        self.live = Live(Text("starting workers"), console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def update(self) -> None:
        """Show how things stand, if it is time."""
        now = time.monotonic()
        with self.lock:
            if now - self.last_asked < REFRESH_S:
                return
            self.last_asked = now
            try:
                with self.engine.connect() as connection:
                    study = self._read(connection, now)
            except DBAPIError as failure:
                # Workers outlive a database that is away for a while, and so does the picture of them.
                self.console.print(f"the database does not answer: {' '.join(str(failure.orig).split())}", markup=False)
                return
            if self.console.is_terminal:
                self.live.update(picture(study), refresh=True)
            elif _num_ended(study) != self.last_done or now - self.last_line > LINE_EVERY_S:
                self.last_done, self.last_line = _num_ended(study), now
                self.console.print(line(study), markup=False, highlight=False, soft_wrap=True)

    def _read(self, connection: Connection, now: float) -> StudyStatus:
        study = study_status.read(connection, self.name)
        is_stale = now - self.last_estimated > self.estimate_every_s
        if is_stale and study.of(*UNFINISHED):
            self.last_estimated, self.estimate_every_s = now, min(ESTIMATE_EVERY_S, 2 * self.estimate_every_s)
            lines, self.estimator = to_finish.of_database(connection, [self.name])
            self.line = lines[self.name]
        if self.estimator is None or self.line is None:
            return study
        return study_status.with_estimates(study, self.line, self.estimator)


def _num_ended(study: StudyStatus) -> int:
    return len(study.of("done", *WITHOUT_NUMBER))


def line(study: StudyStatus) -> str:
    """`masking_ratio: 3 of 27 done, 1 failed; half, seed 0: loss 0.61 at step 120 of 300; 2 min 10 s left`."""
    counts = study.counts()
    parts = [f"{counts['done']} of {len(study.runs)} done"]
    parts += [f"{counts[state]} {state}" for state in WITHOUT_NUMBER if counts[state]]
    running = [f"{run.label}: {shown_step(run)}" for run in study.of("running")]
    left = [f"{study.shown_left} left"] if study.seconds_left is not None else []
    return f"{study.name}: " + "; ".join([", ".join(parts), *running, *left])


def picture(study: StudyStatus) -> Group:
    """A bar over all runs, and a line for each that is being trained."""
    counts = study.counts()
    head = Table.grid(padding=(0, 1))
    failed = "".join(
        f" · [{study_status.STYLES[state]}]{counts[state]} {state}[/]" for state in ("failed", *BROKEN) if counts[state]
    )
    head.add_row(
        f"[bold]{escape(study.name)}[/]",
        ProgressBar(total=len(study.runs), completed=_num_ended(study), width=30),
        f"{counts['done']} of {counted(len(study.runs), 'run')}{failed} · {study.shown_left} left",
    )
    runs = Table.grid(padding=(0, 2))
    for run in study.of("running"):
        speed = f"{run.speed:.1f} steps/s" if run.speed else "starting"
        runs.add_row(
            "  " + escape(run.label), shown_step(run), speed, f"{duration(run.seconds_left)} left"
        )  # fmt: skip
    return Group(head, runs)
