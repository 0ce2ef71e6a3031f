"""Host work for the next step while this one's is queued on a device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """What `make` gives for a step (from 1 to `last`), made for the next one in a thread as soon as one is asked for.

    `make` is a function of the step alone, so that it does not show who called it, and must bear being called in a
    thread. What it raises is raised where its step is asked for.
    """

    def __init__(self, make: Callable[[int], T], last: int) -> None:
        self._make, self._last = make, last
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._due: tuple[int, Future[T]] | None = None

    def at(self, step: int) -> T:
        due = self._due
        made = due[1].result() if due is not None and due[0] == step else self._make(step)
        if step < self._last and (due is None or due[0] != step + 1):
            self._due = step + 1, self._pool.submit(self._make, step + 1)
        return made
