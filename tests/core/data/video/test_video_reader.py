"""Opening and decoding video files, and telling what is none."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data.video.containers import missing_part
from core.data.video.decord_reader import DecordReader
from core.data.video.frame_folders import FrameFolderReader, natural
from core.data.video.torchcodec_reader import TorchcodecReader
from core.data.video.video_reader import Facts, Reader, Unreadable
from tests.core.data.making_videos import ramp, write_sound, write_video
from tests.sweeps.installed import missing

pytest.importorskip("decord", reason="decord has no wheel for this machine")
MADE = ("a.avi", "a.mov")


@pytest.fixture(params=[DecordReader, TorchcodecReader])
def reader(request) -> Reader:
    try:
        built: Reader = request.param()
    except ValueError as error:
        missing(str(error))
    return built


def read(path: Path, numbers: list[int], size: int = 32, crop: float = 1.0, reader: Reader | None = None) -> np.ndarray:
    reader = reader or DecordReader()
    return np.concatenate(list(reader.read(path, reader.probe(path), numbers, size, crop)))


def near(pixels: np.ndarray, expected: float) -> bool:
    return bool(abs(pixels.astype(float).mean() - expected) < 4)


@pytest.mark.parametrize("name", MADE)
def test_probing_tells_frames_rate_and_size(tmp_path, name, reader):
    path = write_video(tmp_path / name, ramp(7), fps=5)
    assert reader.probe(path) == Facts(frames=7, fps=5, height=48, width=64)


@pytest.mark.parametrize("name", MADE)
def test_frames_are_rgb_in_the_order_asked_for(tmp_path, name, reader):
    path = write_video(tmp_path / name, ramp(20))
    frames = read(path, [1, 4, 19], reader=reader)
    assert frames.shape == (3, 3, 32, 32) and frames.dtype == np.uint8
    assert all(near(frame[0], 4 * number) for frame, number in zip(frames, [1, 4, 19], strict=True))


def test_the_short_side_is_resized_and_the_middle_kept_without_stretching(tmp_path, reader):
    frames = read(write_video(tmp_path / "a.avi", ramp(2, height=64, width=128)), [0], size=32, reader=reader)
    green, blue = frames[0, 1].mean(axis=0), frames[0, 2].mean(axis=1)  # to the right, downwards
    assert blue[0] < 12 and blue[-1] > 243  # the whole height
    assert green[0] == pytest.approx(64, abs=6) and green[-1] == pytest.approx(191, abs=6)  # the middle half


def test_a_crop_takes_the_middle_of_a_larger_frame(tmp_path, reader):
    path = write_video(tmp_path / "a.avi", ramp(2, height=64, width=64))
    frames = read(path, [0], size=32, crop=0.5, reader=reader)
    assert frames[0, 2].mean(axis=1)[[0, -1]].tolist() == pytest.approx([64, 191], abs=6)


@pytest.mark.parametrize("side", [8, 12, 16, 24, 33, 48, 72])
def test_narrow_frames_are_not_skewed(tmp_path, side):
    """decord takes the padding of rows for a channel at some of these widths."""
    frames = read(write_video(tmp_path / "a.avi", ramp(2, height=96, width=96)), [0], size=side)
    steps = np.diff(frames[0, 1].astype(float), axis=1)
    assert frames.shape[-2:] == (side, side)
    assert near(frames[0, 1], 127) and steps.min() > -6 and np.ptp(frames[0, 1].mean(axis=1)) < 6


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_rotated_file_is_read_as_it_is_shown(tmp_path, rotation, reader):
    path = write_video(tmp_path / "a.mov", ramp(4), rotation=rotation)
    facts = reader.probe(path)
    assert (facts.height, facts.width) == ((48, 64) if rotation == 180 else (64, 48))
    frame = read(path, [0], reader=reader)[0]
    # Pillow turns counter-clockwise.
    turned = Image.fromarray(ramp(1)[0]).rotate(-rotation, expand=True)
    expected = np.asarray(turned.crop(_middle(turned.size)).resize((32, 32))).transpose(2, 0, 1)
    assert abs(frame.astype(int) - expected).max() < 16


def _middle(size: tuple[int, int]) -> tuple[int, int, int, int]:
    left, top = (size[0] - min(size)) // 2, (size[1] - min(size)) // 2
    return left, top, left + min(size), top + min(size)


# ---- what is no video --------------------------------------------------------------------------------------------


def bad_files(folder: Path) -> dict[str, str]:
    """Name -> what the reason must say."""
    whole = write_video(folder / "whole.mov", ramp(20)).read_bytes()
    avi = write_video(folder / "whole.avi", ramp(20)).read_bytes()
    moov = whole.index(b"moov") - 4
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mov").write_bytes(whole[: moov // 2])
    (folder / "headless.mov").write_bytes(whole[:moov])
    (folder / "cut.avi").write_bytes(avi[: len(avi) * 2 // 3])
    (folder / "random.mp4").write_bytes(np.random.default_rng(0).bytes(4000))
    (folder / "text.mp4").write_text("not a video\n" * 50)
    write_sound(folder / "sound.avi")
    return {
        "empty.mp4": "empty",
        "cut.mov": "truncated",
        "headless.mov": "truncated: the index",
        "cut.avi": "truncated",
        "random.mp4": "no decoder recognises it",
        "text.mp4": "no decoder recognises it",
        "sound.avi": "no video stream",
        "missing.mp4": "No such file",
    }


def test_what_is_no_video_is_named_with_the_reason(tmp_path, reader):
    for name, reason in bad_files(tmp_path).items():
        with pytest.raises(Unreadable, match=reason):
            reader.probe(tmp_path / name)


def test_damage_after_the_first_frame_is_found_when_it_is_decoded(tmp_path, reader):
    path = write_video(tmp_path / "a.avi", ramp(200, height=16, width=16))
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(content)
    with pytest.raises(Unreadable):
        read(path, list(range(200)), size=8, reader=reader)


def test_an_mp4_with_its_index_first_and_its_end_missing_is_truncated(tmp_path):
    whole = write_video(tmp_path / "whole.mov", ramp(20)).read_bytes()
    moov, mdat = whole.index(b"moov") - 4, whole.index(b"mdat") - 4
    path = tmp_path / "fast.mp4"
    path.write_bytes((whole[:mdat] + whole[moov:] + whole[mdat:moov])[:-500])
    assert missing_part(path) == f"truncated: {len(whole) - 500:,} of {len(whole):,} bytes"


def element(name: bytes, size: int, width: int) -> bytes:
    return name + (size | 1 << 7 * width).to_bytes(width, "big")


@pytest.mark.parametrize("width", [1, 2, 8])
def test_a_matroska_file_is_cut_when_its_segment_ends_after_it(tmp_path, width):
    head = element(b"\x1a\x45\xdf\xa3", 5, 1) + bytes(5) + element(b"\x18\x53\x80\x67", 100, width)
    path = tmp_path / "a.mkv"
    path.write_bytes(head + bytes(100))
    assert missing_part(path) is None
    path.write_bytes(head + bytes(99))
    assert "truncated" in str(missing_part(path))


def test_a_live_recording_of_unknown_length_is_not_called_truncated(tmp_path):
    path = tmp_path / "a.webm"
    path.write_bytes(element(b"\x1a\x45\xdf\xa3", 5, 1) + bytes(5) + b"\x18\x53\x80\x67" + b"\x01" + b"\xff" * 7)
    assert missing_part(path) is None


def test_torchcodec_without_being_installed_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ValueError, match=r"data\.reader=torchcodec: torchcodec is not installed.*data\.reader=decord"):
        TorchcodecReader()


@pytest.mark.parametrize(
    "content", ["ffmpeg_major_version = None", 'raise RuntimeError("Could not load libtorchcodec")']
)
def test_torchcodec_that_finds_no_ffmpeg_says_what_to_install(tmp_path, monkeypatch, content):
    """As version 0.17 says it, and as earlier ones do."""
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(content)
    loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torchcodec"}
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(ValueError, match=r"cannot load FFmpeg's shared libraries.*apt install ffmpeg"):
            TorchcodecReader()
    finally:
        sys.modules.pop("torchcodec", None)
        sys.modules.update(loaded)


def test_torchcodec_reads_the_frames_that_decord_reads(tmp_path, reader):
    path = write_video(tmp_path / "a.avi", ramp(20))
    frames = read(path, [1, 4, 19], reader=reader)
    assert abs(frames.astype(int) - read(path, [1, 4, 19])).max() < 12


# ---- folders of frames -------------------------------------------------------------------------------------------


def write_frames(folder: Path, num: int, **kind: int) -> Path:
    folder.mkdir(parents=True)
    for number, frame in enumerate(ramp(num, **kind)):
        Image.fromarray(frame).save(folder / f"frame{number}.png")
    return folder


def test_frame_images_are_read_in_the_order_of_their_numbers(tmp_path):
    folder, reader = write_frames(tmp_path / "clip", 12), FrameFolderReader()
    facts = reader.probe(folder)
    assert facts == Facts(frames=12, fps=0, height=48, width=64)
    (frames,) = reader.read(folder, facts, list(range(12)), 32, 1.0)
    assert frames[:, 0].mean(axis=(1, 2)).tolist() == pytest.approx([4 * number for number in range(12)])


def test_numbers_in_names_are_compared_as_numbers():
    names = ["10.jpg", "a.jpg", "f9.jpg", "f10.jpg", "f²1.jpg"]
    assert sorted(reversed(names), key=natural) == names


def test_an_unreadable_frame_is_named(tmp_path):
    folder, reader = write_frames(tmp_path / "clip", 4), FrameFolderReader()
    facts = reader.probe(folder)
    (folder / "frame2.png").write_bytes((folder / "frame2.png").read_bytes()[:60])
    with pytest.raises(Unreadable, match=r"frame2\.png"):
        list(reader.read(folder, facts, [0, 2], 32, 1.0))
    (folder / "frame1.png").write_bytes(b"")
    with pytest.raises(Unreadable, match=r"frame1\.png is empty"):
        reader.fingerprint(folder)
