"""What a data set's fingerprint stands for: contents, not places or times."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.configuring.config import ConfigError, fingerprints, flatten, identity, load
from core.data import DATA
from core.data.fingerprint import digests, fingerprint
from core.data.image_folder import ImageFolder
from core.data.moving_digits import MovingDigits
from core.data.video.videos import VideoCsv


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((12, 12, 3), 20 * i + len(name), np.uint8)
            pixels[0, 0] = (ord(name[0]), i, 0)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def of(root: Path, cache: Path, **options: object) -> str:
    told = fingerprint(ImageFolder(path=str(root), size=8, **options), cache)  # type: ignore[arg-type]
    assert told is not None and len(told) == 16
    return told


def test_equal_files_elsewhere_are_the_same_data(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "moved" / "deep", copy_function=shutil.copy)
    assert of(photos, tmp_path) == of(tmp_path / "moved" / "deep", tmp_path)


def test_a_touched_file_is_the_same_data(photos: Path, tmp_path: Path) -> None:
    before = of(photos, tmp_path)
    os.utime(photos / "cat" / "0.png", (1, 1))
    assert of(photos, tmp_path) == before


def test_one_pixel_makes_other_data(photos: Path, tmp_path: Path) -> None:
    before = of(photos, tmp_path)
    Image.fromarray(np.full((12, 12, 3), 77, np.uint8)).save(photos / "cat" / "0.png")
    assert of(photos, tmp_path) != before


def test_a_file_more_and_a_file_of_another_class_make_other_data(photos: Path, tmp_path: Path) -> None:
    before = of(photos, tmp_path)
    shutil.copy(photos / "cat" / "0.png", photos / "cat" / "9.png")
    more = of(photos, tmp_path)
    (photos / "cat" / "9.png").rename(photos / "dog" / "9.png")
    assert len({before, more, of(photos, tmp_path)}) == 3


def test_how_pixels_are_made_of_the_files_is_no_part_of_it(photos: Path, tmp_path: Path) -> None:
    assert of(photos, tmp_path) == of(photos, tmp_path, memory_gb=0.0, crop=0.5)


def test_the_second_time_no_settled_file_is_read(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    for file in files:
        os.utime(file, (1_000_000, 1_000_000))
    first = digests(files, tmp_path)
    stat = files[0].stat()
    files[0].write_bytes(bytes(stat.st_size))  # other content that size and time do not tell
    os.utime(files[0], (1_000_000, 1_000_000))
    assert digests(files, tmp_path) == first
    shutil.rmtree(tmp_path / "fingerprints")
    assert digests(files, tmp_path) != first


def test_a_file_that_was_just_written_is_read_again(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    first = digests(files, tmp_path)
    stat = files[0].stat()
    files[0].write_bytes(bytes(stat.st_size))
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digests(files, tmp_path) != first


def test_a_torn_memory_of_digests_is_read_anew(photos: Path, tmp_path: Path) -> None:
    for file in photos.rglob("*.png"):
        os.utime(file, (1_000_000, 1_000_000))
    before = of(photos, tmp_path)
    remembered = list((tmp_path / "fingerprints").glob("*.json"))
    assert remembered
    for file in remembered:
        file.write_text('{"half')
    assert of(photos, tmp_path) == before


def test_a_list_with_a_missing_file_still_has_one(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a.mp4 0\nb.mp4 1\na2.mp4 0\nb2.mp4 1\n")
    assert fingerprint(VideoCsv(path=str(tmp_path / "list.csv")), tmp_path) is not None


def test_data_made_by_code_is_known_by_its_version(tmp_path: Path) -> None:
    assert fingerprint(MovingDigits(), tmp_path) == fingerprint(MovingDigits(num_train=10), tmp_path) is not None


@pytest.mark.parametrize("name", DATA)
def test_every_data_set_says_what_it_reads(name: str) -> None:
    data = DATA[name]
    assert data.recipe or any("sources" in vars(base) for base in data.__mro__[:-2]), name


def test_a_run_tells_the_fingerprint_of_each_group(photos: Path, tmp_path: Path) -> None:
    words = ["method=mae", "scale=smoke", "eval_data=image_folder", f"eval_data.path={photos}", "eval_data.size=32"]
    run = load([*words, f"runtime.cache={tmp_path}"])
    assert fingerprints(run).keys() == {"data", "eval_data"}


def test_accepted_files_go_by_the_name_of_before(photos: Path, tmp_path: Path) -> None:
    words = ["method=mae", "scale=smoke", "data=image_folder", f"data.path={photos}", "data.size=32"]
    words.append(f"runtime.cache={tmp_path}")
    now = fingerprints(load(words))["data"]
    assert fingerprints(load([*words, f"runtime.same_data=[{now}-0123456789abcdef]"]))["data"] == "0123456789abcdef"


def test_a_pair_of_other_form_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"runtime.same_data must be a list of NOW-BEFORE"):
        load(["method=mae", "runtime.same_data=[yes]"])


def test_a_cache_that_cannot_be_written_is_blamed_itself(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for file in photos.rglob("*.png"):
        os.utime(file, (1_000_000, 1_000_000))
    with pytest.raises(ValueError, match=r"runtime.cache=.*file: cannot be written to"):
        of(photos, tmp_path / "file")


def test_a_version_is_part_of_identity_only_where_it_is_given(photos: Path) -> None:
    words = ["method=mae", "scale=smoke", "data=image_folder", f"data.path={photos}", "data.size=32"]
    plain, named = (identity(flatten(load(more))) for more in (words, [*words, "data.version=cleaned"]))
    assert named == plain | {"data.version": "cleaned"} and "data.version" not in plain


def test_a_version_of_odd_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.version must be up to 40 letters"):
        load(["method=mae", "data.version='a b/c'"])
