"""When a run is not worth its remaining steps: options that are part of what it is, but only where they are set."""

from __future__ import annotations

import math
from dataclasses import dataclass

# The monitors' curves by the names of the evaluation `collapse`, which a stop is asked for in.
MONITORED = {"collapse/rankme": "monitor/rankme", "collapse/feature_std": "monitor/feature_std"}


@dataclass
class Stop:
    """End the run as `collapsed` once a monitored number is below a bound."""

    metric: str | None = None  # collapse/rankme or collapse/feature_std; null never stops
    below: float | None = None
    after: int = 0  # steps; before, nothing ends

    def __post_init__(self) -> None:
        if self.metric is None:
            if self.below is not None or self.after:
                raise ValueError(
                    f"stop.metric must be given with stop.below or stop.after: {' or '.join(MONITORED)}, got null"
                )
            return
        self.metric = {curve: name for name, curve in MONITORED.items()}.get(self.metric, self.metric)
        if self.metric not in MONITORED:
            raise ValueError(f"stop.metric must be {' or '.join(MONITORED)}, got {self.metric!r}")
        if self.below is None or not (math.isfinite(self.below) and self.below > 0):
            raise ValueError(f"stop.below must be a number above 0, such as 2 for collapse/rankme, got {self.below}")
        if self.after < 0:
            raise ValueError(f"stop.after must be at least 0 steps, got {self.after}")

    @property
    def curve(self) -> str | None:
        """What the monitors log it as."""
        return MONITORED[self.metric] if self.metric is not None else None
