"""Studies whose next runs depend on results: a director adds runs while an executor trains them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from sqlalchemy import Engine

from sweeps.cells.registry import Registered
from sweeps.cells.request import Request
from sweeps.engine.executors import Ended

STEP_EVERY_S = 0.5
POLL_S = 1.0  # while another launcher directs and nothing is left for this one's workers


class Director(Protocol):
    """Adds a study's runs; everything it knows is in the database, so a killed one is simply started again."""

    @property
    def is_over(self) -> bool:
        """Whether the last step found that no more runs will be added."""
        ...

    def step(self, width: int) -> None:
        """Add runs until `width` are open."""
        ...

    def close(self) -> None: ...


def find_director(engine: Engine, request: Request, registered: Registered, priority: int) -> Director | None:
    """None for a study whose runs are all known when it is launched."""
    if request.study.search(request.scale) is not None:
        # Optuna takes half a second to import: only for studies that search.
        from sweeps.search.search import Search

        return Search(engine, request, registered, priority=priority)
    if request.study.seed_rule(request.scale) is not None and not request.seeds:
        # scipy, likewise.
        from sweeps.search.seeds import AdaptiveSeeds

        return AdaptiveSeeds(engine, registered.study_id, priority=priority)
    return None


def direct(
    director: Director,
    train: Callable[[Callable[[], None]], Ended],
    *,
    width: int,
    is_waiting: Callable[[], bool],
    while_training: bool = True,
) -> Ended:
    """Step and train in turns until the director is over and nothing waits.

    `train(on_tick)` returns when nothing is queued or running. Steps are also taken while it trains, so that no worker
    waits for the others' runs, unless `while_training` is False: `on_tick` is then called from another thread.
    """
    last = 0.0

    def tick() -> None:
        nonlocal last
        if while_training and time.monotonic() - last > STEP_EVERY_S:
            director.step(width)
            last = time.monotonic()

    try:
        while True:
            director.step(width)
            if director.is_over and not is_waiting():
                return Ended()
            if not is_waiting():
                time.sleep(POLL_S)
                continue
            ended = train(tick)
            if ended.was_interrupted or ended.gave_up:
                return ended
    except KeyboardInterrupt:  # the executors have handlers of their own; this is between two of them
        return Ended(was_interrupted=True)
