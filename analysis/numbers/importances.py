"""Which options of a search mattered: each one's share of the metric's variance (fANOVA), and how sure that is."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.numbers import remembered
from analysis.numbers.stats import percentiles
from sweeps.study.search_space import SearchSpec

FEWEST = 4  # finished trials that importances need
NUM_RESAMPLES = 100
NUM_TREES = 16  # of a resample's forest: a quarter of what the share itself has, at a quarter of the cost


def importances(done: pd.DataFrame, spec: SearchSpec) -> tuple[tuple[str, float], ...]:
    """Each option's share of the metric's variance over the space (fANOVA), the largest first; () for a flat metric.

    Source: Hutter, Hoos and Leyton-Brown (2014), "An efficient approach for assessing hyperparameter importance".
    """

    def make() -> list[tuple[str, float]]:
        shares = _shares(done, spec, done["value"].to_numpy(dtype=np.float64), num_trees=64)
        return sorted(shares.items(), key=lambda bar: (-bar[1], bar[0]))

    return tuple((key, share) for key, share in _once("importances", done, spec, make))


def share_intervals(done: pd.DataFrame, spec: SearchSpec, keys: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """Between which shares 95 % of the resamples of `importances` lie, the share itself always among them.

    Each resample draws trials with replacement, and moves each by the noise of its mean: the spread of seeds that all
    trials have in common. Where trials have one seed, that is not known and not in it.
    """
    ends = dict(_once("intervals", done, spec, lambda: list(_resampled(done, spec).items())))
    return tuple((ends[key][0], ends[key][1]) for key in keys)


_KNOWN: dict[str, Any] = {}  # the table and the figure ask for the same


def _once(what: str, done: pd.DataFrame, spec: SearchSpec, make: Callable[[], Any]) -> Any:
    """What `make` gives for these trials, as JSON has it: a hundred forests take seconds, so other reports know it."""
    key = remembered.key_of(what, spec.metric, spec.space, done[[*spec.space, "value", "num_seeds", "sd"]])
    if key not in _KNOWN:
        if (found := remembered.read(key)) is None:
            found = {what: json.dumps(make()).encode()}
            remembered.write({key: found})
        _KNOWN[key] = json.loads(found[what])
    return _KNOWN[key]


def _resampled(done: pd.DataFrame, spec: SearchSpec) -> dict[str, tuple[float, float]]:
    means, nums = (done[column].to_numpy(dtype=np.float64) for column in ("value", "num_seeds"))
    errors = seed_sd(done) / np.sqrt(nums)
    generator = np.random.default_rng(0)
    whole = dict(importances(done, spec))
    drawn = {key: [share] for key, share in whole.items()}
    for _ in range(NUM_RESAMPLES):
        places = generator.integers(0, len(means), len(means))
        values = means[places] + generator.normal(size=len(places)) * errors[places]
        for key, share in _shares(done.iloc[places], spec, values, num_trees=NUM_TREES).items():
            drawn[key].append(share)
    ends = {key: percentiles(np.array(shares)) for key, shares in drawn.items()}
    return {key: (min(low, whole[key]), max(high, whole[key])) for key, (low, high) in ends.items()}


def seed_sd(done: pd.DataFrame) -> float:
    """Of one seed about its trial's mean, from all trials together; 0 where none has two."""
    free = done["num_seeds"].to_numpy(dtype=np.float64) - 1
    variances = np.nan_to_num(done["sd"].to_numpy(dtype=np.float64)) ** 2
    return float(np.sqrt((variances * free).sum() / free.sum())) if free.sum() > 0 else 0.0


def uncertainty(done: pd.DataFrame) -> str:
    """What the intervals of shares are, in words."""
    noise = "trials and of their seeds' noise" if seed_sd(done) > 0 else "trials (of one seed: its noise is not in it)"
    return f"with the middle 95 % of {NUM_RESAMPLES} resamples of {noise}"


def _shares(done: pd.DataFrame, spec: SearchSpec, values: NDArray[np.float64], *, num_trees: int) -> dict[str, float]:
    """By option; {} for a flat metric."""
    # Half a second, for the studies that have such a figure.
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    if np.ptp(values) == 0:
        return {}
    space: dict[str, BaseDistribution] = {}
    for key, found in spec.space.items():
        # fANOVA only needs the bounds: a whole number is a float to it.
        space[key] = (
            CategoricalDistribution(found.choices)
            if found.kind == "categorical"
            else FloatDistribution(found.low, found.high, log=found.log)
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()  # whichever direction: the variance has none
    # Of all options, 300 columns, pandas would make each trial's mapping a hundred times.
    for row, value in zip(done[list(spec.space)].to_dict("records"), values, strict=True):
        params = {
            key: next(c for c in found.choices if c == row[key]) if found.kind == "categorical" else float(row[key])
            for key, found in spec.space.items()
        }
        study.add_trial(optuna.create_trial(params=params, distributions=space, value=float(value)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=num_trees, seed=0)
        try:
            shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
        except RuntimeError as error:  # a resample of few different trials, which no tree can split
            if "zero total variance" not in str(error):
                raise
            return {}
    return {key: float(share) for key, share in shares.items()}
