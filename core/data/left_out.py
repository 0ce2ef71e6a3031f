"""What a run's record says of the files that its data set left out or had to replace.

The record goes into the database and from there into tables and pages that others see: files are named as they are in
the data set, never by where this machine keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.types import Dataset

_NAMED = 100  # files that a run's record names


def name_in(file: Path, roots: Iterable[Path]) -> str:
    """`file` relative to the first of `roots` that it is below; else, of an absolute path in a list, its last parts."""
    for root in roots:
        if file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    return "/".join(file.parts[-2:])


def data_facts(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    """For each split that lacks files: how many, and the first hundred with their reasons.

    A data set tells by attributes that it may have: `excluded`, the files that were left out when it was loaded,
    `repeats`, file -> how often a list names it (it counts once), and `replaced()`, file -> how many of its clips were
    replaced since this process (or attempt) began because the file broke. With several processes the numbers are those
    of the main one; the others say theirs in their logs.
    """
    facts: dict[str, Any] = {}
    for split, dataset in splits.items():
        if excluded := list(getattr(dataset, "excluded", ())):
            facts[f"num_excluded_{split}"] = len(excluded)
            facts[f"excluded_{split}"] = excluded[:_NAMED]
        if repeats := dict(getattr(dataset, "repeats", {})):
            facts[f"num_repeated_{split}"] = len(repeats)
            facts[f"repeated_{split}"] = [f"{file}: {num} times" for file, num in list(repeats.items())[:_NAMED]]
        if replaced := (dataset.replaced() if hasattr(dataset, "replaced") else {}):
            facts[f"num_replaced_{split}"] = sum(replaced.values())
            facts[f"replaced_{split}"] = [f"{file}: {num} clips" for file, num in list(replaced.items())[:_NAMED]]
    return facts
