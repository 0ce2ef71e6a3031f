"""Which data the runs of a study saw, and whether what is about to join them saw the same.

A config names its data by a path, which does not say what is in it. Each attempt and evaluation is recorded with the
fingerprints of the sets that it read (`core.data.fingerprint`); numbers over other files never join a study's finished
ones without somebody's word. Runs of before there were fingerprints refuse nothing: theirs are unknown.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, select

from sweeps.console.errors import UserError
from sweeps.database.audit import note
from sweeps.database.tables import Attempt, CellRow, Config, EvaluationRow, Event, RunRow, StudyRow
from sweeps.study.identity import CODE_EPOCH, canonical_json

GROUPS = ("data", "eval_data", "flow_data")
# How pixels are made of the files, and what is kept of them: not which files they are.
HOW = frozenset(
    (
        *("size", "store_size", "crop", "memory_gb", "cache_gb", "frames", "stride", "fps", "clips_per_video"),
        *("random_start", "height", "width", "fit", "reader", "max_frames", "label"),
    )
)
PLUGIN = "plugin "  # begins the name of one, which no set's name does
Seen = dict[str, set[str]]  # a data set as its options name it -> the fingerprints that it had
_PAIR = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")


def named(config: Mapping[str, Any], group: str) -> str | None:
    """One name for the set that `config` reads as `group`, whichever its group; None where it reads none."""
    if config.get(group) is None:
        return None
    options = {key.removeprefix(f"{group}."): value for key, value in config.items() if key.startswith(f"{group}.")}
    return canonical_json({"": config[group]} | {key: value for key, value in options.items() if key not in HOW})


def path_of(name: str) -> str:
    """For a message: the path of a set, or its kind."""
    options = json.loads(name)
    return str(options.get("path") or options[""])


def of_config(config: Mapping[str, Any], data: Mapping[str, str]) -> dict[str, str]:
    """Fingerprints by the sets' names, and hashes by the plugins'."""
    sets = {name: data[group] for group in GROUPS if group in data and (name := named(config, group)) is not None}
    return sets | of_plugins(data)


def of_plugins(data: Mapping[str, str]) -> dict[str, str]:
    """The hashes of the plugins' source among what an attempt is recorded with."""
    return {
        PLUGIN + group.partition(".")[2]: value
        for group, value in data.items()
        if group.partition(".")[0] in ("plugin", "eval_plugin")
    }


