"""How often every interval and stopping rule holds the truth, and what each committed study can tell at what cost.

    python -m benchmarks.power [--db results/ablations.sqlite] [--write]

Simulated: normal values of unit variance in the mean, rows whose ln-variances have the standard deviation that is
named, seeds that move all rows alike by the correlation that is named; a difference is held where its interval has the
true one, counted over all rows but the baseline. A half-width is in units of a run's standard deviation, in the mean.
Below each kind of interval stands the lowest coverage of it beside what is asked: 94 % of seeds given beforehand, 95 %
of a rule that looks again and again. One odd row is shown and not asked: no interval of rows together can hold it.

Of the studies, column by column: the mean half-width of their differences as the table has it (`now`) and by each row's
own paired t-interval (`before`), at the seeds that they have, what their runs have taken (`spent`, untrained ones too),
and the CPU-minutes of all the column's rows until it would be 2 points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, stdtrit
from sqlalchemy import Engine

from analysis.numbers.comparing import of_column
from analysis.numbers.frame import Frame, load, names
from benchmarks.lines import RESULTS, ROOT, arguments_of, show
from sweeps.answers.blocked_intervals import ALIKE, CONFIDENCE, paired
from sweeps.database.opening import open_database
from sweeps.study.seed_rule import SeedRule

OUTPUT = RESULTS / "power.txt"
TARGETS = {  # of coverage, in every column
    "as the table has it: 3 rows, 3 seeds": "each at least 94 %",
    "as the table has it: 4 rows, 3 seeds": "each at least 94 %",
    "as the table has it: 8 rows, 3 seeds": "each at least 94 %",
    "as the table has it: 4 rows, 6 seeds": "each at least 94 %",
    "as the table has it: 8 rows, 6 seeds": "each at least 94 %",
    "as the table has it: 5 rows, 10 seeds": "each at least 94 %",
    "a mean: 3 seeds": "each at least 94 %",
    "a mean: 6 seeds": "each at least 94 %",
    "until: decided, 3 to 12, 2 rows": "each at least 95 %",
    "until: decided, 3 to 12, 4 rows": "each at least 95 %",
    "until: decided, 3 to 12, 8 rows": "each at least 95 %",
    "until: decided, 3 to 24, 2 rows": "each at least 95 %",
    "until: decided, 3 to 24, 4 rows": "each at least 95 %",
    "until: decided, 3 to 24, 8 rows": "each at least 95 %",
    "until: decided, 2 to 6, 2 rows": "each at least 95 %",
    "until: decided, 2 to 6, 4 rows": "each at least 95 %",
    "until: decided, 2 to 6, 8 rows": "each at least 95 %",
}
POINTS = 2.0
MOST_SEEDS = 2000
VARIANCES = (0.0, 0.5, 1.0)  # standard deviations of the rows' ln-variances
CORRELATIONS = (0.0, 0.5)
EFFECTS = (0.0, 0.5, 1.0, 3.0)  # of the rows in turn, in standard deviations
MARGIN = 1.0
ODD = (2, 4, 10)
ASKED_FIXED, ASKED_RULE = 94.0, 95.0  # per cent, at equal and unequal variances
UNEVEN = ((3, 3, 3, 2), (6, 3, 4, 6), (8, 3, 3, 8))  # seeds of four rows, of which some diverged or a rule gave more

Numbers = NDArray[np.float64]


class Intervals(NamedTuple):
    """Of every row but the first, over repetitions: [R, rows - 1]."""

    means: Numbers
    halves: Numbers
    own: Numbers  # half-widths of the paired intervals


# ---- `sweeps.answers.blocked_intervals` for many tables at once ----


def intervals(values: Numbers, has: NDArray[np.bool_], confidence: float = CONFIDENCE) -> Intervals:
    """As `blocked_intervals.compare` of each table of `values` [R, rows, seeds], of which `has` says what is there.

    Row 0 is the baseline, and has every seed that another row has.
    """
    weight = has.astype(np.float64)
    num_rows = values.shape[1]
    count = weight.sum(axis=2)
    effects, spread, rest, df = _fit(values * weight, weight)
    variance = (rest**2).sum(axis=(1, 2)) / df
    quantile = stdtrit(df, 0.5 + confidence / 2)
    halves = quantile[:, None] * np.sqrt(variance[:, None] * spread)
    moved = values[:, 1:] - values[:, :1]
    mean = (moved * weight[:, 1:]).sum(axis=2) / count[:, 1:]
    squares = (((moved - mean[:, :, None]) * weight[:, 1:]) ** 2).sum(axis=2)
    own = stdtrit(count[:, 1:] - 1, 0.5 + confidence / 2) * np.sqrt(squares / (count[:, 1:] - 1) / count[:, 1:])
    if num_rows == 2:
        return Intervals(mean, own, own)
    p_alike = np.minimum(_bartlett(values, weight), _bartlett(rest, weight))
    is_own = (p_alike < ALIKE)[:, None] & (own > halves)
    means = effects[:, 1:] - effects[:, :1]
    return Intervals(np.where(is_own, mean, means), np.where(is_own, own, halves), own)


def _fit(values: Numbers, weight: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Row effects, the variances of their differences to row 0, residuals and degrees of freedom."""
    num_tables, num_rows, num_seeds = weight.shape
    normal = np.zeros((num_tables, num_rows + num_seeds, num_rows + num_seeds))
    diagonal = np.concatenate([weight.sum(axis=2), weight.sum(axis=1)], axis=1)
    places = np.arange(num_rows + num_seeds)
    # A seed that no row has is an equation of its own; the first one's effect is zero.
    normal[:, places, places] = np.where(diagonal > 0, diagonal, 1)
    normal[:, :num_rows, num_rows:] = weight
    normal[:, num_rows:, :num_rows] = weight.transpose(0, 2, 1)
    totals = np.concatenate([values.sum(axis=2), values.sum(axis=1)], axis=1)
    keep = places != num_rows
    inverse = np.linalg.inv(normal[:, keep][:, :, keep])
    found = np.einsum("rij,rj->ri", inverse, totals[:, keep])
    effects, of_seeds = found[:, :num_rows], np.zeros((num_tables, num_seeds))
    of_seeds[:, 1:] = found[:, num_rows:]
    rest = (values - effects[:, :, None] - of_seeds[:, None]) * weight
    rows = inverse[:, :num_rows, :num_rows]
    own = np.einsum("rii->ri", rows)
    spread = own[:, 1:] + own[:, :1] - 2 * rows[:, 0, 1:]
    num_used = (weight.sum(axis=1) > 0).sum(axis=1)
    return effects, spread, rest, weight.sum(axis=(1, 2)) - num_rows - num_used + 1


