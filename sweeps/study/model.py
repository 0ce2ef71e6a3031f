"""A study file: one question, its rows, and the cells of its table at a scale.

Reads and validates the structure of `studies/**/*.yaml`. Whether an option exists and its value is allowed is decided
when `sweeps.cells.expand` sends every cell through `core.configuring.config`; nothing here imports core or torch, so
analysis can use it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from sweeps.console.errors import close_matches
from sweeps.study import row_labels
from sweeps.study.files import StudyError
from sweeps.study.overrides import merge
from sweeps.study.search_space import SearchSpec, first_and_further, merge_search, parse_search
from sweeps.study.seed_rule import SeedRule, parse_rule

LONGEST = 120  # letters that a table's name has beside the study's: names of files have limits
SCALES = ("smoke", "cpu", "lab", "gpu", "paper")
NAMED_SCALES = ("lab",)  # that a study has only where its file names them: its rows must fit those data
DEFAULT_SCALE = "cpu"
SCALE_KEYS = ("seeds", "metrics", "margin", "varies", "search")  # of a scale, beside options
RANDOM_INIT = "random_init"
RANDOM_INIT_LABEL = "random init"


def offered(scales: Mapping[str, Any]) -> list[str]:
    """The scales of a study whose file has these under `scales`."""
    return [scale for scale in SCALES if scale not in NAMED_SCALES or scale in scales]


@dataclass(frozen=True)
class Level:
    """One row or one column: a stable key, what the table calls it, and the options it sets."""

    key: str
    label: str
    set: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # by scale, instead of `label`

    def overrides(self, scale: str) -> dict[str, Any]:
        return merge(self.set, self.scales.get(scale, {}))

    def label_at(self, scale: str) -> str:
        """With the values of the options that the label names: `{data.num_train} clips`."""
        return row_labels.at_scale(self.label, self.labels, scale, self.overrides(scale))


@dataclass(frozen=True)
class Cell:
    """A place in the table and the overrides that define its config; `col_key` is "" without a columns axis."""

    row_key: str
    col_key: str
    row_label: str
    col_label: str
    row_order: int
    col_order: int
    overrides: dict[str, Any]
    is_random_init: bool = False


@dataclass(frozen=True)
class Printed:
    """The numbers a paper prints, exactly as in its text.

    `values[row key][column key]`: the column key is one of the study's columns; without columns it names the quantity
    when the paper prints several a row, and is "" when it prints one. `rows` are other people's systems: shown, never
    trained. `digits` are the paper's decimals (0.50), of all numbers or by quantity; None writes them as the file does.
    `compare` says which of our metrics stands against which printed quantity, of several the first that a scale has;
    without it the first quantity stands against the main metric. `outcomes` are words that the paper prints in place of
    a row's numbers ("crashed").
    """

    metric: str
    source: str
    values: dict[str, dict[str, float]]
    rows: tuple[Level, ...] = ()
    digits: int | dict[str, int] | None = None
    compare: dict[str, list[str]] | None = None  # quantity -> metrics, or what follows their "/" ("motion_top1")
    outcomes: dict[str, str] = field(default_factory=dict)  # row key -> the printed word

    def text(self, value: float, quantity: str = "") -> str:
        digits = self.digits.get(quantity) if isinstance(self.digits, dict) else self.digits
        return str(value) if digits is None else f"{value:.{digits}f}"


@dataclass(frozen=True)
class Study:
    """One question. `spec` is the file's content as JSON; the rest is the same, checked and typed."""

    name: str
    path: Path
    spec: dict[str, Any]
    title: str
    question: str
    source: dict[str, str]
    rows: tuple[Level, ...]
    columns: tuple[Level, ...]  # empty without a columns axis
    row_axis: str  # the grid's first key, "" for `rows:`
    col_axis: str
    baseline: str
    random_init: bool
    table: dict[str, Any]
    figures: tuple[dict[str, Any], ...]
    printed: Printed | None
    notes: str

    @property
    def scales(self) -> list[str]:
        """Those that it can be launched at."""
        return offered(self.spec["scales"])

    def seeds(self, scale: str = DEFAULT_SCALE) -> list[int]:
        """The seeds that every row gets; a rule or a search may give some rows more."""
        return first_and_further(self.seeds_spec(scale), self.search(scale))[0]

    def further_seeds(self, scale: str = DEFAULT_SCALE) -> list[int]:
        return first_and_further(self.seeds_spec(scale), self.search(scale))[1]

    def seeds_spec(self, scale: str = DEFAULT_SCALE) -> Any:
        """`seeds` as the file has it: a list or a rule."""
        return self._scale(scale).get("seeds", self.spec["seeds"])

    def seed_rule(self, scale: str = DEFAULT_SCALE) -> SeedRule | None:
        value = self.seeds_spec(scale)
        return parse_rule(value, "seeds") if isinstance(value, Mapping) else None

    def search(self, scale: str = DEFAULT_SCALE) -> SearchSpec | None:
        section = self.search_section(scale)
        return parse_search(section) if section is not None else None

    def search_section(self, scale: str = DEFAULT_SCALE) -> dict[str, Any] | None:
        """`search` as the file has it at a scale; None for a study of rows."""
        if "search" not in self.spec:
            return None
        return merge_search(self.spec["search"], self._scale(scale).get("search", {}))

    def metrics(self, scale: str = DEFAULT_SCALE) -> list[str]:
        """The metrics the table shows, the main one first. May hold `{label}`, `{labels}`: `sweeps.cells.expand`."""
        metrics: list[str] = self._scale(scale).get("metrics", self.spec["metrics"])
        return list(metrics)

    def decimals(self, metric: str) -> int:
        """How many the table shows of a metric's numbers: the first of `table.digits` that fits, else 1."""
        fitting = (n for name, n in self.table["digits"].items() if fnmatch(metric, re.sub(r"{labels?}", "*", name)))
        return next(fitting, 1)

    def cells(self, scale: str = DEFAULT_SCALE) -> list[Cell]:
        """Every place of the table, row by row, then the random initialisation of the baseline row.

        Precedence, weakest first: base, the study's scale, the row, the column. The free row trains for no steps, so
        columns that only differ in training resolve to one config and one run.
        """
        shared = merge(self.spec["base"], without(self._scale(scale), SCALE_KEYS))
        columns = self.columns or (Level("", ""),)
        cells = [
            Cell(
                row.key, column.key, row.label_at(scale), column.label_at(scale), i, j,
                merge(shared, row.overrides(scale), column.overrides(scale)),
            )
            for i, row in enumerate(self.rows)
            for j, column in enumerate(columns)
        ]  # fmt: skip
        if self.random_init:
            baseline = next(row for row in self.rows if row.key == self.baseline)
            cells += [
                Cell(
                    RANDOM_INIT, column.key, RANDOM_INIT_LABEL, column.label_at(scale), len(self.rows), j,
                    merge(shared, baseline.overrides(scale), column.overrides(scale), {"optim.steps": 0}),
                    is_random_init=True,
                )
                for j, column in enumerate(columns)
            ]  # fmt: skip
        return cells

    def _scale(self, scale: str) -> dict[str, Any]:
        if scale not in SCALES:
            raise StudyError(f"scale must be one of {', '.join(SCALES)}, got {scale!r}{close_matches(scale, SCALES)}")
        if scale not in self.scales:
            raise StudyError(
                f"{self.path}: scale={scale}: its `scales` name no {scale} (studies/README.md shows whose do); "
                f"take one of {', '.join(self.scales)}, or give it `scales: {{{scale}: {{}}}}`"
            )
        overrides: dict[str, Any] = self.spec["scales"].get(scale, {})
        return overrides


