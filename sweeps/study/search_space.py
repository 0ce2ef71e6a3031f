"""The `search:` section of a study file: what may vary and within which bounds, who proposes, who stops a bad trial.

Structure only, without Optuna, core or torch: analysis reads it too. `sweeps.search.search` drives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.console.errors import close_matches
from sweeps.study.identity import CODE_EPOCH, digest
from sweeps.study.seed_rule import first_seeds, further_seeds

KINDS = ("float", "int", "categorical")
SAMPLERS = ("tpe", "random", "cmaes", "gp")
PRUNERS = ("none", "median", "asha")
DIRECTIONS = ("maximize", "minimize")
_KEYS = (
    "space",
    "budget",
    "sampler",
    "pruner",
    "eval_every",
    "metric",
    "direction",
    "seed",
    "seeds",
    "promote",
    "judge",
)
PROMOTED, JUDGING = 4, 5  # trials and seeds, where a search of several seeds a trial does not say
TRIAL = "trial_"  # a trial's row key is this and its number
DEFAULT_ROW = "default"  # the row of the options that nothing searched for


@dataclass(frozen=True)
class Distribution:
    """The values that one option may take: numbers from `low` to `high`, both included, or `choices`."""

    kind: str
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Seeds:
    """How many seeds a search spends on what; which ones they are follows from its first."""

    per_trial: int = 1  # Optuna is told their mean
    num_promoted: int = 0  # trials, the best by that mean, ...
    per_promoted: int = 0  # ... which get so many seeds, and by whose mean the best is chosen
    judging: int = 0  # fresh seeds of the best, and of the options that nothing searched for

    def of_trials(self, first: int) -> list[int]:
        return list(range(first, first + self.per_trial))

    def of_promoted(self, first: int) -> list[int]:
        return list(range(first, first + self.per_promoted))

    def of_judging(self, first: int) -> list[int]:
        fresh = first + max(self.per_trial, self.per_promoted)
        return list(range(fresh, fresh + self.judging))

    def further(self, first: int) -> list[int]:
        """The seeds that some rows get on top of their first ones."""
        return [*self.of_promoted(first)[self.per_trial :], *self.of_judging(first)]

    @property
    def num_further(self) -> int:
        """Runs of promotion and judging, at most."""
        return self.num_promoted * max(0, self.per_promoted - self.per_trial) + 2 * self.judging


@dataclass(frozen=True)
class SearchSpec:
    """A search at one scale."""

    space: dict[str, Distribution]  # by dotted key, in the order of the keys
    budget: int  # trials that train; a result that exists already and an infeasible proposal cost nothing
    sampler: str
    pruner: str
    eval_every: int  # steps between the evaluations that the pruner sees
    metric: str  # empty: the study's main metric
    direction: str
    seed: int  # of the sampler
    seeds: Seeds = Seeds()

    @property
    def num_runs(self) -> int:
        """What a search trains, at most, beside the rows that it does not search."""
        return self.budget * self.seeds.per_trial + self.seeds.num_further


def parse_search(value: Any) -> SearchSpec:
    """Raises ValueError naming the key under `search`, its value and what is allowed."""
    section = _mapping(value, "search")
    _known(section, _KEYS, "search")
    space = _space(section)
    if not space:
        raise ValueError("search.space: name at least one option, such as mask.num_targets: {int: [1, 6]}")
    spec = SearchSpec(
        space={key: _distribution(space[key], f"search.space.{key}") for key in sorted(space)},
        budget=_whole(section, "budget", None, least=1),
        sampler=_choice(section, "sampler", SAMPLERS),
        pruner=_choice(section, "pruner", PRUNERS),
        eval_every=_whole(section, "eval_every", 0, least=0),
        metric=str(section.get("metric", "")),
        direction=_choice(section, "direction", DIRECTIONS),
        seed=_whole(section, "seed", 0, least=0),
        seeds=_seeds(section),
    )
    if spec.pruner != "none" and not spec.eval_every:
        raise ValueError(
            f"search.pruner={spec.pruner} compares trials at evaluations on the way: "
            "give search.eval_every, in steps, or set search.pruner to none"
        )
    return spec


def merge_search(section: Mapping[str, Any], at_scale: Mapping[str, Any]) -> dict[str, Any]:
    """A scale's `search:` on top of the study's, its space option by option. Raises ValueError."""
    space = {key: value for part in (section, at_scale) for key, value in _space(part).items()}
    return {**section, **at_scale, "space": space}


def search_name(
    instance: str, default: Mapping[str, Any], seed: int, section: Mapping[str, Any], spec: SearchSpec
) -> str:
    """What Optuna calls the study: trials are comparable while all of this stays. The rest of `spec` may be edited.

    `default` is the identity config of what nothing searched for, `section` the spec's text.
    """
    shared = [default, seed, CODE_EPOCH, section["space"], spec.metric, spec.direction]
    if spec.seeds.per_trial > 1:  # means of two seeds are not told beside those of one
        shared.append(spec.seeds.per_trial)
    return f"{instance}:{digest({'shared': shared})[:8]}"


def is_trial(row_key: str) -> bool:
    return row_key.startswith(TRIAL)


def first_and_further(seeds: Any, search: SearchSpec | None) -> tuple[list[int], list[int]]:
    """The seeds that every row of a study gets, and those that some rows are given on top: `seeds` of its spec."""
    first = first_seeds(seeds)
    if search is None:
        return first, further_seeds(seeds)
    return search.seeds.of_trials(first[0]), search.seeds.further(first[0])


def stored_search(spec: Mapping[str, Any]) -> SearchSpec | None:
    """Of a study's spec in the database."""
    return parse_search(spec["search"]) if "search" in spec else None