def _bartlett(values: Numbers, weight: Numbers) -> Numbers:
    """Bartlett's p of every table's rows."""
    count = weight.sum(axis=2)
    mean = (values * weight).sum(axis=2) / count
    variances = (((values - mean[:, :, None]) * weight) ** 2).sum(axis=2) / (count - 1)
    free, num_rows = count - 1, values.shape[1]
    pooled = (free * variances).sum(axis=1) / free.sum(axis=1)
    statistic = free.sum(axis=1) * np.log(pooled) - (free * np.log(variances)).sum(axis=1)
    correction = 1 + ((1 / free).sum(axis=1) - 1 / free.sum(axis=1)) / (3 * (num_rows - 1))
    return np.asarray(chdtrc(num_rows - 1, statistic / correction), dtype=np.float64)


# ---- simulation ------------------------------------------------------------------------------------------------------


def drawn(
    generator: np.random.Generator, num: int, num_rows: int, num_seeds: int, unequal: float, correlation: float
) -> Numbers:
    """Tables [R, rows, seeds] without effects."""
    log_variances = generator.normal(0, unequal, (num, num_rows, 1)) if unequal else np.zeros((num, num_rows, 1))
    scale = np.exp((log_variances - unequal**2 / 2) / 2)
    shared = math.sqrt(correlation) * generator.normal(size=(num, 1, num_seeds))
    own: Numbers = math.sqrt(1 - correlation) * scale * generator.normal(size=(num, num_rows, num_seeds)) + shared
    return own


