"""A search on results that a function gives in place of training: what is asked, told, charged and taken up again."""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from alembic import command
from optuna.trial import TrialState
from optuna_dashboard import wsgi
from sqlalchemy import Engine, create_engine, func, select

from sweeps.cells.capsule import read_capsule, write_capsule
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database import optuna_link, registering
from sweeps.database.opening import migrations, open_database, upgrade
from sweeps.database.tables import Attempt, CellRow, Result, RunRow, StudyRow
from sweeps.database.tables import Search as SearchRow
from sweeps.engine import queue
from sweeps.engine.pruning import find_judge
from sweeps.engine.recorder import DatabaseRecorder
from sweeps.search.search import Search
from sweeps.study.reading import parse
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import register

METRIC = "ridge/digit_top1"
SPACE = {"mask.ratio": {"float": [0.1, 0.9], "step": 0.1}, "predictor.depth": {"int": [1, 3]}}
FILE = {
    "title": "Search",
    "question": "Where?",
    "base": {"optim.steps": 100},
    "search": {"space": SPACE, "budget": 6, "sampler": "random", "metric": METRIC},
    "random_init": False,
    "metrics": [METRIC],
}


def asked(name: str = "searched", **changes: Any) -> Request:
    return Request(parse({**FILE, "search": {**FILE["search"], **changes}}, Path(f"studies/{name}.yaml")), "cpu")


