"""Which frame a number means: in files as people have them, by every reader.

`cases/videos` are copies of ../shared/cases; each frame of source.mp4 is as bright as its number, and the others here
are made from it by FFmpeg.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from core.data.arrays import cache_key
from core.data.fingerprint import fingerprint
from core.data.left_out import data_facts
from core.data.video import video_kinds
from core.data.video.containers import codec
from core.data.video.decord_reader import DecordReader
from core.data.video.torchcodec_reader import TorchcodecReader, torchcodec_or_none
from core.data.video.video_clips import VERSION
from core.data.video.video_kinds import SUFFIXES
from core.data.video.video_reader import Facts, Reader, Unreadable
from core.data.video.videos import VideoCsv, VideoFolder
from tests.sweeps.installed import missing

pytest.importorskip("decord", reason="decord has no wheel for this machine")
CASES = Path(__file__).parent / "cases" / "videos"
SOURCE = CASES / "source.mp4"
NEEDS = "needs data.reader=torchcodec: decord's build has no AV1 decoder"


@pytest.fixture(params=[DecordReader, TorchcodecReader])
def reader(request) -> Reader:
    try:
        built: Reader = request.param()
    except ValueError as error:
        missing(str(error))
    return built


@pytest.fixture
def torchcodec() -> None:
    try:
        TorchcodecReader()
    except ValueError as error:
        missing(str(error))


@contextlib.contextmanager
def without_torchcodec() -> Iterator[None]:
    """As on a machine where it is not installed."""

    def forget() -> None:
        torchcodec_or_none.cache_clear()
        video_kinds.opens.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchcodec", None)
        forget()
        yield
    forget()


@pytest.fixture
def no_torchcodec() -> Iterator[None]:
    with without_torchcodec():
        yield


def ffmpeg(*words: str | Path) -> None:
    if shutil.which("ffmpeg") is None:
        missing("no ffmpeg")
    subprocess.run(["ffmpeg", "-nostdin", "-loglevel", "error", *map(str, words)], check=True, timeout=60)


def frames(reader: Reader, path: Path, numbers: list[int] | range) -> np.ndarray:
    return np.concatenate(list(reader.read(path, reader.probe(path), list(numbers), 16, 1.0)))


def shown(pixels: np.ndarray | torch.Tensor) -> list[int]:
    """The number of each frame in the source, from its brightness: 6 of 235 each, from 16 on."""
    means = np.asarray(pixels, float).reshape(len(pixels), -1).mean(axis=1)
    return [max(round((mean * 219 / 255 + 16) / 6), 3) for mean in means]  # 0 to 2 are as black as 3


def check(reader: Reader, path: Path, expected: list[int]) -> None:
    """All of it, at strides, and single frames in the middle and at the end."""
    num = len(expected)
    assert reader.probe(path).frames == num
    for numbers in (range(num), range(0, num, 2), range(1, num, 3), [num // 2, num // 2 + 1, num - 1], [num - 2]):
        assert shown(frames(reader, path, numbers)) == [expected[number] for number in numbers]


# ---- the cases ---------------------------------------------------------------------------------------------------


def test_a_whole_file_has_its_frames_in_order_at_any_stride(reader):
    check(reader, SOURCE, [3, 3, 3, *range(3, 40)])


def test_a_file_cut_without_encoding_has_the_frames_that_are_shown_at_any_stride(reader):
    check(reader, CASES / "cut.mp4", list(range(11, 40)))


def test_an_av1_file_gives_the_same_frames_by_either_reader(reader, torchcodec):
    path = CASES / "av1.mp4"
    assert reader.probe(path)[:4] == (50, 25.0, 48, 64)
    assert (frames(reader, path, range(0, 50, 7)) == frames(TorchcodecReader(), path, range(0, 50, 7))).all()


@pytest.mark.parametrize("name", ["source.mp4", "cut.mp4"])
def test_both_readers_show_the_same_pictures(name, torchcodec):
    ours, theirs = (
        frames(reader, CASES / name, range(29)).astype(int) for reader in (DecordReader(), TorchcodecReader())
    )
    assert abs(ours - theirs).max() < 12


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("cache_gb", [4.0, 0.0])
def test_clips_of_a_cut_file_are_its_frames_cached_or_not(tmp_path, stride, cache_gb):
    options = VideoCsv(path=str(listed(tmp_path, "cut.mp4")), stride=stride, cache_gb=cache_gb, size=8, frames=9)
    options.test_path = options.path
    train = options.load("train", tmp_path / "cache")
    draws = torch.tensor([0.0, 0.999])
    first, last = (clip.transpose(0, 1) for clip in train.fetch(torch.tensor([0, 0]), draws).clips)
    grid = list(range(11, 40, stride))
    assert shown(first) == grid[:9] and shown(last) == grid[-9:]


def listed(folder: Path, *names: str) -> Path:
    file = folder / "list.csv"
    file.write_text("".join(f"{CASES / name} 0\n" for name in names))
    return file


# ---- what torchcodec takes over ----------------------------------------------------------------------------------


def load(folder: Path, *names: str, **options):
    path = str(listed(folder, *names))
    return VideoCsv(path=path, test_path=path, size=8, frames=4, **options).load("train", folder / "cache")


def test_a_file_that_decord_cannot_read_is_read_by_torchcodec_and_named(tmp_path, caplog, torchcodec):
    with caplog.at_level(logging.INFO):
        train = load(tmp_path, "source.mp4", "av1.mp4")
    assert train.excluded == () and len(train) == 2
    (line,) = [line for line in caplog.messages if "torchcodec" in line]
    assert "av1.mp4" in line and "source.mp4" not in line


def test_without_torchcodec_an_av1_file_is_left_out_and_says_what_it_needs(tmp_path, no_torchcodec):
    assert load(tmp_path, "source.mp4", "av1.mp4").excluded == (f"videos/av1.mp4: {NEEDS}",)


def test_a_file_is_probed_again_once_torchcodec_is_installed(tmp_path, torchcodec):
    with without_torchcodec():
        assert len(load(tmp_path, "source.mp4", "av1.mp4")) == 1
    assert len(load(tmp_path, "source.mp4", "av1.mp4")) == 2
    with without_torchcodec():
        assert len(load(tmp_path, "source.mp4", "av1.mp4")) == 1


def test_only_another_way_to_read_a_file_changes_the_key_of_its_frames(tmp_path):
    source, cut = (video.key for video in load(tmp_path, "source.mp4", "cut.mp4")._videos)
    usual = ["decord", 8, 1.0, 2, None]
    for key, name, how in ((source, "source.mp4", []), (cut, "cut.mp4", ["in order"])):
        content = [str((CASES / name).resolve()), DecordReader().fingerprint(CASES / name), VERSION, *usual, *how]
        assert key == cache_key(content)


def test_what_is_installed_does_not_change_the_fingerprint_of_listed_files(tmp_path, torchcodec):
    options = VideoFolder(path=str(CASES))
    with without_torchcodec():
        before = fingerprint(options, tmp_path / "cache")
    assert before is not None and fingerprint(options, tmp_path / "cache") == before


# ---- siblings, made by FFmpeg ------------------------------------------------------------------------------------

CUT = ("-ss", "1.05", "-c", "copy")
X264 = ("-c:v", "libx264", "-g", "12")
MADE = {
    "whole.mkv": (X264, None),
    "open.mp4": (("-c:v", "libx264", "-x264-params", "open-gop=1:bframes=3:keyint=12"), None),
    "open.mkv": (("-c:v", "libx264", "-x264-params", "open-gop=1:bframes=3:keyint=12"), None),
    "open.flv": (("-c:v", "libx264", "-x264-params", "open-gop=1:bframes=3:keyint=12"), None),
    "hevc.mp4": (("-c:v", "libx265", "-x265-params", "keyint=12:log-level=none"), None),
    "hevc.mkv": (("-c:v", "libx265", "-x265-params", "keyint=12:log-level=none"), None),
    "fragments.mp4": ((*X264, "-movflags", "frag_keyframe+empty_moov"), None),
    "reordered.avi": (("-c:v", "mpeg4", "-bf", "2", "-g", "12"), None),
    "cut.mov": (X264, CUT),
    "cut_open.mp4": (("-c:v", "libx264", "-x264-params", "open-gop=1:bframes=3:keyint=12"), CUT),
    "both_ends.mp4": (X264, ("-ss", "0.5", "-t", "1.55", "-c", "copy")),
}


def made(folder: Path, name: str) -> tuple[Path, list[int]]:
    """The file, and its frames as FFmpeg itself shows them one after the other."""
    encode, cut = MADE[name]
    path = folder / name
    ffmpeg("-i", SOURCE, *encode, path)
    if cut is not None:
        whole = path.rename(path.with_stem("whole"))
        ffmpeg(cut[0], cut[1], "-i", whole, *cut[2:], path)
    raw = folder / "raw"
    ffmpeg("-i", path, "-vsync", "passthrough", "-vf", "scale=16:16", "-pix_fmt", "rgb24", "-f", "rawvideo", raw)
    return path, shown(np.fromfile(raw, np.uint8).reshape(-1, 16 * 16 * 3))


@pytest.mark.parametrize("name", MADE)
def test_no_reader_gives_another_frame_than_asked_for(tmp_path, name, reader):
    path, expected = made(tmp_path, name)
    if isinstance(reader, TorchcodecReader) and name == "reordered.avi":
        with pytest.raises(Unreadable, match=r"torchcodec cannot number its frames; try data\.reader=decord"):
            reader.probe(path)
    else:
        check(reader, path, expected)


def test_files_that_seek_rightly_are_not_read_in_order(tmp_path):
    ffmpeg("-i", SOURCE, *X264, "-bf", "3", tmp_path / "a.mp4")
    ffmpeg("-i", SOURCE, "-c:v", "libvpx", tmp_path / "a.webm")
    ffmpeg("-i", SOURCE, "-c:v", "mjpeg", tmp_path / "a.avi")
    assert {DecordReader().probe(tmp_path / f"a.{suffix}").how for suffix in ("mp4", "webm", "avi")} == {""}


def test_a_transport_stream_is_left_out_with_what_to_type(tmp_path, reader):
    stream = tmp_path / "a.ts"
    ffmpeg("-i", SOURCE, *X264, stream)
    with pytest.raises(Unreadable, match=r"transport stream.*remux it: ffmpeg -i a\.ts -c copy a\.mp4"):
        reader.probe(stream)
    shutil.copy(SOURCE, tmp_path / "b.mp4")
    root = str(tmp_path)
    train = VideoFolder(path=root, test_path=root, size=8, frames=4).load("train", tmp_path / "cache")
    assert len(train) == 1 and train.excluded[0].startswith("a.ts: an MPEG transport stream")
    ffmpeg("-i", stream, "-c", "copy", tmp_path / "a.mp4")
    check(reader, tmp_path / "a.mp4", [3, 3, 3, *range(3, 40)])


# ---- kinds of files ----------------------------------------------------------------------------------------------


def test_every_kind_that_is_called_a_video_has_a_reader_that_opens_it(torchcodec):
    assert all(video_kinds.opens(kind) for kind in video_kinds._SAME.values())
    assert {path.suffix for path in video_kinds._SAMPLES.iterdir()} == set(video_kinds._SAME.values())
    assert {".gif", ".ogv", ".nut", ".mjpeg", ".mp4", ".wmv", ".vob"} < {*SUFFIXES} and ".ts" not in SUFFIXES


@pytest.fixture
def of_all_kinds(tmp_path):
    """A folder of a class with every container, and one with an MP4 file."""
    for name in ("all", "mp4"):
        for split in ("train", "test"):
            (tmp_path / "videos" / split / name).mkdir(parents=True)
            shutil.copy(SOURCE, tmp_path / "videos" / split / name / "source.mp4")
    for sample in video_kinds._SAMPLES.iterdir():
        shutil.copy(sample, tmp_path / "videos" / "train" / "all" / f"a{sample.suffix}")
    return VideoFolder(path=str(tmp_path / "videos"), frames=1)


def test_a_folders_videos_and_fingerprint_are_the_same_without_torchcodec(of_all_kinds, tmp_path, torchcodec):
    now = of_all_kinds.listing("train"), fingerprint(of_all_kinds, tmp_path / "a")
    with without_torchcodec():
        assert (of_all_kinds.listing("train"), fingerprint(of_all_kinds, tmp_path / "b")) == now


def test_what_only_torchcodec_opens_is_left_out_by_name_without_it(of_all_kinds, tmp_path, caplog, no_torchcodec):
    train = of_all_kinds.load("train", tmp_path / "cache")
    left = {name.partition(": ")[0].rpartition("/")[2]: name for name in train.excluded}
    assert left.keys() == {"a.gif", "a.mjpeg", "a.nut", "a.ogv"}
    assert "decord does not open .gif files; install torchcodec" in left["a.gif"] and "a.gif" in caplog.text
    facts = data_facts({"train": train})
    assert facts["num_excluded_train"] == 4 and any("install torchcodec" in line for line in facts["excluded_train"])


def test_a_damaged_file_of_a_kind_that_is_opened_is_left_out_for_its_damage(of_all_kinds, tmp_path, no_torchcodec):
    (tmp_path / "videos" / "train" / "all" / "b.avi").write_bytes(b"RIFFnothing")
    train = of_all_kinds.load("train", tmp_path / "cache")
    (damaged,) = [line for line in train.excluded if "b.avi" in line]
    assert "install torchcodec" not in damaged


def test_a_gif_has_its_frames_in_order(tmp_path, reader, torchcodec):
    ffmpeg("-i", SOURCE, tmp_path / "a.gif")
    check(reader, tmp_path / "a.gif", [3, 3, 3, *range(3, 40)])


def test_a_gif_in_a_list_says_what_it_needs_without_torchcodec(no_torchcodec):
    with pytest.raises(Unreadable, match=r"needs data\.reader=torchcodec: decord cannot tell how long"):
        DecordReader().probe(video_kinds._SAMPLES / "sample.gif")


@pytest.mark.parametrize(("name", "expected"), [("av1.mp4", "av01"), ("source.mp4", "avc1")])
def test_the_container_names_the_codec(name, expected):
    assert codec(CASES / name) == expected


def test_a_cut_file_that_breaks_off_is_named(tmp_path):
    content = bytearray((CASES / "cut.mp4").read_bytes())
    start = content.index(b"mdat") + 4
    content[start + 700 : start + 1400] = bytes(700)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(Unreadable):
        facts: Facts = DecordReader().probe(tmp_path / "a.mp4")
        list(DecordReader().read(tmp_path / "a.mp4", facts, list(range(facts.frames)), 8, 1.0))