def effects_of(num_rows: int) -> Numbers:
    """True differences to the baseline, of the rows but the first."""
    return np.resize(np.asarray(EFFECTS), num_rows - 1)


def by_rule(values: Numbers, rule: SeedRule, margin: float) -> tuple[Intervals, Numbers]:
    """What `sweeps.search.seeds` ends with: the last intervals, and the seeds that each row got [R, rows]."""
    num_seeds = np.full(values.shape[:2], rule.start)
    places = np.arange(values.shape[2])
    for look in [*rule.looks[1:], None]:
        found = intervals(values, places < num_seeds[:, :, None], rule.confidence)
        if rule.half_width is not None:
            is_settled = found.halves < rule.half_width
        else:
            is_settled = (np.abs(found.means) > found.halves) | (np.abs(found.means) + found.halves <= margin)
        if look is None:
            break
        # Each row goes on from where it is; a row that is settled no longer, as the spread changed, too.
        later = np.asarray([next((n for n in rule.looks if n > now), now) for now in range(rule.maximum + 1)])
        rows = np.where(is_settled, num_seeds[:, 1:], later[num_seeds[:, 1:]])
        num_seeds = np.concatenate([np.maximum(num_seeds[:, :1], rows.max(axis=1, keepdims=True)), rows], axis=1)
    return found, num_seeds.astype(np.float64)


def coverage_lines(num: int = 10000) -> Iterator[str]:
    generator = np.random.default_rng(0)
    lowest = Lowest(ASKED_FIXED, num)
    yield "coverage of 95 % intervals: seeds given beforehand"
    yield f"{'':37s} " + " ".join(f"{f'sd {v:g} r {c:g}':>12s}" for v in VARIANCES for c in CORRELATIONS)
    for num_rows, num_seeds in ((2, 3), (3, 3), (4, 3), (8, 3), (4, 6), (8, 6), (5, 10)):
        own, model = [], []
        for unequal in VARIANCES:
            for correlation in CORRELATIONS:
                values = drawn(generator, num, num_rows, num_seeds, unequal, correlation)
                found = intervals(values, np.ones(values.shape, dtype=bool))
                truth = np.abs(values[:, 1:].mean(axis=2) - values[:, :1].mean(axis=2))
                own.append((float((truth <= found.own).mean()), float(found.own.mean())))
                model.append((float((np.abs(found.means) <= found.halves).mean()), float(found.halves.mean())))
        size = f"{num_rows} rows, {num_seeds} seeds"
        yield lowest.line(f"own paired: {size}", own)
        if num_rows > 2:
            yield lowest.line(f"as the table has it: {size}", model)
    for num_each in UNEVEN:
        cells = []
        for unequal in VARIANCES:
            for correlation in CORRELATIONS:
                values = drawn(generator, num, len(num_each), max(num_each), unequal, correlation)
                has = np.broadcast_to(np.arange(max(num_each)) < np.asarray(num_each)[:, None], values.shape)
                found = intervals(values, has)
                cells.append((float((np.abs(found.means) <= found.halves).mean()), float(found.halves.mean())))
        yield lowest.line(f"as the table has it: {'-'.join(map(str, num_each))} seeds", cells)
    for num_seeds in (3, 6):
        cells = []
        for unequal in VARIANCES:
            for correlation in CORRELATIONS:
                row = drawn(generator, num, 1, num_seeds, unequal, correlation)[:, 0]
                half = stdtrit(num_seeds - 1, 0.975) * row.std(axis=1, ddof=1) / math.sqrt(num_seeds)
                cells.append((float((np.abs(row.mean(axis=1)) <= half).mean()), float(half.mean())))
        yield lowest.line(f"a mean: {num_seeds} seeds", cells)
    yield lowest.verdict("seeds given beforehand")


