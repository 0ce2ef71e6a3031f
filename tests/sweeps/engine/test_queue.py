import multiprocessing
import time
from collections import Counter
from multiprocessing.queues import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import Engine, func, insert, select, update

from sweeps.database import registering
from sweeps.database.opening import open_database
from sweeps.database.tables import Alias, Attempt, CellRow, Config, Event, Result, RunRow, StudyRow
from sweeps.engine import queue
from sweeps.engine.queue import MAX_LOST, Claim, Fenced, Usage
from sweeps.study.identity import digest
from tests.sweeps.conftest import BOTH

pytestmark = BOTH
A, B = {"mask": "random", "mask.ratio": 0.5}, {"mask": "random", "mask.ratio": 0.9}


def add(engine: Engine, *wanted: tuple[dict[str, Any], int], priority: int = 0) -> list[int]:
    with engine.begin() as connection:
        return registering.register(connection, wanted, priority=priority)


def take(engine: Engine, worker: str = "w", **options: Any) -> Claim | None:
    with engine.begin() as connection:
        return queue.claim(connection, worker, **options)


def must_take(engine: Engine, worker: str = "w", **options: Any) -> Claim:
    claim = take(engine, worker, **options)
    assert claim is not None
    return claim


def run_of(engine: Engine, run_id: int) -> Any:
    with engine.begin() as connection:
        return connection.execute(select(RunRow.__table__).where(RunRow.id == run_id)).one()


def attempts(engine: Engine) -> list[tuple[int, str | None]]:
    with engine.begin() as connection:
        return [tuple(row) for row in connection.execute(select(Attempt.n, Attempt.outcome).order_by(Attempt.n))]


def let_the_lease_end(engine: Engine, run_id: int) -> None:
    with engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.id == run_id).values(lease_until=RunRow.created - 1))


# ---- what there is to run


def test_a_config_and_seed_is_registered_once_however_often_it_is_asked_for(engine: Engine) -> None:
    first = add(engine, (A, 0), (B, 0), (A, 0))
    assert first == add(engine, (A, 0), (B, 0), (dict(A), 0))
    assert first[0] == first[2] != first[1]


def test_a_study_of_a_thousand_cells_is_registered_in_a_second(engine: Engine) -> None:
    start = time.process_time()
    ids = add(engine, *(({"optim.steps": n}, seed) for n in range(1000) for seed in range(3)))
    assert len(set(ids)) == 3000
    assert time.process_time() - start < 5  # of CPU: the machine may be busy


def test_a_config_known_by_an_older_identity_keeps_its_runs(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    older = {"mask": "random"}
    with engine.begin() as connection:
        config_id = connection.scalar(select(Config.id))
        connection.execute(insert(Alias).values(old_hash=digest(older), config_id=config_id, migration="ratio added"))
    assert add(engine, (older, 0)) == [run_id]


def test_registering_again_raises_a_priority_but_never_lowers_it(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0), priority=1)
    add(engine, (A, 0), priority=5)
    add(engine, (A, 0), priority=2)
    assert run_of(engine, run_id).priority == 5


# ---- claiming


def test_an_empty_queue_gives_nothing(engine: Engine) -> None:
    assert take(engine) is None


def test_a_claim_carries_config_seed_and_token(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 3))
    claim = must_take(engine, provenance={"host": "here", "git_sha": "abc"})
    assert (claim.run_id, claim.attempt, claim.seed, claim.config) == (run_id, 1, 3, A)
    with engine.begin() as connection:
        row = connection.execute(select(Attempt.host, Attempt.git_sha, Attempt.outcome)).one()
    assert tuple(row) == ("here", "abc", None)


def test_a_claimed_run_is_not_given_to_another(engine: Engine) -> None:
    add(engine, (A, 0))
    must_take(engine)
    assert take(engine, "other") is None


