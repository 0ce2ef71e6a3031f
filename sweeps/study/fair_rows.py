"""What else differs: the options in which a row and its baseline differ although the row does not say so.

A comparison is a claim that rows differ in what the table says and in nothing else. What a row sets, and what that
implies, is what the table says; a study that means more to differ lists it under `varies`, and the table repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from sweeps.console.errors import close_matches
from sweeps.study.model import Cell, Study
from sweeps.study.overrides import format_value

# What another choice decides beside its own options: another method has other parts, and no other schedule or data.
_PARTS = ("objective", "mask", "target", "predictor", "loss", "encoder", "flow_data")
_IMPLIED = {"method": _PARTS, "objective": _PARTS}
_RECIPE = ("optim", "data", "augment")  # what any row is trained with
# A method says how its encoder begins and what it is shown, not how large it is: that is a comparison of its own.
_SIZES = tuple(
    f"encoder.{name}" for name in ("width", "depth", "heads", "patch", "mlp_ratio", "widths", "depths", "bottleneck")
)


@dataclass(frozen=True)
class Difference:
    """A row that is not its baseline in an option; None is an option that the other's parts do not have."""

    row: Cell
    key: str
    value: Any
    of_baseline: Any
    is_set: bool  # or implied, by what the two rows set
    is_listed: bool  # in `varies`
    is_implied: bool = False  # an option, by another variant of a part that it belongs to, and not set
    is_with_another: bool = False  # set by a row that sets options of other parts too
    is_size_with_method: bool = False  # of the encoder, by a row that sets another method or objective

    @property
    def is_told(self) -> bool:
        return self.is_set or self.is_listed

    @property
    def is_beside_the_label(self) -> bool:
        """What a reader of the table would not take from the row's name: it is not what the row is about."""
        is_beside = self.is_with_another and self.is_of_recipe
        return (self.is_listed and not self.is_set) or self.is_implied or is_beside or self.is_size_with_method

    @property
    def is_of_recipe(self) -> bool:
        return self.key.split(".")[0] in _RECIPE

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
    baselines = {cell.col_key: (cell, config) for cell, config in cells if cell.row_key == study.baseline}
    sets = {row.key: row.overrides(scale) for row in study.rows}
    for cell, config in cells:
        if cell.is_random_init or cell.row_key == study.baseline or cell.col_key not in baselines:
            continue
        of_baseline, baseline = baselines[cell.col_key]
        told = sets[cell.row_key].keys() | sets[study.baseline].keys()
        implied = set(_implied(told, {**cell.overrides, **config}, {**of_baseline.overrides, **baseline}))
        for key in sorted(config.keys() | baseline.keys()):
            if config.get(key) != baseline.get(key):
                is_size = key in _SIZES and config.get("encoder") == baseline.get("encoder")
                is_implied = any(key == part or key.startswith(f"{part}.") for part in implied) and not is_size
                is_set = key in told or is_implied
                yield Difference(
                    cell, key, config.get(key), baseline.get(key), is_set, _is_listed(study, scale, key),
                    is_implied=is_implied and key not in told and "." in key,
                    is_with_another=key in told and any(one.split(".")[0] not in _RECIPE for one in told),
                    is_size_with_method=is_size and key in told and bool({*told} & {*_IMPLIED}),
                )  # fmt: skip


def by_row(found: Iterable[Difference], name: Callable[[Cell], str]) -> dict[str, list[str]]:
    """What each row, called by `name`, has otherwise in whichever column; without the options of one variant alone."""
    rows: dict[str, dict[str, None]] = {}
    for difference in found:
        if not difference.is_of_one_part:
            rows.setdefault(name(difference.row), {})[difference.text] = None
    return {row: list(texts) for row, texts in rows.items()}


def wrong(study: Study, scale: str, cells: Sequence[tuple[Cell, Mapping[str, Any]]]) -> Iterator[str]:
    """One line a row that differs in more than it says, and one a misspelt option in `varies`."""
    options = sorted({key for _, config in cells for key in config})
    for pattern in listed(study, scale):
        part = pattern.rpartition(".")[0]
        siblings = [key for key in options if part and key.startswith(f"{part}.")]
        # Beside other parts it may be an option of a part that only another scale has.
        is_known = not siblings or any(_matches(key, pattern) for key in options)
        if not is_known and (near := close_matches(pattern, siblings)):
            yield f"varies: no run has the option {pattern!r}{near}"
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
    return any(_matches(key, pattern) for pattern in listed(study, scale))


def _matches(key: str, pattern: str) -> bool:
    return fnmatch(key, pattern) or key.startswith(f"{pattern}.")


def _implied(told: Iterable[str], row: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[str]:
    """The parts whose options two rows may have of their own, as they say that they have another variant of it.

    A row that names what its baseline has too (`data: moving_digits`) says of no option of it that it is another.
    """
    for option in told:
        value, of_baseline = row.get(option), baseline.get(option)
        if value == of_baseline:
            continue
        if option == "evals":  # what judges both judges them alike
            yield from (f"evals.{name}" for name in {*(value or ())} ^ {*(of_baseline or ())})
        else:
            yield from (option, *_IMPLIED.get(option, ()))


def _shown(value: Any) -> str:
    return "none" if value is None else format_value(value)
