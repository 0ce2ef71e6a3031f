from pathlib import Path

import pytest

from sweeps.cells import expansion_cache


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_s_configs_are_remembered() -> None:
    assert expansion_cache.read("launch") is None
    expansion_cache.write("launch", [("a", 100), ("b", 0)])
    assert expansion_cache.read("launch") == [("a", 100), ("b", 0)]


def test_another_launch_is_another_entry() -> None:
    expansion_cache.write("launch", [("a", 100)])
    assert expansion_cache.read("edited") is None


def test_a_folder_that_takes_no_files_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / ".cache").write_text("a file")
    expansion_cache.write("launch", [("a", 100)])
    assert expansion_cache.read("launch") is None


def test_what_a_config_computes_is_remembered() -> None:
    assert expansion_cache.read_work("config") is None
    expansion_cache.write_work("config", {"training": 1.5})
    assert expansion_cache.read_work("config") == {"training": 1.5}