def is_given_later(row_key: str, seed: int, first: Sequence[int], further: Sequence[int]) -> bool:
    """Whether a row is given this seed by what came out before: a trial its second one once the first has ended."""
    return seed in further or (is_trial(row_key) and seed != first[0])


def _seeds(section: Mapping[str, Any]) -> Seeds:
    """`seeds: 2, promote: {trials: 4, seeds: 4}, judge: {seeds: 5}`, as for `seeds: 2` alone; else one seed."""
    per_trial = _whole(section, "seeds", 1, least=1)
    is_several = per_trial > 1
    promote = _mapping(section.get("promote") or ({} if is_several else {"trials": 0}), "search.promote")
    _known(promote, ("trials", "seeds"), "search.promote")
    judge = _mapping(section.get("judge") or ({} if is_several else {"seeds": 0}), "search.judge")
    _known(judge, ("seeds",), "search.judge")
    num_promoted = _whole(promote, "trials", PROMOTED, least=0, where="search.promote")
    per_promoted = _whole(promote, "seeds", 2 * per_trial, least=1, where="search.promote") if num_promoted else 0
    if num_promoted and per_promoted <= per_trial:
        raise ValueError(
            f"search.promote.seeds must be above search.seeds ({per_trial}), of which it counts those, "
            f"got {per_promoted}; for no promotion give promote: {{trials: 0}}"
        )
    judging = _whole(judge, "seeds", JUDGING, least=0, where="search.judge")
    if judging == 1:
        raise ValueError("search.judge.seeds must be at least 2, as one seed has no interval, or 0 for no judging")
    return Seeds(per_trial, num_promoted, per_promoted, judging)


def _distribution(value: Any, where: str) -> Distribution:
    options = _mapping(value, where)
    _known(options, (*KINDS, "log", "step"), where)
    kinds = [kind for kind in KINDS if kind in options]
    if len(kinds) != 1:
        raise ValueError(f"{where} must have one of {', '.join(KINDS)}, such as {{float: [0.1, 0.5]}}, got {value!r}")
    kind, bounds = kinds[0], options[kinds[0]]
    if kind == "categorical":
        _known(options, ("categorical",), where)
        if not isinstance(bounds, list) or len(bounds) < 2 or any(isinstance(c, list | dict) for c in bounds):
            raise ValueError(f"{where}.categorical must be a list of two or more values, got {bounds!r}")
        return Distribution(kind, choices=tuple(bounds))
    if not isinstance(bounds, list) or len(bounds) != 2 or not all(_is_number(b, kind) for b in bounds):
        raise ValueError(f"{where}.{kind} must be [low, high], two {_WORDS[kind]}, got {bounds!r}")
    low, high, log, step = *bounds, options.get("log", False), options.get("step")
    if low >= high:
        raise ValueError(f"{where}.{kind}: low must be below high, got {bounds!r}")
    if not isinstance(log, bool):
        raise ValueError(f"{where}.log must be true or false, got {log!r}")
    if log and low <= 0:
        raise ValueError(f"{where}: log needs a low above 0, got {low!r}")
    if step is not None:
        if log:
            raise ValueError(f"{where}: step and log exclude each other; leave one out")
        if not _is_number(step, kind) or step <= 0:
            raise ValueError(f"{where}.step must be above 0, a {_WORDS[kind][:-1]}, got {step!r}")
        if abs((high - low) / step - round((high - low) / step)) > 1e-8:
            raise ValueError(f"{where}.step={step!r} does not divide {low!r} to {high!r}; change high or step")
    return Distribution(kind, low, high, step, log)


_WORDS = {"float": "numbers", "int": "whole numbers"}


def _is_number(value: Any, kind: str) -> bool:
    wanted = isinstance(value, int) if kind == "int" else isinstance(value, int | float) and math.isfinite(value)
    return wanted and not isinstance(value, bool)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} must be a mapping of names to values, got {value!r}")
    return value


def _space(section: Mapping[str, Any]) -> Mapping[str, Any]:
    space = _mapping(section.get("space", {}), "search.space")
    if wrong := [key for key in space if not isinstance(key, str)]:
        raise ValueError(f"search.space: {wrong[0]!r} is not an option's name such as mask or mask.num_targets")
    return space


def _known(value: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise ValueError(
                f"unknown key {where}.{key}{close_matches(str(key), allowed)}; allowed: {', '.join(allowed)}"
            )


def _whole(section: Mapping[str, Any], key: str, default: int | None, *, least: int, where: str = "search") -> int:
    value = section.get(key, default)
    if type(value) is not int or not least <= value < 2**31:
        least_and_most = f"at least {least}" + (" and below 2**31" if type(value) is int and value > least else "")
        raise ValueError(f"{where}.{key} must be a whole number of {least_and_most}, got {value!r}")
    return value


def _choice(section: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = section.get(key, allowed[0])
    if value not in allowed:
        raise ValueError(f"search.{key} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)
