"""The weights of the step at which a probe of held-out clips was most often right, for a run judged by these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.running.checkpoint import copied
from core.running.monitoring.held_out import score
from core.types import Learner


class Best:
    """Held in memory and with every checkpoint, so that a resumed run chooses among the same steps."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        """`state` is what a checkpoint has of it."""
        self.step, self.score = (0, 0.0) if state is None else (int(state["step"]), float(state["score"]))
        self._weights: dict[str, Any] | None = None if state is None else copied(state["learner"])

    def consider(self, step: int, seen: Mapping[str, float], learner: Learner) -> None:
        """Keep the weights of `step` if none before were as good, by what was `seen` of them."""
        found = score(seen)
        if found is not None and (self._weights is None or found > self.score):
            on_host = {name: value.detach().to("cpu", copy=True) for name, value in learner.state_dict().items()}
            self.step, self.score, self._weights = step, found, on_host

    def restore(self, learner: Learner) -> None:
        """Give `learner` the best weights, if any are kept, for good: they are its own from now on."""
        if self._weights is not None:
            learner.load_state_dict(self._weights)
            self._weights = None

    def state(self) -> dict[str, Any] | None:
        """For a checkpoint; None while no step was considered."""
        return {"step": self.step, "score": self.score, "learner": self._weights} if self.step else None

    def facts(self) -> dict[str, Any]:
        """{"judged_step": ...} of a run that was judged by them."""
        return {"judged_step": self.step} if self.step else {}
