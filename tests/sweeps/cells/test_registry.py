import threading
from pathlib import Path

from sqlalchemy import Engine, func, select

from sweeps.cells.registry import find_registered, launch_hash, registered_configs, shown_path
from sweeps.cells.request import Request
from sweeps.database.opening import open_database
from sweeps.database.tables import CellRow, Config, Paper, RunRow, StudyRow
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import TWO_ROWS, register, two_rows

PRINTED = {"metric": "top-1", "source": "Table 1", "values": {"a": 54.2}}


def request(name: str = "ratio", **changes: object) -> Request:
    return two_rows(name, **{"printed": PRINTED, "random_init": True, **changes})


def count(engine: Engine, table: type) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


def test_a_study_is_written_with_its_cells_runs_and_printed_values(engine):
    registered = register(engine, request())
    assert (registered.revision, len(registered.run_ids)) == (1, 6)
    assert (count(engine, CellRow), count(engine, RunRow), count(engine, Paper)) == (3, 6, 1)


def test_registering_twice_changes_nothing(engine):
    assert register(engine, request()) == register(engine, request())
    assert (count(engine, CellRow), count(engine, RunRow), count(engine, StudyRow)) == (3, 6, 1)


@BOTH
def test_two_launchers_may_register_a_study_at_the_same_moment(url, engine):
    found = []
    threads = [threading.Thread(target=lambda: found.append(register(open_database(url), request()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(one == found[0] for one in found)
    assert (count(engine, CellRow), count(engine, RunRow), count(engine, StudyRow)) == (3, 6, 1)


def test_an_edited_study_is_a_new_revision_and_keeps_old_runs(engine):
    first = register(engine, request())
    second = register(engine, request(rows=[{"key": "a", "set": {"mask.ratio": 0.9}}]))
    assert (first.revision, second.revision) == (1, 2)
    assert set(first.run_ids).isdisjoint(second.run_ids)
    assert count(engine, RunRow) == 6 + 4


def test_an_edited_caption_is_a_new_revision_of_the_same_runs(engine):
    first, second = register(engine, request()), register(engine, request(title="Other words"))
    assert second.revision == 2
    assert second.run_ids == first.run_ids


def test_two_studies_share_the_runs_of_a_config_both_ask_for(engine):
    first, second = register(engine, request()), register(engine, request("other", rows=TWO_ROWS["rows"][:1]))
    assert set(second.run_ids) < set(first.run_ids)
    assert count(engine, Config) == 3


def test_the_first_seed_of_every_cell_comes_before_the_second_of_any(engine):
    register(engine, request())
    with engine.connect() as connection:
        seeds = connection.scalars(select(RunRow.seed).order_by(RunRow.id)).all()
    assert seeds == [0, 0, 0, 1, 1, 1]


def test_a_launch_is_recognised_until_the_file_or_core_changes(engine):
    asked = request()
    registered = register(engine, asked, "core 1")
    with engine.connect() as connection:
        assert find_registered(connection, asked, launch_hash(asked, "core 1")) == registered
        assert find_registered(connection, asked, launch_hash(asked, "core 2")) is None
        edited = request(title="Other words")
        assert find_registered(connection, edited, launch_hash(edited, "core 1")) is None


def test_a_study_that_other_code_resolves_as_before_is_not_written_again(engine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # what is remembered lies below it
    asked = request()
    registered = register(engine, asked, "core 1")
    assert register(engine, asked, "core 2") == registered
    with engine.connect() as connection:
        assert connection.scalar(select(StudyRow.spec_hash)) == launch_hash(asked, "core 1")
        assert find_registered(connection, asked, launch_hash(asked, "core 2")) == registered
        assert find_registered(connection, asked, launch_hash(asked, "core 3")) is None
        assert registered_configs(connection, asked, launch_hash(asked, "core 2")) is not None


def test_a_study_that_other_code_resolves_otherwise_is_written_with_its_hash(engine, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    register(engine, request(), "core 1")
    edited = request(title="Other words")
    assert register(engine, edited, "core 2").revision == 2
    with engine.connect() as connection:
        assert connection.scalar(select(StudyRow.spec_hash)) == launch_hash(edited, "core 2")


def test_the_database_names_no_machine_s_folders():
    assert shown_path(Path("/home/me/project/studies/ijepa/a.yaml")) == "studies/ijepa/a.yaml"
    assert shown_path(Path("/home/me/a.yaml")) == "a.yaml"
