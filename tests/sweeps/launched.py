"""A tiny study in a database, its runs in whatever state a test needs, without training anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from sweeps.cells.expand import Expansion
from sweeps.cells.registry import Registered, launch_hash, register_study
from sweeps.cells.request import Request
from sweeps.engine import queue
from sweeps.engine.queue import Usage
from sweeps.study.reading import parse

TWO_ROWS: dict[str, Any] = {
    "title": "Ratio",
    "question": "How much?",
    "rows": [{"key": "a", "label": "half", "set": {"mask.ratio": 0.5}}, {"key": "b", "set": {"mask.ratio": 0.75}}],
    "base": {"optim.steps": 100},
    "metrics": ["ridge/digit_top1"],
    "random_init": False,
    "seeds": [0, 1],
}


def two_rows(name: str = "ratio", **changes: object) -> Request:
    return Request(parse({**TWO_ROWS, **changes}, Path(f"studies/{name}.yaml")), "cpu")


def register(engine: Engine, asked: Request, fingerprint: str = "") -> Registered:
    """With the overrides themselves as configs: what core makes of them does not matter here."""
    cells = [(cell, cell.overrides) for cell in asked.study.cells(asked.scale)]
    expansion = Expansion(asked, asked.spec(), asked.study.metrics(asked.scale), cells)
    with engine.begin() as connection:
        return register_study(connection, expansion, launch_hash(asked, fingerprint))


def finish_next(engine: Engine, results: Mapping[str, float], *, outcome: str = "done", **usage: Any) -> int:
    """Claim the next run and end it; returns its id."""
    with engine.begin() as connection:
        claim = queue.claim(connection, "worker 1", provenance={"host": "node1", "git_sha": "abc123", "dirty": True})
        assert claim is not None
        queue.finish(connection, claim, outcome, results=results, step=100, usage=Usage(step=100, **usage))
    return claim.run_id
