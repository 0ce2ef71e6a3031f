"""Whether a trial of a search is worth finishing: asked in the worker, at every evaluation on the way.

Pruning is advice. Without an answer (the database is away) the run goes on, and a run that a table wants too, or
another search, is trained to its end whatever the pruner says.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, and_, select
from sqlalchemy.exc import SQLAlchemyError

from sweeps.database.tables import CellRow, RunRow, Search, StudyRow
from sweeps.engine.queue import Claim
from sweeps.study.search_space import SearchSpec, is_trial, parse_search

log = logging.getLogger(__name__)


class Judge:
    """Reports one trial's evaluations to Optuna and says when its pruner would stop it."""

    def __init__(self, engine: Engine, run_id: int, study_id: int, trial: tuple[str, int], spec: SearchSpec) -> None:
        self.engine, self.run_id, self.study_id, self.trial, self.spec = engine, run_id, study_id, trial, spec
        self._storage: Any = None  # optuna.storages.RDBStorage

    @property
    def eval_every(self) -> int:
        return self.spec.eval_every

    def should_prune(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Called with everything that is logged; only the search's metric counts."""
        if self.spec.metric not in metrics:
            return False
        # Half a second that only workers on a pruned search spend.
        import optuna

        # For the same reason: it imports Optuna.
        from sweeps.database import optuna_link

        try:
            if self._storage is None:
                self._storage = optuna_link.open_storage(self.engine, create=False)
            name, number = self.trial
            study = optuna.load_study(
                study_name=name, storage=self._storage, sampler=optuna_link.sampler(self.spec, number)
            )
            trial_id = self._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
            trial = self._storage.get_trial(trial_id)
            if trial.state.is_finished():
                return False
            if step not in trial.intermediate_values:  # a resumed run evaluates again what it had evaluated
                self._storage.set_trial_intermediate_value(trial_id, step, float(metrics[self.spec.metric]))
                trial = self._storage.get_trial(trial_id)
            if not optuna_link.pruner(self.spec).prune(study, trial):
                return False
            with self.engine.connect() as connection:
                return not is_wanted_elsewhere(connection, self.run_id, self.study_id)
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError, KeyError) as error:
            log.warning("run %d: the pruner cannot be asked (%s): going on", self.run_id, " ".join(str(error).split()))
            return False

    def close(self) -> None:
        if self._storage is not None:
            self._storage.engine.dispose()


def find_judge(connection: Connection, engine: Engine, claim: Claim) -> Judge | None:
    """None for a run that no search with a pruner has asked for."""
    links = connection.execute(
        select(Search.study_id, Search.optuna_study, Search.trial_number, StudyRow.spec)
        .join(StudyRow, StudyRow.id == Search.study_id)
        .where(Search.run_id == claim.run_id)
        .order_by(Search.study_id, Search.optuna_study, Search.trial_number)
    ).all()
    for link in links:
        if "search" not in link.spec:
            continue
        spec = parse_search(link.spec["search"])
        if spec.pruner != "none":
            return Judge(engine, claim.run_id, link.study_id, (link.optuna_study, link.trial_number), spec)
    return None


def is_wanted_elsewhere(connection: Connection, run_id: int, study_id: int) -> bool:
    """Whether a cell other than a trial of this search asks for the run's config."""
    cells = connection.execute(
        select(CellRow.study_id, CellRow.row_key)
        .join(StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision))
        .join(RunRow, RunRow.config_id == CellRow.config_id)
        .where(RunRow.id == run_id)
    ).all()
    return any(cell.study_id != study_id or not is_trial(cell.row_key) for cell in cells)
