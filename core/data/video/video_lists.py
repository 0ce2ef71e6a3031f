"""Which videos a split has, and their classes: from folders, and from files of "path label" lines."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from core.data import pictures, split_folders
from core.data.arrays import check_from_zero
from core.data.video.video_kinds import SUFFIXES, is_video, why_not
from core.types import generator_for

_LABEL = r'\s*[,\s]\s*(?P<quote>"?)(?P<label>[^,\s"]*)(?P=quote)\s*,*'
_LINE = re.compile(rf"(?P<path>.*?){_LABEL}", re.DOTALL)
_QUOTED = re.compile(rf'"(?P<path>(?:[^"]|"")+)"{_LABEL}')
_NEWLINE = re.compile("\r\n|\n|\r")  # and no other end of a line that Unicode has: names of files hold those
_MAX_CLASSES = 1_000_000
_NAMED = 10  # lines or labels that one message names


class Entry(NamedTuple):
    path: Path
    label: int  # 0 where there are no labels


class Listing(NamedTuple):
    """The videos of one split. `others` are files that are none, each with the reason.

    `repeats` are videos that a list names more than once, and how often: each counts once.
    """

    entries: list[Entry]
    classes: list[str]  # empty: there are no labels
    others: dict[str, str] = {}  # noqa: RUF012 (never changed)
    repeats: dict[str, int] = {}  # noqa: RUF012 (never changed)

    def without_videos(self) -> list[str]:
        """The classes that no video is of."""
        present = {entry.label for entry in self.entries}
        return [name for label, name in enumerate(self.classes) if label not in present]


# ---- folders -----------------------------------------------------------------------------------------------------


def from_folder(root: Path, split: str, *, test_root: Path | None, frames: bool, share: float, seed: int) -> Listing:
    """`root`/train and `root`/test (or val), or `test_root` for the test split, or a share of `root` held out.

    Videos directly in such a folder make it flat: everything below belongs to it, without labels. Else its sub-folders
    are the classes. With `frames` a video is a folder that holds images. Raises ValueError.
    """
    what = "folder of frame images" if frames else "video"
    train = split_folders.find(root, "train") if root.is_dir() else None
    if train is None or _holds_images(train, frames):
        train = root
        if root.is_dir() and not frames:
            split_folders.refuse_splits_only(root)
        if root.is_dir():  # folders of frames are videos, of any name
            split_folders.refuse_likely_splits(root, may_be_flat=not frames)
    own = test_root or (None if train == root else split_folders.find(root, "test"))
    if train != root and own is None:
        raise ValueError(
            f"data.path={root} has a train folder but none called {' or '.join(split_folders.NAMES['test'])}"
        )
    known = listed(train, "data.path", frames)
    if own is None:
        return Listing(held_out(known, split, share=share, seed=seed, what=what), known.classes, known.others)
    if split == "train":
        return known
    split_folders.refuse_nested(train, own)
    return _with_classes_of(known, listed(own, "data.test_path" if test_root else "data.path", frames))


def listed(root: Path, key: str, frames: bool) -> Listing:
    """Every video below `root`, in the order of names, and the files that are none by their names."""
    what = "folders of frame images" if frames else "videos"
    if not root.is_dir():
        there = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"{key} must be a folder of {what}, got {str(root)!r}, which {there}")
    videos, others = _search(root, frames)
    if not videos:
        raise ValueError(f"{key}={root} holds no {what} ({' '.join(pictures.SUFFIXES if frames else SUFFIXES)})")
    if any(video.parent == root for video in videos):
        return Listing([Entry(video, 0) for video in videos], [], others)
    classes = sorted({video.relative_to(root).parts[0] for video in videos})
    number = {name: place for place, name in enumerate(classes)}
    return Listing([Entry(video, number[video.relative_to(root).parts[0]]) for video in videos], classes, others)


def _search(root: Path, frames: bool) -> tuple[list[Path], dict[str, str]]:
    files = split_folders.walk(root)
    if frames:
        folders = {file.parent for file in files if file.suffix.lower() in pictures.SUFFIXES} - {root}
        return sorted(folders), {}
    videos, others = [file for file in files if is_video(file)], [file for file in files if not is_video(file)]
    return videos, {str(file): why_not(file) for file in others}


def _holds_images(folder: Path, frames: bool) -> bool:
    """Whether a folder called "train" is one video's frames, not a split."""
    return frames and any(file.suffix.lower() in pictures.SUFFIXES for file in folder.iterdir())