def resolve(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    """In place of core, which takes 3 s to import."""
    return {"optim.steps": 100, **params}


def refuse_large(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    if params["mask.ratio"] > 0.5:
        raise ValueError(f"mask.ratio={params['mask.ratio']} cannot be drawn")
    return resolve(request, params)


def begin(engine, request: Request | None = None, resolve=resolve) -> Search:
    request = request or asked()
    return Search(engine, request, register(engine, request), resolve=resolve)


def train_one(engine, outcome: str = "done") -> dict[str, Any] | None:
    """Claim a run and end it: the metric is 100 times the ratio, plus the depth. Its config, or None."""
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker")
        if claim is None:
            return None
        value = 100 * claim.config.get("mask.ratio", 0.5) + claim.config.get("predictor.depth", 0)
        if outcome == "failed":
            queue.fail(connection, claim, "ValueError: broken", is_final=True)
        else:
            queue.finish(connection, claim, outcome, results={METRIC: value} if outcome == "done" else {}, step=100)
        return dict(claim.config)


def drive(engine, search: Search, width: int = 2) -> None:
    for _ in range(100):
        search.step(width)
        if search.is_over:
            return
        while train_one(engine):
            pass
    raise AssertionError("the search does not end")


def told(engine, search: Search) -> list[optuna.trial.FrozenTrial]:
    storage = optuna_link.open_storage(engine, create=False)
    trials = optuna.load_study(study_name=search.name, storage=storage).get_trials()
    storage.engine.dispose()
    return trials


def num_trained(engine) -> int:
    """Attempts, less that of the row that is not searched."""
    with engine.connect() as connection:
        return (connection.scalar(select(func.count()).select_from(Attempt)) or 0) - 1


@BOTH
def test_a_search_trains_as_many_trials_as_its_budget_says_and_tells_every_result(engine):
    search = begin(engine, asked("exact"))
    drive(engine, search)
    trials = told(engine, search)
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    assert num_trained(engine) == 6 == len({str(trial.params) for trial in done})
    for trial in done:
        assert trial.value == pytest.approx(100 * trial.params["mask.ratio"] + trial.params["predictor.depth"])
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    search.close()


def test_a_search_that_is_taken_up_again_asks_for_what_it_would_have_asked_for(engine, tmp_path):
    for _ in range(40):  # a launcher that is killed after every step
        search = begin(engine)
        search.step(1)
        is_over = search.is_over
        search.close()
        if is_over:
            break
        train_one(engine)
    assert num_trained(engine) == 6
    interrupted = [trial.params for trial in told(engine, search)]
    with engine.begin() as connection:
        connection.execute(Result.__table__.delete())
        for table in ("sw_search", "sw_cell", "sw_event", "sw_attempt", "sw_run"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("UPDATE sw_study SET revision = 0")
        connection.exec_driver_sql("UPDATE studies SET study_name = 'earlier'")
    search = begin(engine)
    drive(engine, search, width=1)
    assert [trial.params for trial in told(engine, search)] == interrupted
    search.close()


def test_a_trial_that_a_killed_launcher_asked_for_is_taken_up_and_counts_once(engine):
    search = begin(engine)
    search.step(1)
    left_behind = search._study.ask(optuna_link.distributions(search.spec))
    search.close()
    search = begin(engine)
    drive(engine, search)
    search.close()
    assert num_trained(engine) == 6
    assert told(engine, search)[left_behind.number].state is TrialState.COMPLETE


def test_a_trial_whose_options_were_not_all_written_is_told_as_failed_and_costs_nothing(engine):
    search = begin(engine)
    search.step(1)
    half = search._study.ask({"predictor.depth": optuna_link.distributions(search.spec)["predictor.depth"]})
    drive(engine, search)
    search.close()
    assert num_trained(engine) == 6
    assert told(engine, search)[half.number].state is TrialState.FAIL


def test_a_config_that_another_study_has_trained_is_told_at_no_cost(engine):
    both = {"mask.ratio": {"categorical": [0.5, 0.75]}}
    with engine.begin() as connection:
        registering.register(connection, [({"optim.steps": 100, "mask.ratio": 0.75}, 0)])
    train_one(engine)
    search = begin(engine, asked(space=both, budget=2))
    drive(engine, search)
    search.close()
    assert num_trained(engine) - 1 == 1  # the other study's; then 0.5 alone
    values = {trial.params["mask.ratio"]: trial.value for trial in told(engine, search)}
    assert values == {0.5: 50.0, 0.75: 75.0}
    with engine.connect() as connection:
        cells = connection.scalars(select(CellRow.display).where(CellRow.row_key.startswith("trial_"))).all()
    assert [c["trial"]["params"]["mask.ratio"] for c in cells if not c["trial"]["is_cached"]] == [0.5]


def test_a_space_that_is_used_up_ends_the_search_below_its_budget(engine, caplog):
    search = begin(engine, asked(space={"mask.ratio": {"categorical": [0.5, 0.75]}}, budget=3))
    drive(engine, search)
    search.close()
    assert num_trained(engine) == 2
    assert "30 proposals gave 2 new trials of the budget of 3" in caplog.text


def test_a_mask_that_cannot_be_drawn_is_told_as_infeasible_and_costs_nothing(engine):
    search = begin(engine, resolve=refuse_large)
    drive(engine, search)
    search.close()
    trials = told(engine, search)
    refused = [trial for trial in trials if trial.params["mask.ratio"] > 0.5]
    assert refused
    for trial in trials:
        assert trial.state is (TrialState.PRUNED if trial in refused else TrialState.COMPLETE)
        assert trial.constraints == {"feasible": 1.0 if trial in refused else 0.0}
    assert "cannot be drawn" in refused[0].user_attrs["reason"]
    assert num_trained(engine) == 6


def test_a_space_without_a_feasible_place_says_what_is_wrong_with_it(engine):
    search = begin(engine, asked(space={"mask.ratio": {"float": [0.6, 0.9]}}, budget=1), resolve=refuse_large)
    with pytest.raises(UserError, match=r"searched.yaml: search.space: none of 10 proposals .* cannot be drawn"):
        drive(engine, search)
    search.close()


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("pruned", TrialState.PRUNED), ("diverged", TrialState.PRUNED), ("failed", TrialState.FAIL)],
)
def test_how_a_run_ended_is_told(engine, outcome, state):
    search = begin(engine)
    train_one(engine)  # the row that is not searched
    search.step(1)
    train_one(engine, outcome)
    search.step(1)
    search.close()
    first = told(engine, search)[0]
    assert first.state is state
    assert first.user_attrs["outcome"] == outcome


def test_a_second_launcher_leaves_the_search_to_the_first_until_that_is_gone(engine):
    first, second = begin(engine), begin(engine)
    first.step(2)
    second.step(2)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(SearchRow)) == 2
    first.close()
    drive(engine, second)
    second.close()
    assert num_trained(engine) == 6


