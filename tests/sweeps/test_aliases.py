import pytest
from sqlalchemy import Engine, func, select

from sweeps import aliases as command
from sweeps import launch
from sweeps.cells.capsule import read_capsule, write_capsule
from sweeps.console.errors import OK, USER_ERROR
from sweeps.database import aliases, registering
from sweeps.database.aliases import added, migrated, removed, renamed
from sweeps.database.opening import open_database, upgrade
from sweeps.database.tables import Alias, CellRow, Config, Event, Result, RunRow
from sweeps.engine import queue
from sweeps.study.identity import digest
from tests.sweeps.conftest import BOTH
from tests.sweeps.launched import finish_next, register, two_rows

ADDED = added("new norm", "predictor.norm", "layer", when={"predictor": "narrow"})
RENAMED = renamed("ratio is share", "mask.ratio", "mask.share")
REMOVED = removed("no dropout", "drop", 0.0)
OLD = {"predictor": "narrow", "mask.ratio": 0.5, "drop": 0}
NEW = {"predictor": "narrow", "mask.share": 0.5, "predictor.norm": "layer"}
ALL = (ADDED, RENAMED, REMOVED)


def store(engine: Engine, config: dict[str, object], seed: int = 0, *, done: bool) -> int:
    with engine.begin() as connection:
        run_id = registering.register(connection, [(config, seed)], priority=int(done))[0]
        if done:
            claim = queue.claim(connection, "w")
            assert claim is not None and claim.run_id == run_id
            queue.finish(connection, claim, "done", results={"x": 1.0})
    return run_id


def migrate(engine: Engine) -> int:
    with engine.begin() as connection:
        return aliases.apply(connection, ALL)


def rows(engine: Engine, *columns: object) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(columns[0]))]


def test_an_old_config_is_called_what_it_is_called_today():
    assert migrated(OLD, ALL) == NEW


def test_a_config_of_today_is_left_as_it_is():
    assert migrated(NEW, ALL) == NEW


def test_a_new_option_is_given_only_to_configs_that_have_it():
    assert migrated({"predictor": "decoder"}, [ADDED]) == {"predictor": "decoder"}


def test_an_option_that_is_gone_stays_where_it_said_something_else():
    assert migrated({"drop": 0.1}, [REMOVED]) == {"drop": 0.1}


@BOTH
def test_an_old_run_is_found_by_a_launch_of_today(engine):
    run_id = store(engine, OLD, done=True)
    assert migrate(engine) == 1
    with engine.begin() as connection:
        assert registering.register(connection, [(NEW, 0)]) == [run_id]
    assert rows(engine, RunRow.id, RunRow.state) == [(run_id, "done")]
    assert rows(engine, Config.hash, Config.json) == [(digest(NEW), NEW)]


def test_the_old_identity_still_finds_the_run(engine):
    run_id = store(engine, OLD, done=True)
    migrate(engine)
    assert rows(engine, Alias.old_hash, Alias.migration) == [(digest(OLD), "new norm, ratio is share, no dropout")]
    with engine.begin() as connection:
        assert registering.register(connection, [(OLD, 0)]) == [run_id]


def test_migrating_twice_changes_nothing(engine):
    store(engine, OLD, done=True)
    assert [migrate(engine), migrate(engine)] == [1, 0]


@BOTH
def test_a_finished_old_run_takes_the_place_of_one_that_waits(engine):
    waiting = store(engine, NEW, done=False)
    done = store(engine, OLD, done=True)
    assert [migrate(engine), migrate(engine)] == [1, 0]
    with engine.begin() as connection:
        assert registering.register(connection, [(NEW, 0)]) == [done]
        assert queue.claim(connection, "w") is None
    assert rows(engine, RunRow.id, RunRow.state) == [(waiting, "cancelled"), (done, "done")]


def test_a_seed_that_the_new_config_lacks_is_moved_to_it(engine):
    first = store(engine, NEW, seed=0, done=True)
    second = store(engine, OLD, seed=1, done=True)
    migrate(engine)
    with engine.begin() as connection:
        assert registering.register(connection, [(NEW, 0), (NEW, 1)]) == [first, second]


