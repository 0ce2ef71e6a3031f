"""What studies expand to, which launches are one, what configs compute and where study files lie, remembered in
`.cache`: a plan of many takes seconds only once.

An entry is named by everything that decides what is in it, so it is never out of date.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(".cache/expansions")
ConfigSteps = list[tuple[str, int]]  # hash of each cell's config, and its steps


def read(launch: str) -> ConfigSteps | None:
    found = _read(_launch_path(launch))
    return None if found is None else [(config, steps) for config, steps in found]


def write(launch: str, configs: ConfigSteps) -> None:
    _write(_launch_path(launch), configs)


def is_same(launch: str, other: str) -> bool:
    """Whether two launches are one: equal hashes, or an expansion by the code of today gave what the other had given.

    The hash of a launch has all of core in it, so that another comment there is another hash of the same study.
    """
    return launch == other or _read(_path("same", launch, other, _code("sweeps"))) is not None


def write_same(launch: str, other: str) -> None:
    """`launch`, expanded by the code of today, is what `other` was when it was registered."""
    _write(_path("same", launch, other, _code("sweeps")), True)


def read_work(config: str) -> dict[str, Any] | None:
    """What `write_work` was given for the config of this hash, by the code of today."""
    found = _read(_path("work", config, _code("core")))
    return None if found is None else dict(found)


def write_work(config: str, work: Mapping[str, Any]) -> None:
    _write(_path("work", config, _code("core")), dict(work))


def read_file(table: str) -> Path | None:
    """The study file that `write_file` was given for a table."""
    found = _read(_path("files", table))
    return None if found is None else Path(found)


def write_file(table: str, file: Path) -> None:
    _write(_path("files", table), str(file.absolute()))


def read_root(table: str) -> str:
    """What `runtime.data_root` was at the last launch of a table."""
    return str(_read(_path("roots", table)) or ".")


def write_root(table: str, root: str) -> None:
    if root != read_root(table):
        _write(_path("roots", table), root)


def _read(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.exists() else None


def _write(path: Path, content: Any) -> None:
    # Where nothing can be written, the next plan expands and counts again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content), encoding="ascii")
        temporary.replace(path)


def _path(kind: str, *words: str) -> Path:
    return FOLDER / kind / f"{hashlib.sha256(''.join(words).encode()).hexdigest()}.json"


def _launch_path(launch: str) -> Path:
    """`launch` is `sweeps.cells.registry.launch_hash`: of study, arguments and core. Our own code decides too."""
    return _path("", launch, _code("sweeps"))


@functools.cache
def _code(package: str) -> str:
    digest = hashlib.sha256()
    # `work` decides what is remembered of a config.
    own = [Path(__file__).parent / "work.py"] if package == "core" else []
    for path in [*sorted((Path(__file__).parents[2] / package).rglob("*.py")), *own]:
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
