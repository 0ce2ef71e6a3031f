"""The `search:` section of a study file: what may vary and within which bounds, who proposes, who stops a bad trial.

Structure only, without Optuna, core or torch: analysis reads it too. `sweeps.search` drives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeps.identity import CODE_EPOCH, digest
from sweeps.study_files import close_matches

KINDS = ("float", "int", "categorical")
SAMPLERS = ("tpe", "random", "cmaes", "gp")
PRUNERS = ("none", "median", "asha")
DIRECTIONS = ("maximize", "minimize")
_KEYS = ("space", "budget", "sampler", "pruner", "eval_every", "metric", "direction", "seed")
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


def parse_search(value: Any) -> SearchSpec:
    """Raises ValueError naming the key under `search`, its value and what is allowed."""
    section = _mapping(value, "search")
    _known(section, _KEYS, "search")
    space = _mapping(section.get("space", {}), "search.space")
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
    )
    if spec.pruner != "none" and not spec.eval_every:
        raise ValueError(
            f"search.pruner={spec.pruner} compares trials at evaluations on the way: "
            "give search.eval_every, in steps, or set search.pruner to none"
        )
    return spec


def merge_search(section: Mapping[str, Any], at_scale: Mapping[str, Any]) -> dict[str, Any]:
    """A scale's `search:` on top of the study's; its space replaces distributions option by option."""
    space = {**section.get("space", {}), **at_scale.get("space", {})}
    return {**section, **at_scale, "space": space}


def search_name(
    instance: str, default: Mapping[str, Any], seed: int, section: Mapping[str, Any], spec: SearchSpec
) -> str:
    """What Optuna calls the study: trials are comparable while all of this stays. The rest of `spec` may be edited.

    `default` is the identity config of what nothing searched for, `section` the spec's text.
    """
    shared = [default, seed, CODE_EPOCH, section["space"], spec.metric, spec.direction]
    return f"{instance}:{digest({'shared': shared})[:8]}"


def is_trial(row_key: str) -> bool:
    return row_key.startswith(TRIAL)


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


def _known(value: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for key in value:
        if key not in allowed:
            raise ValueError(
                f"unknown key {where}.{key}{close_matches(str(key), allowed)}; allowed: {', '.join(allowed)}"
            )


def _whole(section: Mapping[str, Any], key: str, default: int | None, *, least: int) -> int:
    value = section.get(key, default)
    if type(value) is not int or value < least:
        raise ValueError(f"search.{key} must be a whole number of at least {least}, got {value!r}")
    return value


def _choice(section: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = section.get(key, allowed[0])
    if value not in allowed:
        raise ValueError(f"search.{key} must be one of {', '.join(allowed)}, got {value!r}")
    return str(value)
