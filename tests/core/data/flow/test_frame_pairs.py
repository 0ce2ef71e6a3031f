"""Pairs of unlabelled frames, and videos of any kind as pairs."""

import numpy as np
import pytest
import torch

from core.data.flow.frame_pairs import FramePairs
from core.data.video.videos import FrameFolder, VideoCsv, VideoFolder
from core.types import DataError
from tests.core.data.making_flows import picture, write_picture
from tests.core.data.making_videos import ramp, write_video


def write_frames(folder, *names, height=8, width=12):
    """Frames that tell their number: all red is 10 times the place in the list."""
    for place, name in enumerate(names):
        write_picture(folder / f"{name}.png", np.full((height, width, 3), 10 * place, np.uint8))


def pairs_of(root, tmp_path, **options):
    """The red values of each pair's two frames."""
    dataset = FramePairs(**{"path": str(root), "height": 8, "width": 12} | options).load("train", tmp_path / "cache")
    return [tuple(clip[0, :, 0, 0].tolist()) for clip in dataset.fetch(torch.arange(len(dataset))).clips]


def test_frames_that_follow_one_another_are_pairs_in_the_order_of_their_numbers(tmp_path):
    write_frames(tmp_path / "a", "f9", "f10", "f11")
    assert pairs_of(tmp_path, tmp_path) == [(0, 10), (10, 20)]


def test_sequences_that_share_a_folder_stay_apart(tmp_path):
    write_frames(tmp_path / "image_2", "000000_00", "000000_01", "000001_00", "000001_01")
    assert pairs_of(tmp_path, tmp_path) == [(0, 10), (20, 30)]


def test_a_missing_number_ends_a_sequence(tmp_path):
    write_frames(tmp_path / "a", "00", "01", "03", "04")
    assert pairs_of(tmp_path, tmp_path) == [(0, 10), (20, 30)]


def test_frames_may_be_further_apart(tmp_path):
    write_frames(tmp_path / "a", "0", "1", "2", "3")
    assert pairs_of(tmp_path, tmp_path, step=2) == [(0, 20), (10, 30)]


def test_only_folders_of_the_pattern_are_looked_into(tmp_path):
    write_frames(tmp_path / "drive" / "image_02" / "data", "0", "1")
    write_frames(tmp_path / "drive" / "image_03" / "data", "0", "1", "2")
    assert len(pairs_of(tmp_path, tmp_path)) == 3
    assert pairs_of(tmp_path, tmp_path, folders="*/image_02/data") == [(0, 10)]


def test_pairs_have_no_flow_and_their_own_shape(tmp_path):
    write_frames(tmp_path / "a", "0", "1")
    spec = FramePairs(path=str(tmp_path), height=16, width=40).spec()
    assert (spec.frames, spec.height, spec.width, spec.has_flow, spec.classes) == (2, 16, 40, False, {})


def test_frames_of_different_size_are_refused(tmp_path):
    write_frames(tmp_path / "a", "0", "1")
    write_picture(tmp_path / "a" / "2.png", picture(8, 14))
    with pytest.raises(DataError, match=r"1\.png is of 8 x 12 px and 2\.png of 8 x 14 px; the two frames of a pair"):
        pairs_of(tmp_path, tmp_path)


def test_a_file_that_is_no_image_is_refused(tmp_path):
    write_frames(tmp_path / "a", "0", "1")
    (tmp_path / "a" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        pairs_of(tmp_path, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"path": ""}, r"data\.path must be a folder .* got ''"),
        ({"path": "none"}, r"data\.path must be a folder .* got 'none', which does not exist"),
        ({"step": 0}, r"data\.step must be at least 1, got 0"),
        ({"height": 4}, r"data\.height must be in \[8, 4096\] px, got 4"),
        ({"test_share": 1.0}, r"data\.test_share must be in \[0, 1\), got 1\.0"),
        ({"folders": ""}, r"data\.folders must be a pattern"),
        ({"step": 9}, r"holds no two images of one name whose numbers are data\.step=9 apart"),
    ],
)
def test_impossible_options_are_named(tmp_path, options, message):
    write_frames(tmp_path / "a", "0", "1")
    with pytest.raises(ValueError, match=message):
        FramePairs(**{"path": str(tmp_path)} | options).spec()


@pytest.mark.parametrize("kind", ["video_folder", "video_csv", "frame_folder"])
def test_videos_of_two_frames_are_pairs(tmp_path, kind):
    """At stride 1, consecutive ones: `ramp` counts frames by 4 in red."""
    for number in range(3):
        if kind == "frame_folder":
            for place, pixels in enumerate(ramp(6, 16, 16)):
                write_picture(tmp_path / "v" / f"clip{number}" / f"{place}.png", pixels)
        else:
            pytest.importorskip("decord", reason="decord has no wheel for this machine")
            write_video(tmp_path / "v" / f"{number}.avi", ramp(6, 16, 16))
    (tmp_path / "list.csv").write_text("".join(f"v/{number}.avi 0\n" for number in range(3)))
    create, path = {
        "video_folder": (VideoFolder, tmp_path / "v"),
        "video_csv": (VideoCsv, tmp_path / "list.csv"),
        "frame_folder": (FrameFolder, tmp_path / "v"),
    }[kind]
    dataset = create(path=str(path), frames=2, stride=1, size=16).load("train", tmp_path / "cache")
    clips = dataset.fetch(torch.arange(2), torch.tensor([0.0, 0.9])).clips.float()
    assert clips.shape == (2, 3, 2, 16, 16)
    red = clips[:, 0].mean(dim=(2, 3))
    assert (red[:, 1] - red[:, 0] - 4).abs().max() < 1.5 and red[0, 0] != red[1, 0]
