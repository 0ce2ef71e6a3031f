"""The rules that move parameters, and options that take some of an enum's members."""

from __future__ import annotations

import dataclasses
from enum import Enum
from typing import Any

_TAKEN = "taken"  # in a field's metadata


class Optimizer(Enum):
    """`adamw`; `sgd` with momentum; or `lars`: the same on gradients scaled to the size of the weights they change."""

    adamw = "adamw"
    sgd = "sgd"
    lars = "lars"


def takes(*members: Enum) -> dict[str, Any]:
    """The metadata of an option that takes these members of an enum only."""
    return {_TAKEN: members}


def taken(component: Any, name: str) -> list[Enum]:
    """The members that the option `name` of a component (or of its class) takes, in their order; [] for any other."""
    if not dataclasses.is_dataclass(component):
        return []
    members = next((f.metadata.get(_TAKEN, ()) for f in dataclasses.fields(component) if f.name == name), ())
    return [member for member in type(members[0]) if member in members] if members else []


def refuse_others(component: Any, key: str) -> None:
    """Raise ValueError for an option of `component`, whose options are called ``key.name``, that has no such member."""
    for name, value in vars(component).items():
        if (members := taken(component, name)) and value not in members:
            allowed = ", ".join(member.name for member in members)
            told = value.name if isinstance(value, Enum) else value
            raise ValueError(f"{key}.{name} must be one of {allowed}, got {told}")
