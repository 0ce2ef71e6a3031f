"""What else differs: the options in which a row and its baseline differ although the row does not say so.

A comparison is a claim that rows differ in what the table says and in nothing else. What a row sets, and what that
implies, is what the table says; a study that means more to differ lists it under `varies`, and the table repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from sweeps.overrides import format_value
from sweeps.study import Cell, Study

# What an option decides besides its own sub-options: another method has other parts, and no other schedule or data.
_PARTS = ("objective", "mask", "target", "predictor", "loss", "encoder", "flow_data")
_IMPLIED = {"method": _PARTS, "objective": _PARTS}


@dataclass(frozen=True)
class Difference:
    """A row that is not its baseline in an option; None is an option that the other's parts do not have."""

    row: Cell
    key: str
    value: Any
    of_baseline: Any
    is_set: bool  # or implied, by what the two rows set
    is_listed: bool  # in `varies`

    @property
    def is_told(self) -> bool:
        return self.is_set or self.is_listed

    @property
    def is_of_one_part(self) -> bool:
        """An option that one of two variants has: that they are two variants says it already."""
        return "." in self.key and (self.value is None or self.of_baseline is None)

    @property
    def text(self) -> str:
        return f"{self.key} {_shown(self.value)} (baseline {_shown(self.of_baseline)})"


def differences(study: Study, scale: str, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[Difference]:
    """Of every row to the baseline of its column, in the table's order; the random initialisation is no row.

    `cells` are the study's with their resolved options.
    """
    baselines = {cell.col_key: config for cell, config in cells if cell.row_key == study.baseline}
    sets = {row.key: row.overrides(scale) for row in study.rows}
    for cell, config in cells:
        baseline = baselines.get(cell.col_key)
        if cell.is_random_init or cell.row_key == study.baseline or baseline is None:
            continue
        told = {**sets[cell.row_key], **sets[study.baseline]}
        for key in sorted(config.keys() | baseline.keys()):
            if config.get(key) != baseline.get(key):
                is_set = any(_decides(option, key) for option in told)
                yield Difference(cell, key, config.get(key), baseline.get(key), is_set, _is_listed(study, scale, key))


def wrong(study: Study, scale: str, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[str]:
    """One line a row that differs in more than it says."""
    untold: dict[str, list[Difference]] = {}
    for difference in differences(study, scale, cells):
        if not difference.is_told:
            place = difference.row.row_key + (f", {difference.row.col_key}" if difference.row.col_key else "")
            untold.setdefault(place, []).append(difference)
    for place, found in untold.items():
        keys = ", ".join(difference.key for difference in found)
        yield (
            f"row {place} differs from the baseline {study.baseline} in more than it sets: "
            f"{'; '.join(difference.text for difference in found)}. Give both the same, or say that they are meant to "
            f"differ: varies: [{keys}]"
        )


def listed(study: Study, scale: str) -> list[str]:
    """The patterns of `varies` at a scale: the study's and the scale's own."""
    own = study.spec["scales"].get(scale, {}).get("varies", [])
    return list(dict.fromkeys([*study.spec.get("varies", []), *own]))


def _is_listed(study: Study, scale: str, key: str) -> bool:
    return any(fnmatch(key, pattern) or key.startswith(f"{pattern}.") for pattern in listed(study, scale))


def _decides(option: str, key: str) -> bool:
    return key == option or any(
        key == part or key.startswith(f"{part}.") for part in (option, *_IMPLIED.get(option, ()))
    )


def _shown(value: Any) -> str:
    return "none" if value is None else format_value(value)
