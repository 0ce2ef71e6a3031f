"""Runs that were trained as this one would be, and are judged otherwise.

A run's evaluations and the data they judge on are part of what it is, because its numbers depend on them; its weights
do not. So where a finished run differs in nothing else and its last checkpoint is here, that is taken instead of
training the same weights again: the trainer then resumes at the end and only judges.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from sqlalchemy import Connection, select

from sweeps.cells.work import training
from sweeps.database.audit import note
from sweeps.database.tables import Config, RunRow
from sweeps.engine.attempt_folder import link
from sweeps.engine.queue import Claim
from sweeps.study.identity import CODE_EPOCH, digest

log = logging.getLogger(__name__)


class Siblings:
    """Which configs train alike; remembers those it has read, so one object serves a worker for all of its runs."""

    def __init__(self) -> None:
        self._configs: dict[str, list[int]] = {}  # by the digest of what trains
        self._last = 0  # id of the newest config read

    def adopt(self, connection: Connection, claim: Claim, results_dir: Path, folder: Path) -> tuple[int, Path] | None:
        """Step and path in `folder` of a sibling's last checkpoint; None where this run must be trained itself."""
        found = None if claim.checkpoint_step is not None else self._find(connection, claim, results_dir)
        if found is None:
            return None
        run_id, step, path = found
        mine = folder / path.name
        try:
            link(path, mine)
        except FileExistsError:  # the database went away after the link was made, and this is asked again
            pass
        except FileNotFoundError:  # it was removed this moment
            return None
        detail = f"the checkpoint of run {run_id} at step {step}"
        note(connection, "adopted", claim.run_id, claim.attempt, claim.worker, detail)
        log.info("run %d is trained already: it takes %s", claim.run_id, detail)
        return step, mine

    def _find(self, connection: Connection, claim: Claim, results_dir: Path) -> tuple[int, int, Path] | None:
        steps = claim.config.get("optim.steps")
        if not steps:
            return None
        for row in connection.execute(select(Config.id, Config.json).where(Config.id > self._last).order_by(Config.id)):
            self._configs.setdefault(digest(training(row.json)), []).append(row.id)
            self._last = row.id
        alike = self._configs.get(digest(training(claim.config)), [])
        runs = connection.execute(
            select(RunRow.id, RunRow.checkpoint, RunRow.created)
            .where(
                RunRow.config_id.in_(alike), RunRow.id != claim.run_id, RunRow.seed == claim.seed,
                RunRow.code_epoch == CODE_EPOCH, RunRow.state == "done", RunRow.checkpoint_step == steps,
                RunRow.checkpoint.is_not(None),
            )
            .order_by(RunRow.id)
        ).all()  # fmt: skip
        for run in runs:
            path = results_dir / run.checkpoint
            marker = results_dir.joinpath(*Path(run.checkpoint).parts[:2]) / "run.json"
            # Another database's run of that number may have left a folder here.
            if path.exists() and marker.exists():
                owner = json.loads(marker.read_text(encoding="utf-8"))
                if (owner["seed"], owner["registered"]) == (claim.seed, run.created):
                    return run.id, steps, path
        return None
