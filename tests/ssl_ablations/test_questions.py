"""The front door's questions give what the commands give, and its errors are theirs."""

import pytest
from sqlalchemy import Engine

import ssl_ablations as ab
from sweeps.database import series
from tests.sweeps.conftest import engine, postgres, url
from tests.sweeps.launched import finish_next, register, two_rows

__all__ = ["engine", "postgres", "url"]  # fixtures


@pytest.fixture
def db(engine: Engine) -> str:
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 61.25})
    with engine.begin() as connection:
        series.write(connection, [series.chunk_row(1, 1, 0, "loss", [0, 1], [0.5, 0.25])])
    return str(engine.url)


def test_a_study_is_a_tidy_frame(db):
    frame = ab.load("ratio", db=db)
    assert len(frame) == 4 and frame["value"].dropna().tolist() == [61.25]


def test_runs_are_asked_by_their_options(db):
    found = ab.runs(where="{mask.ratio} < 0.6 and state = 'done'", db=db)
    assert found[["run_id", "mask.ratio"]].to_numpy().tolist() == [[1, 0.5]]


def test_an_empty_answer_has_the_columns_of_one_that_is_not(db):
    found = ab.results("seed = 99", ["ridge/digit_top1"], db=db)
    assert found[found["mask.ratio"] > 0.5]["ridge/digit_top1"].tolist() == []


def test_a_curve_is_a_row_a_point(db):
    assert ab.curves(runs=[1], metrics=["loss"], db=db).to_numpy().tolist() == [
        [1, "loss", 0, 0.5],
        [1, "loss", 1, 0.25],
    ]


def test_the_best_cell_and_the_table_are_frames(db):
    assert ab.best("ridge/digit_top1", db=db)["mean"].tolist() == [61.25]
    assert len(ab.table("ratio", db=db)) == 2


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda db: ab.load("ration", db=db), "the database has no such study"),
        (lambda db: ab.runs("{mask.ratoi} > 1", db=db), "did you mean mask.ratio"),
        (lambda db: ab.curves([99], db=db), "run=99: the database has no such run"),
        (lambda db: ab.encoder(2, db=db), "run"),
        (lambda db: ab.sql("delete from sw_run", db=db), "read-only"),
        (lambda db: ab.train(["method=ijepaa"]), "ijepa"),
    ],
)
def test_a_mistake_is_the_commands_error(db, ask, message):
    with pytest.raises(ab.AblationError, match=message):
        ask(db)
