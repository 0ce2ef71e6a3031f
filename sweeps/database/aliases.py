"""Configurations written by older code, brought to today's keys, so that a new option does not orphan old runs.

A run's identity is its whole flat config. When code gains, renames or drops an option, the same experiment would get
another identity and be trained again. A migration in `MIGRATIONS` says what the old config is called today; it is
applied at every launch, by every worker and to every capsule that is read. `sw_alias` keeps the old identity, so
capsules and checkouts of either age find the run. A changed *default* needs no migration: a stored config holds every
value, so old runs keep theirs and are another experiment.

`tests/sweeps/snapshot_defaults.json` holds every method's options; its test fails until a migration is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from sweeps.database.tables import Alias, CellRow, Config, RunRow, insert_new
from sweeps.study.identity import HASH_VERSION, canonical, digest

Flat = dict[str, Any]


@dataclass(frozen=True)
class Migration:
    """What configs of older code are called today.

    `apply` maps a flat identity config to today's, and one that is of today already to itself.
    """

    name: str  # "2026-12-01 predictor.qk_norm"; kept in sw_alias
    apply: Callable[[Flat], Flat]


def added(name: str, key: str, value: Any, *, when: Mapping[str, Any], beside: str = "") -> Migration:
    """A new option: older runs did what `value` says. `when` picks configs that have it: {"predictor": "narrow"}.

    `beside` is an option that all of them have had, for one that does not depend on a choice.
    """

    def apply(flat: Flat) -> Flat:
        if key in flat or (beside and beside not in flat):  # nearly always: a database has thousands of configs
            return flat
        has_it = all(flat.get(other) == wanted for other, wanted in when.items())
        return flat | {key: value} if has_it else flat

    return Migration(name, apply)


def renamed(name: str, old: str, new: str) -> Migration:
    def apply(flat: Flat) -> Flat:
        return {new if key == old else key: value for key, value in flat.items()}

    return Migration(name, apply)


def removed(name: str, key: str, value: Any) -> Migration:
    """An option that is gone: the code always does what `value` said. Configs that said otherwise stay as they are."""

    def apply(flat: Flat) -> Flat:
        is_same = key in flat and canonical(flat[key]) == canonical(value)
        return {other: kept for other, kept in flat.items() if other != key} if is_same else flat

    return Migration(name, apply)


# Oldest first; append, and never edit one that has been released: databases remember it by name.
MIGRATIONS: tuple[Migration, ...] = (
    added("2026-11-21 augment.repeats", "augment.repeats", 1, when={}, beside="augment.flip"),
    added("2026-11-21 eval_data", "eval_data", None, when={}, beside="augment.flip"),  # judged on what it trained on
    added("2026-11-21 evals.attentive.depth", "evals.attentive.depth", 1, when={}, beside="evals.attentive.heads"),
    added("2026-11-21 evals.vissl.looks", "evals.vissl.looks", 0, when={}, beside="evals.vissl.shots"),
    added("2026-11-21 evals.vissl.crop_min", "evals.vissl.crop_min", 0.08, when={}, beside="evals.vissl.shots"),
    added("2026-11-21 evals.vissl.flip", "evals.vissl.flip", True, when={}, beside="evals.vissl.shots"),
    added("2026-11-21 weights", "weights", None, when={}, beside="augment.flip"),  # drawn at random
    added("2026-11-21 target.tokenizer", "target.tokenizer", "code_book", when={"target": "tokens"}),
    added("2026-11-21 flow_data", "flow_data", None, when={}, beside="augment.flip"),  # there were no pairs of frames
    added("2026-11-21 data.pan", "data.pan", 0.0, when={"data": "moving_digits"}),
    added("2026-11-21 eval_data.pan", "eval_data.pan", 0.0, when={"eval_data": "moving_digits"}),
    *(
        added(f"2026-11-21 {name} of {objective}", f"objective.{name}", value, when={"objective": objective})
        for objective in ("flow", "motion_content")
        for name, value in (
            ("estimator_match", False),
            ("reconstruction_visible", False),
            ("reconstruction_levels", "last"),
        )
    ),
    added("2026-11-21 optim.name", "optim.name", "adamw", when={}, beside="augment.flip"),
    *(
        added(f"2026-11-27 {group}.{option} of {kind}", f"{group}.{option}", value, when={group: kind})
        for group in ("data", "eval_data", "flow_data")
        for kind, option, value in (
            ("image_folder", "test_path", ""),  # a test split was below `path`, or held out
            ("davis", "resize_masks", False),
            ("voc", "resize_masks", False),
            ("cityscapes", "resize_masks", False),
            ("ade20k", "resize_masks", False),
        )
    ),
    added("2026-11-27 evals.ridge.pool", "evals.ridge.pool", "mean", when={}, beside="evals.ridge.heldout"),
    *(
        added(f"2026-11-27 evals.{evaluation}.pool", f"evals.{evaluation}.pool", "mean", when={}, beside=beside)
        for evaluation, beside in (
            ("knn", "evals.knn.k"),
            ("linear", "evals.linear.lrs"),
            ("low_shot", "evals.low_shot.share"),
            ("vissl", "evals.vissl.shots"),
            ("finetune", "evals.finetune.lr"),
        )
    ),
    added("2026-11-27 evals.finetune.size", "evals.finetune.size", None, when={}, beside="evals.finetune.lr"),
    added("2026-11-27 evals.knn.whiten", "evals.knn.whiten", False, when={}, beside="evals.knn.k"),
    added("2026-11-27 evals.vos.stride", "evals.vos.stride", None, when={}, beside="evals.vos.level"),
    added("2026-11-27 mask.spatial_ratio", "mask.spatial_ratio", None, when={"mask": "multiblock3d"}),
    *(
        added(f"2026-11-27 {group}.sampling of {kind}", f"{group}.sampling", "strided", when={group: kind})
        for group in ("data", "eval_data", "flow_data")
        for kind in ("video_folder", "video_csv", "frame_folder")
    ),
    # Content and flow shared one schedule.
    added("2026-11-27 objective.restart", "objective.restart", False, when={"objective": "motion_content"}),
)


def migrated(flat: Mapping[str, Any], migrations: Sequence[Migration] | None = None) -> Flat:
    """`flat` under today's keys."""
    found = dict(flat)
    for migration in MIGRATIONS if migrations is None else migrations:
        found = migration.apply(found)
    return found