def test_larger_priority_goes_first_then_the_older(engine: Engine) -> None:
    low = add(engine, (A, 0), (A, 1))
    (high,) = add(engine, (B, 0), priority=1)
    assert [must_take(engine).run_id for _ in range(3)] == [high, *low]


def test_a_claim_may_be_kept_to_one_study_and_some_seeds(engine: Engine) -> None:
    _, mine, _ = add(engine, (A, 0), (B, 0), (B, 1))
    with engine.begin() as connection:
        connection.execute(insert(StudyRow).values(id=7, name="s", spec={}, spec_hash="", revision=2))
        config_of = {row.hash: row.id for row in connection.execute(select(Config.hash, Config.id))}
        for revision, config in ((1, A), (2, B)):
            values = {"row_key": "r", "col_key": "", "display": {}, "config_id": config_of[digest(config)]}
            connection.execute(insert(CellRow).values(study_id=7, revision=revision, **values))
    assert must_take(engine, study=7, seeds=[0]).run_id == mine
    assert take(engine, study=7, seeds=[0]) is None


def test_runs_of_another_code_epoch_are_left_alone(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(code_epoch=99))
    assert take(engine) is None
    assert run_of(engine, run_id).state == "queued"


def _claim_all(url: str, worker: str, out: "SimpleQueue[list[int]]") -> None:
    engine, mine = open_database(url), []
    while (claim := take(engine, worker)) is not None:
        mine.append(claim.run_id)
    out.put(mine)


def test_two_processes_never_claim_the_same_run(engine: Engine, url: str) -> None:
    ids = add(engine, *((A, seed) for seed in range(60)))
    context = multiprocessing.get_context("spawn")
    out: SimpleQueue[list[int]] = context.SimpleQueue()
    workers = [context.Process(target=_claim_all, args=(url, f"w{i}", out)) for i in range(2)]
    for worker in workers:
        worker.start()
    taken = out.get() + out.get()
    for worker in workers:
        worker.join()
    assert Counter(taken) == Counter(ids)


# ---- leases


