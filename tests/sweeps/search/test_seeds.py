"""Which runs the seed rule spends next, on made-up results, and a study driven by it to its end."""

import math
from collections import Counter

import pytest
from sqlalchemy import select

from sweeps import cli
from sweeps.answers import arms
from sweeps.answers.arms import Column, answer
from sweeps.answers.blocked_intervals import Arm
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database import registering
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import RunRow, StudyRow
from sweeps.engine import queue
from sweeps.progress import study_status
from sweeps.search.seeds import AdaptiveSeeds, choose, expected, of_study
from sweeps.study.reading import parse
from sweeps.study.seed_rule import SeedRule, parse_rule
from tests.sweeps.launched import register, two_rows

NARROW = SeedRule(start=3, maximum=6, half_width=1.0)
DECIDED = SeedRule(start=3, maximum=12, half_width=None)
FLAT = [50.0, 50.0, 50.0]


def column(*rows: tuple[str, list[float | None]]) -> Column:
    """Rows by name and values by seed, configs 1, 2, ...; None: asked for, and ended without a number."""
    found, asked = [], {}
    for config, (key, values) in enumerate(rows, 1):
        numbers = {seed: value for seed, value in enumerate(values) if value is not None}
        found.append(Arm(key, numbers, config, len(values) - len(numbers)))
        asked[config] = set(range(len(values)))
    return Column("", "", found, {}, asked)


# ---- looks


def test_a_rule_looks_at_half_as_many_seeds_more_each_time_and_shares_its_chance_to_miss():
    assert DECIDED.looks == [3, 4, 6, 9, 12] and DECIDED.confidence == pytest.approx(0.99)
    assert SeedRule(2, 5, 1.0).looks == [2, 3, 4, 5] and SeedRule(3, 3, None).confidence == pytest.approx(0.95)