def name_today(config: str, flat: Flat) -> str:
    """The identity by today's keys of a stored config, for commands that only read: it may still be under its old."""
    return config if not MIGRATIONS or (new := migrated(flat)) == flat else digest(canonical(new))


def apply(connection: Connection, migrations: Sequence[Migration] | None = None) -> int:
    """Bring every stored config to today's keys, in the caller's transaction; returns how many were changed.

    Where today's identity is stored as well (it was launched before the old config came in), cells move to it, and so
    does every old run that it lacks or has not finished. What both have finished stays as it is: nothing is deleted.
    """
    migrations = MIGRATIONS if migrations is None else migrations
    if not migrations:
        return 0
    changed = 0
    for row in connection.execute(select(Config.id, Config.hash, Config.json).order_by(Config.id)).all():
        new = canonical(migrated(row.json, migrations))
        new_hash = digest(new)
        if new_hash == row.hash or new == row.json:
            continue
        there = connection.scalar(select(Config.id).where(Config.hash == new_hash))
        if there is None:
            values = {"hash": new_hash, "hash_version": HASH_VERSION, "json": new}
            connection.execute(update(Config).where(Config.id == row.id).values(values))
            changed += 1
        else:
            changed += _merge(connection, row.id, there)
        names = [step.name for step in migrations if step.apply(dict(row.json)) != row.json]
        alias = {"old_hash": row.hash, "config_id": there or row.id, "migration": ", ".join(names)}
        insert_new(connection, Alias, [alias])
    return changed


def _merge(connection: Connection, old: int, new: int) -> bool:
    """Give config `new` what config `old` has; False when there is nothing left to give."""
    moved = connection.execute(update(CellRow).where(CellRow.config_id == old).values(config_id=new)).rowcount
    moved += connection.execute(update(Alias).where(Alias.config_id == old).values(config_id=new)).rowcount
    columns = (RunRow.id, RunRow.seed, RunRow.code_epoch, RunRow.state)
    there = {
        (run.seed, run.code_epoch): run
        for run in connection.execute(select(*columns).where(RunRow.config_id == new).with_for_update())
    }
    for run in connection.execute(select(*columns).where(RunRow.config_id == old).with_for_update()).all():
        known = there.get((run.seed, run.code_epoch))
        if known is None:
            connection.execute(update(RunRow).where(RunRow.id == run.id).values(config_id=new))
            moved += 1
        elif run.state == "done" and known.state in ("queued", "failed", "cancelled"):
            _exchange(connection, run, known, old, new)
            moved += 1
    return moved > 0


def _exchange(connection: Connection, done: Any, waiting: Any, old: int, new: int) -> None:
    """The finished run takes the place of the waiting one, which is kept under the old config as cancelled."""
    # By way of an epoch that no run has: config, seed and epoch are unique together at every moment.
    aside = {"code_epoch": -waiting.code_epoch, "config_id": old, "state": "cancelled"}
    connection.execute(update(RunRow).where(RunRow.id == waiting.id).values(aside))
    connection.execute(update(RunRow).where(RunRow.id == done.id).values(config_id=new))
    connection.execute(update(RunRow).where(RunRow.id == waiting.id).values(code_epoch=waiting.code_epoch))


def apply_to(engine: Engine) -> int:
    """`apply` in a transaction of its own; opens none when there is nothing to migrate to."""
    if not MIGRATIONS:
        return 0
    with engine.begin() as connection:
        return apply(connection)
