"""Lists of videos as people have them: cases of programs that write them, copied from ../shared/cases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.data.video.video_lists import from_list, read_list

LISTS = Path(__file__).parents[1] / "cases" / "lists"


def read(text: str, folder: Path) -> list[tuple[str, int]]:
    (folder / "list.csv").write_bytes(text.encode())
    entries = read_list(folder / "list.csv", "data.path").entries
    return [(os.path.relpath(entry.path, folder), entry.label) for entry in entries]


@pytest.mark.parametrize("name", ["bom", "quoted"])
def test_a_list_of_a_spreadsheet_or_with_quotes_gives_all_its_lines(name: str) -> None:
    entries = read_list(LISTS / f"{name}.csv", "data.path").entries
    assert [entry.path.name for entry in entries] == [f"{letter}{i}.mp4" for letter in "ab" for i in range(4)]
    assert [entry.label for entry in entries] == [0] * 4 + [1] * 4
    assert entries[0].path == LISTS / "../src/a0.mp4"


def test_quotes_around_a_path_with_blanks_are_no_part_of_it() -> None:
    entries = read_list(LISTS / "vjepa.csv", "data.path").entries
    assert entries[0].path == LISTS / "a clip 0.mp4" and len(entries) == 8


def test_a_video_listed_twice_counts_once_and_is_named() -> None:
    listing = read_list(LISTS / "dups.csv", "data.path")
    assert len({entry.path for entry in listing.entries}) == len(listing.entries)
    assert set(listing.repeats.values()) == {2} and not listing.others


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_out_shares_no_file_with_train_however_often_it_is_listed(seed: int) -> None:
    splits = [
        {e.path for e in from_list(LISTS / "dups.csv", split, test_file=None, share=0.3, seed=seed).entries}
        for split in ("train", "test")
    ]
    assert not splits[0] & splits[1] and splits[1]


def test_one_file_by_two_names_is_one_video(tmp_path: Path) -> None:
    assert read("a.mp4 0\nx/../a.mp4 0\nb.mp4 1\n", tmp_path) == [("a.mp4", 0), ("b.mp4", 1)]


def test_a_video_with_two_labels_is_refused_with_both_lines(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a.mp4 has label 0 in line 1 and 1 in line 3"):
        read("a.mp4 0\nb.mp4 1\na.mp4 1\n", tmp_path)


def test_labels_from_1_are_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match=r"from1.csv: labels start at 0, and these are 1 to 2; subtract 1 from each"):
        read_list(LISTS / "from1.csv", "data.path")


@pytest.mark.parametrize(
    ("name", "message"),
    [("utf16", r"utf16.csv is in UTF-16; save it as UTF-8"), ("latin1", r"latin1.csv, line 9: byte 0xfc is not UTF-8")],
)
def test_another_encoding_is_refused_with_the_lists_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_list(LISTS / f"{name}.csv", "data.path")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("a.mp4,0,", "a.mp4"),
        ("a.mp4\t0", "a.mp4"),
        ("a.mp4 0\r", "a.mp4"),
        ('"a, b.mp4",0', "a, b.mp4"),
        ('"a.mp4"\t0', "a.mp4"),
        ("#1.mp4 0", "#1.mp4"),
        ("a b.mp4 , 0", "a b.mp4"),
        ('"a.mp4","0"', "a.mp4"),
        ('"a b.mp4" "0"', "a b.mp4"),
        ('a.mp4,"0"', "a.mp4"),
        ('"a ""good"" one.mp4",0', 'a "good" one.mp4'),
        *((f"a{end}b.mp4 0", f"a{end}b.mp4") for end in "\u2028\u2029\x0b\x0c\x1c\x85"),
    ],
)
def test_a_line_is_read_however_it_is_written(tmp_path: Path, line: str, path: str) -> None:
    assert read(line, tmp_path) == [(path, 0)]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_lines_end_as_every_system_ends_them(tmp_path: Path, newline: str) -> None:
    assert read(newline.join(["a.mp4 0", "", "b.mp4 1", ""]), tmp_path) == [("a.mp4", 0), ("b.mp4", 1)]


@pytest.mark.parametrize(
    ("codec", "name"),
    [
        ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"),
        ("utf-32", "UTF-32"), ("utf-32-le", "UTF-32"), ("utf-32-be", "UTF-32"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", ["a.mp4 0\nb.mp4 1\n", "für/日本.mp4 0\nb.mp4 1", "a 0"])
def test_wide_encodings_are_told_apart_with_a_mark_and_without(
    tmp_path: Path, codec: str, name: str, text: str
) -> None:
    (tmp_path / "list.csv").write_bytes(text.encode(codec))
    with pytest.raises(ValueError, match=rf"data.path=.*list.csv is in {name}; save it as UTF-8"):
        read_list(tmp_path / "list.csv", "data.path")


def test_a_zero_byte_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list.csv, line 2: a zero byte"):
        read("a.mp4 0\nb\0.mp4 1\n", tmp_path)


def test_labels_that_no_line_has_are_told(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("a.mp4 0\nb.mp4 1\nc.mp4 3\n")
    assert read_list(tmp_path / "list.csv", "data.path").without_videos() == ["2"]


@pytest.mark.parametrize("name", ["a.mp4", "x/../a.mp4", "link/a.mp4"])
def test_a_test_list_with_a_video_of_the_train_list_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.write_text("a.mp4 0\nb.mp4 1\n")
    test.write_text(f"{name} 0\nc.mp4 1\n")
    with pytest.raises(ValueError, match=r"test.csv lists 1 of the videos that data.path=.*train.csv trains on: "):
        from_list(train, "test", test_file=test, share=0.5, seed=0)


def test_all_wrong_lines_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: must be .* got 'b.mp4'; so are lines 3, 4"):
        read("a.mp4 0\nb.mp4\nc.mp4 -1\n5\n", tmp_path)
