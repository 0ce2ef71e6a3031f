"""``seeds: {start: 3, until: decided, max: 12}``: how many seeds a row gets when the study decides.

Structure only: `sweeps.search.seeds` spends the runs, analysis reads which seeds a row may have.

**Looks.** A rule judges a row when it and the baseline share `start` seeds, then half as many more, and so on to `max`:
3, 4, 6, 9, 12. Who looks again and again, and stops where it pleases, misses the truth more often than an interval
says. So the chance to miss is shared out: with five looks each interval has a fifth of 5 %, whether it is the last or
not (Bonferroni's bound; `benchmarks/power.py` shows what is left of it).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeps.console.errors import close_matches

CONFIDENCE = 0.95  # of all looks together
DECIDED = "decided"
IN_FILE = "seeds_in_file"  # beside a launch's own `seeds` in the database: those that its file had
MOST = 10_000  # seeds of a row
KEYS = ("start", "stop_when", "until", "max")
_STOP_WHEN = re.compile(r"half_width\s*<\s*(\d+(\.\d+)?)")


def without_file(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a launch asked, whatever seeds its file had."""
    return {key: value for key, value in spec.items() if key != IN_FILE}


@dataclass(frozen=True)
class SeedRule:
    """Every row gets seeds 0 to `start` - 1, then more, below `max`, until its comparison is decided or narrow."""

    start: int
    maximum: int
    half_width: float | None  # of the difference to the baseline, in the main metric's unit; None: until it is decided

    @property
    def looks(self) -> list[int]:
        """The numbers of shared seeds at which a row is judged."""
        found = [self.start]
        while found[-1] < self.maximum:
            found.append(min(self.maximum, found[-1] + max(1, found[-1] // 2)))
        return found

    @property
    def confidence(self) -> float:
        """Of the interval at each look, so that all of them hold the truth as often as one of 95 % does."""
        return 1 - (1 - CONFIDENCE) / len(self.looks)


def parse_rule(value: Mapping[str, Any], where: str) -> SeedRule:
    """Raises ValueError naming the key, its value and what is allowed."""
    for key in value:
        if key not in KEYS:
            raise ValueError(f"unknown key {where}.{key}{close_matches(str(key), KEYS)}; allowed: {', '.join(KEYS)}")
    start, maximum, text = value.get("start", 3), value.get("max", 10), value.get("stop_when")
    if type(maximum) is int and maximum > MOST:
        raise ValueError(f"{where}.max must be at most {MOST}, got {maximum}")
    if type(start) is not int or start < 2:
        raise ValueError(f"{where}.start must be at least 2, as one seed has no interval, got {start!r}")
    if type(maximum) is not int or maximum < start:
        raise ValueError(f"{where}.max must be a whole number of at least {where}.start ({start}), got {maximum!r}")
    if "until" in value:
        if "stop_when" in value:
            raise ValueError(f"{where}: give until or stop_when, not both")
        if value["until"] != DECIDED:
            raise ValueError(f"{where}.until must be {DECIDED}, got {value['until']!r}")
        return SeedRule(start, maximum, None)
    found = _STOP_WHEN.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError(
            f'{where}.stop_when must read like "half_width < 1.0", got {text!r}; or give until: {DECIDED} instead'
        )
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
