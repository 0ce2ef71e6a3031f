"""The `leave_out:` section of a study file: a row of all components, and one without each of them.

    leave_out:
      cycle: {objective.cycle_coeff: 0.0}        # name of a component -> the options that switch it off
      smooth: {label: smoothness, set: {objective.smooth_coeff: 0.0}, scales: {smoke: {...}}}

makes the rows "all" (the baseline, unless the file names another), "without_cycle" and "without_smooth". Structure
only, without core; whether a component is there to be left out, `sweeps.cells.expand` asks `idle` about.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

ALL = "all"  # the key and label of the row that leaves nothing out
PREFIX = "without_"
_ENTRY_KEYS = ("label", "set", "scales")


def entries(section: Any) -> list[tuple[str, Any]]:
    """Names and their overrides, in order: from a mapping, or from a list of one-key mappings.

    The database holds the list: PostgreSQL's JSONB does not keep the order of a mapping's keys. Raises ValueError
    naming the component.
    """
    parts = section if isinstance(section, list) else [section]
    if not all(isinstance(part, Mapping) for part in parts):
        raise ValueError(f"leave_out must map the name of each component to the options without it, got {section!r}")
    found = [entry for part in parts for entry in part.items()]
    if not found:
        raise ValueError("leave_out: name at least one component, such as cycle: {objective.cycle_coeff: 0.0}")
    names = [name for name, _ in found]
    for name in names:
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ValueError(f"leave_out: {name!r} must be a word: it names a row")
        if names.count(name) > 1:
            raise ValueError(f"leave_out.{name} is there twice")
    return found


def row(name: str, entry: Any) -> dict[str, Any]:
    """The row without one component, as `rows:` would have it. Raises ValueError naming the component."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"leave_out.{name} must be the options that switch it off, got {entry!r}")
    is_long = any(key in entry for key in _ENTRY_KEYS)
    parts = dict(entry) if is_long else {"set": dict(entry)}
    if not parts.get("set") and not parts.get("scales"):
        raise ValueError(f"leave_out.{name}: name at least one option that switches it off")
    label = parts.pop("label", name.replace("_", " "))
    if isinstance(label, Mapping | list) or label is None:
        raise ValueError(f"leave_out.{name}.label must be text, got {label!r}")
    return {**parts, "key": PREFIX + name, "label": f"without {label}"}


def idle(own: Mapping[str, Any], config: Mapping[str, Any], whole: Mapping[str, Any]) -> Sequence[str]:
    """Those of a row's `own` overrides that change nothing: `config` is the row's, `whole` that of the row "all".

    An option beside another choice of its group may well have the value that the old choice's option had.
    """
    switched = {key for key in own if "." not in key and config.get(key) != whole.get(key)}
    same = [
        key
        for key in own
        if key in config and key in whole and config[key] == whole[key] and key.partition(".")[0] not in switched
    ]
    return list(own) if config == whole else same
