"""How far our tables agree with the printed ones: order of the rows, and on which side of the baseline each lies.

Scales and data differ from the papers', so numbers cannot be compared; orders can. Only rows that the paper prints and
that have all their seeds here are compared, at the metric that the study sets against each printed quantity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.numbers.comparing import of_column
from analysis.numbers.frame import Frame, Runs, records
from analysis.numbers.stats import (
    NUM_RESAMPLES,
    Estimate,
    interquartile_mean,
    normal_quantile,
    shared_differences,
    stratified_bootstrap,
    widening,
)
from sweeps.answers.verdicts import higher_is_better

FEWEST_ROWS = 3  # that make an order: two rows have only +1 and -1

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Sign:
    """A printed difference to the baseline beside ours. `configs`: the two of ours, whichever is the baseline."""

    configs: frozenset[int]
    is_same: bool
    is_clear: bool  # the table's interval of our difference excludes zero


@dataclass(frozen=True)
class Comparison:
    """One printed column beside ours. `taus` and `rhos` are those of every resample of the seeds.

    All comparisons are resampled by the same draws: their resamples go together, as the runs do that they share.
    """

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
    signs: tuple[Sign, ...]  # of the rows whose printed difference to the baseline is not zero
    configs: frozenset[int]  # of `rows`
    differs: str  # our data and model, beside the paper's
    digest: str
    paper: str = ""
    title: str = ""  # of the study

    @property
    def num_signs(self) -> int:
        return len(self.signs)

    @property
    def num_same(self) -> int:
        return sum(sign.is_same for sign in self.signs)

    @property
    def num_clear(self) -> int:
        return sum(sign.is_clear for sign in self.signs)

    @property
    def num_clear_same(self) -> int:
        return sum(sign.is_clear and sign.is_same for sign in self.signs)

    @property
    def tau_interval(self) -> tuple[float, float]:
        return self._interval(self.tau, self.taus)

    @property
    def rho_interval(self) -> tuple[float, float]:
        return self._interval(self.rho, self.rhos)

    def _interval(self, value: float, resampled: Numbers) -> tuple[float, float]:
        # One seed tells nothing of the spread.
        return around(value, resampled) if self.num_seeds > 1 else (math.nan, math.nan)

    @property
    def words(self) -> str:
        """The study's title, "on" the data that its name tells, and which of its printed columns this is."""
        data = self.study.partition("@")[2]
        return f"{self.title}{f' on {data}' if data else ''}{f': {self.quantity}' if self.quantity else ''}"


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


def draws(seeds: Sequence[int]) -> Numbers:
    """Weights [R, n] of these seeds in each resample, the same ones of a seed whichever table asks.

    Source: Rubin (1981), "The Bayesian bootstrap": weights of a Dirichlet distribution in place of counts. Three seeds
    have only ten different resamples by counts, and tables of unlike seeds no draw in common.
    """
    drawn = np.stack([np.random.default_rng(seed).exponential(size=NUM_RESAMPLES) for seed in seeds], axis=1)
    return np.asarray(drawn / drawn.sum(axis=1, keepdims=True), dtype=np.float64)


def resampled_means(values: Numbers, seeds: Sequence[int]) -> Numbers:
    """The rows' means [R, k] of `values` [k, n] for every resample of `seeds`.

    All rows take the same weights: they share data order and initialisation. Each resample's distance to the means is
    `widening` times as long: as they are, resamples of three seeds give a third of the width of a t-interval.
    """
    means = values.mean(axis=1)
    return np.asarray(means + widening(len(seeds)) * (draws(seeds) @ values.T - means), dtype=np.float64)


def around(value: float, resampled: Numbers) -> tuple[float, float]:
    """The 95 % interval of a correlation, about the value itself: as wide as resamples vary, and as they are pulled.

    Resamples are of our means with their noise once more, which pulls the correlations towards 0: their percentiles
    would be an interval of something smaller, beside which the value may not even lie. The value was pulled as far by
    its own noise. Without that pull the interval of an order that seeds hardly show holds the true one too seldom
    (`benchmarks.agreement_coverage`).
    """
    finite = resampled[np.isfinite(resampled)]
    if finite.size < 2 or not math.isfinite(value):
        return math.nan, math.nan
    half = normal_quantile() * float(finite.std(ddof=1)) + abs(float(finite.mean()) - value)
    return max(-1.0, value - half), min(1.0, value + half)


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
        metrics = {key: _metric(frame, names) for key, names in printed.compare.items()}
        wanted = [(key, key, "", metrics[key] or "") for key in quantities if metrics.get(key)]
    return [
        _Pair(label, col_key, metric, {row: cells[key] for row, cells in printed.values.items() if key in cells})
        for key, label, col_key, metric in wanted
    ]


def _metric(frame: Frame, names: Sequence[str]) -> str | None:
    """The table's metric of the first name that it has, whole or after the "/": scales have other probes and labels."""
    return next((m for name in names for m in frame.metrics if name in (m, m.partition("/")[2])), None)


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
    values = np.array([[found.values[seed] for seed in seeds] for found in whole.values()])
    resampled = resampled_means(values, seeds)
    cells = frame.cells[frame.cells["col_key"] == pair.col_key]
    configs: dict[str, int] = dict(zip(cells["row_key"], cells["config_id"], strict=True))
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
        signs=tuple(_signs(frame, pair, whole, configs)),
        configs=frozenset(configs[key] for key in whole),
        differs=recipe(frame),
        digest=frame.digest,
        paper=frame.study.source.get("paper", ""),
        title=frame.study.title,
    )


