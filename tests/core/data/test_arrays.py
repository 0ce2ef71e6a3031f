import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from core.configuring.config import ConfigError, load
from core.configuring.fitting import load_split
from core.data.arrays import ArrayDataset, cached_folder, reserve
from core.data.moving_digits import MovingDigits
from core.types import DataSpec


def test_those_who_load_at_the_same_time_read_the_same(tmp_path):
    def load_and_sum(_: int) -> int:
        dataset = MovingDigits(num_train=64, size=16).load("train", tmp_path)
        return int(dataset.fetch(torch.arange(64)).clips.sum())

    with ThreadPoolExecutor(3) as pool:
        sums = list(pool.map(load_and_sum, range(3)))
    assert len(set(sums)) == 1
    assert len(list((tmp_path / "moving_digits").iterdir())) == 1  # no drafts are left


def test_a_write_that_fails_leaves_nothing(tmp_path):
    def write(draft: Path) -> None:
        (draft / "half.npy").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder(tmp_path / "cache" / "set", write)
    assert list((tmp_path / "cache").iterdir()) == []


def write_them(draft: Path) -> None:
    (draft / "who").write_text("them")


def test_a_folder_that_another_process_finished_first_is_kept(tmp_path):
    def write(draft: Path) -> None:
        (draft / "who").write_text("us")
        cached_folder(tmp_path / "set", write_them)

    assert (cached_folder(tmp_path / "set", write) / "who").read_text() == "them"
    assert [item.name for item in tmp_path.iterdir()] == ["set"]


def test_a_fingerprint_tells_one_changed_pixel():
    spec = DataSpec(3, 1, 4, 4)
    clips = np.zeros((5, 3, 1, 4, 4), np.uint8)
    before = ArrayDataset(spec, clips.copy(), {}).fingerprint()
    assert ArrayDataset(spec, clips.copy(), {}).fingerprint() == before
    clips[4, 2, 0, 3, 3] = 1
    assert ArrayDataset(spec, clips, {}).fingerprint() != before


def test_clips_in_a_cached_folder_are_told_by_its_name_wherever_it_is(tmp_path):
    spec, clips = DataSpec(3, 1, 4, 4), np.zeros((5, 3, 1, 4, 4), np.uint8)
    told = ArrayDataset(spec, clips, {}, folder=tmp_path / "here" / "train-1").fingerprint()
    assert ArrayDataset(spec, clips, {}, folder=tmp_path / "there" / "train-1").fingerprint() == told
    assert ArrayDataset(spec, clips, {}, folder=tmp_path / "here" / "train-2").fingerprint() != told


def test_the_room_of_a_mapped_file_is_taken_before_it_is_written_to(tmp_path):
    path = tmp_path / "clips.npy"
    with path.open("wb") as file:
        file.truncate(1_000_000)
    reserve(path)
    assert path.stat().st_size == 1_000_000 <= 512 * path.stat().st_blocks


def test_a_cache_that_takes_no_more_is_blamed_itself(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(ConfigError, match=f"runtime.cache={tmp_path}: cannot be written to: File too large"):
            load_split(load(["method=mae", "scale=smoke", f"runtime.cache={tmp_path}"]), "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
