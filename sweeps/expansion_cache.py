"""What studies expand to, remembered in `.cache`: a plan of many studies takes seconds only once.

A study's entry is named by everything that decides what it expands to, so an entry is never out of date.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

FOLDER = Path(".cache/expansions")
ConfigSteps = list[tuple[str, int]]  # hash of each cell's config, and its steps


def read(launch: str) -> ConfigSteps | None:
    path = _path(launch)
    return [(config, steps) for config, steps in json.loads(path.read_bytes())] if path.exists() else None


def write(launch: str, configs: ConfigSteps) -> None:
    path = _path(launch)
    # Where nothing can be written, the next plan expands again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(configs), encoding="ascii")
        temporary.replace(path)


def _path(launch: str) -> Path:
    """`launch` is `sweeps.registry.launch_hash`: of the study, the arguments and core. Our own code decides too."""
    return FOLDER / f"{hashlib.sha256((launch + _code()).encode()).hexdigest()}.json"


@functools.cache
def _code() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