def _signs(frame: Frame, pair: _Pair, whole: Mapping[str, Runs], configs: Mapping[str, int]) -> Iterator[Sign]:
    """On which side of the baseline the rows lie, printed and here; none where the paper prints no baseline."""
    baseline = frame.study.baseline
    if baseline not in whole:
        return
    found = of_column(frame, pair.col_key, pair.metric).differences
    for key, runs in whole.items():
        sign = np.sign(pair.printed[key] - pair.printed[baseline])
        differences = shared_differences(runs.values, whole[baseline].values)
        if not sign or not differences:
            continue
        is_same = bool(np.sign(np.mean(differences)) == sign)
        is_clear = key in found and found[key].estimate.excludes_zero
        yield Sign(frozenset((configs[key], configs[baseline])), is_same, is_clear)


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


@dataclass(frozen=True)
class OfStudy:
    """What one study adds to the summaries. `gains`: by config and metric, in points of top-1."""

    name: str
    scale: str
    comparisons: tuple[Comparison, ...]
    is_printed: bool
    gains: Mapping[tuple[int, str], Sequence[float]]


def of_study(frame: Frame) -> OfStudy:
    is_printed = frame.study.printed is not None
    return OfStudy(frame.name, frame.scale, tuple(compare(frame)), is_printed, _gains(frame))


def summarise(studies: Iterable[OfStudy]) -> list[Summary]:
    """A summary a scale that has a comparison: what was trained small says nothing of what was trained large."""
    of_scale: dict[str, list[OfStudy]] = {}
    for study in studies:
        of_scale.setdefault(study.scale, []).append(study)
    return [_summary(scale, found) for scale, found in sorted(of_scale.items()) if any(s.comparisons for s in found)]


def _summary(scale: str, studies: Sequence[OfStudy]) -> Summary:
    comparisons = tuple(one for study in studies for one in study.comparisons)
    without = tuple(study.name for study in studies if study.is_printed and not study.comparisons)
    return Summary(scale, comparisons, _mean_tau(comparisons), without, *_mean_gain(study.gains for study in studies))


def counted(comparisons: Sequence[Comparison]) -> list[Sign]:
    """The signs with each pair of our configs once, as it is compared first: by one more printed error of the same
    runs, or in one more table, it is no further evidence."""
    found: dict[frozenset[int], Sign] = {}
    for comparison in comparisons:
        for sign in comparison.signs:
            found.setdefault(sign.configs, sign)
    return list(found.values())


def _mean_tau(comparisons: Sequence[Comparison]) -> Estimate | None:
    """The tables are given, of those that compare the same configs the first; their runs are resampled all at once."""
    distinct: dict[frozenset[int], Comparison] = {}
    for comparison in comparisons:
        if len(comparison.rows) >= FEWEST_ROWS and math.isfinite(comparison.tau):
            distinct.setdefault(comparison.configs, comparison)
    ordered = list(distinct.values())
    if not ordered:
        return None
    found = mean_over_tables([c.tau for c in ordered], [c.taus for c in ordered])
    is_known = all(c.num_seeds > 1 for c in ordered)  # one seed has no spread: an interval would leave it out
    return found if is_known else Estimate(found.mean, math.nan, math.nan, len(ordered))


def mean_over_tables(taus: Sequence[float], resampled: Sequence[Numbers]) -> Estimate:
    """The interquartile mean of correlations, and its interval by those of every resample, [R] each."""
    columns = (column[np.isfinite(column)] for column in np.array(resampled).T)
    mean = interquartile_mean(taus)
    return Estimate(mean, *around(mean, np.array([interquartile_mean(c) for c in columns if c.size])), len(taus))


def _gains(frame: Frame) -> dict[tuple[int, str], list[float]]:
    """Baseline minus random initialisation of each seed, where the main metric is a top-1."""
    metric = frame.metrics[0]
    if "top1" not in metric or not higher_is_better(metric):
        return {}
    found: dict[tuple[int, str], list[float]] = {}
    cells = frame.cells
    untrained = {cell.col_key: cell.row_key for cell in records(cells[cells["is_random_init"]])}
    for cell in records(cells[cells["row_key"] == frame.study.baseline]):
        runs = frame.runs_of(cell.row_key, cell.col_key, metric)
        start = frame.runs_of(untrained.get(cell.col_key, ""), cell.col_key, metric)
        if runs and start and (gains := shared_differences(runs.values, start.values)):
            found[cell.config_id, metric] = gains
    return found


def _mean_gain(gains: Iterable[Mapping[tuple[int, str], Sequence[float]]]) -> tuple[Estimate | None, int]:
    """Every recipe once, whichever tables share it."""
    strata = {recipe: found for of_study in gains for recipe, found in of_study.items()}
    if not strata:
        return None, 0
    return stratified_bootstrap([*strata.values()], interquartile_mean), len(strata)
