"""What the evaluations that train a copy of the encoder share: the options of their optimiser, checked and handed on.

Each declares these options itself, since their defaults are those of its own paper.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from core.types import Optimizer, Recipe, Tuning, refuse_others


def requirement(evaluation: Tuning, key: str) -> Callable[[bool, str, str], None]:
    """What raises ValueError unless something `holds`, saying what is `allowed` of the option `name` of `key`."""

    def require(holds: bool, name: str, allowed: str) -> None:
        if not holds:
            raise ValueError(f"{key}.{name} must be {allowed}, got {getattr(evaluation, name)}")

    return require


def check_recipe(evaluation: Tuning, key: str) -> None:
    """Raise ValueError for an option that no fine-tuning can have."""
    refuse_others(evaluation, key)
    require, options = requirement(evaluation, key), vars(evaluation)
    for name in ("steps", "batch_size"):
        require(options[name] >= 1, name, "at least 1")
    for name in ("lr", "head_std"):
        require(options[name] > 0, name, "above 0")
    for name in ("lr_start", "lr_end", "weight_decay", "clip"):
        require(options[name] >= 0, name, "at least 0")
    for name in ("warmup_share", "beta1", "beta2", "drop_path"):
        require(0 <= options[name] < 1, name, "in [0, 1)")
    require(0 < options["layer_decay"] <= 1, "layer_decay", "in (0, 1]")


def recipe_of(evaluation: Tuning, steps: int) -> Recipe:
    """The options that `Recipe` has too, under the same names but for two; those that are not there are off."""
    options = vars(evaluation)
    shared = {name: value for name, value in options.items() if name in Recipe._fields}
    is_sgd = options.get("optimizer") is Optimizer.sgd
    return Recipe(**shared | {"steps": steps, "lr_peak": options["lr"], "sgd": is_sgd})


def settings_of(evaluation: Tuning) -> dict[str, Any]:
    """Every option as a plain value: what a checkpoint of it was made with."""
    return {name: value.name if isinstance(value, Enum) else value for name, value in vars(evaluation).items()}
