"""A kept listing is taken instead of the folders, and never where these hold something else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.data.fingerprint import fingerprint
from core.data.image_folder import ImageFolder
from core.data.listings.entries import Entries, Listing, asked
from core.data.listings.remembered import Known, Watched, kept_in, listed, listed_with_facts

LONG_AGO = (1_000_000, 1_000_000)


def settle(root: Path) -> None:
    """As if nothing had been written for long: what was just written may change without another time."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            os.utime(path, LONG_AGO)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for split, num in (("train", 3), ("test", 2)):
        for name in ("cat", "dog"):
            (root / split / name / "inner").mkdir(parents=True)
            for i in range(num):
                pixels = np.full((12, 12, 3), 20 * i + len(split), np.uint8)
                pixels[0, 0] = (ord(name[0]), i, 0)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    settle(root)
    return root


def loaded(root: Path, cache: Path, split: str = "train") -> int:
    """How many images a start finds, which keeps what it lists."""
    return len(ImageFolder(path=str(root), size=8).load(split, cache))


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "listings").glob("*.npz"))


def files(root: Path, cache: Path | None = None) -> list[tuple[Path, int]]:
    data = ImageFolder(path=str(root), size=8)
    if cache is None:
        return list(data.entries("train")[0])
    with kept_in(cache):
        return list(data.entries("train")[0])


def test_a_kept_listing_is_that_of_the_folders(photos: Path, tmp_path: Path) -> None:
    loaded(photos, tmp_path)
    assert kept(tmp_path)
    assert files(photos, tmp_path) == files(photos)


def test_folders_that_did_not_change_are_not_listed_again(photos: Path, tmp_path: Path) -> None:
    lists = []

    def make(watched: Watched) -> Listing:
        lists.append(watched)
        return Listing(Entries.of((file, 0) for file in sorted(photos.rglob("*.png"))), [], [])

    with kept_in(tmp_path, writes=True):
        first, then = (listed_with_facts("these", [photos], make) for _ in range(2))
        assert len(lists) == 1 and len(listed("these", [photos], make).entries) == 10
    assert list(first[0].entries) == list(then[0].entries) and (first[1] == then[1]).all()


def test_only_what_loads_a_set_keeps_its_listing(photos: Path, tmp_path: Path) -> None:
    files(photos, tmp_path)
    assert not kept(tmp_path)


def test_a_folder_that_was_just_written_to_is_listed_again(photos: Path, tmp_path: Path) -> None:
    os.utime(photos / "train" / "cat")
    loaded(photos, tmp_path)
    assert not kept(tmp_path)


@pytest.mark.parametrize("place", ["train/cat/9.png", "train/cat/inner/9.png", "train/eel/9.png"])
def test_a_file_more_is_found(photos: Path, tmp_path: Path, place: str) -> None:
    before = loaded(photos, tmp_path)
    (photos / place).parent.mkdir(exist_ok=True)
    shutil.copy(photos / "train/cat/0.png", photos / place)
    assert loaded(photos, tmp_path) == before + 1
    assert photos / place in dict(files(photos, tmp_path))


def test_a_file_that_is_gone_is_missed(photos: Path, tmp_path: Path) -> None:
    before = loaded(photos, tmp_path)
    (photos / "train/cat/0.png").unlink()
    assert loaded(photos, tmp_path) == before - 1


def test_a_folder_whose_time_was_put_back_is_listed_again(photos: Path, tmp_path: Path) -> None:
    before = loaded(photos, tmp_path)
    shutil.copy(photos / "train/cat/0.png", photos / "train/cat/9.png")
    os.utime(photos / "train/cat", LONG_AGO)
    assert loaded(photos, tmp_path) == before + 1


def test_a_link_is_followed_once_it_leads_somewhere(photos: Path, tmp_path: Path) -> None:
    (photos / "train/cat/9.png").symlink_to(tmp_path / "later.png")
    settle(photos)
    before = loaded(photos, tmp_path)
    shutil.copy(photos / "train/cat/0.png", tmp_path / "later.png")
    assert loaded(photos, tmp_path) == before + 1