def test_what_both_have_finished_is_kept(engine):
    new, old = store(engine, NEW, done=True), store(engine, OLD, done=True)
    migrate(engine)
    with engine.begin() as connection:
        assert registering.register(connection, [(NEW, 0)]) == [new]
    assert rows(engine, RunRow.id, RunRow.state) == [(new, "done"), (old, "done")]
    assert rows(engine, func.count(Result.run_id)) == [(2,)]


def test_a_running_run_goes_on_being_its_worker_s(engine):
    store(engine, OLD, done=False)
    with engine.begin() as connection:
        claim = queue.claim(connection, "w")
    migrate(engine)
    with engine.begin() as connection:
        queue.finish(connection, claim, "done", results={"x": 2.0})
    assert rows(engine, RunRow.state) == [("done",)]


def test_cells_of_a_study_follow_their_config(engine):
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 50.0})
    before = rows(engine, CellRow.row_key, CellRow.config_id)
    migrate(engine)
    assert rows(engine, CellRow.row_key, CellRow.config_id) == before
    assert {tuple(config) for (config,) in rows(engine, Config.json)} == {("mask.share", "optim.steps")}


def test_the_audit_is_not_rewritten(engine):
    store(engine, NEW, done=False)
    store(engine, OLD, done=True)
    before = rows(engine, Event.id, Event.kind, Event.run_id)
    migrate(engine)
    assert rows(engine, Event.id, Event.kind, Event.run_id) == before


def test_a_capsule_of_older_code_is_read_under_today_s_names(engine, tmp_path, monkeypatch):
    register(engine, two_rows())
    done = finish_next(engine, {"ridge/digit_top1": 50.0})
    write_capsule(engine, tmp_path / "old.sqlite", ["ratio"])
    monkeypatch.setattr(aliases, "MIGRATIONS", ALL)
    new = open_database(f"sqlite:///{tmp_path / 'new.sqlite'}")
    upgrade(new)
    read_capsule(tmp_path / "old.sqlite", new)
    assert rows(new, RunRow.state) == [("done",)], done
    with new.begin() as connection:
        assert registering.register(connection, [({"mask.share": 0.5, "optim.steps": 100}, 0)]) == [1]
    new.dispose()


@pytest.mark.parametrize("older", ["capsule", "database"])
def test_a_run_that_both_sides_of_a_merge_have_is_one_run_though_one_side_is_of_older_code(
    engine, tmp_path, monkeypatch, older
):
    register(engine, two_rows())
    finish_next(engine, {"ridge/digit_top1": 50.0})
    write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"])
    monkeypatch.setattr(aliases, "MIGRATIONS", ALL)
    if older == "capsule":
        migrate(engine)
    else:
        capsule = open_database(f"sqlite:///{tmp_path / 'capsule.sqlite'}")
        migrate(capsule)
        capsule.dispose()
    before = rows(engine, RunRow.id)
    assert read_capsule(tmp_path / "capsule.sqlite", engine).known == 1
    assert rows(engine, RunRow.id) == before
    assert {("mask.share" in config) for (config,) in rows(engine, Config.json)} == {True}
    assert write_capsule(engine, tmp_path / "capsule.sqlite", ["ratio"]).runs == 0


def test_launching_migrates_by_itself(engine, tmp_path, monkeypatch):
    store(engine, OLD, done=True)
    monkeypatch.setattr(aliases, "MIGRATIONS", ALL)
    words = ["study=masking_ratio", f"db={engine.url}", f"results_dir={tmp_path}"]
    launch.open_for_launching(launch.parse(words)).dispose()
    assert rows(engine, Config.hash) == [(digest(NEW),)]


def test_the_command_says_what_it_did(engine, capsys):
    assert command.main(["apply", f"db={engine.url}"]) == OK
    assert capsys.readouterr().out == "0 configs migrated\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "say apply or list"),
        (["appply"], "say apply or list"),
        (["apply", "db=sqlite:///no.sqlite"], "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(capsys, words, message):
    assert command.main(words) == USER_ERROR
    assert message in capsys.readouterr().err
