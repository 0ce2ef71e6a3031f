"""Data sets of videos: splits and labels, where clips start, the cache, and files that are bad or break."""

import dataclasses
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.data.left_out import data_facts
from core.data.loader import StepLoader
from core.data.video.decord_reader import DecordReader
from core.data.video.video_clips import FrameSampling, VideoClips, start_of
from core.data.video.videos import FrameFolder, VideoCsv, VideoFolder
from core.types import generator_for
from tests.core.data.making_videos import ramp, write_video
from tests.core.data.video.test_video_reader import bad_files, write_frames

pytest.importorskip("decord", reason="decord has no wheel for this machine")
SMALL = {"size": 8, "frames": 4}


def write_videos(root: Path, *classes: str, num: int = 5, length: int = 20) -> Path:
    for name in classes or ("",):
        for number in range(num):
            write_video(root / name / f"{number}.avi", ramp(length, height=16, width=16))
    return root


def shades(clips: torch.Tensor) -> list[list[int]]:
    """Numbers of the frames of each clip, from the red of `ramp`."""
    return (clips[:, 0].float().mean(dim=(2, 3)) / 4).round().int().tolist()


def load(options, split, tmp_path) -> VideoClips:
    return options.load(split, tmp_path / "cache")


# ---- splits and labels -------------------------------------------------------------------------------------------


def test_class_folders_give_labels_and_a_share_is_held_out(tmp_path):
    options = VideoFolder(path=str(write_videos(tmp_path / "v", "ant", "bee")), **SMALL)
    train, test = (load(options, split, tmp_path) for split in ("train", "test"))
    assert options.spec().classes == {"class": 2} and train.spec == options.spec()
    assert train.labels()["class"].tolist() == [0] * 4 + [1] * 4 and test.labels()["class"].tolist() == [0, 1]
    batch = train.fetch(torch.tensor([5, 0]))
    assert batch.clips.shape == (2, 3, 4, 8, 8) and batch.clips.dtype == torch.uint8
    assert batch.labels["class"].tolist() == [1, 0]


def test_another_split_seed_holds_out_other_videos(tmp_path):
    root = write_videos(tmp_path / "v", num=8)
    held = {
        tuple(str(entry.path) for entry in VideoFolder(path=str(root), split_seed=seed).listing("test").entries)
        for seed in range(8)
    }
    assert len(held) > 1


def test_videos_directly_in_the_folder_have_no_labels(tmp_path):
    options = VideoFolder(path=str(write_videos(tmp_path / "v")), **SMALL)
    write_videos(tmp_path / "v" / "below", num=1)
    train, test = load(options, "train", tmp_path), load(options, "test", tmp_path)
    assert options.spec().classes == {} and train.labels() == {} and train.fetch(torch.tensor([0])).labels == {}
    assert len(train) + len(test) == 6


def test_split_folders_are_used_and_a_test_path_beats_them(tmp_path):
    write_videos(tmp_path / "v" / "train", "ant", "bee")
    write_videos(tmp_path / "v" / "val", "bee", num=3)
    write_videos(tmp_path / "other", "ant", "bee", num=1)
    options = VideoFolder(path=str(tmp_path / "v"), **SMALL)
    assert len(load(options, "train", tmp_path)) == 10
    assert load(options, "test", tmp_path).labels()["class"].tolist() == [1, 1, 1]
    options.test_path = str(tmp_path / "other")
    assert load(options, "test", tmp_path).labels()["class"].tolist() == [0, 1]


def test_a_class_that_only_the_test_videos_have_is_an_error(tmp_path):
    write_videos(tmp_path / "v" / "train", "ant")
    write_videos(tmp_path / "v" / "test", "ant", "bee")
    with pytest.raises(ValueError, match="class bee that the train videos do not have"):
        VideoFolder(path=str(tmp_path / "v")).spec()