def test_a_rule_asks_until_rows_are_decided_or_narrow_and_for_nothing_else():
    assert parse_rule({"until": "decided"}, "seeds") == SeedRule(3, 10, None)
    assert parse_rule({"start": 4, "stop_when": "half_width < 0.5", "max": 8}, "seeds") == SeedRule(4, 8, 0.5)
    for rule, message in (
        ({"until": "dawn"}, "seeds.until must be decided, got 'dawn'"),
        ({"until": "decided", "stop_when": "half_width < 1"}, "seeds: give until or stop_when, not both"),
        ({"untill": "decided"}, r"unknown key seeds.untill \(did you mean until\?\)"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_rule(rule, "seeds")


# ---- which runs


def test_rows_that_are_not_settled_get_the_seeds_up_to_their_next_look_with_the_baseline():
    wide = column(("base", FLAT), ("wide", [40, 50, 60]), ("calm", [50.1, 50.0, 50.2]))
    assert choose(wide, "base", NARROW) == [(1, 3), (2, 3), (3, 3)]  # one spread for all rows
    alone = column(("base", FLAT), ("narrow", [50.0, 50.001, 50.002]))
    assert choose(alone, "base", NARROW) == []


def test_a_row_that_is_decided_gets_no_more_and_one_that_is_not_does():
    found = column(
        ("base", [50.0, 50.4, 49.8]), ("far", [80.0, 80.5, 79.7]), ("near", [51.6, 52.5, 51.2]),
        ("same", [50.1, 50.3, 50.0]),
    )  # fmt: skip
    assert choose(found, "base", DECIDED, margin=2.0) == [(1, 3), (3, 3)]


def test_without_a_margin_a_row_is_not_decided_to_be_the_same():
    found = column(("base", [50.0, 50.4, 49.8]), ("same", [50.1, 50.3, 50.0]), ("far", [80.0, 80.5, 79.7]))
    assert choose(found, "base", DECIDED, margin=2.0) == []
    assert choose(found, "base", DECIDED) == [(1, 3), (2, 3)]


def test_nothing_is_chosen_where_no_seed_is_left():
    assert choose(column(("base", [50.0] * 6), ("wide", [10, 90, 10, 90, 10, 90])), "base", NARROW) == []


def test_a_seed_that_gave_no_number_is_spent_and_nobody_looks_before_the_next_one():
    found = column(("base", [50.0, 50.0, 50.0, 50.0]), ("wide", [40, 50, 60, None]))
    assert choose(found, "base", NARROW) == [(1, 4), (2, 4)]
    between = column(("base", [50.0] * 6), ("row", [50.0, 50.0, 50.0, 50.0, 50.0, None]))
    assert choose(between, "base", SeedRule(3, 9, 1.0)) == [(1, 6), (2, 6)]


def test_a_row_of_the_baseline_s_config_needs_nothing():
    found = column(("base", FLAT))
    found.arms.append(Arm("twin", found.arms[0].values, 1))
    assert choose(found, "base", NARROW) == []


def test_what_will_be_asked_for_is_what_the_spread_so_far_needs():
    # Means that differ by 2 with a spread of 1: clear at one of the looks, by 99 %.
    found = column(("base", [50.0, 50.0, 50.0]), ("row", [52.0, 51.0, 53.0]))
    runs = expected(found, "base", DECIDED)
    assert {seed for _, seed in runs} == {3, 4, 5} and len(runs) == 6
    assert len(expected(column(("base", FLAT), ("row", [50.0, 70.0, 30.0])), "base", DECIDED)) == 2 * 9


# ---- the command line


def asked(word: str) -> Request:
    return cli.asked(two_rows().study, cli.parse([f"seeds={word}"], ("seeds",)))


def test_a_rule_can_be_typed_in_place_of_the_study_s_seeds():
    request = asked("{start: 2, until: decided, max: 8}")
    assert request.seeds == () and request.wanted_seeds == [0, 1]
    assert request.spec()["seeds"] == {"start": 2, "until": "decided", "max": 8}
    assert request.spec()["baseline"] == "a"
    assert asked("[4,5]").wanted_seeds == [4, 5]


@pytest.mark.parametrize("word", ["{start: 2", "{start: 1, until: decided}", "{until: never}", "{}"])
def test_a_rule_that_cannot_be_read_is_refused(word):
    with pytest.raises(UserError, match="seeds"):
        asked(word)


def test_a_search_has_no_rule_for_seeds():
    search = {"space": {"mask.ratio": {"float": [0.1, 0.9]}}, "budget": 4}
    spec = {key: two_rows().study.spec[key] for key in ("title", "question", "base", "metrics")}
    found = parse({**spec, "search": search}, two_rows().study.path)
    with pytest.raises(UserError, match="is a search, which counts its seeds from one"):
        cli.asked(found, cli.parse(["seeds={until: decided}"], ("seeds",)))


# ---- a study ---------------------------------------------------------------------------------------------------------

VALUES = {0.5: [50, 50, 50, 50, 50, 50], 0.75: [40, 60, 50, 50, 50, 50]}


def study(**rule):
    return two_rows(seeds={"start": 2, "stop_when": "half_width < 16", "max": 6, **rule})


def train_all(engine, values=VALUES, most: float = math.inf) -> int:
    """Finish what is queued with made-up values; how many runs that were."""
    num = 0
    while True:
        with engine.begin() as connection:
            claim = queue.claim(connection, "worker") if num < most else None
            if claim is None:
                return num
            value = float(values[claim.config["mask.ratio"]][claim.seed])
            queue.finish(connection, claim, "done", results={"ridge/digit_top1": value}, step=100)
        num += 1


def test_a_study_gets_seeds_until_its_comparison_is_narrow_and_launching_again_adds_none(engine):
    registered = register(engine, study())
    assert train_all(engine) == 4
    added = []
    while len(added) < 20:  # a launcher that is killed after every step
        seeds = AdaptiveSeeds(engine, registered.study_id)
        seeds.step(1)
        if seeds.is_over:
            break
        added.append(train_all(engine))
    # Differences -10, 10, 0, 0, ...; looks at 2, 3, 4 and 6 seeds: 16 is reached with six.
    assert added == [2, 2, 4]
    with engine.connect() as connection:
        counts = study_status.read(connection, "ratio").counts()
    assert counts["done"] == 12 and sum(counts.values()) == 12
    again = AdaptiveSeeds(engine, register(engine, study()).study_id)
    again.step(4)
    assert again.is_over and train_all(engine) == 0


NOISE = (0.3, -1.1, 0.8, 2.0, -0.4, -1.7, 0.9, 0.1, -0.6, 1.4, -0.2, 0.5)
UNTIL = {
    0.5: [50 + 0.5 * noise for noise in NOISE],
    0.75: [57 + noise for noise in NOISE[::-1]],  # better
    0.9: [51.2 + 3 * noise for noise in NOISE[3:] + NOISE[:3]],  # hard to tell
}


def test_a_rule_whose_launcher_is_killed_after_every_run_ends_with_the_same_runs_and_verdicts(engine, tmp_path):
    rows = [{"key": str(ratio), "set": {"mask.ratio": ratio}} for ratio in UNTIL]
    asked = two_rows(rows=rows, seeds={"start": 3, "until": "decided", "max": 12})
    other = open_database(f"sqlite:///{tmp_path}/other.sqlite")
    upgrade(other)
    found = []
    for database, most in ((engine, 1), (other, math.inf)):
        registered = register(database, asked)
        for _ in range(60):
            seeds = AdaptiveSeeds(database, registered.study_id)  # whatever the last one knew is lost
            seeds.step(2)
            if seeds.is_over:
                break
            train_all(database, UNTIL, most)
        assert seeds.is_over
        with database.connect() as connection:
            runs = connection.execute(select(RunRow.config_id, RunRow.seed, RunRow.state)).all()
            found.append((sorted(map(tuple, runs)), answer(connection, "ratio")))
    other.dispose()
    assert found[0] == found[1]
    fewest, *most = sorted(Counter(config for config, _, _ in found[0][0]).values())
    assert fewest < most[0] == most[1] == 12  # the baseline has those of the row that is hard to tell
    assert "0.75 is better" in found[0][1]


def test_nothing_is_judged_or_added_while_a_run_is_open(engine):
    registered = register(engine, study())
    seeds = AdaptiveSeeds(engine, registered.study_id, priority=3)
    seeds.step(2)
    assert not seeds.is_over
    train_all(engine)
    seeds.step(1)
    seeds.step(1)
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
        registering.register_runs(connection, [(config, 9)])  # beyond this study's largest seed
        assert study_status.read(connection, "ratio").counts().total() == len(registered.run_ids)


def test_the_terminal_has_the_study_s_answer_in_a_sentence(engine):
    register(engine, two_rows(seeds=[2, 3, 4]))
    with engine.connect() as connection:
        assert answer(connection, "ratio") == ""
    train_all(engine)
    with engine.connect() as connection:
        assert answer(connection, "ratio") == "ridge top-1, digits beside half: b is the same within ±2."
        assert answer(connection, "nothing") == ""


def test_a_rule_that_is_typed_expects_what_a_study_of_listed_seeds_would_need(engine):
    register(engine, two_rows())
    train_all(engine)  # differences of -10 and 10
    rule = {"start": 2, "stop_when": "half_width < 60", "max": 6}
    with engine.connect() as connection:
        row = connection.execute(select(StudyRow)).one()
        columns = arms.read(connection, row, rule).columns
        runs = of_study(expected, columns, row.spec | {"seeds": rule, "baseline": "a"})
    assert [seed for _, seed in runs] == [2, 2, 3, 3]  # t of three degrees of freedom by 98.75 % and a spread of 14
