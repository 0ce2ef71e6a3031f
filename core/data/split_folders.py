"""Which folders of a data set are its splits, by the names that public sets give them, in whatever case."""

from __future__ import annotations

import heapq
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from core.types import DataError

log = logging.getLogger(__name__)

_VALIDATION = ("validation", "valid", "val", "eval", "evaluation", "dev")
# What the folder of a split may be called, first match first. `test` falls back to the validation folder because
# ImageNet and its like keep the labels of their test images to themselves.
NAMES = {"train": ("train", "training"), "test": ("test", "testing", *_VALIDATION), "validation": _VALIDATION}
_ALIKE = (NAMES["train"], ("test", "testing"), _VALIDATION)  # names of one split
# Of folders that seem to be splits: trn, train2017, training_set, TrainImages.
_LIKELY = {
    "train": re.compile(r"trn|tr|train(ing|set|val|images|data)?"),
    "test": re.compile(r"tst|te|ts|test(ing|set|images|data)?|val(id|idation|set)?|vld|eval(uation)?|dev|holdout"),
}
_NAMED = 3  # classes that one message names
_ALL = {name for names in NAMES.values() for name in names}


def find(root: Path, split: str, *, fits: Callable[[Path], bool] = lambda folder: True) -> Path | None:
    """The folder below `root` that is `split`, the first by its name that `fits`; None where there is none.

    Raises ValueError where two folders are called like one split: train and Train, val and valid.
    """
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    for name in NAMES[split]:
        called = [folder for folder in folders if folder.name.lower() == name]
        alike = next(names for names in _ALIKE if name in names)
        rivals = [folder for folder in folders if folder.name.lower() in alike]
        if called and any(not folder.samefile(rivals[0]) for folder in rivals):
            both = " and ".join(folder.name for folder in rivals)
            raise ValueError(f"data.path={root} has the folders {both}, which are one split; remove or rename one")
        if called and fits(called[0]):
            return called[0]
        if called:
            log.warning("data.path: %s is not used: it has no class folders, as the training images have", called[0])
    return None


def holds_splits_only(root: Path) -> bool:
    """Whether `root` has folders and all are called like splits."""
    names = _folder_names(root)
    return bool(names) and all(name.lower() in _ALL for name in names)


def refuse_splits_only(root: Path) -> None:
    """Raise ValueError where folders would be read as classes that are all called like splits."""
    if holds_splits_only(root):
        raise ValueError(
            f"data.path={root} has the folders {', '.join(_folder_names(root))}, which are splits and no classes, but "
            f"none called {' or '.join(NAMES['train'])}; name the training folder so, or give the folder above the "
            "classes"
        )


def refuse_likely_splits(root: Path, *, may_be_flat: bool = True) -> None:
    """Raise ValueError where folders would be read as classes that seem to be splits of a name that is not known.

    They seem so where one is called like training and one like testing (trn and tst, train2017 and val2017), and these
    are all that there is, or hold folders of equal names: the classes. Without `may_be_flat` only the latter counts.
    """
    folders = [root / name for name in _folder_names(root)]
    likely = {folder: _likely_split(folder.name) for folder in folders if _likely_split(folder.name)}
    if len(set(likely.values())) < 2:
        return
    held = [set(_folder_names(folder)) for folder in likely]
    shared = sorted(set.intersection(*held))
    is_nested = bool(shared) and all(names <= max(held, key=len) for names in held)
    if not is_nested and not (may_be_flat and len(likely) == len(folders)):
        return
    names = ", ".join(folder.name for folder in likely)
    each = (
        f" (each holds {', '.join([*shared[:_NAMED], *(['...'] if len(shared) > _NAMED else [])])})"
        if is_nested
        else ""
    )
    train, test = (next(folder for folder, split in likely.items() if split == wanted) for wanted in ("train", "test"))
    raise ValueError(
        f"data.path={root} has the folders {names}, which look like splits and no classes{each}: name them train and "
        f"test, or give data.path={train} data.test_path={test}"
    )


def _likely_split(name: str) -> str:
    """ "train" or "test" for what seems to be called like such a split; "" for any other name."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    for split, pattern in _LIKELY.items():
        if any(pattern.fullmatch(word) for word in words):
            return split
    return ""


def refuse_nested(train: Path, test: Path) -> None:
    """Raise ValueError where the test split's folder is the train split's, or one lies in the other."""
    inner, outer = test.resolve(), train.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(
            f"data: the test folder {test} {'is' if inner == outer else 'shares files with'} the train folder {train}; "
            "a held-out split shares no file with train: give another folder as data.test_path, or none to hold some "
            "files out"
        )


def _folder_names(root: Path) -> list[str]:
    return [folder.name for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]


# ---- links -------------------------------------------------------------------------------------------------------


def walk(root: Path, seen_in: Callable[[Path], None] = lambda folder: None) -> list[Path]:
    """Every file below `root` that is not hidden, sorted, links to folders followed, each folder once.

    A folder below `root` keeps its own name beside links to it. Of several links to a folder elsewhere the nearest to
    `root` is followed, the first by name of these. A link to a folder that holds `root` is not followed, so there is no
    loop; one to nothing is a file, for the reader to name. `seen_in` is told of each folder before it is listed. Raises
    DataError for a folder that may not be listed.
    """
    found: list[Path] = []
    links: list[tuple[int, Path]] = []  # a heap: depth, link
    seen = {_identity(folder) for folder in (root, *root.resolve().parents)}
    _walk(root, seen, found, links, seen_in)
    while links:
        _, link = heapq.heappop(links)
        if (identity := _identity(link)) not in seen:
            seen.add(identity)
            _walk(link, seen, found, links, seen_in)
    return sorted(found)


def _walk(
    start: Path,
    seen: set[tuple[int, int]],
    found: list[Path],
    links: list[tuple[int, Path]],
    seen_in: Callable[[Path], None],
) -> None:
    """Add the files of `start` and of its real folders to `found`, and its links to folders to `links`."""
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        seen_in(folder)
        try:
            with os.scandir(folder) as listed:
                items = [item for item in listed if not item.name.startswith(".")]
        except OSError as error:
            raise DataError(f"data.path: {folder} cannot be listed ({error.strerror or error})") from error
        for item in items:
            path = folder / item.name
            if item.is_dir(follow_symlinks=False):
                if (identity := _identity(path)) not in seen:
                    seen.add(identity)
                    waiting.append(path)
            elif item.is_symlink() and item.is_dir():
                heapq.heappush(links, (len(path.parts), path))
            elif item.is_file() or item.is_symlink():
                found.append(path)


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
