"""Which run the seed rule spends next, on made-up results, and a study driven by it to its end."""

import math

import pytest
from sqlalchemy import select

from sweeps import queue, status
from sweeps.db import RunRow
from sweeps.seed_rule import SeedRule
from sweeps.seeds import AdaptiveSeeds, Arm, choose, half_width
from tests.sweeps.launched import register, two_rows

RULE = SeedRule(start=3, maximum=6, half_width=1.0)
FLAT = [50.0, 50.0, 50.0]


def arm(key: str, values: list[float | None], config: int, column: str = "") -> Arm:
    return Arm(key, column, config, dict(enumerate(values)))


def test_the_half_width_is_that_of_the_paired_difference():
    row, baseline = {0: 51.0, 1: 52.0, 2: 53.0}, {0: 50.0, 1: 50.0, 2: 50.0, 3: None}
    assert half_width(row, baseline) == pytest.approx(4.302653 * 1.0 / math.sqrt(3), rel=1e-6)
    assert half_width({0: 1.0}, baseline) == math.inf


def test_the_widest_comparison_is_served_first_and_the_baseline_before_the_row():
    wide, narrow = arm("wide", [40, 50, 60], 2), arm("narrow", [48, 50, 52], 3)
    baseline = arm("base", FLAT, 1)
    assert choose([baseline, wide, narrow], "base", RULE, 1) == [(1, 3)]
    baseline.seeds[3] = 50.0
    assert choose([baseline, wide, narrow], "base", RULE, 1) == [(2, 3)]


def test_a_run_that_is_asked_for_is_not_asked_for_again():
    baseline, wide = arm("base", [*FLAT, None], 1), arm("wide", [40, 50, 60], 2)
    assert choose([baseline, wide], "base", RULE, 1) == [(2, 3)]


def test_nothing_is_chosen_once_every_interval_is_narrow_enough():
    assert choose([arm("base", FLAT, 1), arm("row", [50.1, 50.2, 50.3], 2)], "base", RULE, 4) == []


def test_nothing_is_chosen_where_no_seed_is_left():
    wide = arm("wide", [10, 90, 10, 90, 10, 90], 2)
    assert choose([arm("base", [50.0] * 6, 1), wide], "base", RULE, 4) == []


def test_a_seed_that_gave_no_number_is_spent():
    baseline, wide = arm("base", [*FLAT, 50.0], 1), arm("wide", [40, 50, 60, None], 2)
    assert choose([baseline, wide], "base", RULE, 1) == [(1, 4)]


def test_several_workers_get_different_runs_the_most_needed_first():
    rows = [arm("base", FLAT, 1), arm("wide", [40, 50, 60], 2), arm("wider", [0, 50, 100], 3)]
    chosen = choose(rows, "base", RULE, 4)
    assert chosen[:2] == [(1, 3), (3, 3)]
    assert len(set(chosen)) == 4


def test_each_column_has_a_baseline_of_its_own():
    arms = [
        arm("base", FLAT, 1, "short"), arm("row", [50.1, 50.2, 50.3], 2, "short"),
        arm("base", FLAT, 3, "long"), arm("row", [40, 50, 60], 4, "long"),
    ]  # fmt: skip
    assert choose(arms, "base", RULE, 2) == [(3, 3), (4, 3)]


# ---- a study ---------------------------------------------------------------------------------------------------------

VALUES = {0.5: [50, 50, 50, 50, 50, 50], 0.75: [40, 60, 50, 50, 50, 50]}


def study():
    return two_rows(seeds={"start": 2, "stop_when": "half_width < 9", "max": 6})


def train_all(engine) -> int:
    """Finish what is queued with made-up values; how many runs that were."""
    num = 0
    while True:
        with engine.begin() as connection:
            claim = queue.claim(connection, "worker")
            if claim is None:
                return num
            value = float(VALUES[claim.config["mask.ratio"]][claim.seed])
            queue.finish(connection, claim, "done", results={"ridge/digit_top1": value}, step=100)
        num += 1


def test_a_study_gets_seeds_until_its_comparison_is_narrow_and_launching_again_adds_none(engine):
    registered = register(engine, study())
    assert train_all(engine) == 4
    num_launches = 0
    while num_launches < 20:  # a launcher that is killed after every step
        seeds = AdaptiveSeeds(engine, registered.study_id)
        seeds.step(1)
        if seeds.is_over:
            break
        assert train_all(engine) == 1
        num_launches += 1
    # Differences -10, 10, 0, 0, ...: 9 is reached with six seeds of each row, and not before.
    differences = [b - a for a, b in zip(VALUES[0.5], VALUES[0.75], strict=True)]
    widths = [half_width(dict(enumerate(map(float, differences[:n]))), dict.fromkeys(range(n), 0.0)) for n in (5, 6)]
    wanted = 5 if widths[0] < 9 else 6
    assert num_launches == 2 * (wanted - 2)
    with engine.connect() as connection:
        counts = status.read(connection, "ratio").counts()
    assert counts["done"] == 2 * wanted and sum(counts.values()) == 2 * wanted
    again = AdaptiveSeeds(engine, register(engine, study()).study_id)
    again.step(4)
    assert again.is_over and train_all(engine) == 0


def test_runs_that_are_open_count_towards_the_workers(engine):
    registered = register(engine, study())
    train_all(engine)
    seeds = AdaptiveSeeds(engine, registered.study_id, priority=3)
    seeds.step(2)
    seeds.step(2)
    with engine.connect() as connection:
        queued = connection.execute(
            select(RunRow.config_id, RunRow.seed, RunRow.priority).where(RunRow.state == "queued")
        ).all()
    assert sorted(map(tuple, queued)) == [(1, 2, 3), (2, 2, 3)]
    assert not seeds.is_over


def test_another_study_s_seeds_beyond_the_largest_are_not_this_one_s(engine):
    registered = register(engine, study())
    with engine.begin() as connection:
        (config, _) = connection.execute(select(RunRow.config_id, RunRow.seed).order_by(RunRow.id)).first()
        queue.register_runs(connection, [(config, 9)])  # beyond this study's largest seed
        assert status.read(connection, "ratio").counts().total() == len(registered.run_ids)