def recorded(connection: Connection, config_ids: Sequence[int]) -> Seen:
    """What the finished runs of these configs saw."""
    found: Seen = defaultdict(set)
    for start in range(0, len(config_ids), 500):
        rows = connection.execute(
            select(Config.json, Attempt.data)
            .join(RunRow, RunRow.config_id == Config.id)
            .join(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
            .where(
                Config.id.in_(config_ids[start : start + 500]),
                RunRow.state == "done",
                RunRow.code_epoch == CODE_EPOCH,
                Attempt.outcome.in_(("done", "imported")),
            )
        )
        for row in rows:
            for name, value in of_config(row.json, row.data or {}).items():
                found[name].add(value)
    return found


def beside(connection: Connection, config_id: int) -> list[int]:
    """The configs of all studies that this one has a cell in, itself among them."""
    studies = (
        select(StudyRow.id, StudyRow.revision)
        .join(CellRow, and_(CellRow.study_id == StudyRow.id, CellRow.revision == StudyRow.revision))
        .where(CellRow.config_id == config_id)
        .subquery()
    )
    return sorted(
        {config_id}
        | set(
            connection.scalars(
                select(CellRow.config_id).join(
                    studies, and_(CellRow.study_id == studies.c.id, CellRow.revision == studies.c.revision)
                )
            )
        )
    )


def files_of(connection: Connection, run_ids: Sequence[int]) -> list[str]:
    """The paths of the sets that these runs read, of those that are files."""
    if not run_ids:
        return []
    configs = select(RunRow.config_id).where(RunRow.id.in_(run_ids)).distinct()
    return files_in(connection.scalars(select(Config.json).where(Config.id.in_(configs))))


def files_in(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The paths of the sets that runs of these configs read, of those that are files."""
    found = set()
    for config in configs:
        found |= {
            str(config[key]) for group in GROUPS for key in (f"{group}.path", f"{group}.test_path") if config.get(key)
        }
    return sorted(found)


def is_here(data_root: str, files: Sequence[str]) -> bool:
    """Whether all of these paths are on this machine, below `data_root`."""
    root = Path(data_root).expanduser()
    return all((root / Path(file).expanduser()).exists() for file in files)


def differing(before: Seen, now: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Name, fingerprint of before, and of now, of each set that is another than every one recorded."""
    return [
        (name, sorted(before[name])[0], value)
        for name, value in now.items()
        if before.get(name) and value not in before[name]
    ]


def refuse_other(
    before: Seen,
    now: Iterable[Mapping[str, str]],
    *,
    configs: Iterable[Mapping[str, Any]] = (),
    group: str = "data",
    instead: str = "",
) -> None:
    """Raises UserError where files were replaced, naming each set with both fingerprints and what can be typed.

    `configs` tell as which groups the sets are read, where it is not as `group` alone. `instead` is what can be done
    with the new files by a command that takes no `GROUP.version`.
    """
    found = sorted({entry for one in now for entry in differing(before, one)})
    if not found:
        return
    if plugins := [entry for entry in found if entry[0].startswith(PLUGIN)]:
        _refuse_other_source(plugins)
    names = {name for name, _, _ in found}
    groups = [one for one in GROUPS if any(named(config, one) in names for config in configs)] or [group]
    lines = [f"{path_of(name)} had the fingerprint {old} and has {new} now" for name, old, new in found]
    pairs = ",".join(dict.fromkeys(f"{new}-{old}" for _, old, new in found))
    words = " and ".join(f"{one}.version=WORD" for one in groups)
    instead = instead or f"name the new ones: {words}, which gives them runs and a table of their own"
    raise UserError(
        f"{' and '.join(groups)}: the finished runs saw other files: {'; '.join(lines)}. Restore the files; "
        f"or {instead}; or, where you know them to be equal in content (renamed, re-encoded), "
        f"say so: 'runtime.same_data=[{pairs}]'"
    )


def _refuse_other_source(found: Sequence[tuple[str, str, str]]) -> None:
    lines = [f"{name.removeprefix(PLUGIN)} had the hash {old} and has {new} now" for name, old, new in found]
    pairs = ",".join(dict.fromkeys(f"{new}-{old}" for _, old, new in found))
    raise UserError(
        f"plugins: the finished runs were made by other source: {'; '.join(lines)}. Restore it; or register the new "
        "code under another name, which gives it runs of its own; or, where you know it to give the same numbers, say "
        f"so: 'runtime.same_data=[{pairs}]'"
    )


# ---- what people have said of moved files ------------------------------------------------------------------------


def typed(words: Iterable[str]) -> list[str]:
    """The pairs of ``runtime.same_data=[NOW-BEFORE]``. Raises UserError for what is none."""
    found: list[str] = []
    for word in words:
        if word.startswith("runtime.same_data="):
            pairs = word.partition("=")[2].strip("[]").split(",")
            if wrong := [pair for pair in pairs if not _PAIR.fullmatch(pair.strip())]:
                raise UserError(
                    "runtime.same_data must be a list of NOW-BEFORE, two fingerprints of 16 hex digits, got "
                    f"{wrong[0]!r}"
                )
            found += [pair.strip() for pair in pairs]
    return found


def accepted(connection: Connection) -> list[str]:
    """Every pair that was accepted in this database, in order."""
    details = connection.scalars(select(Event.detail).where(Event.kind == "same_data").order_by(Event.id))
    return list(dict.fromkeys(pair for detail in details for pair in (detail or "").split(",")))


def accept(connection: Connection, pairs: Sequence[str]) -> list[str]:
    """Remember `pairs`, those that are new, in the audit; returns all that hold now."""
    known = accepted(connection)
    if new := [pair for pair in pairs if pair not in known]:
        note(connection, "same_data", detail=",".join(new))
    return holding([*known, *new])


def holding(pairs: Iterable[str]) -> list[str]:
    """Of pairs in their order, those that hold: a later word on the same files does."""
    return list({pair.partition("-")[0]: pair for pair in pairs}.values())


def with_pairs(words: Iterable[str], pairs: Sequence[str]) -> tuple[str, ...]:
    """A command's `runtime.KEY=VALUE` words with these pairs as what is said of equal files."""
    others = tuple(word for word in words if not word.startswith("runtime.same_data="))
    return (*others, f"runtime.same_data=[{','.join(pairs)}]") if pairs else others


# ---- evaluations -------------------------------------------------------------------------------------------------


def judged_before(connection: Connection, settings: Mapping[str, Any]) -> Seen:
    """What evaluations with data of these `settings` saw, of whichever run."""
    found: Seen = defaultdict(set)
    name = named(settings, "eval_data")
    plugin = settings.get(f"evals.{settings.get('evals')}.plugin")
    if name is not None or plugin is not None:
        for row in connection.execute(select(EvaluationRow.settings, EvaluationRow.data)):
            data = row.data or {}
            if name is not None and named(row.settings, "eval_data") == name and (value := data.get("eval_data")):
                found[name].add(value)
            if plugin is not None and (value := of_plugins(data).get(f"{PLUGIN}{plugin}")):
                found[f"{PLUGIN}{plugin}"].add(value)
    return found
