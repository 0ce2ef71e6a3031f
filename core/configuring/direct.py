"""A `Run` made from the classes of its components, where nothing is wrong with its settings.

To set a run's options one by one in a composed config takes 10 ms. The runs of studies are many, and their components
mostly the same, so OmegaConf checks the options of each component once, and every run is made anew of what it said. It
finds no words for mistakes: those are for `config.told_of`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.configuring.run import GROUPS, SECTIONS, TOP_LEVEL, Run
from core.evals import EVALS
from core.types import taken

MOST_KEPT = 10_000  # checked sets of options, some hundred bytes each
_OF_SECTION = {name: type(getattr(Run(), name)) for name in SECTIONS}
_KEPT: dict[tuple[type, str], dict[str, Any]] = {}


class Unclear(Exception):
    """The settings may be wrong, or need more than conversion."""


def run_of(settings: Mapping[str, Any], choices: Mapping[str, Any], evals: Sequence[str]) -> Run | None:
    """The run of a complete flat config and of the variants that it chooses; None where something may be wrong."""
    told: dict[str, dict[str, Any]] = defaultdict(dict)
    for key, value in settings.items():
        if key not in GROUPS and key != "evals":
            section, _, name = key.rpartition(".")
            told[section][name] = value
    variants = {group: GROUPS[group][name] for group, name in choices.items() if name is not None}
    variants |= {f"evals.{name}": EVALS[name] for name in evals}
    variants |= _OF_SECTION
    top = told.pop("", {})
    if not (told.keys() <= variants.keys() and top.keys() <= set(TOP_LEVEL)):
        return None
    try:
        parts = {name: variant(**options(variant, told.get(name, {}))) for name, variant in variants.items()}
        own = {name: value for name, value in options(Run, top).items() if name in TOP_LEVEL}
    except (Unclear, OmegaConfBaseException, ValueError, TypeError):
        return None
    judged_by = {name: parts.pop(f"evals.{name}") for name in evals}
    return Run(**parts, **own, evals=judged_by)


def options(variant: type, told: Mapping[str, Any]) -> dict[str, Any]:
    """What to make `variant` of: what is told of its options, converted to their types, and the others' defaults."""
    key = variant, repr(sorted(told.items()))
    if key not in _KEPT:
        if len(_KEPT) >= MOST_KEPT:
            _KEPT.clear()
        _KEPT[key] = _checked(variant, told)
    return copy.deepcopy(_KEPT[key])


def _checked(variant: type, told: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field.name: field.init for field in dataclasses.fields(variant)}
    is_plain = all(fields.values()) and told.keys() <= fields.keys() and "${" not in repr(told)
    if not is_plain:
        raise Unclear
    config = OmegaConf.structured(variant)
    for name, value in told.items():
        OmegaConf.update(config, name, value, merge=False)
        if (allowed := taken(variant, name)) and config[name] not in allowed:
            raise Unclear
    return {str(name): OmegaConf.to_object(it) if OmegaConf.is_config(it) else it for name, it in config.items()}
