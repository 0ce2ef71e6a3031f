import logging
import resource
from pathlib import Path

import pytest
import torch

from core.running.checkpoint import CheckpointError, checkpoints, copied, load_latest, save

CONFIG = {"mask": "random", "mask.ratio": 0.9}


def write(folder, step, config=CONFIG):
    return save(folder, step, {"learner": {"w": torch.full((3,), float(step))}}, config)


def test_what_is_saved_is_loaded(tmp_path):
    write(tmp_path, 7)
    state = load_latest(tmp_path, CONFIG)
    assert state["step"] == 7
    assert state["learner"]["w"].tolist() == [7.0, 7.0, 7.0]


needs_maps = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux lists a process's maps")


@needs_maps
def test_a_checkpoint_is_not_read_into_memory_and_what_is_copied_of_it_is(tmp_path):
    write(tmp_path, 7)
    state = load_latest(tmp_path, CONFIG)
    before = state["learner"]["w"].clone()
    path = checkpoints(tmp_path)[0]
    mine = copied(state["learner"])
    assert str(path) in Path("/proc/self/maps").read_text()
    mine["w"].zero_()
    state["learner"]["w"].add_(1)  # of this process alone
    assert torch.equal(load_latest(tmp_path, CONFIG)["learner"]["w"], before)
    assert not mine["w"].any()


@needs_maps
def test_a_resumed_optimiser_holds_nothing_of_the_file(tmp_path):
    module = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save(tmp_path, 1, {"optimizer": optimizer.state_dict()}, CONFIG)
    optimizer.load_state_dict(copied(load_latest(tmp_path, CONFIG)["optimizer"]))
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_an_empty_folder_has_no_checkpoint(tmp_path):
    assert load_latest(tmp_path, CONFIG) is None


def test_the_newest_two_are_kept(tmp_path):
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000010.pt", "step-000000002.pt"]


@pytest.mark.parametrize("keep_bytes", [0, 100, 900])
def test_a_torn_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(tmp_path, caplog, keep_bytes):
    write(tmp_path, 1)
    newest = write(tmp_path, 2)
    newest.write_bytes(newest.read_bytes()[:keep_bytes])
    with caplog.at_level(logging.WARNING):
        assert load_latest(tmp_path, CONFIG)["step"] == 1
    assert newest.name in caplog.text


def test_a_checkpoint_of_another_run_is_refused_by_key(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"mask\.ratio=0\.9, this run has mask\.ratio=0\.5"):
        load_latest(tmp_path, {**CONFIG, "mask.ratio": 0.5})


def test_a_checkpoint_that_would_run_code_is_not_executed(tmp_path):
    write(tmp_path, 1)
    marker = tmp_path / "executed"

    class Hostile:
        def __reduce__(self):
            return (marker.write_text, ("yes",))

    torch.save({"step": 2, "config": "{}", "learner": Hostile()}, tmp_path / "step-000000002.pt")
    assert load_latest(tmp_path, CONFIG)["step"] == 1
    assert not marker.exists()


def test_a_disk_that_takes_no_more_is_an_error_of_the_file_and_not_of_torchs_archive(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save(tmp_path, 2, {"learner": {"w": torch.zeros(50_000)}}, CONFIG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(tmp_path / "step-000000002.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_earlier_checkpoint_and_no_litter(tmp_path):
    write(tmp_path, 1)

    class Unsavable:
        def __reduce__(self):
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2, {"learner": Unsavable()}, CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001.pt"]
    assert load_latest(tmp_path, CONFIG)["step"] == 1