def test_an_ended_lease_is_claimed_again_and_the_old_attempt_is_lost(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    must_take(engine, "old")
    let_the_lease_end(engine, run_id)
    claim = must_take(engine, "new")
    assert (claim.run_id, claim.attempt) == (run_id, 2)
    assert attempts(engine) == [(1, "lost"), (2, None)]
    assert run_of(engine, run_id).n_fail == 0


def test_a_renewed_lease_does_not_end(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    let_the_lease_end(engine, run_id)
    with engine.begin() as connection:
        queue.hold(connection, claim)
    assert take(engine, "other") is None


def test_a_lease_is_as_long_as_asked_for(engine: Engine) -> None:
    add(engine, (A, 0))
    must_take(engine, lease_s=60.0)
    with engine.begin() as connection:
        assert 0 < queue.pending(connection).wait_s < 60
        connection.execute(update(RunRow).values(lease_until=RunRow.lease_until - 60))
    assert must_take(engine).attempt == 2


def test_the_lease_of_a_worker_known_to_be_dead_ends_at_once(engine: Engine) -> None:
    ids = add(engine, (A, 0), (A, 1))
    must_take(engine, "dead"), must_take(engine, "alive")
    with engine.begin() as connection:
        assert queue.expire(connection, dead=["dead"]) == [ids[0]]
    assert run_of(engine, ids[0]).state == "queued"
    assert run_of(engine, ids[1]).state == "running"


@pytest.mark.parametrize("write", ["hold", "checkpointed", "finish", "release", "fail"])
def test_a_worker_that_lost_its_lease_writes_nothing(engine: Engine, write: str) -> None:
    (run_id,) = add(engine, (A, 0))
    old = must_take(engine, "old")
    let_the_lease_end(engine, run_id)
    must_take(engine, "new")
    before = run_of(engine, run_id), attempts(engine)
    arguments: dict[str, tuple[Any, ...]] = {"checkpointed": (5, "c.pt"), "finish": ("done",), "fail": ("ValueError",)}
    options = {"results": {"m": 1.0}} if write == "finish" else {}
    with pytest.raises(Fenced), engine.begin() as connection:
        getattr(queue, write)(connection, old, *arguments.get(write, ()), **options)
    assert (run_of(engine, run_id), attempts(engine)) == before
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(Result)) == 0


def test_a_cancelled_run_is_fenced_and_comes_back_when_asked_for_again(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    with engine.begin() as connection:
        assert queue.cancel(connection, [run_id]) == [run_id]
    with pytest.raises(Fenced), engine.begin() as connection:
        queue.hold(connection, claim)
    assert take(engine) is None
    add(engine, (A, 0))
    assert must_take(engine).attempt == 2
    assert attempts(engine) == [(1, "fenced"), (2, None)]


# ---- endings


def test_results_and_the_final_state_are_one_transaction(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        queue.finish(connection, claim, "done", results={"ridge/digit_top1": 61.4})
        raise ZeroDivisionError  # the process dies before the commit
    assert run_of(engine, run_id).state == "running"
    with engine.begin() as connection:
        assert connection.execute(select(Result.value)).all() == []
        queue.finish(connection, claim, "done", results={"ridge/digit_top1": 61.4}, step=8, facts={"shared": 0.1})
    assert run_of(engine, run_id).state == "done"
    with engine.begin() as connection:
        assert connection.execute(select(Result.metric, Result.agg, Result.value, Result.step)).all() == [
            ("ridge/digit_top1", "final", 61.4, 8)
        ]
        assert connection.scalar(select(Attempt.facts)) == {"shared": 0.1}


def test_repeating_an_ending_whose_answer_was_lost_changes_nothing(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    for _ in range(2):
        with engine.begin() as connection:
            queue.finish(connection, claim, "done", results={"m": 1.0}, usage=Usage(step=8, cpu_seconds=3.0))
    assert run_of(engine, run_id).cpu_seconds == 3.0
    assert attempts(engine) == [(1, "done")]


def test_a_diverged_run_is_not_tried_again(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    with engine.begin() as connection:
        queue.finish(connection, claim, "diverged", results={"loss": float("nan")}, step=3)
    assert take(engine) is None
    assert run_of(engine, run_id).state == "diverged"
    with engine.begin() as connection:
        assert connection.execute(select(Result.value)).scalars().all() == [None]


def test_a_preempted_run_can_be_claimed_at_once_and_has_not_failed(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    claim = must_take(engine)
    with engine.begin() as connection:
        queue.checkpointed(connection, claim, 40, "runs/1/step_40.pt")
        queue.release(connection, claim)
    again = must_take(engine)
    assert (again.attempt, again.checkpoint_step) == (2, 40)
    row = run_of(engine, run_id)
    assert (row.n_preempt, row.n_fail) == (1, 0)


def fail(engine: Engine, error: str, step: int | None = None, **options: Any) -> str:
    claim = must_take(engine)
    with engine.begin() as connection:
        return queue.fail(connection, claim, error, step=step, backoff_s=0.0, **options)


def test_the_same_error_at_the_same_step_twice_is_a_failed_run(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    assert fail(engine, "ValueError: x", 7) == "queued"
    assert fail(engine, "ValueError: x", 7) == "failed"
    assert run_of(engine, run_id).state == "failed"


def test_errors_at_different_steps_are_tried_again_up_to_a_bound(engine: Engine) -> None:
    add(engine, (A, 0))
    assert [fail(engine, "OSError: disk", step, max_failures=4) for step in (1, 2, 3, 4)] == [*["queued"] * 3, "failed"]


def lose(engine: Engine, run_id: int, times: int) -> None:
    for _ in range(times):
        must_take(engine)
        let_the_lease_end(engine, run_id)
    with engine.begin() as connection:
        queue.expire(connection)


def test_a_run_that_loses_every_worker_is_failed_and_says_why(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    lose(engine, run_id, MAX_LOST)
    assert run_of(engine, run_id).state == "failed"
    with engine.begin() as connection:
        error = connection.scalar(select(Attempt.error).where(Attempt.n == MAX_LOST))
        assert error == f"lost: {MAX_LOST} workers in a row died or went silent before it reached a new checkpoint"
        registering.requeue(connection, [run_id])
    lose(engine, run_id, 2)  # asked for again, it has as many tries again
    assert run_of(engine, run_id).state == "queued"


def test_a_run_that_gets_further_with_every_lost_worker_goes_on(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    for _ in range(MAX_LOST + 2):
        claim = must_take(engine)
        with engine.begin() as connection:
            connection.execute(update(Attempt).where(Attempt.n == claim.attempt).values(resume_step=claim.attempt))
        let_the_lease_end(engine, run_id)
    assert take(engine) is not None


def test_what_killed_a_worker_counts_as_its_runs_failure(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    must_take(engine, "w1")
    with engine.begin() as connection:
        assert queue.fail_held(connection, "another", "out_of_memory: host") == []
        assert queue.fail_held(connection, "w1", "out_of_memory: host") == [run_id]
        connection.execute(update(RunRow).values(not_before=0.0))
    assert (run_of(engine, run_id).state, attempts(engine)) == ("queued", [(1, "failed")])
    must_take(engine, "w2")
    with engine.begin() as connection:
        queue.fail_held(connection, "w2", "out_of_memory: host")
    assert run_of(engine, run_id).state == "failed"


def test_an_error_that_cannot_pass_fails_at_once(engine: Engine) -> None:
    add(engine, (A, 0))
    assert fail(engine, "ConfigError: mask.ratio must be in (0, 1), got 2", is_final=True) == "failed"


def test_a_failed_run_waits_before_it_is_tried_again(engine: Engine) -> None:
    add(engine, (A, 0))
    claim = must_take(engine)
    with engine.begin() as connection:
        queue.fail(connection, claim, "OSError", backoff_s=60.0)
    assert take(engine) is None
    with engine.begin() as connection:
        assert 0 < queue.pending(connection).wait_s <= 60
        connection.execute(update(RunRow).values(not_before=RunRow.not_before - 60))
    assert must_take(engine).attempt == 2


def test_a_failed_run_can_be_queued_again_by_hand(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    fail(engine, "ValueError", is_final=True)
    with engine.begin() as connection:
        assert registering.requeue(connection, [run_id]) == [run_id]
    assert run_of(engine, run_id).n_fail == 0
    assert must_take(engine).attempt == 2


def test_costs_of_every_attempt_add_up_on_the_run(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    first = must_take(engine)
    with engine.begin() as connection:
        queue.hold(connection, first, Usage(step=3, cpu_seconds=10.0, gpu_seconds=1.0))
    let_the_lease_end(engine, run_id)
    second = must_take(engine)
    with engine.begin() as connection:
        queue.finish(connection, second, "done", usage=Usage(step=9, cpu_seconds=5.0, gpu_seconds=2.0))
    row = run_of(engine, run_id)
    assert (row.cpu_seconds, row.gpu_seconds) == (15.0, 3.0)


def test_every_change_of_hands_is_in_the_audit(engine: Engine) -> None:
    (run_id,) = add(engine, (A, 0))
    must_take(engine)
    let_the_lease_end(engine, run_id)
    fail(engine, "OSError: gone")
    claim = must_take(engine)
    with engine.begin() as connection:
        queue.finish(connection, claim, "done")
        kinds = connection.execute(select(Event.kind, Event.attempt).order_by(Event.id)).all()
    assert kinds == [("claimed", 1), ("lost", 1), ("claimed", 2), ("failed", 2), ("claimed", 3), ("done", 3)]
