"""What runs will cost, from recorded ones that are made up of round numbers."""

import pytest

from sweeps.cells.estimate import GPU, STATED, Cost, Estimator, Recorded
from sweeps.cells.work import Work
from sweeps.progress import study_status
from sweeps.progress.to_finish import Wanted, lines
from tests.sweeps.launched import finish_next, register, two_rows

MAE, OTHER = ("masked", "vit", "pixels", "decoder"), ("vicreg", "convnext", "None", "None")


def work(training: float, *, kind: tuple[str, ...] = MAE, trained_as: str = "", **more) -> Work:
    defaults = {"steps": 100, "evals": (), "clip": 1.0}
    return Work(kind=kind, trained_as=trained_as or str(training), training=training, **(defaults | more))


def done(config: str, what: Work, seconds: float, **more) -> Recorded:
    cost = Cost(seconds, 0.0)
    return Recorded((config, 0), "done", what.steps, cost, work=what, training=cost, **more)


def test_a_config_that_never_ran_costs_its_operations_over_the_measured_rate():
    estimator = Estimator([done("a", work(1000.0), 10.0)], {"b": work(24_000.0)})
    # As many steps, each of 24 times the operations.
    assert estimator.left(("b", 0), 100) == pytest.approx(Cost(240.0, 0.0))
    assert estimator.said() == "rates: 1 run of this database"


def test_runs_of_the_same_kind_tell_the_rate_before_others():
    recorded = [done("a", work(1000.0), 10.0), done("c", work(1000.0, kind=OTHER), 50.0)]
    estimator = Estimator(recorded, {"b": work(1000.0), "d": work(1000.0, kind=OTHER)})
    assert (estimator.left(("b", 0), 100), estimator.left(("d", 0), 100)) == (Cost(10.0, 0.0), Cost(50.0, 0.0))


def test_before_any_run_on_a_gpu_its_rate_is_the_stated_one_and_that_is_said():
    estimator = Estimator([done("a", work(1000.0), 10.0)], {"b": work(STATED[GPU] * 3600)}).for_study("gpu", [])
    assert estimator.left(("b", 0), 100) == pytest.approx(Cost(3600.0, 3600.0))
    assert estimator.said().startswith("stated: 100 TFLOP/s a GPU")


def test_evaluations_cost_what_they_did_by_the_clips_that_they_judge():
    what = work(1000.0, evals=("ridge",), clips=100)
    recorded = done("a", what, 10.0, features=Cost(2.0, 0.0), features_gflop=100.0, evals={"ridge": Cost(1.0, 0.0)})
    estimator = Estimator([recorded], {"b": work(1000.0, evals=("ridge",), clips=300)})
    found = estimator.parts("b", 100)
    assert found is not None and found.training == Cost(10.0, 0.0)
    assert found.judging == Cost(pytest.approx(3 * 2.0 + 3 * 1.0), 0.0)


def test_of_a_run_half_done_the_rest_is_left():
    running = Recorded(("b", 0), "running", 100, Cost(0.0, 0.0), step=75)
    estimator = Estimator([done("a", work(1000.0), 10.0), running], {"b": work(1000.0)})
    assert estimator.left(("b", 0), 100) == Cost(2.5, 0.0)


def test_a_run_whose_weights_another_has_trained_is_only_judged():
    alike = done("a", work(1000.0, trained_as="same"), 10.0, has_checkpoint=True)
    estimator = Estimator([alike], {"b": work(1000.0, trained_as="same")})
    assert estimator.left(("b", 0), 100) == Cost(0.0, 0.0)
    assert estimator.left(("b", 1), 100) == Cost(10.0, 0.0)  # of another seed there are no weights


def test_a_config_whose_operations_are_unknown_costs_its_steps_or_nothing_is_known():
    estimator = Estimator([done("a", work(1000.0), 10.0)], {})
    assert estimator.left(("b", 0), 300, [("a", 0)]) == Cost(30.0, 0.0)
    assert estimator.left(("b", 0), 300) is None


def test_a_search_without_any_run_costs_what_its_cells_are_estimated_at():
    wanted = Wanted("searched", 1, {("b", 0): 100}, num_trials=3)
    (line,) = lines([wanted], Estimator([done("a", work(1000.0), 10.0)], {"b": work(1000.0)}))
    assert line.to_come == (Cost(10.0, 0.0),) * 3


def test_status_says_an_estimate_before_any_run_has_told_its_speed_and_it_is_the_plans(engine):
    register(engine, two_rows())
    finish_next(engine, {}, cpu_seconds=60.0)
    with engine.connect() as connection:
        (study,), _ = study_status.read_all(connection, ["ratio"])
    assert (study.seconds_left, study.shown_left) == (pytest.approx(180.0), "≈ 3 min 00 s")


def test_a_finished_study_asks_for_no_estimate(engine):
    register(engine, two_rows())
    for _ in range(4):
        finish_next(engine, {}, cpu_seconds=60.0)
    with engine.connect() as connection:
        assert study_status.read_all(connection, ["ratio"])[1] is None
