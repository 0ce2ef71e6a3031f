from sqlalchemy import Engine, select, update

from sweeps import status
from sweeps.cells import superseded
from sweeps.console.errors import OK
from sweeps.database.tables import Event, RunRow
from tests.sweeps.launched import register, two_rows

OTHER = [{"key": "a", "set": {"mask.ratio": 0.9}}]


def finish_all(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(update(RunRow).values(state="done"))


def marked(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        found = connection.scalars(select(Event.run_id).where(Event.kind == superseded.SUPERSEDED))
        return sorted(run for run in found if run is not None)


def said(engine: Engine, run_id: int) -> str | None:
    with engine.connect() as connection:
        return superseded.said(connection, run_id)


def test_finished_runs_that_an_edited_study_no_longer_shows_are_marked_once(engine):
    first = register(engine, two_rows())
    finish_all(engine)
    second = register(engine, two_rows(rows=OTHER))
    gone = sorted(set(first.run_ids) - set(second.run_ids))
    assert gone and marked(engine) == gone
    assert said(engine, gone[0]) == "ratio asked for it until its revision 1; another launch took its place"
    with engine.begin() as connection:
        assert superseded.mark(connection, second.study_id) == []


def test_runs_that_never_finished_or_that_another_study_shows_are_not_marked(engine):
    register(engine, two_rows())
    register(engine, two_rows(rows=OTHER))
    assert marked(engine) == []
    register(engine, two_rows("other"))
    register(engine, two_rows())
    finish_all(engine)
    register(engine, two_rows(rows=OTHER))
    assert marked(engine) == []


def test_a_run_that_is_asked_for_again_is_not_said_to_be_superseded(engine):
    first = register(engine, two_rows())
    finish_all(engine)
    register(engine, two_rows(rows=OTHER))
    register(engine, two_rows())
    assert said(engine, first.run_ids[0]) is None


def test_the_page_of_a_superseded_run_says_so(engine, url, capsys):
    first = register(engine, two_rows())
    finish_all(engine)
    second = register(engine, two_rows(rows=OTHER))
    (gone, *_) = sorted(set(first.run_ids) - set(second.run_ids))
    assert status.main([f"run={gone}", f"db={url}"]) == OK
    assert "asked for it until its revision 1" in capsys.readouterr().out
