"""How far our tables agree with the printed ones: order of the rows, and on which side of the baseline each lies.

Scales and data differ from the papers', so numbers cannot be compared; orders can. Only rows that the paper prints and
that have all their seeds here are compared, at the metric that the study sets against each printed quantity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.frame import Frame, Runs, records
from analysis.render import escape_markdown
from analysis.stats import (
    NUM_RESAMPLES,
    Estimate,
    interquartile_mean,
    paired_interval,
    percentiles,
    shared_differences,
    stratified_bootstrap,
    widening,
)
from sweeps.verdicts import higher_is_better

MOST_ENUMERATED = 5  # seeds: all 5^5 resamples are counted, beyond that some are drawn
FEWEST_ROWS = 3  # that make an order: two rows have only +1 and -1

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """One printed column beside ours. `taus` and `rhos` are those of every resample of the seeds."""

    study: str
    scale: str
    place: str  # what is printed, and where
    quantity: str  # the printed column, "" where there is but one
    metric: str
    rows: tuple[str, ...]
    left_out: tuple[str, ...]  # printed rows of ours that lack a number
    num_seeds: int
    tau: float
    rho: float
    taus: Numbers
    rhos: Numbers
    num_signs: int  # rows whose printed difference to the baseline is not zero
    num_same: int  # of these, ours has the same sign
    num_clear: int  # of `num_signs`, the 95 % interval of our difference excludes zero
    num_clear_same: int
    differs: str  # our data and model, beside the paper's
    digest: str

    @property
    def name(self) -> str:
        return f"{self.study}: {self.quantity}" if self.quantity else self.study


@dataclass(frozen=True)
class Summary:
    """All comparisons of one scale, and what they say together."""

    scale: str
    comparisons: tuple[Comparison, ...]
    tau: Estimate | None  # interquartile mean over the tables of `FEWEST_ROWS` and more
    not_compared: tuple[str, ...]  # studies with printed numbers, but fewer than two whole rows that have one
    gain: Estimate | None  # likewise of each distinct default recipe's gain over its random initialisation
    num_recipes: int


# ---- rank correlation ------------------------------------------------------------------------------------------------


def kendall_tau_b(printed: Numbers, ours: Numbers) -> Numbers:
    """Tau-b of `printed` [k] with each row of `ours` [R, k]; NaN where one of the two is all ties.

    Source: Kendall (1945), "The treatment of ties in ranking problems".
    """
    first, second = np.triu_indices(printed.size, 1)
    signs = np.sign(printed[first] - printed[second])
    our_signs = np.sign(ours[:, first] - ours[:, second])
    pairs = np.sqrt(np.count_nonzero(signs) * np.count_nonzero(our_signs, axis=1))
    return _divided(our_signs @ signs, pairs)


def spearman(printed: Numbers, ours: Numbers) -> Numbers:
    """Rank correlation of `printed` [k] with each row of `ours` [R, k]; ties share their mean rank; NaN as above."""
    ranks, our_ranks = _centred_ranks(printed[None]), _centred_ranks(ours)
    norm = np.sqrt((ranks**2).sum() * (our_ranks**2).sum(axis=1))
    return _divided((our_ranks * ranks).sum(axis=1), norm)


def _centred_ranks(values: Numbers) -> Numbers:
    below = (values[:, None, :] < values[:, :, None]).sum(axis=2)
    equal = (values[:, None, :] == values[:, :, None]).sum(axis=2)
    ranks = below + (equal + 1) / 2
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True), dtype=np.float64)


def _divided(numerator: Numbers, denominator: Numbers) -> Numbers:
    # A hair beyond 1 is rounding.
    quotient: Numbers = np.full(len(numerator), math.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient.clip(-1, 1)


def resampled_means(values: Numbers) -> Numbers:
    """The rows' means [R, k] for resamples of the seeds of `values` [k, n]: every one of n^n, or `NUM_RESAMPLES` drawn.

    All rows take the same seeds: they share data order and initialisation. Each resample's distance to the means is
    `widening` times as long: as they are, resamples of three seeds give less than half the width of a t-interval.
    """
    num_seeds = values.shape[1]
    if num_seeds <= MOST_ENUMERATED:
        draws = np.array(list(itertools.product(range(num_seeds), repeat=num_seeds)))
    else:
        draws = np.random.default_rng(0).integers(0, num_seeds, (NUM_RESAMPLES, num_seeds))
    means = values.mean(axis=1)
    return np.asarray(means + widening(num_seeds) * (values[:, draws].mean(axis=2).T - means), dtype=np.float64)


# ---- one table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Where a printed column and ours stand: `printed` by row key, ours at (`col_key`, `metric`)."""

    quantity: str
    col_key: str
    metric: str
    printed: dict[str, float] = field(default_factory=dict)


