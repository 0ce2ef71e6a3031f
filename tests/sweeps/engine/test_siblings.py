"""A run that differs from a finished one in its evaluations only is judged, not trained."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from core.configuring.config import flatten, identity, load
from sweeps.cells.work import training
from sweeps.database import registering
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Event, Result, RunRow
from sweeps.engine.working import Work, work
from tests.core.running.test_trainer import TINY


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def add(engine: Engine, *overrides: str, seed: int = 0) -> int:
    config = identity(flatten(load([*TINY, *overrides])))
    with engine.begin() as connection:
        return registering.register(connection, [(config, seed)])[0]


def go(engine: Engine, folder: Path, cache: Path) -> None:
    runtime = {"cache": str(cache), "threads": 1, "device": "cpu"}
    outcomes = work(engine, Work(folder, runtime=runtime), stop=threading.Event())
    assert set(outcomes) == {"done"}


def adopted(engine: Engine) -> dict[int, str | None]:
    with engine.connect() as connection:
        rows = connection.execute(select(Event.run_id, Event.detail).where(Event.kind == "adopted"))
        return {row.run_id: row.detail for row in rows}


def results(engine: Engine, run: int) -> dict[str, float | None]:
    with engine.connect() as connection:
        rows = connection.execute(select(Result.metric, Result.value).where(Result.run_id == run))
        return {row.metric: row.value for row in rows}


def numbers(found: dict[str, float | None]) -> dict[str, float | None]:
    return {name: value for name, value in found.items() if not name.startswith("cost/")}


def test_it_takes_the_checkpoint_and_gives_the_numbers_that_training_gives(engine, tmp_path, cache):
    first = add(engine)
    go(engine, tmp_path / "results", cache)
    second = add(engine, "evals=[knn,ridge]", "evals.ridge.num_layers=2")
    go(engine, tmp_path / "results", cache)
    assert adopted(engine) == {second: f"the checkpoint of run {first} at step 6"}

    alone = open_database(f"sqlite:///{tmp_path / 'alone.sqlite'}")
    upgrade(alone)
    trained = add(alone, "evals=[knn,ridge]", "evals.ridge.num_layers=2")
    go(alone, tmp_path / "alone", cache)
    assert adopted(alone) == {} and numbers(results(engine, second)) == numbers(results(alone, trained))
    # What training cost is what it cost the first time.
    spent, gflop = (results(engine, second)[f"cost/pretrain_{name}"] for name in ("seconds", "gflop"))
    assert spent and gflop == results(engine, first)["cost/pretrain_gflop"]
    with engine.connect() as connection:
        path = connection.scalar(select(RunRow.checkpoint).where(RunRow.id == second))
    assert str(path).startswith(f"runs/{second}/") and (tmp_path / "results" / str(path)).exists()


def test_another_seed_or_mask_is_trained(engine, tmp_path, cache):
    add(engine)
    go(engine, tmp_path, cache)
    add(engine, "evals=[knn]", seed=1)
    add(engine, "evals=[knn]", "mask.ratio=0.5")
    go(engine, tmp_path, cache)
    assert adopted(engine) == {}


def test_without_the_checkpoint_it_is_trained(engine, tmp_path, cache):
    add(engine)
    go(engine, tmp_path / "here", cache)
    add(engine, "evals=[knn]")
    go(engine, tmp_path / "elsewhere", cache)
    assert adopted(engine) == {}


def test_only_what_judges_is_left_out_of_what_trains():
    whole = identity(flatten(load([*TINY, "eval_data=moving_digits"])))
    left = {key.split(".")[0] for key in whole.keys() - training(whole).keys()}
    assert left == {"evals", "eval_data"} and len(training(whole)) > 30


def test_data_that_is_judged_on_decides_weights_only_where_it_chooses_the_step():
    other = {"eval_data": "stripes", "evals": ["knn"]}
    config = {"optim.steps": 4, "eval_data": None, "evals": ["ridge"]}
    assert training(config) == training(config | other)
    best = config | {"judge": "best"}
    assert training(best) != training(best | other)
    assert training(best) == training(best | {"evals": ["knn"]})
