"""A run's numbers also in somebody's tracker: wandb, trackio, or any module with their `init`.

`runtime.tracker=trackio` tells it what is logged, from a thread of its own. Whatever it does, the run is none the
worse: its first error is named once and nothing more is told, a tracker that is slow is not waited for, and `record`
has heard every number before.
"""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import queue
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from core.configuring.config import Run, flatten, identity
from core.types import Recorder

log = logging.getLogger(__name__)
FILE = "tracker.json"  # in the run's folder: which of the tracker's runs it is, and how far it was told
CLOSE_S = 30.0  # for what waits to be sent at the end
MOST_WAITING = 10_000  # points; what comes on top is left out


class TrackerRun(Protocol):
    """What `init` of a wandb-shaped module gives."""

    def log(self, data: dict[str, Any], step: int | None = None) -> Any: ...

    def finish(self) -> Any: ...


@contextmanager
def tracked(run: Run, record: Recorder, *, is_main: bool = True) -> Iterator[Recorder]:
    """`record`, or one that also tells `runtime.tracker`; the tracker's run is ended with this context."""
    if not run.runtime.tracker or not is_main:
        yield record
        return
    sink = Sink(run)
    try:
        yield Tracked(record, sink)
    finally:
        sink.close()


class Tracked:
    """A `Recorder` that tells a sink what its own is told."""

    def __init__(self, record: Recorder, sink: Sink) -> None:
        self.record, self.sink = record, sink
        self.folder = record.folder

    def saw(self, data: Mapping[str, str]) -> None:
        self.record.saw(data)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.record.log(step, metrics)
        self.sink.tell(step, metrics)

    def checkpointed(self, step: int, path: Path) -> None:
        self.record.checkpointed(step, path)

    def should_stop(self) -> bool:
        return self.record.should_stop()

    def keep(self, name: str, kind: str, content: bytes) -> None:
        self.record.keep(name, kind, content)

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        self.record.finish(outcome, results, facts)


class Sink:
    """A tracker's run, opened, told and ended by a thread: nothing here waits for it but `close`, for a while."""

    def __init__(self, run: Run) -> None:
        self.name, self.project = run.runtime.tracker, run.runtime.tracker_project
        self.folder = Path(run.runtime.dir)
        self.config = identity(flatten(run)) | {"seed": run.seed, "method": run.method, "scale": run.scale}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.title = f"{self.folder.absolute().name} seed {run.seed}"
        self.waiting: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue(MOST_WAITING)
        self.is_over = threading.Event()  # by an error, or because it is not waited for any longer
        self._is_said = threading.Lock()  # taken by what is said first
        self._thread = threading.Thread(target=self._send, name=f"tracker of {self.title}", daemon=True)
        self._thread.start()

    def tell(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.is_over.is_set():
            return
        try:
            self.waiting.put_nowait((step, dict(metrics)))
        except queue.Full:
            self._say(f"it is {MOST_WAITING:,} points behind, and is told no more")

    def close(self) -> None:
        """End the tracker's run once all is sent; after CLOSE_S without it."""
        if not self.is_over.is_set():
            try:
                self.waiting.put(None, timeout=CLOSE_S)
                self._thread.join(CLOSE_S)
            except queue.Full:
                self._say(f"it takes no points any more, and lacks the last {MOST_WAITING:,}")
        if self._thread.is_alive() and not self.is_over.is_set():
            self._say(f"it took longer than {CLOSE_S:g} s to end, and may lack the last points")

    def _say(self, reason: str) -> None:
        self.is_over.set()
        if self._is_said.acquire(blocking=False):
            log.warning("runtime.tracker=%s: %s; the run's own record has every number", self.name, reason)

    def _send(self) -> None:
        try:
            told, where = self._opened()
            with_last = dict(told["last"])
            while (point := self.waiting.get()) is not None and not self.is_over.is_set():
                step, metrics = point
                # What an earlier attempt has told is trained again after its last checkpoint: one point a step.
                new = {name: value for name, value in metrics.items() if step > with_last.get(name, -1)}
                if new:
                    where.log(new, step=step)
                    with_last |= dict.fromkeys(new, step)
                    self._remember(told | {"last": with_last})
            where.finish()
        # SystemExit is how some of them end a program that is not logged in.
        except (Exception, SystemExit) as error:
            self._say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _opened(self) -> tuple[dict[str, Any], TrackerRun]:
        """What was told before, and the tracker's run: the same one for every attempt at this run."""
        told = self._remembered()
        is_known = told is not None
        if told is None:
            told = {"tracker": self.name, "project": self.project, "id": uuid.uuid4().hex, "title": self.title}
            told["last"] = {}
        init = importlib.import_module(self.name).init
        words = {
            "project": self.project,
            "name": told["title"],
            "config": {key: value for key, value in self.config.items() if value is not None},
            "resume": "allow" if is_known else "never",
        }
        # wandb knows a run by its id and may have several open at once; trackio by its name, each thread its own.
        extra = {"id": told["id"], "reinit": "create_new", "embed": False}
        accepted = inspect.signature(init).parameters
        where: TrackerRun = init(**words, **{name: value for name, value in extra.items() if name in accepted})
        self._remember(told)
        return told, where

    def _remembered(self) -> dict[str, Any] | None:
        path = self.folder / FILE
        if not path.exists():
            return None
        told = json.loads(path.read_text(encoding="utf-8"))
        is_same = (told["tracker"], told["project"]) == (self.name, self.project)
        return dict(told) if is_same else None

    def _remember(self, told: Mapping[str, Any]) -> None:
        temporary = self.folder / f".{FILE}.tmp"
        temporary.write_text(json.dumps(told), encoding="utf-8")
        temporary.replace(self.folder / FILE)