def test_a_file_behind_a_link_that_is_gone_is_missed(photos: Path, tmp_path: Path) -> None:
    shutil.move(photos / "train/cat/0.png", tmp_path / "elsewhere.png")
    (photos / "train/cat/0.png").symlink_to(tmp_path / "elsewhere.png")
    settle(photos)
    before = loaded(photos, tmp_path)
    (tmp_path / "elsewhere.png").unlink()
    assert loaded(photos, tmp_path) == before - 1


def test_another_folder_in_its_place_is_listed(photos: Path, tmp_path: Path) -> None:
    before = loaded(photos, tmp_path)
    shutil.copytree(photos, tmp_path / "fewer")
    (tmp_path / "fewer/train/cat/0.png").unlink()
    photos.rename(tmp_path / "old")
    (tmp_path / "fewer").rename(photos)
    settle(photos)
    assert loaded(photos, tmp_path) == before - 1


def test_a_torn_listing_is_made_anew(photos: Path, tmp_path: Path) -> None:
    before = loaded(photos, tmp_path)
    for file in kept(tmp_path):
        file.write_bytes(file.read_bytes()[:100])
    assert loaded(photos, tmp_path) == before
    assert files(photos, tmp_path) == files(photos)


def test_a_kept_listing_tells_of_a_file_written_to_in_its_place(photos: Path, tmp_path: Path) -> None:
    data = ImageFolder(path=str(photos), size=8)
    for split in ("train", "test"):
        loaded(photos, tmp_path, split)
    before = fingerprint(data, tmp_path)
    (photos / "train/cat/0.png").write_bytes((photos / "test/dog/1.png").read_bytes())
    assert fingerprint(data, tmp_path) != before


def test_the_fingerprint_is_the_same_with_and_without_a_kept_listing(photos: Path, tmp_path: Path) -> None:
    data = ImageFolder(path=str(photos), size=8)
    before = fingerprint(data, tmp_path / "empty")
    for split in ("train", "test"):
        loaded(photos, tmp_path, split)
    assert fingerprint(data, tmp_path) == fingerprint(data, tmp_path) == before


def test_sets_of_equal_names_sizes_and_times_elsewhere_are_told_apart(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "other")
    changed = tmp_path / "other/train/cat/0.png"
    changed.write_bytes(bytes(reversed(changed.read_bytes())))
    settle(tmp_path / "other")
    here, there = (fingerprint(ImageFolder(path=str(root)), tmp_path) for root in (photos, tmp_path / "other"))
    assert here != there


def known_of(root: Path) -> Known:
    entries = Entries.of((file, 0) for file in sorted(root.rglob("*.png")))
    return Known(Listing(entries, [], []), asked(entries), {})


def test_of_a_large_set_some_files_are_asked(photos: Path) -> None:
    known = known_of(photos)
    assert known.refreshed(every=5, some=200) is known.facts


def test_of_a_large_set_a_file_written_to_in_its_place_is_seen_when_it_is_asked(photos: Path) -> None:
    known = known_of(photos)
    with (photos / "train/cat/0.png").open("ab") as file:
        file.write(b"more")
    now = known.refreshed(every=5, some=1000)  # of ten files: that none of these is the one has a chance of 1e-46
    assert (now != known.facts).any(axis=1).sum() == 1


def test_entries_are_the_files_they_were_made_of(tmp_path: Path) -> None:
    given = [(tmp_path / "b" / "a.png", 1), (tmp_path / "a" / "ü b.png", 0), (tmp_path / "b" / "c.png", 2)]
    entries = Entries.of(given)
    assert list(entries) == given and entries[-1] == given[-1] and entries[1:] == given[1:]
    assert list(Entries.of([])) == []