def test_frame_folders_are_videos_with_or_without_classes(tmp_path):
    for name in ("ant/one", "ant/two", "bee/one", "bee/train"):
        write_frames(tmp_path / "classes" / name, 12, height=16, width=16)
        write_frames(tmp_path / "flat" / name.replace("/", "-"), 12, height=16, width=16)
    labelled = load(FrameFolder(path=str(tmp_path / "classes"), **SMALL), "train", tmp_path)
    flat = load(FrameFolder(path=str(tmp_path / "flat"), **SMALL), "train", tmp_path)
    assert labelled.labels()["class"].tolist() == [0, 1] and len(flat) == 3 and flat.labels() == {}
    assert shades(flat.fetch(torch.tensor([0])).clips) == [[2, 4, 6, 8]]  # 4 frames 2 apart, in the middle of 12


def test_a_list_gives_paths_relative_to_it_or_absolute_and_labels(tmp_path):
    write_videos(tmp_path / "v" / "my videos", num=2)
    away = write_videos(tmp_path / "away", num=1) / "0.avi"
    file = tmp_path / "v" / "train.csv"
    file.write_text(f"my videos/0.avi 2\n\nmy videos/1.avi, 0\n{away}\t2\n")
    write_videos(tmp_path / "v" / "others", num=1)
    (tmp_path / "v" / "test.csv").write_text("others/0.avi 2\n")
    options = VideoCsv(path=str(file), test_path=str(tmp_path / "v" / "test.csv"), **SMALL)
    assert options.spec().classes == {"class": 3}
    assert load(options, "train", tmp_path).labels()["class"].tolist() == [2, 0, 2]


@pytest.mark.parametrize("line", ["0.avi", "0.avi cat", "0.avi -1", "0.avi 1.5", "0.avi,", "0.avi 9999999", "3"])
def test_a_bad_label_in_a_list_names_the_file_and_the_line(tmp_path, line):
    file = tmp_path / "train.csv"
    file.write_text(f"0.avi 1\n\n{line}\n")
    with pytest.raises(ValueError, match=r"train\.csv, line 3: must be"):
        VideoCsv(path=str(file)).spec()


def test_a_video_that_is_listed_again_is_named_as_that_and_not_as_left_out(tmp_path, caplog):
    write_videos(tmp_path, num=4)
    file = tmp_path / "train.csv"
    file.write_text("0.avi 0\n1.avi 0\n0.avi 0\n2.avi 1\n3.avi 1\n0.avi 0\n")
    train = load(VideoCsv(path=str(file), **SMALL), "train", tmp_path)
    assert (train.excluded, train.repeats) == ((), {"0.avi": 3})
    assert data_facts({"train": train}) == {"num_repeated_train": 1, "repeated_train": ["0.avi: 3 times"]}
    assert "1 videos are listed more than once in train's list, and count once each: 0.avi (3 times)" in caplog.text
    assert "left out" not in caplog.text


def test_a_label_that_no_line_of_a_list_has_is_named(tmp_path, caplog):
    write_videos(tmp_path, num=4)
    file = tmp_path / "train.csv"
    file.write_text("0.avi 0\n1.avi 0\n2.avi 3\n3.avi 3\n")
    load(VideoCsv(path=str(file), **SMALL), "train", tmp_path)
    assert "has no video of label 1, 2 (labels go from 0 to 3)" in caplog.text


def test_the_folder_that_is_trained_on_is_no_test_folder(tmp_path):
    root = write_videos(tmp_path / "v", "ant", "bee")
    for test, said in ((root, "is the train folder"), (root / "ant", "shares files with the train folder")):
        with pytest.raises(ValueError, match=said):
            VideoFolder(path=str(root), test_path=str(test)).spec()


