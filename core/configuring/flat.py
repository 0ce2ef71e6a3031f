"""A run as one flat dict of dotted keys, and what of it makes two runs the same experiment."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from enum import Enum
from typing import Any

from core.configuring import plugins
from core.configuring.run import GROUPS, PRESENTATION, SECTIONS, TOP_LEVEL, ConfigError, Flat, Run, name_of


def flatten(run: Run) -> Flat:
    """Every choice and option of a run under its dotted key, as plain values; `load` of it gives the run again."""
    flat: Flat = {key: plain(getattr(run, key), key) for key in TOP_LEVEL}
    if flat["judge"] == "last":
        del flat["judge"]  # said only where another step is judged: no older config has the key
    for group in GROUPS:
        component = getattr(run, group)
        flat[group] = None if component is None else name_of(group, component)
        if component is not None:
            flat |= options(component, group)
        if not flat.get(f"{group}.version", True):  # said only where a set is named: no older config has the key
            del flat[f"{group}.version"]
    flat["evals"] = sorted(run.evals)
    for name in flat["evals"]:
        flat |= options(run.evals[name], f"evals.{name}")
    for section in SECTIONS:
        if section == "stop" and run.stop.metric is None:
            continue  # said only where it is asked for: no older config has the keys
        flat |= options(getattr(run, section), section)
    return flat


def options(component: Any, prefix: str) -> Flat:
    names = [f.name for f in dataclasses.fields(component)]
    told = {f"{prefix}.{name}": plain(getattr(component, name), f"{prefix}.{name}") for name in names}
    if (module := plugins.owner(component)) is not None:  # no config of this tree's components has the key
        told[f"{prefix}.{plugins.KEY}"] = module
    return told


def plain(value: Any, key: str) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, list | tuple):
        return [plain(item, key) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number, or null where the option allows it")
    return value


def identity(flat: Mapping[str, Any]) -> Flat:
    """What two runs must share to be the same experiment: all but the seed, the machine and the presets' names."""
    outside = ("seed", *PRESENTATION)
    return {key: value for key, value in flat.items() if key not in outside and not key.startswith("runtime.")}
