"""Views without joins, on both servers, and on an older file that has none."""

import pytest
from alembic import command
from sqlalchemy import Engine, update

from sweeps import query
from sweeps.cli import Arguments, open_for_reading
from sweeps.database.opening import migrations, revision
from sweeps.database.tables import Attempt
from sweeps.database.views import ALIKE, VIEWS, WITHOUT
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import finish_next, register, two_rows


@pytest.fixture(autouse=True)
def ratio(engine: Engine) -> None:
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 61.25})


@BOTH
def test_results_and_cells_need_one_join(engine):
    frame = query.ask(
        engine, "select c.study, c.row_key, v.value from ab_cells c join ab_results v on v.run_id = c.run_id"
    )
    assert frame.to_numpy().tolist() == [["ratio", "a", 61.25]]


@BOTH
def test_a_run_says_what_was_said_of_its_features(engine):
    with engine.begin() as connection:
        connection.execute(update(Attempt).values(facts={"collapse": {"said": "one direction"}}))
    assert query.ask(engine, "select run_id, collapse from ab_runs where state = 'done'").to_numpy().tolist() == [
        [1, "one direction"]
    ]


def test_every_cell_and_seed_is_there_whether_or_not_it_has_ended(engine):
    assert len(query.ask(engine, "select * from ab_cells")) == 4


@BOTH
@pytest.mark.parametrize("is_live", [False, True])
def test_a_database_without_views_is_still_read(engine, is_live):
    with engine.begin() as connection:
        command.downgrade(migrations(connection), WITHOUT)
    url = engine.url.render_as_string(hide_password=False)
    reader = open_for_reading(Arguments({"db": url}), is_live=is_live)
    assert len(query.ask(reader, "select * from sw_run")) == 4
    if engine.dialect.name == "sqlite":
        assert [len(query.ask(reader, f"select * from {name}")) for name in VIEWS] == [4, 1, 4]
        with pytest.raises(ValueError, match="read-only"):
            query.ask(reader, "delete from sw_run")
    reader.dispose()
    assert revision(engine) == WITHOUT


@BOTH
@pytest.mark.parametrize("older", ALIKE)
def test_a_database_that_reads_as_todays_is_watched_as_it_is(engine, older):
    with engine.begin() as connection:
        command.downgrade(migrations(connection), older)
    url = engine.url.render_as_string(hide_password=False)
    reader = open_for_reading(Arguments({"db": url}), is_live=True)
    assert len(query.ask(reader, "select * from sw_run where state = 'collapsed'")) == 0
    reader.dispose()
    assert revision(engine) == older