# ---- names of instances -----------------------------------------------------------------------------------


def instance_name(stem: str, scale: str = DEFAULT_SCALE, overrides: Sequence[str] = (), name: str = "") -> str:
    """What a study at a scale with command-line overrides is called in the database and under results/.

    The study itself at the default scale, else "<stem>@<slug>": `masking_ratio@smoke`,
    `ijepa_targets@data=image_folder`. Paths in overrides keep their last part only, so that results do not name a
    machine's folders. `name` replaces what is said of the overrides; two scales never share a name.
    """
    parts = [] if scale == DEFAULT_SCALE else [scale]
    if name:
        if strange := sorted(set(re.findall(r"[^\w.,=+-]", name))) or ([name[0]] if name[0] in ".,=+-" else []):
            raise StudyError(
                f"name={name}: a table's name begins with a letter or a digit and has letters, digits and "
                f"_ . , = + - only, got {' '.join(map(repr, strange))}"
            )
        overrides = ()
        parts.append(name)
    for override in sorted(overrides):
        key, _, value = override.partition("=")
        parts.append(f"{key}={Path(value).name if '/' in value else value}")
    slug = ",".join(parts)
    if len(slug) > LONGEST:
        if name:
            raise StudyError(f"name={name[:20]}...: {len(name)} letters; a table's name has at most {LONGEST}")
        digest = hashlib.sha256(slug.encode()).hexdigest()[:8]
        slug = f"{slug[: LONGEST - 30].rsplit(',', 1)[0]},{len(parts)}-overrides-{digest}"
    return stem + ("@" + re.sub(r"[^\w.,=+-]+", "_", slug) if slug else "")


def without(mapping: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}
