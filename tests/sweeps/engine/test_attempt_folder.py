import errno
from pathlib import Path

import pytest

from sweeps.engine.attempt_folder import adopt, remove_earlier


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"step-{step}.pt").write_text(f"{folder.name}: {step}")


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_an_attempt_goes_on_from_the_checkpoints_of_the_one_before_it(tmp_path: Path) -> None:
    first = adopt(tmp_path, 1)
    assert content(first) == {}
    write(first, 2, 4)
    assert content(adopt(tmp_path, 2)) == {"step-2.pt": "1: 2", "step-4.pt": "1: 4"} == content(first)


def test_an_evaluation_s_own_checkpoints_go_with_the_run_s(tmp_path: Path) -> None:
    stage = adopt(tmp_path, 1) / "finetune" / "digit"
    stage.mkdir(parents=True)
    write(stage, 3)
    assert content(adopt(tmp_path, 2) / "finetune" / "digit") == {"step-3.pt": "digit: 3"}


def test_what_a_sleeper_writes_when_it_wakes_reaches_no_later_attempt(tmp_path: Path) -> None:
    sleeper = adopt(tmp_path, 1)
    write(sleeper, 2)
    second = adopt(tmp_path, 2)
    write(sleeper, 4)
    assert content(second) == {"step-2.pt": "1: 2"} == content(adopt(tmp_path, 3))


def test_an_attempt_that_died_while_adopting_hides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(adopt(tmp_path, 1), 2)

    def die(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "hardlink_to", die)
        adopt(tmp_path, 2)
    assert content(adopt(tmp_path, 3)) == {"step-2.pt": "1: 2"}


def test_a_checkpoint_that_is_replaced_meanwhile_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = adopt(tmp_path, 1)
    write(sleeper, 2)
    link = Path.hardlink_to

    def replaced(self: Path, target: Path) -> None:
        if target.name == "step-2.pt":
            write(sleeper, 4)
            target.unlink()
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", replaced)
    assert content(adopt(tmp_path, 2)) == {"step-4.pt": "1: 4"}


def test_a_disk_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(adopt(tmp_path, 1), 2)

    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert content(adopt(tmp_path, 2)) == {"step-2.pt": "1: 2"}


def test_earlier_folders_are_removed_and_later_ones_are_not(tmp_path: Path) -> None:
    folders = [adopt(tmp_path, attempt) for attempt in (1, 2, 10)]
    remove_earlier(folders[1])
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_checkpoints_from_before_attempts_had_folders_are_adopted(tmp_path: Path) -> None:
    write(tmp_path, 2, 4)
    assert sorted(content(adopt(tmp_path, 3))) == ["step-2.pt", "step-4.pt"]
    assert not list(tmp_path.glob("step-*"))
