"""How often the intervals of the agreement with the papers hold the agreement that our true means have.

    python -m benchmarks.agreement_coverage [--tables 600] [--summaries 200] [--write]

Simulated: rows whose true means are normal, so many times a seed's standard deviation apart as is named, beside printed
values that are those means with an error of one such deviation (as papers' are of other data and scales); seeds vary by
one. The true tau is of the true means and the printed values. An interval is asked to hold it in at least 94 % of
tables, or of summaries: the interquartile mean over twelve tables that share their seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from analysis.numbers.agreement import Numbers, around, kendall_tau_b, mean_over_tables, resampled_means
from analysis.numbers.stats import interquartile_mean
from benchmarks.lines import RESULTS, arguments_of, show

OUTPUT = RESULTS / "agreement_coverage.txt"
SPREADS = (0.5, 1.0, 2.0, 4.0)  # of the true means, in standard deviations of a seed
SHAPES = ((4, 3), (4, 6), (8, 3), (8, 6))  # rows, seeds
NUM_TABLES = 12
TARGETS = {
    "one table: 4 rows, 3 seeds": "each at least 94 %",
    "the mean of tables: 4 rows, 3 seeds": "each at least 94 %",
    "one table: 4 rows, 6 seeds": "each at least 94 %",
    "the mean of tables: 4 rows, 6 seeds": "each at least 94 %",
    "one table: 8 rows, 3 seeds": "each at least 94 %",
    "the mean of tables: 8 rows, 3 seeds": "each at least 94 %",
    "one table: 8 rows, 6 seeds": "each at least 94 %",
    "the mean of tables: 8 rows, 6 seeds": "each at least 94 %",
}


class Drawn(NamedTuple):
    """One table: the tau of its true means, the tau of what its seeds have, and those of every resample."""

    truth: float
    tau: float
    taus: Numbers


def drawn(rng: np.random.Generator, *, rows: int, seeds: int, spread: float) -> Drawn:
    means = rng.normal(0, spread, rows)
    printed = means + rng.normal(0, 1, rows)
    values = means[:, None] + rng.normal(size=(rows, seeds))
    return Drawn(
        float(kendall_tau_b(printed, means[None])[0]),
        float(kendall_tau_b(printed, values.mean(axis=1)[None])[0]),
        kendall_tau_b(printed, resampled_means(values, range(seeds))),
    )


def holds(interval: tuple[float, float], truth: float) -> bool:
    return interval[0] - 1e-9 <= truth <= interval[1] + 1e-9


def of_one(rng: np.random.Generator, *, rows: int, seeds: int, spread: float) -> bool:
    table = drawn(rng, rows=rows, seeds=seeds, spread=spread)
    return holds(around(table.tau, table.taus), table.truth)


def of_mean(rng: np.random.Generator, *, rows: int, seeds: int, spread: float) -> bool:
    tables = [drawn(rng, rows=rows, seeds=seeds, spread=spread) for _ in range(NUM_TABLES)]
    found = mean_over_tables([table.tau for table in tables], [table.taus for table in tables])
    return holds((found.low, found.high), interquartile_mean([table.truth for table in tables]))


def lines(num_tables: int, num_summaries: int) -> Iterator[str]:
    yield "coverage of 95 % intervals, by how far true means lie apart in standard deviations of a seed"
    yield f"{'':36}" + "".join(f"{spread:>8}" for spread in SPREADS)
    for name, holding, rounds in (("one table", of_one, num_tables), ("the mean of tables", of_mean, num_summaries)):
        for rows, seeds in SHAPES:
            shares = []
            for spread in SPREADS:
                rng = np.random.default_rng([rows, seeds, int(10 * spread)])
                held = sum(holding(rng, rows=rows, seeds=seeds, spread=spread) for _ in range(rounds))
                shares.append(100 * held / rounds)
            yield f"{f'{name}: {rows} rows, {seeds} seeds':36}" + "".join(f"{share:6.1f} %" for share in shares)


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--tables", type=int, default=600)
    parser.add_argument("--summaries", type=int, default=200)
    options = parser.parse_args()
    output = OUTPUT if options.write else None
    show(lines(options.tables, options.summaries), output, benchmark=__file__, targets=TARGETS)


if __name__ == "__main__":
    main()
