"""Each attempt's checkpoints in a folder of its own, where no earlier attempt writes.

A stopped worker may wake when its run has long been another's, and write one more checkpoint before it learns of it.
The database refuses whatever else it has to say; in a folder that the attempts shared, that checkpoint would be the
newest, and the next attempt would go on from steps that no curve shows.
"""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

NO_LINKS = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def adopt(run_folder: Path, attempt: int) -> Path:
    """``run_folder/checkpoints/<attempt>``, made with the checkpoints of the newest attempt before it.

    Hard links, which cost nothing and leave the earlier names valid; copies where the disk has none. It is there whole
    or not at all, so an attempt that dies in here hides nothing from the next one.
    """
    folder = run_folder / "checkpoints"
    mine, draft = folder / str(attempt), folder / f".{attempt}.{os.getpid()}"
    if mine.exists():
        return mine
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    while earlier := _earlier(folder, attempt):
        # What went away meanwhile has a successor: its worker lives, or a newer attempt than this cleans up.
        with suppress(FileNotFoundError):
            _link_all(earlier[-1], draft)
            break
    else:  # from before attempts had folders of their own
        for path in run_folder.glob("step-*.pt"):
            path.replace(draft / path.name)
    draft.replace(mine)
    return mine


def remove_earlier(checkpoints: Path) -> None:
    """Remove the folders of the attempts before the one whose folder this is, once it has a checkpoint of its own."""
    for folder in _earlier(checkpoints.parent, int(checkpoints.name)):
        shutil.rmtree(folder, ignore_errors=True)  # somebody may be writing there still: the next attempt tries again


def _earlier(folder: Path, attempt: int) -> list[Path]:
    numbers = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    return [folder / str(number) for number in numbers if number < attempt]


def _link_all(source: Path, target: Path) -> None:
    for path in source.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():  # an evaluation's own checkpoints
            (target / path.name).mkdir(exist_ok=True)
            _link_all(path, target / path.name)
        elif not (target / path.name).exists():
            link(path, target / path.name)


def link(path: Path, name: Path) -> None:
    """Give the file another name, which costs nothing; a copy of it where the disk has no hard links."""
    try:
        name.hardlink_to(path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copy2(path, name)