def odd_row_lines(num: int = 10000) -> Iterator[str]:
    """The worst case, which a mean over rows hides."""
    generator = np.random.default_rng(2)
    yield "coverage of the one row whose standard deviation is so many times that of the others, which vary alike"
    yield f"{'':37s} " + " ".join(f"{f'x {factor} r {c:g}':>12s}" for factor in ODD for c in CORRELATIONS)
    for num_rows, num_seeds in ((4, 3), (8, 3), (4, 6), (8, 6)):
        cells = []
        for factor in ODD:
            for correlation in CORRELATIONS:
                values = drawn(generator, num, num_rows, num_seeds, 0.0, correlation)
                values[:, -1] += math.sqrt(factor**2 - 1) * generator.normal(size=(num, num_seeds))
                found = intervals(values, np.ones(values.shape, dtype=bool))
                held = np.abs(found.means[:, -1]) <= found.halves[:, -1]
                cells.append((float(held.mean()), float(found.halves[:, -1].mean())))
        yield f"{f'as the table has it: {num_rows} rows, {num_seeds} seeds':37s} " + _shown(cells)


RULES = (
    ("until: decided, 3 to 12", SeedRule(3, 12, None)),
    ("until: decided, 3 to 24", SeedRule(3, 24, None)),
    ("until: decided, 2 to 6", SeedRule(2, 6, None)),
    ("half_width < 2, 3 to 12", SeedRule(3, 12, 2.0)),
    ("half_width < 1.5, 3 to 12", SeedRule(3, 12, 1.5)),
)


def rule_lines(num: int = 2000) -> Iterator[str]:
    generator = np.random.default_rng(1)
    lowest = Lowest(ASKED_RULE, num)
    yield "coverage of the last interval, and seeds a row: seeds by a rule"
    yield f"{'':37s} " + " ".join(f"{f'sd {v:g} r {c:g}':>12s}" for v in VARIANCES for c in CORRELATIONS)
    for name, rule in RULES:
        for num_rows in (2, 4, 8):
            cells = []
            for unequal in VARIANCES:
                for correlation in CORRELATIONS:
                    values = drawn(generator, num, num_rows, rule.maximum, unequal, correlation)
                    truth = effects_of(num_rows)
                    values[:, 1:] += truth[:, None]
                    found, num_seeds = by_rule(values, rule, MARGIN)
                    held = np.abs(found.means - truth) <= found.halves
                    cells.append((float(held.mean()), float(num_seeds.mean())))
            yield lowest.line(f"{name}, {num_rows} rows", cells)
    yield lowest.verdict("a rule")


class Lowest:
    """The lowest coverage of several lines of `num` tables, beside what is asked of all of them.

    The lowest of many is low by the luck of the draw too: what is asked holds unless missed by two standard errors.
    """

    def __init__(self, asked: float, num: int) -> None:
        self.asked, self.num = asked, num
        self.found = 100.0
        self.where = ""

    def line(self, name: str, cells: Sequence[tuple[float, float]]) -> str:
        low = 100 * min(held for held, _ in cells)
        if low < self.found:
            self.found, self.where = low, name
        return f"{name:37s} {_shown(cells)}"

    def verdict(self, of_what: str) -> str:
        luck = 2 * math.sqrt(self.found * (100 - self.found) / self.num)
        says = "holds" if self.found + luck >= self.asked else "DOES NOT HOLD"
        found = f"lowest {self.found:.1f} ± {luck:.1f} % ({self.where})"
        return f"asked of {of_what}: at least {self.asked:g} %; {found}: {says}"


