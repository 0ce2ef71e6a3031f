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
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from sweeps import status
from sweeps.cli import duration
from sweeps.estimate import Estimator
from sweeps.status import StudyStatus, shown_step

REFRESH_S = 1.0
ESTIMATE_EVERY_S = 60.0  # runs that ended since tell what others will cost
LINE_EVERY_S = 15.0  # without a terminal, unless a run ended in between


class Progress:
    """Asks the database how a study stands, at most once a second, whichever thread calls `update`."""

    def __init__(self, engine: Engine, name: str, *, console: Console | None = None) -> None:
        self.engine, self.name = engine, name
        self.console = console or Console(stderr=True)
        self.lock, self.last_asked, self.last_line, self.last_done = threading.Lock(), 0.0, 0.0, -1
        self.estimator: Estimator | None = None
        self.last_estimated = -ESTIMATE_EVERY_S
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
                    if now - self.last_estimated > ESTIMATE_EVERY_S:
                        # What no plan has counted is not counted here: workers wait for nothing.
                        self.estimator = status.estimator_of(connection, [self.name], counting=False)
                        self.last_estimated = now
                    study = status.read(connection, self.name, self.estimator)
            except DBAPIError as failure:
                # Workers outlive a database that is away for a while, and so does the picture of them.
                self.console.print(f"the database does not answer: {' '.join(str(failure.orig).split())}", markup=False)
                return
            if self.console.is_terminal:
                self.live.update(picture(study), refresh=True)
            elif _num_ended(study) != self.last_done or now - self.last_line > LINE_EVERY_S:
                self.last_done, self.last_line = _num_ended(study), now
                self.console.print(line(study), markup=False, highlight=False, soft_wrap=True)


def _num_ended(study: StudyStatus) -> int:
    return len(study.of("done", "failed", "diverged", "pruned"))


def line(study: StudyStatus) -> str:
    """`masking_ratio: 3 of 27 done, 1 failed; half, seed 0: loss 0.61 at step 120 of 300; 2 min 10 s left`."""
    counts = study.counts()
    parts = [f"{counts['done']} of {len(study.runs)} done"]
    parts += [f"{counts[state]} {state}" for state in ("failed", "diverged", "pruned") if counts[state]]
    running = [f"{run.label}: {shown_step(run)}" for run in study.of("running")]
    left = [f"{study.shown_left} left"] if study.seconds_left is not None else []
    return f"{study.name}: " + "; ".join([", ".join(parts), *running, *left])


def picture(study: StudyStatus) -> Group:
    """A bar over all runs, and a line for each that is being trained."""
    counts = study.counts()
    head = Table.grid(padding=(0, 1))
    failed = "".join(
        f" · [{status.STYLES[state]}]{counts[state]} {state}[/]" for state in ("failed", "diverged") if counts[state]
    )
    head.add_row(
        f"[bold]{escape(study.name)}[/]",
        ProgressBar(total=len(study.runs), completed=_num_ended(study), width=30),
        f"{counts['done']} of {len(study.runs)} runs{failed} · {study.shown_left} left",
    )
    runs = Table.grid(padding=(0, 2))
    for run in study.of("running"):
        speed = f"{run.speed:.1f} steps/s" if run.speed else "starting"
        runs.add_row(
            "  " + escape(run.label), shown_step(run), speed, f"{duration(run.seconds_left)} left"
        )  # fmt: skip
    return Group(head, runs)
