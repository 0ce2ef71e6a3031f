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
from core.types import DataError, DataSpec


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


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_clips_have_as_many_channels_as_their_set(channels):
    spec = DataSpec(channels, 1, 4, 4)
    clips = ArrayDataset(spec, np.full((2, 1, 1, 4, 4), 7, np.uint8), {}).fetch(torch.tensor([1])).clips
    assert clips.shape == (1, channels, 1, 4, 4) and (clips == 7).all()


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (np.zeros((2, 1, 4, 4), np.uint8), r"must be uint8 \[N, C, T, H, W\] .*, got uint8 \[2, 1, 4, 4\]"),
        (np.zeros((2, 3, 1, 4, 4)), "got float64"),
        (np.zeros((2, 2, 1, 4, 4), np.uint8), "with C = 3"),
        (np.zeros((3, 3, 1, 4, 4), np.uint8), "labels 'kind' are 2, and clips 3"),
    ],
)
def test_arrays_of_another_form_are_refused_by_it(clips, message):
    with pytest.raises(DataError, match=message):
        ArrayDataset(DataSpec(3, 1, 4, 4), clips, {"kind": torch.zeros(2)})


def test_a_set_has_one_mean_and_std_a_channel():
    assert len(DataSpec(1, 1, 4, 4).mean) == len(DataSpec(1, 1, 4, 4).std) == 1
    with pytest.raises(ValueError, match="one value for each of its 1 channels"):
        DataSpec(1, 1, 4, 4, mean=(0.4, 0.4, 0.4))
