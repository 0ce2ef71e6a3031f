"""``seeds: {start: 3, stop_when: "half_width < 1.0", max: 10}``: how many seeds a row gets when the study decides.

Structure only: `sweeps.seeds` spends the runs, analysis reads which seeds a row may have.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.study_files import close_matches

_KEYS = ("start", "stop_when", "max")
_STOP_WHEN = re.compile(r"half_width\s*<\s*(\d+(\.\d+)?)")


@dataclass(frozen=True)
class SeedRule:
    """Every row gets seeds 0 to `start` - 1, then more, below `max`, until the comparisons are `half_width` narrow."""

    start: int
    maximum: int
    half_width: float  # of the paired difference to the baseline, in the main metric's unit


def parse_rule(value: Mapping[str, Any], where: str) -> SeedRule:
    """Raises ValueError naming the key, its value and what is allowed."""
    for key in value:
        if key not in _KEYS:
            raise ValueError(f"unknown key {where}.{key}{close_matches(str(key), _KEYS)}; allowed: {', '.join(_KEYS)}")
    start, maximum, text = value.get("start", 3), value.get("max", 10), value.get("stop_when")
    if type(start) is not int or start < 2:
        raise ValueError(f"{where}.start must be at least 2, as one seed has no interval, got {start!r}")
    if type(maximum) is not int or maximum < start:
        raise ValueError(f"{where}.max must be a whole number of at least {where}.start ({start}), got {maximum!r}")
    found = _STOP_WHEN.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(f'{where}.stop_when must read like "half_width < 1.0", got {text!r}')
    return SeedRule(start, maximum, float(found[1]))


def first_seeds(value: Any) -> list[int]:
    """The seeds that every row of a study gets, from the `seeds` of its spec."""
    return list(range(parse_rule(value, "seeds").start)) if isinstance(value, Mapping) else list(value)


def further_seeds(value: Any) -> list[int]:
    """The seeds that a row may be given on top of those."""
    if not isinstance(value, Mapping):
        return []
    rule = parse_rule(value, "seeds")
    return list(range(rule.start, rule.maximum))
