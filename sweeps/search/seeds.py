"""Which runs to spend next when a study's seeds follow a rule: ``{start: 3, until: decided, max: 12}``.

**The rule.** Every row has seeds 0 to ``start - 1``. Then all rows are judged at once: a row is settled where its
difference to the baseline of its column is better, worse or the same within the study's margin (`until: decided`), or
its half-width is below what `stop_when` asks. The interval is the table's, as wide as the number of looks asks for
(`sweeps.study.seed_rule`). Each row that is not settled, and its baseline, gets the seeds up to its next look, all
rows' at once; when these have ended all rows are judged again. It ends when every row is settled or has no seed left.

Rows are judged only when nothing is open: what a look sees must not depend on which worker was faster. A seed that
ended without a number (failed, diverged, collapsed) is spent: the pair goes on with the next one. The random
initialisation is a reference, not an arm: it keeps its first seeds.

The choice is a function of what the database holds, so launching again goes on where it stopped, and a second
launcher chooses the same runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, select

from sweeps.answers import arms
from sweeps.answers.arms import Column
from sweeps.answers.blocked_intervals import Arm, Comparison, Difference, compare, quantile
from sweeps.answers.verdicts import kind_of
from sweeps.database import registering
from sweeps.database.tables import StudyRow
from sweeps.study.margin import margin_of
from sweeps.study.seed_rule import SeedRule, parse_rule


def is_settled(difference: Difference, rule: SeedRule, margin: float | None) -> bool:
    """Whether the rule spends no more on this row."""
    if difference.is_by_one_number:
        return False
    if rule.half_width is not None:
        return difference.estimate.half_width < rule.half_width
    # A metric that is better in neither direction is decided in both.
    return kind_of(difference.estimate, True, margin) != "undecided"


def choose(column: Column, baseline: str, rule: SeedRule, margin: float | None = None) -> list[tuple[int, int]]:
    """The (config id, seed) runs up to the next look of the rows that are not settled, seed by seed, baseline first.

    For a column of which nothing is open; empty when the rule is satisfied or no seed is left.
    """

    def target(difference: Difference | None, num_shared: int, comparison: Comparison) -> int:
        # Between two looks, as a seed gave no number, nobody looks.
        if num_shared in rule.looks and difference is not None and is_settled(difference, rule, margin):
            return num_shared
        return next((look for look in rule.looks if look > num_shared), rule.maximum)

    return _runs_up_to(target, column, baseline, rule)


# How many seeds a row and the baseline are to share, from their difference and how many they share.
Target = Callable[[Difference | None, int, Comparison], int]


def _runs_up_to(target: Target, column: Column, baseline: str, rule: SeedRule) -> list[tuple[int, int]]:
    """What all rows and the baseline lack of their `target`; none where the column has no such baseline."""
    comparison = compare(column.arms, baseline, rule.confidence)
    runs: dict[tuple[int, int], None] = {}
    for reference in (arm for arm in column.arms if arm.key == baseline):
        for arm in (arm for arm in column.arms if arm.config != reference.config):
            num_shared = len(arm.values.keys() & reference.values.keys())
            num_wanted = target(comparison.differences.get(arm.key), num_shared, comparison)
            runs |= dict.fromkeys(_up_to(num_wanted - num_shared, column.asked, reference, arm, rule))
    return sorted(runs, key=lambda run: run[1])


def _up_to(
    num: int, asked: Mapping[int, set[int]], reference: Arm, arm: Arm, rule: SeedRule
) -> list[tuple[int, int]]:  # fmt: skip
    """What a pair of rows lacks of the next `num` seeds that may still give it a shared number."""
    pair = (reference.config, arm.config)
    runs: list[tuple[int, int]] = []
    for seed in range(rule.maximum):
        lacking = [(config, seed) for config in pair if seed not in asked.get(config, ())]
        if lacking and num > 0:
            # One half may be there without a number: that seed is spent.
            has_failed = any(
                seed in asked.get(one.config, ()) and seed not in one.values for one in (reference, arm)
            )  # fmt: skip
            if not has_failed:
                runs, num = [*runs, *lacking], num - 1
    return runs


def expected(column: Column, baseline: str, rule: SeedRule, margin: float | None = None) -> list[tuple[int, int]]:
    """All that the rule will ask for if no spread and no difference changes."""

    def target(difference: Difference | None, num_shared: int, comparison: Comparison) -> int:
        for look in (look for look in rule.looks if look >= num_shared):
            if difference is not None and is_settled(_grown(difference, look, comparison), rule, margin):
                return look
        return rule.maximum

    return _runs_up_to(target, column, baseline, rule)


def _grown(difference: Difference, num_seeds: int, comparison: Comparison) -> Difference:
    """As if the seeds up to `num_seeds` had come out with the mean and the spread so far."""
    estimate = difference.estimate
    if num_seeds == estimate.num_seeds:
        return difference
    num_rows = len(comparison.rows) if comparison.rows and not difference.fallback else 2
    half = quantile((num_rows - 1) * (num_seeds - 1), comparison.confidence) * difference.sd / math.sqrt(num_seeds)
    grown = type(estimate)(estimate.mean, estimate.mean - half, estimate.mean + half, num_seeds)
    return Difference(grown, difference.df, difference.sd, difference.fallback)


class AdaptiveSeeds:
    """Spends a study's further seeds; `step` is called again and again."""

    def __init__(self, engine: Engine, study_id: int, *, priority: int = 0) -> None:
        self.engine, self.study_id, self.priority = engine, study_id, priority
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the last step found every row settled, or without a seed left, and nothing open."""
        return self._is_over

    def close(self) -> None:
        """Nothing is held between two steps."""

    def step(self, width: int) -> None:
        """Queue the runs up to the next look once nothing is open, however many workers there are."""
        with self.engine.begin() as connection:
            row = connection.execute(select(StudyRow).where(StudyRow.id == self.study_id).with_for_update()).one()
            found = arms.read(connection, row)
            chosen = [] if found.num_open else of_study(choose, found.columns, row.spec)
            registering.register_runs(connection, chosen, priority=self.priority)
        self._is_over = found.num_open == 0 and not chosen


Chooser = Callable[[Column, str, SeedRule, float | None], list[tuple[int, int]]]


def of_study(chooser: Chooser, columns: Sequence[Column], spec: Mapping[str, Any]) -> list[tuple[int, int]]:
    """`choose` or `expected` of all columns of a study, from its spec in the database, which says its baseline."""
    rule = parse_rule(spec["seeds"], "seeds")
    margin = margin_of(spec, spec["scale"], spec["metrics"][0])
    runs = [run for column in columns for run in chooser(column, str(spec["baseline"]), rule, margin)]
    return sorted(dict.fromkeys(runs), key=lambda run: run[1])
