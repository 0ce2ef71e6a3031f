"""The margin within which a study calls rows the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Points of top-1 that make no difference, where the study does not say (`margin:`); no other metric has a default.
MARGINS = {"smoke": 2.0, "cpu": 2.0, "lab": 1.0, "gpu": 1.0, "paper": 0.5}


def margin_of(spec: Mapping[str, Any], scale: str, metric: str) -> float | None:
    """The study's, at this scale or at all; else the default of top-1; None where rows cannot be called the same."""
    told = (spec.get("scales", {}).get(scale) or {}).get("margin", spec.get("margin"))
    if told is not None:
        return float(told)
    return MARGINS[scale] if "top1" in metric else None
