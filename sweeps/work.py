"""What a config has to compute, as cost estimates need it: without torch once it was counted, see `core.operations`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from sweeps import expansion_cache
from sweeps.db import Config
from sweeps.identity import digest

KIND = ("objective", "encoder", "target", "predictor")  # runs that share these compute alike
JUDGING = ("evals", "eval_data")  # as core.config has it, which imports torch


class Work(NamedTuple):
    """Of one run. Operations are in 1e9; None: not counted, or not to be counted here, as the data is elsewhere."""

    kind: tuple[str, ...]
    steps: int
    evals: tuple[str, ...]
    trained_as: str  # equal for configs that train the same weights
    clips: int | None = None  # that it is judged on
    training: float | None = None  # all steps
    clip: float | None = None  # encoding one clip
    tuning: Mapping[str, float] = {}  # of evaluations that train a copy of the encoder


def described(flat: Mapping[str, Any]) -> Work:
    """What the config says by itself, operations not counted."""
    trained = {key: value for key, value in flat.items() if key.split(".")[0] not in JUDGING}
    data = "eval_data" if flat.get("eval_data") else "data"
    sizes = [size for key in ("num_train", "num_test") if isinstance(size := flat.get(f"{data}.{key}"), int)]
    return Work(
        kind=tuple(str(flat.get(key)) for key in KIND),
        steps=int(flat.get("optim.steps") or 0),
        evals=tuple(sorted(flat.get("evals") or ())),
        trained_as=digest(trained),
        clips=sum(sizes) if len(sizes) == 2 else None,
    )


def counted(flat: Mapping[str, Any]) -> Work:
    """With its operations, remembered for the next time."""
    # core imports torch, 3 s that a config which was counted before goes without.
    from core.operations import operations_of

    work, operations = described(flat), operations_of(flat)
    if operations is None:  # what is elsewhere today may be here tomorrow: not remembered
        return work
    work = work._replace(**operations._asdict())
    expansion_cache.write_work(digest(flat), work._asdict())
    return work


def known(config: str) -> Work | None:
    """Of a config, by its hash, that was counted before."""
    found = expansion_cache.read_work(config)
    return None if found is None else Work(**found | {key: tuple(found[key]) for key in ("kind", "evals")})


def of_configs(connection: Connection | None, hashes: Iterable[str], *, counting: bool = True) -> dict[str, Work]:
    """Of each of these configs that was counted before or is in the database."""
    works = {config: known(config) for config in set(hashes)}
    new = sorted(config for config, work in works.items() if work is None)
    found = {config: work for config, work in works.items() if work is not None}
    if connection is not None and new:
        rows = connection.execute(select(Config.hash, Config.json).where(Config.hash.in_(new))).all()
        found |= {row.hash: counted(row.json) if counting else described(row.json) for row in rows}
    return found