def test_a_larger_budget_goes_on_and_another_space_begins_anew(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    larger = begin(engine, asked(budget=8))
    drive(engine, larger)
    larger.close()
    assert larger.name == search.name
    assert num_trained(engine) == 8
    with engine.connect() as connection:
        revision = connection.scalar(select(StudyRow.revision))
        here = select(func.count()).where(CellRow.revision == revision, CellRow.row_key.startswith("trial_"))
        assert connection.scalar(here) == len(told(engine, larger))
    other = begin(engine, asked(space={"mask.ratio": {"float": [0.1, 0.2]}}))
    assert other.name != search.name


def test_the_priority_of_a_launch_is_that_of_its_trials(engine):
    request = asked()
    search = Search(engine, request, register(engine, request), priority=7, resolve=resolve)
    search.step(2)
    search.close()
    with engine.connect() as connection:
        priorities = connection.scalars(select(RunRow.priority).order_by(RunRow.id)).all()
    assert priorities == [0, 7, 7]


# ---- pruning -----------------------------------------------------------------------------------------------------


def evaluate(engine, tmp_path, value: float) -> str:
    """Claim a run that is evaluated at step 10 and would end at 20; how it ended."""
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker")
        judge = find_judge(connection, engine, claim)
    folder = tmp_path / "runs" / str(claim.run_id)
    folder.mkdir(parents=True)
    ask = judge.should_prune if judge else None
    with DatabaseRecorder(
        engine, claim, folder, results_dir=tmp_path, stop=threading.Event(), should_prune=ask
    ) as record:
        record.log(10, {METRIC: value, "loss": 0.0})
        if record.should_stop():
            record.finish("preempted", {}, {"step": 11})
        else:
            record.finish("done", {METRIC: value}, {})
    if judge is not None:
        judge.close()
    return record.outcome


def test_a_trial_below_the_median_is_pruned_unless_a_table_wants_its_run(engine, tmp_path):
    search = begin(engine, asked(pruner="median", eval_every=10, budget=9))
    for i in range(6):
        search.step(1)
        assert evaluate(engine, tmp_path, 50.0 + i) == "done"  # the first is the row that is not searched
    search.step(2)
    assert evaluate(engine, tmp_path, 10.0) == "pruned"
    search.step(1)
    with engine.begin() as connection:
        run_id, config_id = connection.execute(
            select(RunRow.id, RunRow.config_id).where(RunRow.state == "queued")
        ).one()
        connection.execute(StudyRow.__table__.insert(), {
            "id": 9, "name": "a table", "spec": {}, "spec_hash": "", "revision": 1,
        })  # fmt: skip
        connection.execute(CellRow.__table__.insert(), {
            "study_id": 9, "revision": 1, "row_key": "a", "col_key": "", "config_id": config_id, "display": {},
        })  # fmt: skip
    assert evaluate(engine, tmp_path, 12.0) == "done"
    search.step(1)
    search.close()
    states = [trial.state for trial in told(engine, search)]
    assert states.count(TrialState.PRUNED) == 1
    with engine.connect() as connection:
        assert connection.scalar(select(RunRow.state).where(RunRow.id == run_id)) == "done"
        assert connection.scalar(select(func.count()).where(Attempt.outcome == "pruned")) == 1


def test_a_run_that_no_search_asked_for_has_no_judge(engine):
    with engine.begin() as connection:
        registering.register(connection, [({"a": 1}, 0)])
        claim = queue.claim(connection, "worker")
        assert find_judge(connection, engine, claim) is None


# ---- Optuna beside us --------------------------------------------------------------------------------------------


def test_the_dashboard_shows_the_study_from_the_same_database(engine):
    search = begin(engine)
    drive(engine, search)
    search.close()
    storage = optuna_link.open_storage(engine, create=False)
    status, body = get(wsgi(storage), "/api/studies")
    storage.engine.dispose()
    assert status == "200 OK"
    assert search.name in body


def get(app, path: str) -> tuple[str, str]:
    statuses: list[str] = []
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": path, "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80",
        "wsgi.url_scheme": "http", "wsgi.input": None, "wsgi.errors": sys.stderr, "QUERY_STRING": "",
    }  # fmt: skip
    parts = app(environ, lambda status, headers, *rest: statuses.append(status))
    return statuses[0], b"".join(parts).decode()


