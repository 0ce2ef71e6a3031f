"""What a config has to compute, as cost estimates need it: without torch once `core.forecast.operations` counted."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select

from sweeps.cells import expansion_cache
from sweeps.database.audit import note
from sweeps.database.tables import Config, Event, RunRow
from sweeps.study.identity import digest

KIND = ("objective", "encoder", "target", "predictor")  # runs that share these compute alike
COUNTED = "counted"  # the event that holds what a run's config computes
JUDGING = ("evals", "eval_data")  # as core.configuring.config has it, which imports torch


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


def training(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a run's weights, beside its seed."""
    judging = ("evals",) if flat.get("judge") == "best" else JUDGING  # whose data chooses the step
    return {key: value for key, value in flat.items() if key.split(".")[0] not in judging}


def described(flat: Mapping[str, Any], *, has_weights: bool = True) -> Work:
    """What the config says by itself, operations not counted.

    `trained_as`, nearly all of the time, is empty for one that is known to have no trained weights.
    """
    data = "eval_data" if flat.get("eval_data") else "data"
    sizes = [size for key in ("num_train", "num_test") if isinstance(size := flat.get(f"{data}.{key}"), int)]
    return Work(
        kind=tuple(str(flat.get(key)) for key in KIND),
        steps=int(flat.get("optim.steps") or 0),
        evals=tuple(sorted(flat.get("evals") or ())),
        trained_as=digest(training(flat)) if has_weights else "",
        clips=sum(sizes) if len(sizes) == 2 else None,
    )


def counted(flat: Mapping[str, Any], data_root: str = ".") -> Work:
    """With its operations, remembered for the next time; the data's paths begin from `data_root`."""
    # core imports torch, 3 s that a config which was counted before goes without.
    from core.forecast.operations import operations_of

    work, operations = described(flat), operations_of(flat, data_root)
    if operations is None:  # what is elsewhere today may be here tomorrow: not remembered
        return work
    work = work._replace(**operations._asdict())
    expansion_cache.write_work(digest(flat), work._asdict())
    return work


def known(config: str) -> Work | None:
    """Of a config, by its hash, that was counted before."""
    found = expansion_cache.read_work(config)
    return None if found is None else _restored(found)


def _restored(found: Mapping[str, Any]) -> Work:
    return Work(**{**found} | {key: tuple(found[key]) for key in ("kind", "evals")})


def of_configs(connection: Connection | None, hashes: Iterable[str], *, counting: bool = True) -> dict[str, Work]:
    """Of each of these configs that a launch recorded, that was counted before or is in the database.

    Not `counting`, only what the database tells: the same on every machine, and without torch.
    """
    wanted = set(hashes)
    found = read(connection, wanted) if connection is not None else {}
    if counting:
        found |= {config: work for config in wanted - found.keys() if (work := known(config)) is not None}
    new = sorted(wanted - found.keys())
    if connection is not None and new:
        rows = connection.execute(select(Config.hash, Config.json).where(Config.hash.in_(new))).all()
        found |= {row.hash: counted(row.json) if counting else described(row.json) for row in rows}
    return found


# ---- in the database -------------------------------------------------------------------------------------------------


def read(connection: Connection, hashes: Iterable[str]) -> dict[str, Work]:
    """What launches have recorded of these configs."""
    rows = connection.execute(
        select(Config.hash, Event.detail)
        .join(RunRow, RunRow.config_id == Config.id)
        .join(Event, Event.run_id == RunRow.id)
        .where(Event.kind == COUNTED, Config.hash.in_(sorted(hashes)))
        .order_by(Event.id)
    )
    return {row.hash: _restored(json.loads(row.detail)) for row in rows}


def uncounted(connection: Connection, configs: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Of these configs, by hash, those that no run has measured and no launch recorded."""
    flats = {digest(flat): flat for flat in configs}
    measured = (
        select(Config.hash).join(RunRow, RunRow.config_id == Config.id).where(Config.hash.in_(sorted(flats)))
    ).where(RunRow.state == "done")
    told = {*connection.scalars(measured), *read(connection, flats)}
    return {config: flat for config, flat in flats.items() if config not in told}


def to_record(flats: Mapping[str, Mapping[str, Any]], data_root: str = ".") -> dict[str, Work]:
    """What `uncounted` configs compute, as far as it can be counted here.

    It takes a while: not in a transaction, as a writing engine's keep all others out (SQLite).
    """
    works = {config: known(config) or counted(flat, data_root) for config, flat in flats.items()}
    return {config: work for config, work in works.items() if work.training is not None}


def record(connection: Connection, works: Mapping[str, Work]) -> None:
    """With the first run of each config, so that whoever reads the database needs to count nothing."""
    first = (
        select(Config.hash, func.min(RunRow.id).label("run_id"))
        .join(RunRow, RunRow.config_id == Config.id)
        .where(Config.hash.in_(sorted(works)))
        .group_by(Config.hash)
    )
    for row in connection.execute(first).all():
        note(connection, COUNTED, row.run_id, detail=json.dumps(works[row.hash]._asdict()))
