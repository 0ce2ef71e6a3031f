"""Which run to spend next when a study's seeds follow a rule: ``{start: 3, stop_when: "half_width < 1.0", max: 10}``.

**The rule.** Every row has seeds 0 to ``start - 1``. A row is compared with the baseline of its column by the paired
difference of the main metric over the seeds that both have finished; its interval is the 95 % t-interval, as in the
table. Among the comparisons that are not yet as narrow as `stop_when` asks, the one with the widest interval blocks
most: it gets the next run. That run is of the lowest seed below ``max`` which the pair does not share: the baseline's
where the baseline lacks it (one run that narrows every row's comparison), else the row's own. With several workers the
next choices are made as if the run chosen had come out, its interval narrowing with the number of seeds and an
unchanged spread. It ends when every comparison is narrow enough, or has no seed left below `max`.

A seed that ended without a number (failed, diverged) is spent: the pair goes on with the next one. The random
initialisation is a reference, not an arm: it keeps its first seeds.

The choice is a function of what the database holds, so launching again goes on where it stopped, and a second
launcher chooses the same run.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.special import stdtrit
from sqlalchemy import Connection, Engine, and_, select

from sweeps import queue
from sweeps.db import FINAL_STATES, CellRow, Result, RunRow, StudyRow
from sweeps.identity import CODE_EPOCH
from sweeps.seed_rule import SeedRule, parse_rule

Seeds = Mapping[int, float | None]  # seed -> the main metric; None: no number, or not yet


@dataclass(frozen=True)
class Arm:
    """A cell: its config and what became of its seeds."""

    row_key: str
    col_key: str
    config_id: int
    seeds: dict[int, float | None] = field(default_factory=dict)


@dataclass
class _Pair:
    """A row beside the baseline of its column."""

    row: Arm
    baseline: Arm
    half_width: float
    num_shared: int
    spread: float  # standard deviation of the differences
    taken: set[int] = field(default_factory=set)  # seeds chosen in this round

    def narrow(self, seed: int) -> None:
        """As if that seed had come out with the spread so far."""
        self.taken.add(seed)
        self.num_shared += 1
        self.half_width = _half_width(self.spread, self.num_shared)


def half_width(row: Seeds, baseline: Seeds) -> float:
    """Half the 95 % interval of the paired difference; infinite below two shared seeds."""
    differences = _differences(row, baseline)
    return _half_width(statistics.stdev(differences), len(differences)) if len(differences) > 1 else math.inf


def _differences(row: Seeds, baseline: Seeds) -> list[float]:
    return [a - b for s in sorted(row) if (a := row[s]) is not None and (b := baseline.get(s)) is not None]


def _half_width(spread: float, num: int) -> float:
    return float(stdtrit(num - 1, 0.975)) * spread / math.sqrt(num) if num > 1 else math.inf


def choose(arms: Sequence[Arm], baseline_row: str, rule: SeedRule, num: int) -> list[tuple[int, int]]:
    """The next (config id, seed) runs, at most `num`, the most needed first; empty when the rule is satisfied.

    `arms` hold every seed that has been asked for. Runs that are asked for but not finished count as known to come.
    """
    baselines = {arm.col_key: arm for arm in arms if arm.row_key == baseline_row}
    pairs = []
    for arm in arms:
        baseline = baselines.get(arm.col_key)
        if baseline is None or baseline.config_id == arm.config_id:
            continue
        differences = _differences(arm.seeds, baseline.seeds)
        spread = statistics.stdev(differences) if len(differences) > 1 else math.inf
        pairs.append(_Pair(arm, baseline, _half_width(spread, len(differences)), len(differences), spread))
    chosen: dict[tuple[int, int], None] = {}
    while len(chosen) < num:
        best: tuple[_Pair, int] | None = None
        for pair in pairs:
            seed = _next_seed(pair, rule)
            is_blocking = pair.half_width >= rule.half_width and seed is not None
            if seed is not None and is_blocking and (best is None or pair.half_width > best[0].half_width):
                best = pair, seed
        if best is None:
            break
        pair, seed = best
        needed = [arm for arm in (pair.baseline, pair.row) if seed not in arm.seeds]
        fresh = [arm for arm in needed if (arm.config_id, seed) not in chosen]
        if fresh:
            chosen[fresh[0].config_id, seed] = None
        if len(fresh) <= 1:  # the pair's other half is there, or chosen before
            pair.narrow(seed)
    return list(chosen)


def _next_seed(pair: _Pair, rule: SeedRule) -> int | None:
    """The lowest seed that the pair lacks on one side at least."""
    for seed in range(rule.maximum):
        if seed in pair.taken:
            continue
        if seed not in pair.row.seeds or seed not in pair.baseline.seeds:
            return seed
    return None


class AdaptiveSeeds:
    """Spends a study's further seeds; `step` is called again and again."""

    def __init__(self, engine: Engine, study_id: int, *, priority: int = 0) -> None:
        self.engine, self.study_id, self.priority = engine, study_id, priority
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the last step found every comparison narrow enough, or without a seed left, and nothing open."""
        return self._is_over

    def close(self) -> None:
        """Nothing is held between two steps."""

    def step(self, width: int) -> None:
        """Queue the next runs, so that up to `width` are open."""
        with self.engine.begin() as connection:
            row = connection.execute(select(StudyRow).where(StudyRow.id == self.study_id).with_for_update()).one()
            rule = parse_rule(row.spec["seeds"], "seeds")
            arms, num_open = read_arms(connection, row, rule)
            chosen = choose(arms, _baseline(row.spec), rule, width - num_open)
            queue.register_runs(connection, chosen, priority=self.priority)
        self._is_over = num_open == 0 and not chosen


def _baseline(spec: Mapping[str, object]) -> str:
    """The baseline's row key: `registry` stores it with the study, whose file may leave it to the first row."""
    return str(spec["baseline"])


def read_arms(connection: Connection, study: Any, rule: SeedRule) -> tuple[list[Arm], int]:
    """The cells of a study (its row of `sw_study`) but the random initialisation, and how many of its runs are open."""
    cells = connection.execute(
        select(CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display).where(
            CellRow.study_id == study.id, CellRow.revision == study.revision
        )
    ).all()
    cells = sorted(cells, key=lambda cell: (cell.display["row_order"], cell.display["col_order"]))
    runs = connection.execute(
        select(RunRow.config_id, RunRow.seed, RunRow.state, Result.value)
        .outerjoin(
            Result,
            and_(Result.run_id == RunRow.id, Result.agg == "final", Result.metric == study.spec["metrics"][0]),
        )
        .where(
            RunRow.config_id.in_([cell.config_id for cell in cells]),
            RunRow.seed < rule.maximum,
            RunRow.code_epoch == CODE_EPOCH,
            RunRow.state != "cancelled",
        )
    ).all()
    seeds: dict[int, dict[int, float | None]] = {}
    for config_id, seed, state, value in runs:
        seeds.setdefault(config_id, {})[seed] = value if state == "done" else None
    arms = [
        Arm(cell.row_key, cell.col_key, cell.config_id, seeds.get(cell.config_id, {}))
        for cell in cells
        if not cell.display["is_random_init"]
    ]
    return arms, sum(state not in FINAL_STATES for _, _, state, _ in runs)
