"""What a row or column is called at a scale: by the options it sets there, so that no table names another run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.study.overrides import format_value

_OPTION = re.compile(r"\{([a-z_]\w*(?:\.\w+)+)\}")


def at_scale(label: str, labels: Mapping[str, str], scale: str, overrides: Mapping[str, Any]) -> str:
    """`labels[scale]`, else `label`, with `{data.num_train}` as what `overrides` set it to.

    Raises ValueError for an option that they do not set.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in overrides:
            raise ValueError(
                f"{found[0]} is not set by the row at scale {scale}: set it, or give labels: {{{scale}: ...}}"
            )
        given = overrides[found[1]]
        return f"{given:,}" if type(given) is int else given if isinstance(given, str) else format_value(given)

    return _OPTION.sub(value, labels.get(scale, label))


def settle(levels: list[Any], labels: Sequence[str]) -> None:
    """Of a study file's content: each level's label as it is at the launch's scale."""
    for level, label in zip(levels, labels, strict=True):
        if isinstance(level, dict) and "label" in level:
            level["label"] = label
            level.pop("labels", None)
