"""Options that a study's layers set, laid over one another, and written as `core.configuring.config` reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Of core's options: what each begins with. Core itself has them, but imports torch, 3 s that a misspelt word need not
# wait for; a test holds them to be the same.
ROOTS = (
    "method", "scale", "seed", "precision", "judge", "objective", "data", "eval_data", "flow_data", "encoder",
    "weights", "mask", "target", "predictor", "loss", "evals", "augment", "optim", "stop", "runtime",
)  # fmt: skip


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win. One that chooses another variant drops what earlier ones set of the old variant's options."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for group, choice in layer.items():
            if "." not in group and group != "evals" and merged.get(group, choice) != choice:
                merged = {key: value for key, value in merged.items() if not key.startswith(f"{group}.")}
        merged |= layer
    return merged


def format_override(key: str, value: Any) -> str:
    """`key=value` as `core.configuring.config.load` and a shell's command line read it: true, null, 0.5, [a, b]."""
    return f"{key}={format_value(value)}"


def bare(value: str) -> str:
    """A value as it was typed, without the quotes that core's grammar takes away."""
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value


def plain(value: str) -> str | list[str]:
    """As `bare`, and a list of such where one was typed: ``[lidar, probe]``."""
    if not (value.startswith("[") and value.endswith("]")):
        return bare(value)
    return [bare(part.strip()) for part in value[1:-1].split(",") if part.strip()]


def format_value(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    if isinstance(value, str) and not re.fullmatch(r"[\w./:+-]+", value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return repr(value) if isinstance(value, float) else str(value)