def compare(frame: Frame) -> list[Comparison]:
    """One comparison a printed column that has a metric of ours and two rows of both; none without printed numbers."""
    if frame.study.printed is None or frame.study.search(frame.scale) is not None:
        return []
    found = [_comparison(frame, pair) for pair in pairs(frame)]
    return [comparison for comparison in found if comparison is not None]


def pairs(frame: Frame) -> list[_Pair]:
    """The printed columns that a metric of ours stands against, in the order printed."""
    printed = frame.study.printed
    assert printed is not None
    quantities = list(dict.fromkeys(key for cells in printed.values.values() for key in cells))
    if frame.study.columns:
        labels = {column.key: column.label for column in frame.study.columns}
        wanted = [(key, labels[key], key, frame.metrics[0]) for key in quantities]
    elif printed.compare is None:
        wanted = [(key, key, "", frame.metrics[0]) for key in quantities[:1]]
    else:
        metrics = {key: _metric(frame, name) for key, name in printed.compare.items()}
        wanted = [(key, key, "", metrics[key] or "") for key in quantities if metrics.get(key)]
    return [
        _Pair(label, col_key, metric, {row: cells[key] for row, cells in printed.values.items() if key in cells})
        for key, label, col_key, metric in wanted
    ]


def _metric(frame: Frame, name: str) -> str | None:
    """The table's metric of that name, or the first whose name after the "/" it is: scales have other probes."""
    return next((m for m in frame.metrics if name in (m, m.partition("/")[2])), None)


def _comparison(frame: Frame, pair: _Pair) -> Comparison | None:
    labels = {row.key: row.label for row in frame.study.rows}
    runs = {
        key: found
        for key in labels
        if key in pair.printed and (found := frame.runs_of(key, pair.col_key, pair.metric)) is not None
    }
    whole = {key: found for key, found in runs.items() if found.values and not found.without}
    seeds = sorted(set.intersection(*(set(found.values) for found in whole.values()))) if whole else []
    if len(whole) < 2 or not seeds:
        return None
    printed = np.array([pair.printed[key] for key in whole])
    # A rule for seeds gives some rows more: their means, as the table shows them, make the order.
    means = np.array([[sum(found.values.values()) / len(found.values) for found in whole.values()]])
    resampled = resampled_means(np.array([[found.values[seed] for seed in seeds] for found in whole.values()]))
    paper = frame.study.printed
    assert paper is not None
    return Comparison(
        study=frame.name,
        scale=frame.scale,
        place=", ".join(filter(None, [paper.metric, paper.source or " ".join(frame.study.source.values())])),
        quantity=pair.quantity,
        metric=pair.metric,
        rows=tuple(labels[key] for key in whole),
        left_out=tuple(labels[key] for key in runs if key not in whole),
        num_seeds=len(seeds),
        tau=float(kendall_tau_b(printed, means)[0]),
        rho=float(spearman(printed, means)[0]),
        taus=kendall_tau_b(printed, resampled),
        rhos=spearman(printed, resampled),
        **_signs(whole, pair.printed, frame.study.baseline),
        differs=recipe(frame),
        digest=frame.digest,
    )


def _signs(whole: Mapping[str, Runs], printed: Mapping[str, float], baseline: str) -> dict[str, int]:
    """On which side of the baseline the rows lie, printed and here; all zero where the paper prints no baseline."""
    counts = {"num_signs": 0, "num_same": 0, "num_clear": 0, "num_clear_same": 0}
    if baseline not in whole:
        return counts
    for key, runs in whole.items():
        sign = np.sign(printed[key] - printed[baseline])
        differences = shared_differences(runs.values, whole[baseline].values)
        if not sign or not differences:
            continue
        is_same = bool(np.sign(np.mean(differences)) == sign)
        is_clear = len(differences) > 1 and paired_interval(runs.values, whole[baseline].values).excludes_zero
        counts["num_signs"] += 1
        counts["num_same"] += is_same
        counts["num_clear"] += is_clear
        counts["num_clear_same"] += is_clear and is_same
    return counts


