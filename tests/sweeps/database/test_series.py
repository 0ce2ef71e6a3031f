import math

import numpy as np
import pytest
from sqlalchemy import Engine, func, insert, select

from sweeps.database import registering, series
from sweeps.database.tables import Attempt, Chunk
from tests.sweeps.conftest import BOTH


@pytest.fixture
def run_id(engine: Engine) -> int:
    with engine.begin() as connection:
        return registering.register(connection, [({"mask": "random"}, 0)])[0]


def write(engine: Engine, run_id: int, attempt: int, steps: list[int], values: list[float], seq: int = 0) -> None:
    with engine.begin() as connection:
        if connection.scalar(select(func.count()).where(Attempt.run_id == run_id, Attempt.n == attempt)) == 0:
            connection.execute(insert(Attempt).values(run_id=run_id, n=attempt, started=0.0, resume_step=steps[0]))
        series.write(connection, [series.chunk_row(run_id, attempt, seq, "loss", steps, values)])


def read(engine: Engine, run_id: int) -> dict[int, float]:
    with engine.begin() as connection:
        curve = series.read(connection, run_id, "loss")
    return dict(zip(curve.steps.tolist(), curve.values.tolist(), strict=True))


def test_values_come_back_bit_for_bit() -> None:
    values = [0.1, -0.0, math.inf, -math.inf, math.nan, 1e-320, 3.0]
    back = series.decode_values(series.encode_values(values))
    assert back.tobytes() == np.array(values).tobytes()


def test_steps_come_back() -> None:
    steps = [5, 6, 7, 20, 10, 2**40]
    assert series.decode_steps(series.encode_steps(steps)).tolist() == steps


def test_a_point_of_a_loss_curve_takes_less_than_twelve_bytes() -> None:
    rng = np.random.default_rng(0)
    losses = (np.exp(-np.arange(500) / 200) + 0.01 * rng.standard_normal(500)).astype(np.float32).astype(np.float64)
    row = series.chunk_row(1, 1, 0, "loss", range(1, 501), losses.tolist())
    assert (len(row["steps"]) + len(row["values"])) / 500 < 12


def test_chunks_join_into_one_curve(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1, 2], [0.9, 0.8])
    write(engine, run_id, 1, [3], [0.7], seq=1)
    assert read(engine, run_id) == {1: 0.9, 2: 0.8, 3: 0.7}


@BOTH
def test_recording_a_chunk_twice_changes_nothing(engine: Engine, run_id: int) -> None:
    for _ in range(2):
        write(engine, run_id, 1, [1, 2], [0.9, 0.8])
    with engine.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(Chunk)) == 1


@BOTH
def test_a_later_attempt_replaces_what_it_trained_again(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1, 2, 3, 4, 5, 6], [1.0] * 6)
    write(engine, run_id, 2, [4, 5], [2.0] * 2)
    write(engine, run_id, 3, [5, 6, 7], [3.0] * 3)
    assert read(engine, run_id) == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 3.0, 6: 3.0, 7: 3.0}


def test_an_attempt_that_began_anew_replaces_everything_before_it(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1, 2, 3], [1.0] * 3)
    write(engine, run_id, 2, [1], [2.0])
    assert read(engine, run_id) == {1: 2.0}


def test_an_attempt_that_logged_nothing_changes_nothing(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1, 2], [1.0] * 2)
    with engine.begin() as connection:
        connection.execute(insert(Attempt).values(run_id=run_id, n=2, started=0.0))
    assert read(engine, run_id) == {1: 1.0, 2: 1.0}


def test_of_two_points_at_one_step_the_later_counts(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1, 2, 2], [1.0, 2.0, 3.0])
    assert read(engine, run_id) == {1: 1.0, 2: 3.0}


def test_a_run_that_was_resumed_leaves_its_neighbour_the_steps_that_both_logged(engine: Engine, run_id: int) -> None:
    with engine.begin() as connection:
        (other,) = registering.register(connection, [({"mask": "random"}, 1)])
    for one in (run_id, other):
        write(engine, one, 1, [1, 2, 3], [1.0] * 3)
    write(engine, run_id, 2, [2], [2.0])
    assert (read(engine, run_id), read(engine, other)) == ({1: 1.0, 2: 2.0}, {1: 1.0, 2: 1.0, 3: 1.0})
    with engine.begin() as connection:
        both = series.read_many(connection, [run_id, other], ["loss"])
    assert [curve.steps.tolist() for curve in both.values()] == [[1, 2], [1, 2, 3]]


def test_a_metric_that_was_never_logged_is_an_empty_curve(engine: Engine, run_id: int) -> None:
    assert read(engine, run_id) == {}


def test_the_names_of_a_runs_series_are_known(engine: Engine, run_id: int) -> None:
    write(engine, run_id, 1, [1], [1.0])
    with engine.begin() as connection:
        assert series.metrics(connection, run_id) == ["loss"]


def test_metrics_packed_together_are_those_packed_alone():
    points = {"loss": ([1, 2], [0.5, 0.4]), "lr": ([1, 2], [0.1, 0.2]), "top1": ([2], [60.0]), "knn": ([2], [50.0])}
    alone = [series.chunk_row(1, 1, 0, metric, steps, values) for metric, (steps, values) in points.items()]
    assert series.chunk_rows(1, 1, 0, points) == alone
    assert [series.decode_steps(row["steps"]).tolist() for row in alone] == [[1, 2], [1, 2], [2], [2]]
