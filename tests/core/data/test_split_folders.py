"""Split folders of any case, links to folders, and layouts of public sets, for images and videos alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data import split_folders
from core.data.image_folder import ImageFolder
from core.data.video.videos import FrameFolder, VideoFolder
from tests.core.data.making_videos import ramp, write_video

pytest.importorskip("decord", reason="decord has no wheel for this machine")


def write_videos(folder: Path, *, num: int) -> None:
    for number in range(num):
        write_video(folder / f"{number}.avi", ramp(8, height=16, width=16))


def images(folder: Path, num: int = 2) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(num):
        Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


def names(root: Path, split: str) -> list[str]:
    entries, _ = ImageFolder(path=str(root), size=8).entries(split)
    return [file.relative_to(root).as_posix() for file, _ in entries]


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "validation"), ("TRAIN", "Val")])
def test_images_are_split_whatever_the_case_of_the_folders(tmp_path: Path, train: str, test: str) -> None:
    images(tmp_path / train / "cat", 3)
    images(tmp_path / test / "cat", 1)
    assert len(names(tmp_path, "train")) == 3 and names(tmp_path, "test") == [f"{test}/cat/0.png"]


@pytest.mark.parametrize(("train", "test"), [("Train", "Test"), ("training", "validation")])
def test_videos_and_frame_folders_are_split_likewise(tmp_path: Path, train: str, test: str) -> None:
    for name, num in ((train, 2), (test, 1)):
        write_videos(tmp_path / "videos" / name / "wave", num=num)
        for number in range(num):
            images(tmp_path / "frames" / name / "wave" / f"clip{number}", 4)
    for kind, root in ((VideoFolder, "videos"), (FrameFolder, "frames")):
        data = kind(path=str(tmp_path / root))
        assert [len(data.listing(split).entries) for split in ("train", "test")] == [2, 1]
        assert data.listing("train").classes == ["wave"]


@pytest.mark.parametrize("kind", [ImageFolder, VideoFolder])
def test_a_root_of_splits_only_is_never_read_as_classes(tmp_path: Path, kind: type) -> None:
    for name in ("test", "Val"):
        images(tmp_path / name / "cat")
        write_videos(tmp_path / name / "wave", num=2)
    with pytest.raises(ValueError, match=r"has the folders Val, test, which are splits and no classes"):
        kind(path=str(tmp_path)).spec()


LIKELY = [
    ("trn", "tst"),
    ("training_set", "test_set"),
    ("train2017", "val2017"),
    ("TrainImages", "TestImages"),
    ("trn", "test"),
    ("x-train", "x-valid"),
]


@pytest.mark.parametrize(("train", "test"), LIKELY)
def test_folders_that_look_like_splits_are_named_instead_of_read_as_classes(
    tmp_path: Path, train: str, test: str
) -> None:
    for split in (train, test):
        for name in ("cat", "dog"):
            images(tmp_path / split / name)
    images(tmp_path / "extra")
    with pytest.raises(ValueError, match=rf"has the folders .*{train}.*, which look like splits .*each holds cat, dog"):
        ImageFolder(path=str(tmp_path), size=8).spec()


def test_what_is_offered_for_folders_that_look_like_splits_works(tmp_path: Path) -> None:
    for split, num in (("trn", 3), ("tst", 1)):
        images(tmp_path / split / "cat", num)
    with pytest.raises(
        ValueError, match=r"name them train and test, or give data.path=(.*) data.test_path="
    ) as refused:
        ImageFolder(path=str(tmp_path), size=8).spec()
    path, test_path = (word.partition("=")[2] for word in str(refused.value).split()[-2:])
    data = ImageFolder(path=path, test_path=test_path, size=8)
    assert [len(data.entries(split)[0]) for split in ("train", "test")] == [3, 1]


def test_flat_folders_that_look_like_splits_are_no_classes_either(tmp_path: Path) -> None:
    images(tmp_path / "trn")
    images(tmp_path / "tst")
    with pytest.raises(ValueError, match="has the folders trn, tst, which look like splits"):
        ImageFolder(path=str(tmp_path), size=8).spec()


def test_videos_and_frame_folders_in_what_looks_like_splits_are_refused_likewise(tmp_path: Path) -> None:
    for name in ("trn", "tst"):
        write_videos(tmp_path / "videos" / name / "wave", num=2)
        images(tmp_path / "frames" / name / "wave" / "clip", 4)
    for kind, root in ((VideoFolder, "videos"), (FrameFolder, "frames")):
        with pytest.raises(ValueError, match=r"look like splits and no classes \(each holds wave\)"):
            kind(path=str(tmp_path / root)).spec()


@pytest.mark.parametrize(
    "places",
    [
        ["cat/indoor", "cat/outdoor", "dog/indoor", "dog/outdoor"],  # nested on purpose
        ["train_station/day", "bus_station/day"],
        ["trains/day", "trams/day"],
        ["test_tube/clean", "test_strip/clean"],
        ["train_station/day", "test_tube/night", "cat/day"],
    ],
)
def test_classes_with_folders_in_them_stay_classes(tmp_path: Path, places: list[str]) -> None:
    for place in places:
        images(tmp_path / place)
    classes = {place.partition("/")[0] for place in places}
    assert ImageFolder(path=str(tmp_path), size=8).spec().classes == {"class": len(classes)}


def test_frame_folders_called_like_splits_are_videos(tmp_path: Path) -> None:
    images(tmp_path / "train1", 4)
    images(tmp_path / "test1", 4)
    assert len(FrameFolder(path=str(tmp_path)).listing("train").entries) == 1


def test_one_split_by_two_cases_is_refused(tmp_path: Path) -> None:
    images(tmp_path / "train" / "cat")
    images(tmp_path / "Train" / "cat")
    if len(list(tmp_path.iterdir())) == 1:
        pytest.skip("this disk does not tell cases apart")
    with pytest.raises(ValueError, match="has the folders Train and train, which are one split"):
        names(tmp_path, "train")


def test_ilsvrc_s_unlabelled_test_images_leave_val_as_the_test_split(tmp_path: Path) -> None:
    images(tmp_path / "train" / "n01440764")
    images(tmp_path / "val" / "n01440764", 1)
    images(tmp_path / "test", 3)
    assert names(tmp_path, "test") == ["val/n01440764/0.png"]


def test_a_class_folder_that_is_a_link_and_a_link_inside_one_are_followed_once(tmp_path: Path) -> None:
    images(tmp_path / "elsewhere")
    images(tmp_path / "root" / "dog")
    (tmp_path / "root" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "dog" / "more").symlink_to(images(tmp_path / "more"))
    (tmp_path / "root" / "dog" / "loop").symlink_to(tmp_path / "root" / "dog")
    found = sorted(names(tmp_path / "root", "train") + names(tmp_path / "root", "test"))
    assert found == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png", "dog/more/0.png", "dog/more/1.png"]


def test_links_are_followed_for_videos_and_frame_folders_too(tmp_path: Path) -> None:
    write_videos(tmp_path / "v" / "wave", num=2)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "wave").symlink_to(tmp_path / "v" / "wave")
    images(tmp_path / "f" / "clip0", 4)
    (tmp_path / "frames" / "jump").mkdir(parents=True)
    (tmp_path / "frames" / "jump" / "clip0").symlink_to(tmp_path / "f" / "clip0")
    images(tmp_path / "frames" / "jump" / "clip1", 4)
    for kind, root in ((VideoFolder, "videos"), (FrameFolder, "frames")):
        data = kind(path=str(tmp_path / root), test_share=0.5)
        assert [len(data.listing(split).entries) for split in ("train", "test")] == [1, 1]


def test_a_walk_ends_where_links_go_round(tmp_path: Path) -> None:
    images(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert [file.name for file in split_folders.walk(tmp_path)] == ["0.png", "1.png"]


# ---- links ---------------------------------------------------------------------------------------------------------


def filled(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def below(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in split_folders.walk(root)]


def test_files_are_sorted_and_hidden_ones_left_out(tmp_path: Path) -> None:
    filled(tmp_path, "b/1.x", "a/2.x", "a/1.x", "a/.hidden", ".thumbnails/1.x", "a/.cache/3.x")
    assert below(tmp_path) == ["a/1.x", "a/2.x", "b/1.x"]


def test_two_links_to_one_folder_give_its_files_once_by_the_nearer_link(tmp_path: Path) -> None:
    filled(tmp_path / "disk", "1.x")
    root = filled(tmp_path / "root", "a/0.x")
    for link in (root / "a" / "again", root / "z"):
        link.symlink_to(tmp_path / "disk")
    assert below(root) == ["a/0.x", "z/1.x"]


def test_a_folder_below_the_root_keeps_its_own_name_beside_a_link_to_it(tmp_path: Path) -> None:
    (filled(tmp_path, "b/1.x", "b/deep/2.x") / "a").symlink_to("b/deep")
    assert below(tmp_path) == ["b/1.x", "b/deep/2.x"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    filled(tmp_path / "one", "1.x"), filled(tmp_path / "two", "2.x")
    (tmp_path / "one" / "more").symlink_to(tmp_path / "two")
    (tmp_path / "two" / "more").symlink_to(tmp_path / "one")
    (tmp_path / "one" / "up").symlink_to(tmp_path)
    (tmp_path / "one" / "self").symlink_to(".")
    assert below(tmp_path / "one") == ["1.x", "more/2.x"]


def test_a_link_to_nothing_is_a_file_that_a_reader_can_name(tmp_path: Path) -> None:
    (filled(tmp_path, "a/1.x") / "a" / "gone.x").symlink_to(tmp_path / "nowhere")
    assert below(tmp_path) == ["a/1.x", "a/gone.x"]
