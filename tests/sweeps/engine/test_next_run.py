import time
from typing import Any

import pytest
from sqlalchemy import Engine, update

from sweeps.database import registering
from sweeps.database.tables import Attempt, RunRow
from sweeps.engine import next_run, queue
from tests.sweeps.conftest import BOTH


def add(engine: Engine, seed: int, **config: Any) -> int:
    with engine.begin() as connection:
        return registering.register(connection, [({key.replace("_", "."): v for key, v in config.items()}, seed)])[0]


def finish(engine: Engine, *attempts_s: float, **config: Any) -> None:
    """A run that took these many seconds in its attempts, the last of which ended it."""
    run_id = add(engine, 100 + int(time.monotonic_ns() % 10**9), **config)
    with engine.begin() as connection:
        # First in the queue, whatever else there is.
        connection.execute(update(RunRow).where(RunRow.id == run_id).values(priority=9))
    for attempt, seconds in enumerate(attempts_s, start=1):
        with engine.begin() as connection:
            claim = queue.claim(connection, "worker")
            assert claim is not None and claim.run_id == run_id
            if attempt == len(attempts_s):
                queue.finish(connection, claim, "done", results={})
            else:
                queue.release(connection, claim)
            mine = (Attempt.run_id == run_id) & (Attempt.n == attempt)
            connection.execute(update(Attempt).where(mine).values(started=Attempt.heartbeat - seconds))


def estimate(engine: Engine) -> float | None:
    with engine.begin() as connection:
        return next_run.seconds(connection)


def test_nothing_is_known_of_a_run_whose_like_was_never_finished(engine: Engine) -> None:
    assert estimate(engine) is None
    add(engine, 0, optim_steps=100)
    assert estimate(engine) is None


def test_a_run_takes_what_other_seeds_of_its_config_took_over_all_their_attempts(engine: Engine) -> None:
    finish(engine, 10.0, 30.0, optim_steps=100)
    finish(engine, 60.0, optim_steps=100)
    finish(engine, 5000.0, optim_steps=200)
    add(engine, 0, optim_steps=100)
    assert estimate(engine) == pytest.approx(50.0, abs=0.1)


def test_a_run_of_a_new_config_takes_what_the_others_took_a_step(engine: Engine) -> None:
    finish(engine, 10.0, optim_steps=100)
    finish(engine, 60.0, optim_steps=600)
    finish(engine, 7.0, optim_steps=0)  # never trained: says nothing of a step
    add(engine, 0, optim_steps=50)
    assert estimate(engine) == pytest.approx(5.0, abs=0.1)


def test_what_a_checkpoint_holds_need_not_be_done_again(engine: Engine) -> None:
    finish(engine, 100.0, optim_steps=100)
    run_id = add(engine, 0, optim_steps=100)
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run_id).values(checkpoint_step=75))
    assert estimate(engine) == pytest.approx(25.0, abs=0.1)


def in_a_stack_of(engine: Engine, size: int) -> None:
    """Of every attempt until now."""
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(facts={"stack": size}))


@BOTH
def test_a_stack_takes_at_most_what_its_runs_took_alone_and_no_less_than_in_a_larger_one(engine: Engine) -> None:
    finish(engine, 30.0, optim_steps=100)
    run_id = add(engine, 0, optim_steps=100)
    with engine.begin() as connection:
        assert next_run.seconds(connection, run=run_id, stack=4) == pytest.approx(120.0, abs=0.5)
    in_a_stack_of(engine, 8)
    with engine.begin() as connection:
        sizes = {size: next_run.seconds(connection, run=run_id, stack=size) for size in (1, 4, 8, 16)}
    assert sizes == pytest.approx({1: 30.0, 4: 30.0, 8: 30.0, 16: 60.0}, abs=0.5)


def test_it_is_the_run_that_would_be_claimed(engine: Engine) -> None:
    finish(engine, 10.0, optim_steps=100)
    finish(engine, 90.0, optim_steps=100, mask="block")
    add(engine, 0, optim_steps=100)
    first = add(engine, 0, optim_steps=100, mask="block")
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == first).values(priority=1))
    assert estimate(engine) == pytest.approx(90.0, abs=0.1)
