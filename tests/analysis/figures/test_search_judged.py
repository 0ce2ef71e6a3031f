"""A search that judged its best: the table's rows of judging seeds, the verdict, the sentence."""

import pytest
from sqlalchemy import select

from analysis.figures import search
from analysis.numbers.frame import load
from analysis.site import answers
from analysis.tables.render import to_csv
from sweeps.answers.arms import answer
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import RunRow
from tests.sweeps.answers.test_search_rounds import METRIC, begin, drive, rounds_of


@pytest.fixture
def engine(tmp_path):
    engine = open_database(f"sqlite:///{tmp_path / 'search.sqlite'}")
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def searched(engine):
    driven = begin(engine)
    drive(engine, driven)
    driven.close()
    return engine, rounds_of(engine, driven)


def test_the_judged_rows_are_means_over_the_judging_seeds_alone(searched):
    engine, rounds = searched
    table = search.table(load(engine, "searched"))
    best, published = table.rows[:2]
    assert (best.key, published.key, published.is_baseline) == ("best_judged", "default_judged", True)
    values = rounds.chosen().values([4, 5, 6])
    assert best.cells[0].estimate.mean == pytest.approx(sum(values.values()) / 3)
    assert best.cells[0].estimate.num_seeds == published.cells[0].estimate.num_seeds == 3


def test_the_difference_of_the_judged_rows_has_an_interval_a_p_and_a_verdict(searched):
    engine, rounds = searched
    best = search.table(load(engine, "searched")).rows[0]
    judged = rounds.judgement(METRIC, 2.0)
    assert best.cells[1].estimate == judged.difference.estimate
    assert best.cells[1].p == 0.25  # three seeds, all one way
    assert best.verdict == judged.verdict.text != ""


def test_a_trial_is_shown_by_the_seeds_that_chose_it_and_not_by_those_that_judged_it(searched):
    engine, rounds = searched
    rows = {row.key: row for row in search.table(load(engine, "searched")).rows}
    for tried in rounds.trials:
        seeds = [0, 1, 2, 3] if tried in rounds.promoted() else [0, 1]
        assert rows[tried.key].cells[0].estimate.num_seeds == len(seeds)
        assert rows[tried.key].cells[0].estimate.mean == pytest.approx(tried.mean(seeds))


def test_the_table_says_what_the_terminal_says(searched):
    engine, _ = searched
    with engine.connect() as connection:
        assert search.table(load(engine, "searched")).sentence == answer(connection, "searched") != ""


def test_the_indexes_give_a_search_the_sentence_of_its_table(searched):
    engine, _ = searched
    frame = load(engine, "searched")
    assert answers.answer(frame) == search.table(frame).sentence != ""


def test_the_csv_of_a_judged_search_has_its_verdict_and_p(searched):
    engine, _ = searched
    table = search.table(load(engine, "searched"))
    header, best, *_ = to_csv(table).splitlines()
    assert f"difference/{METRIC}.p" in header.split(",")
    assert table.rows[0].verdict.split(",")[0] in best


def test_before_anything_is_judged_the_table_says_so(engine):
    driven = begin(engine)
    driven.step(2)
    driven.close()
    table = search.table(load(engine, "searched"))
    assert table.sentence == "" and "No trial is judged yet." in table.notes
    with engine.connect() as connection:
        assert connection.scalars(select(RunRow.state)).all()