def _shown(cells: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{f'{100 * held:.1f} %':>7s} {width:4.1f}" for held, width in cells)


# ---- committed studies -----------------------------------------------------------------------------------------------


def study_lines(engine: Engine) -> Iterator[str]:
    yield "half-width of differences of the main metric, and CPU-minutes of all rows to a half-width of 2 points"
    yield (
        f"{'study':44s} {'rows':>5s} {'seeds':>6s} {'before':>8s} {'now':>8s} {'spent':>7s} {'minutes before':>15s} "
        f"{'now':>8s}"
    )
    ratios = []
    for name in names(engine):
        frame = load(engine, name)
        for label, found in of_study(frame).items():
            ratios.append(found.now / found.before if found.before else 1.0)
            yield (
                f"{f'{name}, {label}' if label else name:44s} {found.num_rows:5d} {found.num_seeds:6d} "
                f"{found.before:8.2f} {found.now:8.2f} {spent(frame):7.1f} {_minutes(found.minutes_before):>15s} "
                f"{_minutes(found.minutes_now):>8s}"
            )
    yield f"now / before: median {np.median(ratios):.2f}" if ratios else "no study has two rows and two seeds"


class Reach(NamedTuple):
    num_rows: int
    num_seeds: int
    before: float
    now: float
    minutes_before: float  # NaN: the metric is not in points
    minutes_now: float


def of_study(frame: Frame) -> dict[str, Reach]:
    """By the column's label; nothing of a search, and of a column where no two rows share two seeds."""
    if frame.study.search(frame.scale) is not None:
        return {}
    labels = dict(zip(frame.cells["col_key"], frame.cells["col_label"], strict=True))
    found = {str(label): of_rows(frame, col_key) for col_key, label in labels.items()}
    return {label: reach for label, reach in found.items() if reach is not None}


def of_rows(frame: Frame, col_key: str) -> Reach | None:
    """Of the rows of one column."""
    metric, baseline = frame.metrics[0], frame.study.baseline
    reference = set(frame.cells.loc[frame.cells["is_random_init"], "row_key"])
    comparison = of_column(frame, col_key, metric)
    base = frame.runs_of(baseline, col_key, metric)
    before, now, needed_before, needed_now, num_seeds = [], [], [1], [1], 0
    for row, difference in comparison.differences.items():
        runs = frame.runs_of(row, col_key, metric)
        if row in reference or runs is None or base is None:
            continue
        own = paired(runs.values, base.values)
        before.append(own.estimate.half_width)
        now.append(difference.estimate.half_width)
        modelled = len(comparison.rows) if comparison.rows and not difference.fallback else 2
        needed_before.append(seeds_to(own.sd, 2))
        needed_now.append(seeds_to(difference.sd, modelled))
        num_seeds = max(num_seeds, difference.estimate.num_seeds)
    if not now:
        return None
    runs_done = frame.runs[(frame.runs["state"] == "done") & (frame.runs["col_key"] == col_key)]
    runs_done = runs_done[~runs_done["row_key"].isin(reference)]
    a_seed = float(runs_done.groupby("config_id")["cpu_seconds"].mean().sum()) / 60
    in_points = a_seed if "top1" in metric else math.nan
    return Reach(
        len(now) + 1, num_seeds, float(np.mean(before)), float(np.mean(now)), max(needed_before) * in_points,
        max(needed_now) * in_points,
    )  # fmt: skip


def spent(frame: Frame) -> float:
    """CPU-minutes of the study's runs, each once: an untrained one stands in every column."""
    return float(frame.runs.drop_duplicates(["config_id", "seed"])["cpu_seconds"].sum()) / 60


def seeds_to(sd: float, num_rows: int, half_width: float = POINTS) -> int:
    """The fewest seeds of all rows with which an interval is that narrow, the spread of a difference being `sd`."""
    counts = np.arange(2, MOST_SEEDS)
    halves = stdtrit((num_rows - 1) * (counts - 1), 0.5 + CONFIDENCE / 2) * sd / np.sqrt(counts)
    narrow = counts[halves <= half_width]
    return int(narrow[0]) if narrow.size else MOST_SEEDS


def _minutes(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f}"


def lines(engine: Engine) -> Iterator[str]:
    yield from coverage_lines()
    yield ""
    yield from odd_row_lines()
    yield ""
    yield from rule_lines()
    yield ""
    yield from study_lines(engine)


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--db", type=Path, default=ROOT / "results/ablations.sqlite")
    arguments = parser.parse_args()
    engine = open_database(f"sqlite:///{arguments.db}", read_only=True)
    show(lines(engine), OUTPUT if arguments.write else None, benchmark=__file__, targets=TARGETS)
    engine.dispose()


if __name__ == "__main__":
    main()