def recipe(frame: Frame) -> str:
    """What our baseline row was trained on and how large it is, in words: `moving_digits, 24 px, 8 frames, ...`."""
    cells = frame.cells
    chosen = cells[cells["row_key"] == frame.study.baseline]["config_id"]
    if chosen.empty or chosen.iloc[-1] not in frame.configs.index:
        return ""
    config: dict[str, Any] = frame.configs.loc[chosen.iloc[-1]].dropna().to_dict()
    words = [
        ("data", "{}"), ("data.size", "{:g} px"), ("data.frames", "{:g} frames"), ("eval_data", "judged on {}"),
        ("encoder.width", "width {:g}"), ("encoder.depth", "depth {:g}"), ("optim.steps", "{:g} steps"),
    ]  # fmt: skip
    shown = [text.format(config[key]) for key, text in words if key in config]
    return ", ".join(text.removesuffix("s") if text == "1 frames" else text for text in shown)


# ---- over tables -----------------------------------------------------------------------------------------------------


def summarise(frames: Sequence[Frame]) -> list[Summary]:
    """A summary a scale that has a comparison: what was trained small says nothing of what was trained large."""
    found: dict[str, list[Comparison]] = {}
    without: dict[str, list[str]] = {}
    for frame in frames:
        if comparisons := compare(frame):
            found.setdefault(frame.scale, []).extend(comparisons)
        elif frame.study.printed is not None:
            without.setdefault(frame.scale, []).append(frame.name)
    return [
        Summary(
            scale,
            tuple(comparisons),
            _mean_tau(comparisons),
            tuple(without.get(scale, ())),
            *_mean_gain(frame for frame in frames if frame.scale == scale),
        )
        for scale, comparisons in sorted(found.items())
    ]


def _mean_tau(comparisons: Sequence[Comparison]) -> Estimate | None:
    """The tables are given; each one's seeds are resampled by themselves (rliable's stratified bootstrap)."""
    ordered = [c for c in comparisons if len(c.rows) >= FEWEST_ROWS and math.isfinite(c.tau)]
    if not ordered:
        return None
    generator = np.random.default_rng(0)
    drawn = np.array([c.taus[generator.integers(0, c.taus.size, NUM_RESAMPLES)] for c in ordered])
    means = [interquartile_mean(taus[np.isfinite(taus)]) for taus in drawn.T if np.isfinite(taus).any()]
    is_known = all(c.num_seeds > 1 for c in ordered)  # one seed has no spread: an interval would leave it out
    low, high = percentiles(np.array(means)) if is_known else (math.nan, math.nan)
    return Estimate(interquartile_mean([c.tau for c in ordered]), low, high, len(ordered))


def _mean_gain(frames: Iterable[Frame]) -> tuple[Estimate | None, int]:
    """Baseline minus random initialisation in points of top-1, every recipe once, whichever tables share it."""
    strata: dict[tuple[int, str], list[float]] = {}
    for frame in frames:
        metric = frame.metrics[0]
        if "top1" not in metric or not higher_is_better(metric):
            continue
        cells = frame.cells
        untrained = {cell.col_key: cell.row_key for cell in records(cells[cells["is_random_init"]])}
        for cell in records(cells[cells["row_key"] == frame.study.baseline]):
            runs = frame.runs_of(cell.row_key, cell.col_key, metric)
            start = frame.runs_of(untrained.get(cell.col_key, ""), cell.col_key, metric)
            if runs and start and (gains := shared_differences(runs.values, start.values)):
                strata[cell.config_id, metric] = gains
    if not strata:
        return None, 0
    return stratified_bootstrap(list(strata.values()), interquartile_mean), len(strata)


# ---- as text ---------------------------------------------------------------------------------------------------------

_HEADER = ("table", "printed", "ours", "rows", "seeds", "Kendall's τ_b", "Spearman's ρ", "same sign", "of clear ones")