def _with_classes_of(train: Listing, test: Listing) -> Listing:
    """The test split with the class numbers of the train split."""
    if not train.classes:  # without labels there, they are of no use here
        return Listing([Entry(entry.path, 0) for entry in test.entries], [], test.others)
    if unknown := sorted(set(test.classes) - set(train.classes)):
        raise ValueError(f"data: the test videos have a class {unknown[0]} that the train videos do not have")
    if not test.classes:
        raise ValueError("data: the train videos are in class sub-folders but the test videos are not")
    number = {place: train.classes.index(name) for place, name in enumerate(test.classes)}
    return Listing([Entry(e.path, number[e.label]) for e in test.entries], train.classes, test.others)


def held_out(known: Listing, split: str, *, share: float, seed: int, what: str) -> list[Entry]:
    """The seeded `share` of each class for test, the rest for train. Raises ValueError where a class has one video."""
    chosen: list[Entry] = []
    by_class: dict[int, list[Entry]] = {}
    for entry in known.entries:
        by_class.setdefault(entry.label, []).append(entry)
    for label, members in sorted(by_class.items()):
        name = known.classes[label] if known.classes else ""
        if len(members) < 2:
            raise ValueError(
                f"data.path: {f'class {name}' if name else 'the data set'} needs two entries ({what}), one to hold out "
                "for test; it has 1. Name test videos in data.test_path, or add some"
            )
        num_test = min(max(round(share * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator_for(seed, "split", name)).tolist()
        numbers = order[:num_test] if split == "test" else order[num_test:]
        chosen += [members[number] for number in sorted(numbers)]
    return chosen


# ---- lists -------------------------------------------------------------------------------------------------------


def from_list(file: Path, split: str, *, test_file: Path | None, share: float, seed: int) -> Listing:
    """The lines of `file`, and of `test_file` for the test split, or a share of each class held out."""
    known = read_list(file, "data.path")
    if test_file is None:
        return known._replace(entries=held_out(known, split, share=share, seed=seed, what="lines"))
    if split == "train":
        return known
    test = read_list(test_file, "data.test_path")
    real = _Real()
    trained = {real.path(entry.path) for entry in known.entries}
    if shared := [str(entry.path) for entry in test.entries if real.path(entry.path) in trained]:
        raise ValueError(
            f"data.test_path={test_file} lists {len(shared)} of the videos that data.path={file} trains on: "
            f"{_some(shared)}; a held-out split shares no video with train: take them out of one of the lists, or "
            "leave data.test_path out to hold some of them out"
        )
    if len(test.classes) > len(known.classes):
        raise ValueError(f"{test_file}: has label {len(test.classes) - 1}, {file} only 0 to {len(known.classes) - 1}")
    return test._replace(classes=known.classes)


def read_list(file: Path, key: str) -> Listing:
    """One video a line: a path (relative to the file's folder, or absolute; blanks are allowed, quotes around it are
    none of it), a blank, tab or comma, and a class number from 0, in quotes or not. Empty lines are skipped; a video
    that is listed again counts once and is named in `repeats`.

    Raises ValueError naming file and lines: for text that is not UTF-8, a label that is missing or not a number, one
    video with two labels and, in the list that is trained on, labels that do not start at 0. Whether the videos are
    there is not looked at here: a missing one is left out and named like an unreadable one.
    """
    if not file.is_file():
        raise ValueError(f'{key} must be a file of "path label" lines, got {str(file)!r}, which is not a file')
    entries: dict[str, Entry] = {}
    first: dict[str, int] = {}
    times: Counter[str] = Counter()
    wrong, torn = [], []
    for number, line in enumerate(_NEWLINE.split(_text(file, key)), start=1):
        if not line.strip():
            continue
        quoted = _QUOTED.fullmatch(line.strip())
        match = quoted or _LINE.fullmatch(line.strip())
        path, label = (match["path"], match["label"]) if match else (line.strip(), "")
        if quoted:
            path = path.replace('""', '"')  # as CSV writes a quote inside quotes
        if not (label.isascii() and label.isdecimal() and int(label) < _MAX_CLASSES and path):
            wrong.append((number, line))
            continue
        entry = Entry(file.parent / path, int(label))
        name = os.path.normpath(entry.path)  # a/../b.mp4 is b.mp4
        times[name] += 1
        if entries.setdefault(name, entry).label != entry.label:
            torn.append(f"{path} has label {entries[name].label} in line {first[name]} and {label} in line {number}")
        first.setdefault(name, number)
    if wrong:
        number, line = wrong[0]
        others = f"; so are lines {_some([str(n) for n, _ in wrong[1:]])}" if len(wrong) > 1 else ""
        raise ValueError(
            f'{file}, line {number}: must be "path label", the label a class number in [0, {_MAX_CLASSES}), '
            f"got {line!r}{others}"
        )
    if torn:
        raise ValueError(f"{file}: a video has one label: {_some(torn, '; ')}")
    if not entries:
        raise ValueError(f"{key}={file} has no lines")
    labels = {entry.label for entry in entries.values()}
    if key == "data.path":
        check_from_zero(min(labels), max(labels), str(file))
    repeats = {str(entries[name].path): n for name, n in times.items() if n > 1}
    classes = [str(label) for label in range(1 + max(labels))]
    return Listing(list(entries.values()), classes, repeats=repeats)


class _Real:
    """Where paths lead, however they are written. Folders are looked up once: a list may name 100,000 files."""

    def __init__(self) -> None:
        self._folders: dict[Path, Path] = {}

    def path(self, path: Path) -> Path:
        if (folder := self._folders.get(path.parent)) is None:
            folder = self._folders[path.parent] = path.parent.resolve()
        return folder / path.name


def _text(file: Path, key: str) -> str:
    """The list as text, without the mark that spreadsheet programs begin it with."""
    content = file.read_bytes()
    if (encoding := _wide(content)) is not None:
        raise ValueError(f"{key}={file} is in {encoding}; save it as UTF-8")
    if b"\0" in content:
        line = 1 + content[: content.index(b"\0")].count(b"\n")
        raise ValueError(f"{key}={file}, line {line}: a zero byte, which no text has; give a list of videos")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + content[: error.start].count(b"\n")
        raise ValueError(
            f"{key}={file}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8 (the file is in ISO-8859-1 or "
            "the like); save it as UTF-8"
        ) from None


def _wide(content: bytes) -> str | None:
    """UTF-16 or UTF-32, by its mark or by the zero bytes that its ASCII letters have; None: neither."""
    if content[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):  # before UTF-16, whose mark it begins with
        return "UTF-32"
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    for width, name in ((4, "UTF-32"), (2, "UTF-16")):
        columns = [content[place : len(content) // width * width : width] for place in range(width)]
        # Lists are mostly ASCII: of a letter's bytes all but the first, or the last, are zero.
        for letters in (columns[0], columns[-1]):
            others = [column for column in columns if column is not letters]
            if letters and not letters.count(0) and all(column.count(0) > len(column) / 2 for column in others):
                return name
    return None


def _some(names: Sequence[str], between: str = ", ") -> str:
    more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return between.join([*names[:_NAMED], *more])


def emptied(classes: Sequence[str], before: Sequence[Entry], after: Sequence[Entry]) -> list[str]:
    """The classes that had videos and have none left."""
    gone = {entry.label for entry in before} - {entry.label for entry in after}
    return [classes[label] for label in sorted(gone)] if classes else []
