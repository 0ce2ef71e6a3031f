"""Checkpoints that survive being killed while they are written.

A checkpoint is written to a temporary file, flushed to the disk and renamed, so a reader sees a whole one or none.
Two are kept: when the newest is torn all the same (a disk that lied about flushing), the one before it is used. No
random state is stored: everything random is a pure function of seed and step (`core.types.generator_for`).
"""

from __future__ import annotations

import json
import logging
import os
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from core.configuring.config import JUDGING
from core.types import DataSpec

log = logging.getLogger(__name__)
PREFIX = "step-"
# What can be done with new files by who only judges: the weights were not trained on them.
JUDGE_ON_THEM = "judge on the new ones beside the old ones: eval_data=KIND eval_data.path=PATH"


class CheckpointError(ValueError):
    """A checkpoint that belongs to another run."""


def save(folder: Path, step: int, state: Mapping[str, Any], config: Mapping[str, Any], *, keep: int = 2) -> Path:
    """Write ``folder/step-<step>.pt`` atomically and remove all but the newest `keep`.

    Raises OSError (disk full, say) with the earlier checkpoints intact.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PREFIX}{step:09d}.pt"
    temporary = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save(own({"step": step, "config": json.dumps(config, sort_keys=True), **state}), file)
            file.flush()
            os.fsync(file.fileno())  # a node that dies after the rename must not leave an empty file behind it
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        # torch closes its archive on the way out of a full disk, and what that raises hides the disk's own error.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        if reason.errno is not None and reason.filename is None:
            reason.filename = str(path)
        raise reason from None
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(folder)
    for old in checkpoints(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def own(state: Any) -> Any:
    """`state` with copies in place of tensors that are parts of larger ones, which would be saved whole."""
    if isinstance(state, Mapping):
        return {key: own(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(own(value) for value in state)
    if isinstance(state, torch.Tensor) and state.untyped_storage().nbytes() > state.nbytes:
        return state.clone()
    return state


def load_latest(folder: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest readable checkpoint in `folder`, or None where there is none.

    A torn checkpoint is named in a warning and the one before it is taken. Raises CheckpointError when the checkpoint
    was made by a run of another configuration.
    """
    found = newest(folder)
    if found is None:
        return None
    path, state = found
    refuse_other_config(path, json.loads(state["config"]), config)
    return state


def newest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Path and content of the newest readable checkpoint in `folder`, whichever run made it.

    Its tensors are read as they are used, from pages that all processes of a machine share: what is kept beyond that is
    to be `copied`.
    """
    for path in checkpoints(folder):
        try:
            return path, dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError) as error:
            log.warning("checkpoint %s cannot be read (%s); trying the one before it", path, error)
    return None


def copied(state: Any) -> Any:
    """`state` with tensors of its own memory."""
    return tree_map_only(torch.Tensor, torch.clone, state)


def data_spec(state: Mapping[str, Any]) -> DataSpec | None:
    """What the data was like that the checkpoint's weights learned from; None for one of older code."""
    return DataSpec(**state["spec"]) if "spec" in state else None


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first."""
    return sorted(folder.glob(f"{PREFIX}*.pt"), reverse=True)


def refuse_other_config(path: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raise CheckpointError when the weights would have become others. How they are judged does not change them, but
    what they are judged on does where it chooses the step."""
    wanted = json.loads(json.dumps(config))
    deciding = {key for key in stored.keys() | wanted.keys() if key.split(".")[0] not in judging(wanted)}
    differing = sorted(key for key in deciding if stored.get(key) != wanted.get(key))
    if differing:
        key = differing[0]
        chooses = ", which chooses the step that judge=best judges" if key.split(".")[0] in JUDGING else ""
        raise CheckpointError(
            f"{path} was made with {key}={stored.get(key)}, this run has {key}={wanted.get(key)}{chooses}"
            f" ({len(differing)} keys differ). Choose another runtime.dir or remove the folder."
        )


def judging(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What a flat config's keys begin with that its weights do not depend on."""
    return ("evals",) if config.get("judge") == "best" else JUDGING


def refuse_other_data(
    where: Path,
    stored: Mapping[str, str],
    now: Mapping[str, str],
    *,
    instead: str = "",
    only_judging: Collection[str] = JUDGING,
) -> None:
    """Raise CheckpointError when the files that the weights were trained on have been replaced.

    Both are fingerprints by group; one that is not known refuses nothing. What is `only_judging` changes no weights.
    """
    for group in sorted(stored.keys() & now.keys()):
        is_judging = group in only_judging or group.startswith("eval_plugin.")
        if not is_judging and stored[group] != now[group]:
            raise CheckpointError(other_data(f"{where} was made", group, stored[group], now[group], instead))


def other_data(what: str, group: str, before: str, now: str, instead: str = "") -> str:
    """The two things that one can do about files that are not those of before; `instead` of naming them, if given."""
    if "plugin." in group:
        return (
            f"{what} with other source of plugin {group.partition('.')[2]}: it had the hash {before}, and has {now} "
            "now. Restore it, or register the new code under another name (another experiment, in another "
            f"runtime.dir); where you know it to give the same numbers, say so: 'runtime.same_data=[{now}-{before}]'"
        )
    instead = instead or f"name the new ones: {group}.version=WORD (another experiment, in another runtime.dir)"
    return (
        f"{what} with other files: {group} had the fingerprint {before}, {group}.path has {now} now. Restore the "
        f"files, or {instead}; where you know them to be equal in content (renamed, "
        f"re-encoded), say so: 'runtime.same_data=[{now}-{before}]'"
    )


def sync_folder(folder: Path) -> None:
    """Make the rename itself durable; folders cannot be opened on Windows, where renames need no such help."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
