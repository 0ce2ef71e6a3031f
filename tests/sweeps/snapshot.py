"""Rewrite snapshot_defaults.json: ``python -m tests.sweeps.snapshot``. Say in the commit why an option changed.

An option that came, went or changed its name needs a migration in sweeps/database/aliases.py first: without it every
run that was ever recorded would be trained again. A default that changed needs none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.configuring.config import PRESETS, flatten, from_flat, identity, load
from sweeps.database.aliases import Migration, migrated
from sweeps.study.identity import digest

PATH = Path(__file__).parent / "snapshot_defaults.json"
SCALES = ("smoke", "cpu")
Flat = dict[str, Any]


def current() -> dict[str, Flat]:
    """The identity config of every method at every scale of the snapshot, by "method@scale"."""
    methods = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    return {f"{m}@{s}": identity(flatten(load([f"method={m}", f"scale={s}"]))) for m in methods for s in SCALES}


def read(path: Path = PATH) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored


def orphans(old: Flat, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Why a run with the config `old` would not be found or could not be built by today's code; empty when it is."""
    new = migrated(old, migrations)
    try:
        today = identity(flatten(from_flat(new, seed=0)))
    except ValueError as error:
        return [f"gone or renamed: {error}"]
    return [f"new: {key} = {today[key]!r}" for key in sorted(today.keys() - new.keys())]


def rewrite(path: Path = PATH) -> list[str]:
    """Store today's defaults, and the earlier ones whose keys differ as history; or say what lacks a migration."""
    stored = read(path) if path.exists() else {"defaults": {}, "history": []}
    earlier = [entry["config"] for entry in stored["defaults"].values()] + stored["history"]
    if lacking := sorted({reason for config in earlier for reason in orphans(config)}):
        return lacking
    now = current()
    history = stored["history"]
    history += [e["config"] for e in stored["defaults"].values() if migrated(e["config"]) != e["config"]]
    defaults = {name: {"hash": digest(config), "config": config} for name, config in now.items()}
    text = json.dumps({"defaults": defaults, "history": history}, indent=1, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")
    return []


if __name__ == "__main__":
    if reasons := rewrite():
        print(
            f"write a migration in sweeps/database/aliases.py first ({PATH.name} is as it was):", *reasons, sep="\n  "
        )
        sys.exit(1)
    print(f"{PATH.name}: {len(read()['defaults'])} defaults")
