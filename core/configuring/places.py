"""Where a run's files lie on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from core.configuring.run import Run


def located(run: Run) -> Run:
    """The run with a relative path of `data`, `flow_data` and `target` resolved against `runtime.data_root`.

    Identity keeps the path as it was given, so a study may be continued on a machine that keeps its data elsewhere.
    """
    root = Path(run.runtime.data_root).expanduser()

    def found(part: Any) -> Any:
        given = {name: path for name in ("path", "test_path") if (path := getattr(part, name, None))}
        moved = {name: str(root / Path(path).expanduser()) for name, path in given.items()}
        return dataclasses.replace(part, **moved) if given else part

    return dataclasses.replace(
        run, data=found(run.data), flow_data=run.flow_data and found(run.flow_data), target=found(run.target)
    )


def with_root(error: Exception, run: Run, group: str = "data") -> str:
    """What a component of the run's `group` says, and where its relative path begins where that leads nowhere."""
    root = Path(run.runtime.data_root).expanduser()
    paths = [path for name in ("path", "test_path") if (path := getattr(getattr(run, group), name, None))]
    if all(Path(path).expanduser().is_absolute() or (root / path).exists() for path in paths):
        return str(error)
    return f"{error} (a relative path begins at runtime.data_root={run.runtime.data_root})"
