"""Which folders of a data set are its splits, by the names that public sets give them, in whatever case."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_VALIDATION = ("validation", "valid", "val", "eval", "evaluation", "dev")
# What the folder of a split may be called, first match first. `test` falls back to the validation folder because
# ImageNet and its like keep the labels of their test images to themselves.
NAMES = {"train": ("train", "training"), "test": ("test", "testing", *_VALIDATION), "validation": _VALIDATION}
_ALL = {name for names in NAMES.values() for name in names}


def find(root: Path, split: str, *, fits: Callable[[Path], bool] = lambda folder: True) -> Path | None:
    """The folder below `root` that is `split`, the first by its name that `fits`; None where there is none.

    Raises ValueError where two folders are called alike but for their case.
    """
    folders = [folder for folder in sorted(root.iterdir()) if folder.is_dir()]
    for name in NAMES[split]:
        called = [folder for folder in folders if folder.name.lower() == name]
        if len(called) > 1:
            both = " and ".join(folder.name for folder in called)
            raise ValueError(f"data.path={root} has the folders {both}, which are one split; remove or rename one")
        if called and fits(called[0]):
            return called[0]
        if called:
            log.warning("data.path: %s is not used: it has no class folders, as the training images have", called[0])
    return None


def refuse_splits_only(root: Path) -> None:
    """Raise ValueError where folders would be read as classes that are all called like splits."""
    names = [folder.name for folder in sorted(root.iterdir()) if folder.is_dir() and not folder.name.startswith(".")]
    if names and all(name.lower() in _ALL for name in names):
        raise ValueError(
            f"data.path={root} has the folders {', '.join(names)}, which are splits and no classes, but none called "
            f"{' or '.join(NAMES['train'])}; name the training folder so, or give the folder above the classes"
        )


def walk(root: Path) -> Iterator[Path]:
    """Every file below `root` that is not hidden, links to folders followed, each folder once: no loop, no copies."""
    seen = {root.resolve()}
    pending = [root]
    while pending:
        folder = pending.pop()
        for item in sorted(folder.iterdir()):
            if item.name.startswith("."):
                continue
            if not item.is_dir():
                yield item
            elif (real := item.resolve()) not in seen:
                seen.add(real)
                pending.append(item)
