"""One process at a time: who waits, who is turned away, and what is left of the file."""

import subprocess
import sys
from pathlib import Path

import pytest

from core.file_lock import locked, take

ADD = """
import sys
from pathlib import Path
from core.file_lock import locked
number = Path(sys.argv[2])
for _ in range(50):
    with locked(Path(sys.argv[1])):
        number.write_text(str(int(number.read_text()) + 1))
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_two_processes_that_add_to_one_number_lose_nothing(tmp_path: Path, kind: str) -> None:
    number = tmp_path / "number"
    number.write_text("0")
    place = tmp_path if kind == "folder" else tmp_path / "a.lock"
    both = [subprocess.Popen([sys.executable, "-c", ADD, str(place), str(number)]) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert number.read_text() == "100"


def test_who_does_not_wait_is_told_that_another_has_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a.lock"), (tmp_path / "a.lock").open("wb") as second:
        assert not take(second, wait=False)
    with (tmp_path / "a.lock").open("wb") as second:
        assert take(second, wait=False)


def test_a_lock_is_given_up_when_what_it_was_taken_for_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "a.lock"):
        raise KeyError
    with (tmp_path / "a.lock").open("wb") as second:
        assert take(second, wait=False)


@pytest.mark.parametrize("tidy", [False, True])
def test_its_file_goes_only_where_that_is_asked_for(tmp_path: Path, tidy: bool) -> None:
    with locked(tmp_path / "a.lock", tidy=tidy):
        assert (tmp_path / "a.lock").exists()
    assert (tmp_path / "a.lock").exists() != tidy
