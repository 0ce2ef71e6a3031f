"""What a table is made of, as data: columns, rows and cells. `building` fills them, `render` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from analysis.numbers.stats import CONFIDENCE, Estimate
from sweeps.answers.verdicts import higher_is_better as higher_is_better


class Kind(Enum):
    """What a column holds."""

    value = "value"
    difference = "difference"
    printed = "printed"
    setting = "setting"  # what a trial of a search chose


@dataclass(frozen=True)
class Column:
    """One column after the row label. `metric` and `col_key` say which runs it reads."""

    key: str
    label: str
    kind: Kind
    metric: str = ""
    col_key: str | None = None  # None: the row's own column key (or the table has no second axis)
    digits: int = 1  # decimals of its numbers


@dataclass(frozen=True)
class Cell:
    """A number, or the words that stand where it would be; `note` qualifies the number and is always shown.

    `p` is a difference's exact p by itself, `p_holm` the same for the whole table's differences at once.
    """

    estimate: Estimate | None = None
    text: str = ""
    note: str = ""
    p: float | None = None
    p_holm: float | None = None
    is_significant: bool = False  # a difference: p_holm below .05
    is_best: bool = False
    diverged: float = 0.0  # share of its runs that did, or collapsed


PRINTED = "Printed:"  # begins the note that says what the printed numbers are


@dataclass(frozen=True)
class Row:
    """One line. A printed-only row was never trained here; a random-init row was evaluated without training."""

    key: str
    label: str
    cells: tuple[Cell, ...]
    is_baseline: bool = False
    is_random_init: bool = False
    is_printed_only: bool = False
    collapse: str = ""  # "1 of 3 seeds collapsed (seed 2: RankMe 1.3)"
    plateau: str = ""  # "left the plateau (loss 0.66) at step 126 (seed 0), 412 (seed 1, late) of 500"
    verdict: str = ""  # beside the baseline: "better", "undecided: about 4 more seeds, about 12 minutes"
    col_key: str | None = None  # of a line of its own for a level of the study's second axis


@dataclass(frozen=True)
class Table:
    """All that is drawn, and nothing else is read to draw it."""

    name: str
    title: str
    caption: str
    row_header: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    provenance: str
    digest: str
    scale: str
    sentence: str = ""  # the rows' verdicts in one
    caveat: str = ""  # what the study's file says against them, which the sentence ends with
    latex: tuple[str, ...] | None = None  # of the columns after the main metric's, patterns of those that LaTeX has
    level: float = CONFIDENCE  # of the intervals of differences: a rule for seeds looks more than once

    @property
    def intervals(self) -> str:
        """`Mean ± 95 % t-interval, 3 seeds`; empty where no row has two seeds."""
        nums = [cell.estimate.num_seeds for row in self.rows for cell in row.cells if cell.estimate]
        most = max(nums, default=0)
        if most < 2:
            return ""
        # A rule gives each row its own number of seeds, and a search each trial.
        seeds = f"{min(nums)} to {most}" if min(nums) < most else f"{most}"
        has_differences = any(column.kind is Kind.difference for column in self.columns)
        told = f"; Δ: to the baseline, ± its {100 * self.level:.4g} % interval" if has_differences else ""
        return f"Mean ± 95 % t-interval, {seeds} seeds{told}"

    @property
    def has_verdicts(self) -> bool:
        return any(row.verdict for row in self.rows)
