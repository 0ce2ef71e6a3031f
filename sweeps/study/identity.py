"""When two configurations are the same experiment: the sha256 of their canonical JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

HASH_VERSION = 1  # how `digest` is computed; stored beside every hash
CODE_EPOCH = 1  # bump by hand when a change of code changes what numbers mean: every run is then trained anew


def canonical(value: Any) -> Any:
    """`value` in the one form that equal values share: 1.0 and -0.0 become 1 and 0, tuples lists, keys are sorted.

    A field has one type, so an int where it wants a float is the same setting; True is not 1. Raises ValueError for
    what has no JSON form (NaN, infinities, objects), TypeError for a key that is not a string.
    """
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a configuration cannot hold {value}: use null or a number")
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return [canonical(item) for item in value]
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"configuration keys must be strings, got {wrong[0]!r}")
        return {key: canonical(value[key]) for key in sorted(value)}
    raise ValueError(f"a configuration cannot hold a {type(value).__name__}: {value!r}")


def canonical_json(value: Any) -> str:
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(config: Mapping[str, Any]) -> str:
    """The identity of a config (flat, without seed and runtime: `core.configuring.config.identity`): 64 hex digits."""
    return hashlib.sha256(canonical_json(config).encode()).hexdigest()