def test_a_missing_path_in_a_list_is_left_out_and_named(tmp_path, caplog):
    write_videos(tmp_path, num=2)
    file = tmp_path / "train.csv"
    file.write_text("0.avi 0\nnowhere.avi 0\n1.avi 1\n")
    train = load(VideoCsv(path=str(file), test_path=str(file), **SMALL), "train", tmp_path)
    assert train.labels()["class"].tolist() == [0, 1]
    assert train.excluded == ("nowhere.avi: No such file or directory",)
    assert "nowhere.avi (No such file" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 8.0, "stride": 2}, r"data\.fps=8\.0 and data\.stride=2"),
        ({"reader": "opencv"}, r"data\.reader must be decord or torchcodec, got 'opencv'"),
        ({"stride": 0}, r"data\.stride must be in \[1, 1024\]"),
        ({"store_size": 16}, r"data\.store_size must be in \[data\.size, 2048\]"),
        ({"clips_per_video": 0}, r"data\.clips_per_video must be"),
        ({"path": "nowhere"}, r"data\.path must be a folder of videos, got 'nowhere', which does not exist"),
        ({}, r"data\.path must be a folder of videos, got ''"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        VideoFolder(**options).spec()


# ---- where clips start -------------------------------------------------------------------------------------------


def test_a_clip_takes_every_so_many_frames_from_the_middle(tmp_path):
    root = write_videos(tmp_path / "v", length=21)
    for stride, frames in ((1, [9, 10, 11, 12]), (3, [6, 9, 12, 15]), (6, [0, 6, 12, 18])):
        train = load(VideoFolder(path=str(root), stride=stride, **SMALL), "train", tmp_path)
        assert shades(train.fetch(torch.tensor([2])).clips) == [frames]


def test_a_rate_chooses_the_nearest_frames_and_repeats_those_of_a_slower_video(tmp_path):
    root = write_videos(tmp_path / "v", length=10)  # 10 a second
    for fps, frames in ((4.0, [0, 3, 5, 8]), (20.0, [4, 5, 5, 6])):
        train = load(VideoFolder(path=str(root), fps=fps, **SMALL), "train", tmp_path)
        (found,) = shades(train.fetch(torch.tensor([0])).clips)
        assert found == frames


def test_draws_move_the_start_over_the_whole_video_and_nothing_beyond(tmp_path):
    train = load(VideoFolder(path=str(write_videos(tmp_path / "v")), stride=2, **SMALL), "train", tmp_path)
    draws = torch.tensor([0.0, 0.5, 0.999999])
    assert shades(train.fetch(torch.tensor([1, 1, 1]), draws).clips) == [[0, 2, 4, 6], [6, 8, 10, 12], [12, 14, 16, 18]]


def test_random_start_off_gives_the_middle_whatever_is_drawn(tmp_path):
    options = VideoFolder(path=str(write_videos(tmp_path / "v")), random_start=False, **SMALL)
    train = load(options, "train", tmp_path)
    assert (train.fetch(torch.tensor([1]), torch.zeros(1)).clips == train.fetch(torch.tensor([1])).clips).all()


def test_clips_per_video_cuts_a_video_into_equal_segments(tmp_path):
    options = VideoFolder(path=str(write_videos(tmp_path / "v", length=24)), clips_per_video=3, stride=1, **SMALL)
    train = load(options, "train", tmp_path)
    assert len(train) == 12 and train.video_of().tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert train.spec.clips_per_video == options.spec().clips_per_video == 3  # evaluations read them together
    for draw, starts in ((0.0, [0, 8, 16]), (0.999, [4, 12, 20])):
        clips = train.fetch(torch.arange(3), torch.full((3,), draw)).clips
        assert [frames[0] for frames in shades(clips)] == starts


@pytest.mark.parametrize("num_segments", [1, 2, 3, 7])
@pytest.mark.parametrize("length", [4, 5, 9, 30])
def test_every_clip_lies_in_the_video_and_segments_come_in_order(length, num_segments):
    for draw in (0.0, 0.3, 0.999999):
        starts = [start_of(draw, segment, num_segments, length, 4) for segment in range(num_segments)]
        assert starts == sorted(starts) and starts[0] >= 0 and starts[-1] + 4 <= length


@pytest.fixture
def train(tmp_path) -> VideoClips:
    return load(VideoFolder(path=str(write_videos(tmp_path / "v", "ant", "bee")), **SMALL), "train", tmp_path)


def test_epochs_see_other_starts_and_seeds_too(train):
    first, second = (shades(batch.clips.sort(dim=0).values) for _, batch in batches(train, num_steps=2))
    assert first != second
    assert (batches(train, seed=1)[0][1].clips != batches(train, seed=2)[0][1].clips).any()


def test_a_loader_started_later_gives_the_same_clips_whatever_its_workers(train):
    whole, rest = dict(batches(train, num_steps=6)), dict(batches(train, num_steps=6, start_step=3))
    assert list(rest) == [4, 5, 6] and all((rest[step].clips == whole[step].clips).all() for step in rest)
    train.is_lazy = True
    read_ahead = dict(batches(train, num_steps=6, num_workers=2))
    assert all((read_ahead[step].clips == whole[step].clips).all() for step in whole)


def test_the_parts_of_all_ranks_make_the_batch(train):
    parts = [batches(train, num_steps=1, rank=rank, world_size=2)[0][1].clips for rank in range(2)]
    assert (torch.cat(parts) == batches(train, num_steps=1)[0][1].clips).all()


def batches(dataset, num_steps=1, seed=0, **more):
    return list(StepLoader(dataset, batch_size=8, seed=seed, num_steps=num_steps, **more))


# ---- the cache ---------------------------------------------------------------------------------------------------


def test_a_video_decoded_as_it_is_used_gives_the_same_pixels_as_the_cache(tmp_path):
    root = str(write_videos(tmp_path / "v"))
    cached = load(VideoFolder(path=root, **SMALL), "train", tmp_path)
    decoded = load(VideoFolder(path=root, cache_gb=0, **SMALL), "train", tmp_path)
    assert decoded.is_lazy and not cached.is_lazy
    indices, draws = torch.tensor([3, 0, 3]), torch.tensor([0.1, 0.8, 0.9])
    assert (decoded.fetch(indices, draws).clips == cached.fetch(indices, draws).clips).all()


def test_equal_indices_in_a_row_are_clips_of_one_decoding(tmp_path):
    root = str(write_videos(tmp_path / "v", length=60))
    options = VideoFolder(path=root, cache_gb=0, **SMALL)
    train, alone = load(options, "train", tmp_path), load(options, "train", tmp_path)
    reader = CountingReader()
    train._store = dataclasses.replace(train._store, reader=reader)
    indices, draws = torch.tensor([2, 2, 2, 0, 2]), torch.tensor([0.9, 0.0, 0.95, 0.5, 0.0])
    clips = train.fetch(indices, draws).clips
    first = [frame for number in (0, 24, 25) for frame in range(2 * number, 2 * number + 8, 2)]
    assert reader.asked == [sorted(set(first)), [26, 28, 30, 32], [0, 2, 4, 6]]
    one_by_one = [alone.fetch(indices[[row]], draws[[row]]).clips for row in range(5)]
    assert (clips == torch.cat(one_by_one)).all()


class CountingReader(DecordReader):
    """Remembers which frames it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def read(self, path, facts, numbers, size, crop):
        self.asked.append(list(numbers))
        return super().read(path, facts, numbers, size, crop)


def test_videos_are_decoded_once_and_again_when_they_changed(tmp_path):
    root = write_videos(tmp_path / "v", num=3)
    options = VideoFolder(path=str(root), **SMALL)
    before = stored(options, tmp_path)
    assert len(before) == 3 and stored(options, tmp_path) == before
    assert stored(VideoFolder(path=str(root), size=8, frames=2), tmp_path) == before  # shorter clips of the same frames
    write_video(root / "1.avi", ramp(18, height=16, width=16))
    after = stored(options, tmp_path)
    assert len(after) == 4 and before.items() <= after.items()
    assert len(stored(VideoFolder(path=str(root), size=8, frames=4, stride=3), tmp_path)) == 7


def stored(options, tmp_path) -> dict[str, int]:
    """The cache's files and when they were written, after loading both splits."""
    for split in ("train", "test"):
        load(options, split, tmp_path)
    return {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}


def test_the_cache_holds_no_more_than_its_bound(tmp_path):
    root = str(write_videos(tmp_path / "v", num=10))
    bound = 3.5 * 10 * 3 * 8 * 8 / 2**30  # three videos and a half of 10 frames each
    train = load(VideoFolder(path=root, cache_gb=bound, **SMALL), "train", tmp_path)
    assert train.is_lazy
    train.fetch(torch.arange(8))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 3
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.suffix in (".lock", ".tmp")]