def test_optuna_s_tables_and_ours_leave_each_other_s_schema_alone(engine):
    search = begin(engine)
    search.step(1)
    search.close()
    upgrade(engine)
    with engine.begin() as connection:
        command.check(migrations(connection))
    again = begin(engine)
    again.step(1)
    again.close()


def test_braces_in_the_database_s_url_are_no_template(tmp_path):
    (tmp_path / "pass{word}").mkdir()
    engine = create_engine(f"sqlite:///{tmp_path}/pass{{word}}/a.sqlite")
    storage = optuna_link.open_storage(engine, create=True)
    assert storage.get_all_studies() == []
    storage.engine.dispose()
    assert (tmp_path / "pass{word}" / "a.sqlite").exists()


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", pytest.param("gp", marks=pytest.mark.slow)])
def test_every_sampler_proposes_within_the_space(engine, sampler):
    search = begin(engine, asked(sampler=sampler))
    drive(engine, search, width=1)
    search.close()
    for trial in told(engine, search):
        assert 0.1 <= trial.params["mask.ratio"] <= 0.9 and trial.params["predictor.depth"] in (1, 2, 3)


def test_cmaes_moves_towards_what_is_good_though_each_trial_has_a_sampler_of_its_own(engine):
    space = {"mask.ratio": {"float": [0.1, 0.9]}, "predictor.depth": {"int": [1, 3]}}
    search = begin(engine, asked(sampler="cmaes", space=space, budget=30, seed=1))
    drive(engine, search, width=1)
    search.close()
    ratios = [trial.params["mask.ratio"] for trial in told(engine, search)]
    assert sum(ratios[-10:]) / 10 > 0.7 > 0.55 > sum(ratios[:10]) / 10


def copied(engine: Engine, to: Path) -> Engine:
    """Another database, with what a capsule of this one's search holds."""
    write_capsule(engine, to.with_suffix(".capsule"), ["searched"])
    there = open_database(f"sqlite:///{to}")
    upgrade(there)
    read_capsule(to.with_suffix(".capsule"), there)
    return there


def test_a_search_goes_on_elsewhere_from_its_capsule_as_if_it_had_never_moved(engine, tmp_path):
    search = begin(engine, asked(sampler="tpe"))
    for _ in range(3):
        search.step(1)
        while train_one(engine):
            pass
    there = copied(engine, tmp_path / "there.sqlite")
    moved = begin(there, asked(sampler="tpe"))
    for place, driven in ((engine, search), (there, moved)):
        drive(place, driven, width=1)
        driven.close()
        assert num_trained(place) == 6
    assert [trial.params for trial in told(there, moved)] == [trial.params for trial in told(engine, search)]
    there.dispose()


def test_a_capsule_brings_the_trials_since_to_a_search_that_is_less_far(engine, tmp_path):
    search = begin(engine)
    search.step(1)
    train_one(engine)
    there = copied(engine, tmp_path / "there.sqlite")
    drive(engine, search, width=1)
    search.close()
    copied(engine, tmp_path / "there.sqlite").dispose()
    count = select(func.count()).select_from(SearchRow)
    with there.connect() as connection, engine.connect() as here:
        assert connection.scalar(count) == here.scalar(count) >= 6
    there.dispose()


def test_a_capsule_leaves_a_search_alone_that_went_another_way(engine, tmp_path):
    there = open_database(f"sqlite:///{tmp_path / 'there.sqlite'}")
    upgrade(there)
    for place, seed in ((engine, 0), (there, 1)):
        search = begin(place, asked(seed=seed))
        drive(place, search, width=1)
        search.close()
    before = cells_of(there)
    copied(engine, tmp_path / "there.sqlite").dispose()
    assert cells_of(there) == before
    there.dispose()


def cells_of(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return sorted(map(repr, connection.execute(select(CellRow.row_key, CellRow.config_id, CellRow.display))))