def markdown(summaries: Sequence[Summary]) -> str:
    """The page `tables/agreement.md`."""
    lines = [
        "# Agreement with the papers",
        "",
        "Written by `python -m analysis.report`; do not edit.",
    ]
    if not summaries:
        return "\n".join([*lines, "", "No table has two rows with all their seeds that the paper prints too.", ""])
    lines += ["", "![rank correlation and agreement of signs, a line a table](../figures/agreement.svg)"]
    for summary in summaries:
        found = [f"- {text}".replace("τ_b", "τ\\_b") for text in totals(summary)]
        lines += ["", f"## Scale {summary.scale}", "", *found, ""]
        lines += ["| " + " | ".join(map(escape_markdown, _HEADER)) + " |", "|:--|:--|:--|--:|--:|--:|--:|--:|--:|"]
        lines += [_line(comparison) for comparison in summary.comparisons]
        if summary.not_compared:
            names = escape_markdown(", ".join(summary.not_compared))
            lines += ["", f"Fewer than two whole rows that the paper prints: {names}."]
        lines += ["", "What differs from the papers beside the scale:", ""]
        seen = dict.fromkeys((c.study, c.place, c.differs) for c in summary.comparisons)
        lines += [f"- {escape_markdown(f'{study}: printed {place}; ours {ours}')}" for study, place, ours in seen]
        digests = dict.fromkeys(f"{c.study} {c.digest}" for c in summary.comparisons)
        lines += ["", f"<sub>database digests: {escape_markdown(', '.join(digests))}</sub>"]
    return "\n".join([*lines, "", "\n\n".join(NOTES).replace("τ_b", "τ\\_b"), ""])


NOTES = (
    "τ_b and ρ compare the order of our rows with the printed one, with the baseline, without the random "
    "initialisation: 1 is the same order, −1 the reverse. In brackets the 95 % percentile interval over resamples "
    "of the seeds, the same for all rows. So few seeds make a bootstrap too narrow: each resample's distance from the "
    f"means is taken {widening(3):.1f} times for three seeds, as much as a t-interval is wider. There are still only "
    "ten different resamples, so read the ends as rough. Two rows have only 1 and −1 and are left out of the mean over "
    "tables; rows that lack a number are left out and named.",
    "The mean gain over random initialisation has rliable's stratified bootstrap as it is defined, which three seeds a "
    "recipe make about a fifth too narrow.",
    "Same sign: of the rows that the paper prints above or below its baseline, how many lie on that side here. Of "
    "clear ones: the same among those whose paired 95 % interval excludes zero. By chance alone half would agree.",
)


def totals(summary: Summary) -> list[str]:
    """What is said over all tables of a scale, in sentences."""
    signs, same = sum(c.num_signs for c in summary.comparisons), sum(c.num_same for c in summary.comparisons)
    clear = sum(c.num_clear for c in summary.comparisons)
    clear_same = sum(c.num_clear_same for c in summary.comparisons)
    lines = [
        f"{same} of {signs} differences to the baseline have the printed sign; of the {clear} of ours that are clear "
        f"of zero, {clear_same}."
    ]
    if summary.tau:
        lines.append(
            f"Interquartile mean of τ_b over {summary.tau.num_seeds} tables of {FEWEST_ROWS} rows or more: "
            f"{with_interval(summary.tau.mean, summary.tau.low, summary.tau.high)}."
        )
    if summary.gain:
        gain = summary.gain
        lines.append(
            f"Interquartile mean of what pretraining gains over random initialisation, {gain.num_seeds} seeds of "
            f"{summary.num_recipes} default recipes: {gain.mean:.1f} points of top-1 [{gain.low:.1f}, {gain.high:.1f}]."
        )
    return [line.replace("-0.", "−0.") for line in lines]


def _line(comparison: Comparison) -> str:
    c = comparison
    rows = f"{len(c.rows)}" + (f" (without {', '.join(c.left_out)})" if c.left_out else "")
    fields = [
        f"[{escape_markdown(c.study)}]({c.study}.md)",
        escape_markdown(c.quantity or c.place),
        escape_markdown(c.metric),
        escape_markdown(rows),
        str(c.num_seeds),
        with_interval(c.tau, *interval(c, c.taus)),
        with_interval(c.rho, *interval(c, c.rhos)),
        f"{c.num_same} of {c.num_signs}" if c.num_signs else "–",
        f"{c.num_clear_same} of {c.num_clear}" if c.num_clear else "–",
    ]
    return "| " + " | ".join(fields) + " |"


def interval(comparison: Comparison, resampled: Numbers) -> tuple[float, float]:
    """NaN for one seed, which tells nothing of the spread."""
    finite = resampled[np.isfinite(resampled)]
    return percentiles(finite) if comparison.num_seeds > 1 and finite.size else (math.nan, math.nan)


def with_interval(value: float, low: float, high: float) -> str:
    """`0.67 [0.33, 1.00]`; a dash where there is no value, no brackets where there is no interval."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.2f}" + (f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else "")
    return text.replace("-", "−")