def fill(root: str, cache: Path, decoded) -> None:
    """In a process of its own: load and count what this process decoded."""
    original = DecordReader.read

    def counting(self, *arguments):
        with decoded.get_lock():
            decoded.value += 1
        yield from original(self, *arguments)

    DecordReader.read = counting  # type: ignore[method-assign]
    VideoFolder(path=root, **SMALL).load("train", cache)


def test_processes_that_fill_the_cache_at_once_decode_each_video_once(tmp_path):
    root = str(write_videos(tmp_path / "v", num=10))
    context = multiprocessing.get_context("fork")
    decoded = context.Value("i", 0)
    processes = [context.Process(target=fill, args=(root, tmp_path / "cache", decoded)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert decoded.value == 8


def test_a_decoding_that_stops_half_way_leaves_nothing_behind(tmp_path):
    root = write_videos(tmp_path / "v", num=3)
    broken = write_video(root / "9.avi", ramp(200, height=16, width=16))
    spoil(broken)
    train = load(VideoFolder(path=str(root), test_path=str(root), **SMALL), "train", tmp_path)
    assert len(train) == 3 and "9.avi" in train.excluded[0]
    assert len([file for file in (tmp_path / "cache").rglob("*") if file.is_file() and "index" not in file.name]) == 3


def spoil(path: Path) -> None:
    """Damage all but the first frames, which keeps the length and the index."""
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(content)


# ---- bad files ---------------------------------------------------------------------------------------------------


def test_bad_files_are_left_out_and_named_once_with_reasons(tmp_path, caplog):
    root = write_videos(tmp_path / "v", num=4)
    expected = bad_files(root)
    write_video(root / "one.avi", ramp(1))
    write_video(root / "short.avi", ramp(6))
    (root / "notes.txt").write_text("filmed on Monday")
    expected |= {"one.avi": "1 frames, a clip takes 7", "short.avi": "too short: 6 frames", "notes.txt": "not a video"}
    del expected["missing.mp4"]
    with caplog.at_level(logging.WARNING):
        train = load(VideoFolder(path=str(root), test_path=str(root), **SMALL), "train", tmp_path)
    assert len(train) == 6  # and whole.avi, whole.mov
    assert len(train.excluded) == len(expected)
    for name, reason in expected.items():
        (line,) = [line for line in train.excluded if line.startswith(f"{name}: ")]
        assert reason in line
    (warning,) = caplog.messages
    assert f"left out {len(expected)} of" in warning and all(name in warning for name in expected)


def test_no_file_is_recorded_by_where_this_machine_keeps_it(tmp_path):
    root = write_videos(tmp_path / "elsewhere" / "ant", num=2)
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists" / "train.csv"
    file.write_text("".join(f"{root / name} 0\n" for name in ("0.avi", "1.avi", "none.avi")))
    train = load(VideoCsv(path=str(file), test_path=str(file), cache_gb=0, **SMALL), "train", tmp_path)
    assert train.excluded == ("ant/none.avi: No such file or directory",)
    (root / "1.avi").write_bytes(b"")
    train.fetch(torch.tensor([1]))
    assert train.replaced() == {"ant/1.avi": 1}


def test_a_decoders_words_are_recorded_without_the_path(tmp_path):
    for name in ("good", "bad"):
        (tmp_path / "frames" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(ramp(1, 16, 16)[0]).save(tmp_path / "frames" / name / f"{number}.png")
    (tmp_path / "frames" / "bad" / "0.png").write_bytes(b"no image")
    options = FrameFolder(path=str(tmp_path / "frames"), test_path=str(tmp_path / "frames"), **SMALL)
    (line,) = load(options, "train", tmp_path).excluded
    assert line.startswith("bad: frame 0.png: ") and "'bad/0.png'" in line and str(tmp_path) not in line


def test_a_long_list_of_bad_files_is_cut_in_the_log_only(tmp_path, caplog):
    root = write_videos(tmp_path / "v", num=4)
    for number in range(30):
        (root / f"bad{number}.mp4").touch()
    train = load(VideoFolder(path=str(root), test_path=str(root), **SMALL), "train", tmp_path)
    assert len(train.excluded) == 30 and "and 10 more" in caplog.text


def test_a_clip_longer_than_every_video_is_an_error_that_says_so(tmp_path):
    options = VideoFolder(path=str(write_videos(tmp_path / "v")), size=8, frames=16, fps=2)
    with pytest.raises(ValueError, match=r"no video .* can be used: .*2\.00 s, a clip takes 7\.50 s \(16 frames at"):
        load(options, "train", tmp_path)


def test_a_class_whose_videos_are_all_bad_is_an_error(tmp_path):
    root = write_videos(tmp_path / "v", "ant", "bee")
    for file in (root / "bee").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="no train video of class bee can be used"):
        load(VideoFolder(path=str(root), **SMALL), "train", tmp_path)


@pytest.fixture
def breaking(tmp_path) -> tuple[VideoClips, Path]:
    """Four videos of a class, decoded as they are used, and their folder."""
    root = write_videos(tmp_path / "v", "ant", "bee")
    options = VideoFolder(path=str(root), test_path=str(root), cache_gb=0, **SMALL)
    return load(options, "train", tmp_path), root


def test_a_file_that_breaks_is_replaced_by_the_next_of_its_class_and_counted(breaking, caplog):
    train, root = breaking
    good = train.fetch(torch.tensor([0])).clips
    write_video(root / "ant" / "0.avi", 255 - ramp(20, height=16, width=16))
    (root / "ant" / "4.avi").write_bytes(b"")
    (root / "bee" / "2.avi").unlink()
    batch = train.fetch(torch.tensor([4, 7, 4, 1]))
    assert batch.labels["class"].tolist() == [0, 1, 0, 0]
    assert (batch.clips[0] == train.fetch(torch.tensor([0])).clips[0]).all()  # the class's first after its last
    assert (batch.clips[[1, 3]] == good).all() and (batch.clips[0] != good[0]).any()
    assert train.replaced() == {"ant/4.avi": 2, "bee/2.avi": 1}
    assert len(caplog.messages) == 2 and "4.avi was readable when training began and is not now" in caplog.text


def test_replacements_in_loader_workers_are_counted_too(breaking):
    train, root = breaking
    (root / "ant" / "2.avi").write_bytes(b"")
    indices = [int((batch.clips >= 0).all()) for _, batch in batches(train, num_steps=5, num_workers=2)]
    assert sum(indices) == 5 and train.replaced() == {"ant/2.avi": 4}  # 40 clips, 10 videos


def test_the_run_stops_when_a_class_has_no_good_video_left(breaking):
    train, root = breaking
    for file in (root / "bee").iterdir():
        file.unlink()
    train.fetch(torch.tensor([0]))
    with pytest.raises(ValueError, match="every other video of its class can no longer be read"):
        train.fetch(torch.tensor([6]))


def test_the_global_generator_is_neither_read_nor_moved(train):
    before = torch.get_rng_state()
    batches(train, num_steps=2)
    assert (torch.get_rng_state() == before).all()


def test_a_cache_is_readable_by_other_users(train, tmp_path):
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert files and all(file.stat().st_mode & 0o444 == 0o444 for file in files)


# ---- videos shorter than a clip ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
def test_the_last_frame_of_a_short_video_is_repeated(tmp_path, cache_gb):
    root = write_videos(tmp_path / "v", num=2, length=5)
    options = VideoFolder(path=str(root), sampling=FrameSampling.repeated, cache_gb=cache_gb, **SMALL)
    clips = load(options, "train", tmp_path)
    assert len(clips) == 1 and clips.excluded == ()
    draws = torch.tensor([0.0, 0.5, 0.99])
    assert shades(clips.fetch(torch.zeros(3, dtype=torch.int64), draws).clips) == [[0, 2, 4, 4]] * 3


def test_repeating_frames_changes_no_clip_of_a_video_that_is_long_enough(tmp_path):
    root = write_videos(tmp_path / "v", num=2, length=20)
    draws, index = torch.tensor([0.0, 0.4, 0.99]), torch.zeros(3, dtype=torch.int64)
    found = [
        load(VideoFolder(path=str(root), sampling=sampling, **SMALL), "train", tmp_path).fetch(index, draws).clips
        for sampling in (FrameSampling.strided, FrameSampling.repeated)
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
@pytest.mark.parametrize("length", [3, 16, 30])
def test_segments_take_one_frame_of_each_equal_part_of_a_video(tmp_path, length, cache_gb):
    root = write_videos(tmp_path / "v", num=2, length=length)
    options = VideoFolder(path=str(root), sampling=FrameSampling.segments, cache_gb=cache_gb, **SMALL)
    clips = load(options, "train", tmp_path)
    assert shades(clips.fetch(torch.tensor([0])).clips) == [[int((part + 0.5) * length / 4) for part in range(4)]]
    drawn = shades(
        clips.fetch(torch.zeros(50, dtype=torch.int64), torch.rand(50, generator=generator_for(0, "draws"))).clips
    )
    for part, numbers in enumerate(zip(*drawn, strict=True)):
        assert {int(part * length / 4) <= number <= (part + 1) * length / 4 for number in numbers} == {True}
    assert length < 16 or len({tuple(clip) for clip in drawn}) > 10


def test_segments_of_several_clips_divide_each_clip_s_own_share_of_the_video(tmp_path):
    root = write_videos(tmp_path / "v", num=2, length=32)
    options = VideoFolder(path=str(root), sampling=FrameSampling.segments, clips_per_video=2, **SMALL)
    assert shades(load(options, "train", tmp_path).fetch(torch.tensor([0, 1])).clips) == [
        [2, 6, 10, 14],
        [18, 22, 26, 30],
    ]


def test_how_frames_are_chosen_is_part_of_a_data_set_s_fingerprint(tmp_path):
    root = write_videos(tmp_path / "v", num=2, length=20)
    found = [
        load(VideoFolder(path=str(root), sampling=s, **SMALL), "train", tmp_path).fingerprint() for s in FrameSampling
    ]
    assert len(set(found)) == 3


def test_segments_with_a_stride_or_a_rate_are_refused_by_name():
    with pytest.raises(ValueError, match=r"data\.sampling=segments .* data\.stride=4: set data\.stride=null"):
        VideoFolder(path="v", sampling=FrameSampling.segments, stride=4)
    with pytest.raises(ValueError, match=r"data\.sampling=segments .* data\.fps=5"):
        VideoFolder(path="v", sampling=FrameSampling.segments, fps=5.0)
