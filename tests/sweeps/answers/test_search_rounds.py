"""A search that knows noise: means over seeds, promotion, judging, on results that a function gives for training."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import func, select

from sweeps import plan
from sweeps.answers import search_rounds
from sweeps.answers.arms import answer
from sweeps.cells.request import Request
from sweeps.cells.superseded import SUPERSEDED
from sweeps.database.tables import Attempt, Config, Event, RunRow, StudyRow
from sweeps.engine import queue
from sweeps.progress import study_status
from sweeps.search.search import Search
from sweeps.study.metric_words import describe
from sweeps.study.reading import parse
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import register
from tests.sweeps.search.test_search import FILE, METRIC, resolve, told

ROUNDS = {"seeds": 2, "promote": {"trials": 2, "seeds": 4}, "judge": {"seeds": 3}}


def asked(**changes: Any) -> Request:
    search = {**FILE["search"], **ROUNDS, **changes}
    return Request(parse({**FILE, "search": search}, Path("studies/searched.yaml")), "cpu")


def begin(engine, request: Request | None = None) -> Search:
    request = request or asked()
    return Search(engine, request, register(engine, request), resolve=resolve)


def value_of(config, seed: int) -> float:
    """100 times the ratio, and seeds that differ by more than a step of it."""
    return 100 * config.get("mask.ratio", 0.3) + config.get("predictor.depth", 0) + (seed * 7919 % 13)


def train_one(engine, outcome=lambda config, seed: "done") -> bool:
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker")
        if claim is None:
            return False
        ended, value = outcome(claim.config, claim.seed), value_of(claim.config, claim.seed)
        queue.finish(connection, claim, ended, results={METRIC: value} if ended == "done" else {}, step=100)
    return True


def drive(engine, search: Search, outcome=lambda config, seed: "done") -> None:
    for _ in range(200):
        search.step(2)
        if search.is_over:
            return
        while train_one(engine, outcome):
            pass
    raise AssertionError("the search does not end")


def trained(engine) -> Counter:
    """How often each (ratio, depth, seed) was trained."""
    with engine.connect() as connection:
        rows = connection.execute(
            select(Config.json, RunRow.seed)
            .join(RunRow, RunRow.config_id == Config.id)
            .join(Attempt, Attempt.run_id == RunRow.id)
        ).all()
    return Counter((json.get("mask.ratio"), json.get("predictor.depth"), seed) for json, seed in rows)


def rounds_of(engine, search: Search) -> search_rounds.Rounds:
    with engine.connect() as connection:
        return search_rounds.read(connection, search.study_id, search.name, search.spec, search.seed)


@BOTH
def test_optuna_is_told_the_mean_over_a_trials_seeds(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    for trial in told(engine, search):
        values = [value_of(trial.params, seed) for seed in (0, 1)]
        assert trial.state is TrialState.COMPLETE and trial.value == pytest.approx(sum(values) / 2)


def test_the_best_get_more_seeds_and_the_best_of_them_is_judged_on_seeds_that_chose_nothing(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    found = rounds_of(engine, search)
    best = found.chosen()
    assert best is not None
    given = {tried.key: sorted(tried.seeds) for tried in found.trials}
    assert [given[tried.key] for tried in found.promoted() if tried is not best] == [[0, 1, 2, 3]]
    assert given[best.key] == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(seeds for key, seeds in given.items() if key not in {t.key for t in found.promoted()}) == [[0, 1]] * 4
    assert sorted(found.default.seeds) == [0, 1, 4, 5, 6]
    assert set(trained(engine).values()) == {1}
    judged = found.judgement(METRIC, 2.0)
    assert judged.seeds == [4, 5, 6] and judged.difference.estimate.num_seeds == 3


def test_a_launcher_killed_after_every_step_trains_no_run_twice_and_chooses_the_same(engine):
    for _ in range(80):
        search = begin(engine)
        search.step(1)
        is_over = search.is_over
        search.close()
        if is_over:
            break
        train_one(engine)
    assert is_over
    # Six trials of two seeds, two promoted by two more, the best and what was not searched on three, and its own two.
    assert sorted(trained(engine).values()) == [1] * (6 * 2 + 2 * 2 + 2 * 3 + 2)


def test_launching_a_finished_search_again_queues_nothing(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    again = begin(engine)
    again.step(2)
    again.close()
    assert again.is_over
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).where(RunRow.state != "done")) == 0


def test_a_trial_of_which_a_seed_diverged_is_told_so_and_not_the_mean_of_the_other(engine):
    def outcome(config, seed):
        return "diverged" if config.get("mask.ratio", 0) > 0.65 and seed == 1 else "done"

    search = begin(engine)
    drive(engine, search, outcome)
    search.close()
    trials = told(engine, search)
    bad = [trial for trial in trials if trial.params["mask.ratio"] > 0.65]
    assert bad and all(trial.state is TrialState.PRUNED and trial.value is None for trial in bad)
    assert all(trial.user_attrs["outcome"] == "diverged" for trial in bad)
    chosen = rounds_of(engine, search).chosen()
    assert all(chosen.label != f"trial {trial.number}" for trial in bad)


def test_a_trial_whose_first_seed_diverged_gets_no_other(engine):
    search = begin(engine)
    drive(engine, search, lambda config, seed: "diverged" if "mask.ratio" in config else "done")
    search.close()
    assert {seed for ratio, _, seed in trained(engine) if ratio is not None} == {0}
    with engine.connect() as connection:
        assert not study_status.read(connection, "searched").of("missing", "queued", "running")


def test_a_judging_seed_that_diverged_stays_in_the_account(engine):
    search = begin(engine)
    drive(engine, search, lambda config, seed: "diverged" if "mask.ratio" in config and seed == 5 else "done")
    search.close()
    with engine.connect() as connection:
        told_of = answer(connection, "searched")
    assert "on 2 seeds that chose nothing" in told_of
    assert "1 of 3 judging seeds gave no pair of numbers" in told_of


def test_the_answer_says_how_the_best_stands_beside_what_was_not_searched(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    with engine.connect() as connection:
        assert answer(connection, "searched").startswith(
            f"{describe(METRIC).words} on 3 seeds that chose nothing: trial "
        )
        assert " not searched" in answer(connection, "searched")


def test_a_search_with_another_number_of_seeds_a_trial_begins_anew(engine):
    one, two = begin(engine), begin(engine, asked(seeds=3))
    assert one.name != two.name
    more = begin(engine, asked(promote={"trials": 3, "seeds": 4}))
    assert more.name == one.name
    for search in (one, two, more):
        search.close()


def test_the_plan_counts_the_seeds_of_trials_promotion_and_judging(engine):
    request = asked()
    search = begin(engine, request)
    assert len(planned(engine, request).to_come) == 6 * 2 + 2 * 2 + 2 * 3
    drive(engine, search)
    search.close()
    line = planned(engine, request)
    assert (len(line.to_come), len(line.left)) == (0, 0)
    assert len(line.runs) == len(line.done) == 6 * 2 + 2 * 2 + 2 * 3 + 2


def planned(engine, request: Request) -> plan.Line:
    with engine.connect() as connection:
        wanted = plan.wanted(connection, request, "")
        (line,) = plan.lines([wanted], plan.Estimator(plan.recorded(connection), {}))
    return line


def test_a_launch_from_another_seed_counts_on_from_it(engine):
    request = asked()
    request = Request(request.study, "cpu", seeds=(10,), name="other")
    search = begin(engine, request)
    drive(engine, search)
    search.close()
    assert {seed for _, _, seed in trained(engine)} == set(range(10, 17))
    with engine.connect() as connection:
        assert connection.scalar(select(StudyRow.spec).where(StudyRow.id == search.study_id))["seeds"] == [10]


def test_a_trial_is_linked_to_the_run_of_its_first_seed(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    run_ids = [trial.user_attrs["run"] for trial in told(engine, search)]
    with engine.connect() as connection:
        assert set(connection.scalars(select(RunRow.seed).where(RunRow.id.in_(run_ids)))) == {0}


def test_trials_that_an_edited_search_goes_on_with_are_not_marked_superseded(engine):
    def superseded_after(**changes: Any) -> set[int]:
        search = begin(engine, asked(**changes))
        drive(engine, search)
        search.close()
        with engine.connect() as connection:
            return set(connection.scalars(select(Event.run_id).where(Event.kind == SUPERSEDED)))

    assert superseded_after() == superseded_after(budget=8) == set()
    with engine.connect() as connection:
        tried = set(connection.scalars(select(RunRow.config_id)))
    gone = superseded_after(space={"mask.ratio": {"categorical": [0.15, 0.25]}}, budget=2)  # which begins anew
    with engine.connect() as connection:
        assert gone
        assert {connection.scalar(select(RunRow.config_id).where(RunRow.id == run)) for run in gone} < tried
