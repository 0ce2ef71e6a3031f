"""No default changes, and no option comes or goes, without somebody meaning it."""

from typing import Any

import pytest

from sweeps.database.aliases import added, migrated, removed, renamed
from sweeps.study.identity import digest
from tests.sweeps import snapshot

HOW = "if it is meant: an option that came, went or was renamed needs a migration in sweeps/database/aliases.py; "
HOW += "then run `python -m tests.sweeps.snapshot` and say why in the commit"
STORED = snapshot.read()


@pytest.fixture(scope="module")
def current() -> dict[str, dict[str, Any]]:
    return snapshot.current()


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    keys = sorted(key for key in old.keys() | new.keys() if (key in old, old.get(key)) != (key in new, new.get(key)))
    return [f"{key}: {old.get(key, 'absent')!r} -> {new.get(key, 'absent')!r}" for key in keys]


def test_every_method_is_in_the_snapshot(current):
    assert sorted(current) == sorted(STORED["defaults"]), HOW


@pytest.mark.parametrize("name", STORED["defaults"])
def test_the_defaults_are_those_of_the_snapshot(name, current):
    stored = STORED["defaults"][name]
    assert not differences(stored["config"], current.get(name, {})), HOW
    assert digest(current[name]) == stored["hash"], HOW


def test_every_config_that_was_once_the_default_can_be_found_and_built():
    for config in [*STORED["history"], *(entry["config"] for entry in STORED["defaults"].values())]:
        assert not snapshot.orphans(config), HOW


@pytest.fixture
def mae() -> dict[str, Any]:
    return dict(STORED["defaults"]["mae@smoke"]["config"])


def test_a_run_from_before_an_option_existed_is_an_orphan_until_a_migration_says_what_it_did(mae):
    value = mae.pop("mask.ratio")
    assert snapshot.orphans(mae, ()) == [f"new: mask.ratio = {value}"]
    assert not snapshot.orphans(mae, (added("the ratio", "mask.ratio", value, when={"mask": "random"}),))


def test_a_run_with_an_option_s_old_name_is_an_orphan_until_a_migration_says_the_new_one(mae):
    today = dict(mae)
    mae["mask.share"] = mae.pop("mask.ratio")
    assert "mask.share" in snapshot.orphans(mae, ())[0]
    migration = renamed("share is ratio", "mask.share", "mask.ratio")
    assert not snapshot.orphans(mae, (migration,))
    assert digest(migrated(mae, [migration])) == digest(today)


def test_a_run_with_an_option_that_is_gone_is_an_orphan_until_a_migration_drops_it(mae):
    mae["mask.jitter"] = 0.0
    assert "mask.jitter" in snapshot.orphans(mae, ())[0]
    assert not snapshot.orphans(mae, (removed("no jitter", "mask.jitter", 0.0),))


def test_rewriting_refuses_while_an_option_lacks_its_migration(mae, tmp_path):
    path = tmp_path / "snapshot.json"
    mae["mask.jitter"] = 0.0
    path.write_text(snapshot.json.dumps({"defaults": {"mae@smoke": {"hash": "", "config": mae}}, "history": []}))
    before = path.read_bytes()
    assert "mask.jitter" in snapshot.rewrite(path)[0]
    assert path.read_bytes() == before


def test_rewriting_takes_a_changed_default_without_a_migration(mae, tmp_path, current):
    path = tmp_path / "snapshot.json"
    mae["mask.ratio"] = 0.123
    path.write_text(snapshot.json.dumps({"defaults": {"mae@smoke": {"hash": "", "config": mae}}, "history": []}))
    assert snapshot.rewrite(path) == []
    assert snapshot.read(path)["defaults"]["mae@smoke"]["config"] == current["mae@smoke"]
