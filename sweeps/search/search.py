"""A searched study: Optuna proposes trials, our queue trains them, and what came out is told back.

A trial becomes a cell, a config and a run like any row's, linked by `sw_search`, so leases, fencing, resume and
sharing hold for it too. Optuna's record is its own tables in the same database. Every step of `Search` begins by
reading both and mends what a killed launcher left half done, so launching again is resuming:

- a trial that was asked for but has no run yet gets one (or is told infeasible), unless its options were not all
  written, when it is told as failed;
- a trial whose first seed has ended well gets its others, one whose seeds have all ended is told their mean, and one
  of which a seed gave no number is told how that ended;
- then new ones are asked for while fewer than `width` are open and the budget lasts;
- when it is spent, the best trials get more seeds, and the best of them is judged (`sweeps.answers.search_rounds`).

The budget counts trials that train. A config that is trained already, by whichever study, is told at no cost; so is
a proposal that core refuses (a mask that cannot be drawn), told as pruned with the constraint `feasible` violated.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, and_, func, insert, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import aliased

from sweeps.answers import search_rounds
from sweeps.cells import superseded, work
from sweeps.cells.expand import words
from sweeps.cells.registry import Registered
from sweeps.cells.request import Request
from sweeps.console.errors import UserError
from sweeps.database import optuna_link, registering
from sweeps.database.lock import DatabaseLock
from sweeps.database.tables import BROKEN, FINAL_STATES, CellRow, Config, Result, RunRow, StudyRow, insert_new
from sweeps.database.tables import Search as SearchRow
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.overrides import merge
from sweeps.study.search_space import DEFAULT_ROW, TRIAL, parse_search, search_name

log = logging.getLogger(__name__)
PROPOSALS_PER_TRIAL = 10  # after so many proposals a trial of the budget, what is new and feasible is used up
FEASIBLE = "feasible"  # the constraint's name: 0 where core builds the run, 1 where it refuses
AWAY = (SQLAlchemyError, optuna.exceptions.StorageInternalError)


class Linked(NamedTuple):
    """A trial's runs as the database has them now.

    Its `state` is that of the first seed that ended without a number, "done" once all have one, else that of a seed
    that is open. The `value` is the mean.
    """

    run_id: int  # of its first seed
    config_id: int
    state: str
    value: float | None
    is_short: bool  # all seeds that there are have ended well, and others are to come


class Search:
    """Drives one search; `step` is called again and again, by one launcher at a time. Close it."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        registered: Registered,
        *,
        priority: int = 0,
        resolve: Callable[[Request, Mapping[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        """`registered` is the study's instance; `resolve` gives the identity config of a trial's options, in place of
        core, or raises ValueError.
        """
        self.resolve = resolve or resolve_with_core
        self.engine, self.request, self.study_id, self.priority = engine, request, registered.study_id, priority
        with engine.connect() as connection:
            row = connection.execute(select(StudyRow).where(StudyRow.id == self.study_id)).one()
            default = self._default_config(connection)
        self.spec, self.seed = parse_search(row.spec["search"]), registered.seeds[0]
        self.seeds = self.spec.seeds.of_trials(self.seed)
        self.name = search_name(registered.name, default, self.seed, row.spec["search"], self.spec)
        self.lock = DatabaseLock(engine, "search", self.study_id)
        self._storage: Any = None
        self._study: Any = None
        self._is_over = self._is_short = False
        self._queued: set[search_rounds.RunKey] = set()  # of promotion and judging, by this launcher

    def close(self) -> None:
        self.lock.close()
        if self._storage is not None:
            self._storage.engine.dispose()

    @property
    def is_over(self) -> bool:
        """Whether the last step found every trial told and nothing left to ask for."""
        return self._is_over

    def step(self, width: int) -> None:
        """Tell what has ended and ask for more, up to `width` open trials; nothing while another launcher does it."""
        try:
            if not self.lock.take():
                return
            if self._study is None:
                self._open()
            self._step(width)
        except AWAY as error:
            # What was begun is mended by the next step.
            reason = " ".join(str(getattr(error, "orig", None) or error).split())
            log.warning("the search cannot go on just now (%s); trying again", reason)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._storage = optuna_link.open_storage(self.engine, create=True)
        self._study = optuna.create_study(
            storage=self._storage, study_name=self.name, load_if_exists=True,
            direction="maximize" if self.spec.direction == "maximize" else "minimize",
            sampler=optuna_link.sampler(self.spec, 0), pruner=optuna_link.pruner(self.spec),
        )  # fmt: skip
        with self.engine.begin() as connection:
            self._carry_trials(connection)
            superseded.mark(connection, self.study_id)
            registering.requeue(connection, self._trial_runs(connection), states=("cancelled",))
        self._remember()

    def _remember(self) -> None:
        """Tell Optuna of the trials that came in a capsule: it learns from them and numbers on."""
        num_known = len(self._study.get_trials(deepcopy=False))
        with self.engine.connect() as connection:
            cells, linked = self._trial_cells(connection), self._linked(connection)
        params = {int(cell.row_key.removeprefix(TRIAL)): cell.display["trial"]["params"] for cell in cells}
        for number in range(num_known, max(params, default=-1) + 1):
            run = linked.get(number)
            if number not in params or run is None or run.state not in FINAL_STATES:
                # One that came to nothing, which a capsule has no cell or no run of.
                self._study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL))
                continue
            state, value = told_as(run)
            trial = optuna.trial.create_trial(
                state=state, value=value, params=params[number], distributions=optuna_link.distributions(self.spec),
                user_attrs={"outcome": run.state, "run": run.run_id}, system_attrs={f"constraints:{FEASIBLE}": 0.0},
            )  # fmt: skip
            self._study.add_trial(trial)

    def _step(self, width: int) -> None:
        num_open = 0
        trials = self._study.get_trials(deepcopy=False)
        with self.engine.connect() as connection:
            linked = self._linked(connection)
        for trial in trials:
            if trial.state is not TrialState.RUNNING:
                continue
            if trial.number not in linked:
                num_open += self._admit(trial)
            elif linked[trial.number].state in FINAL_STATES and not linked[trial.number].is_short:
                self._tell(trial, linked[trial.number])
            else:
                self._add_seeds(linked[trial.number])
                num_open += 1
        num_trials = len(trials)
        while num_open < width and self._may_ask(num_trials):
            self._study.sampler = optuna_link.sampler(self.spec, num_trials)
            asked = self._study.ask(optuna_link.distributions(self.spec))
            num_open += self._admit(self._storage.get_trial(asked._trial_id))
            num_trials += 1
        self._is_over = num_open == 0 and not self._may_ask(num_trials)
        if self._is_over:
            self._report_shortage(num_trials)
            self._is_over = self._go_through_rounds()

    def _add_seeds(self, linked: Linked) -> None:
        """Queue what a trial whose first seed has ended well lacks."""
        if linked.is_short:
            with self.engine.begin() as connection:
                runs = [(linked.config_id, seed) for seed in self.seeds]
                registering.requeue(
                    connection, registering.register_runs(connection, runs, priority=self.priority), states=("pruned",)
                )

    def _go_through_rounds(self) -> bool:
        """Queue what promotion and judging want next; whether they have all they want."""
        with self.engine.begin() as connection:
            rounds = search_rounds.read(connection, self.study_id, self.name, self.spec, self.seed)
            states = rounds.states()
            # A run that was cancelled or pruned elsewhere is wanted here, once a launch.
            again = {run for run, state in states.items() if state in ("cancelled", "pruned")} - self._queued
            new = [run for run in rounds.wanted() if run not in states or run in again]
            run_ids = registering.register_runs(connection, new, priority=self.priority)
            registering.requeue(connection, run_ids, states=("pruned",))
        self._queued |= set(new)
        return not new and all(states[run] in FINAL_STATES for run in rounds.wanted())

    def _report_shortage(self, num_trials: int) -> None:
        """Say so where the budget could not be spent. Raises UserError when not one trial could be trained."""
        with self.engine.connect() as connection:
            num_charged, linked = self.num_charged(connection), self._linked(connection)
        if num_charged >= self.spec.budget or self._is_short:
            return
        self._is_short = True
        if not linked:
            trials = self._study.get_trials(deepcopy=False)
            reason = next((t.user_attrs["reason"] for t in reversed(trials) if "reason" in t.user_attrs), "")
            raise UserError(
                f"{self.request.study.path}: search.space: none of {num_trials} proposals can be trained; "
                f"the last one: {reason}"
            )
        log.warning(
            "%s: %d proposals gave %d new trials of the budget of %d: the space has few others that can be trained",
            self.name, num_trials, num_charged, self.spec.budget,
        )  # fmt: skip

    def _may_ask(self, num_trials: int) -> bool:
        with self.engine.connect() as connection:
            if self.num_charged(connection) >= self.spec.budget:
                return False
        return num_trials < PROPOSALS_PER_TRIAL * self.spec.budget

    def _admit(self, trial: FrozenTrial) -> bool:
        """Give an asked trial its run; whether it is open after that."""
        if trial.params.keys() != self.spec.space.keys():
            self._end(trial, TrialState.FAIL, outcome="its launcher was killed while asking")
            return False
        config = self._config(trial)
        if config is None:
            return False
        if FEASIBLE not in trial.constraints:
            self._constrain(trial, 0.0)
        with self.engine.begin() as connection:
            run = self._link(connection, trial, config)
            uncounted = {} if run is None else work.uncounted(connection, [config])
        if run is None:
            self._end(trial, TrialState.FAIL, outcome="beyond the budget")
            return False
        if counted := work.to_record(uncounted, self.request.data_root):  # while a worker begins with it
            with self.engine.begin() as connection:
                work.record(connection, counted)
        if run.state not in FINAL_STATES or run.is_short:
            self._add_seeds(run)
            return True
        self._tell(trial, run)
        return False

    def _config(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """The trial's identity config, or None once it is told as infeasible."""
        try:
            return self.resolve(self.request, trial.params)
        except ValueError as error:  # core.configuring.config.ConfigError is one
            if FEASIBLE not in trial.constraints:
                self._constrain(trial, 1.0)
            self._end(trial, TrialState.PRUNED, outcome="infeasible", reason=str(error))
            return None

    def _tell(self, trial: FrozenTrial, run: Linked) -> None:
        state, value = told_as(run)
        self._end(trial, state, value, outcome=run.state, run=run.run_id)

    def _constrain(self, trial: FrozenTrial, violation: float) -> None:
        """As `optuna.Trial.set_constraint`, which a trial of an earlier launcher has no object for."""
        self._storage.set_trial_system_attr(trial._trial_id, f"constraints:{FEASIBLE}", violation)

    def _end(self, trial: FrozenTrial, state: TrialState, value: float | None = None, **facts: Any) -> None:
        for key, fact in facts.items():
            self._storage.set_trial_user_attr(trial._trial_id, key, fact)
        with warnings.catch_warnings():
            # At every trial. They are kept all the same: the study's sampler may be edited, and others use them.
            warnings.filterwarnings("ignore", "Constraints have been set, but CmaEsSampler")
            self._study.tell(trial.number, value, state=state, skip_if_finished=True)

    # ---- our side ----------------------------------------------------------------------------------------------------

    def _default_config(self, connection: Connection) -> Mapping[str, Any]:
        config: dict[str, Any] = connection.execute(
            select(Config.json)
            .join(CellRow, CellRow.config_id == Config.id)
            .join(StudyRow, and_(StudyRow.id == CellRow.study_id, StudyRow.revision == CellRow.revision))
            .where(StudyRow.id == self.study_id, CellRow.row_key == DEFAULT_ROW)
        ).scalar_one()
        return config

    def num_charged(self, connection: Connection) -> int:
        """Trials that were trained, or are to be, for this search."""
        return len({cell.row_key for cell in self._trial_cells(connection) if not cell.display["trial"]["is_cached"]})

    def _trial_cells(self, connection: Connection) -> list[Any]:
        """This search's trials as cells, in all revisions of the study."""
        cells = connection.execute(
            select(CellRow.revision, CellRow.row_key, CellRow.config_id, CellRow.display)
            .where(CellRow.study_id == self.study_id, CellRow.row_key.startswith(TRIAL, autoescape=True))
            .order_by(CellRow.revision)
        ).all()
        return [cell for cell in cells if cell.display["trial"]["study"] == self.name]

    def _linked(self, connection: Connection) -> dict[int, Linked]:
        """By trial number."""
        first, run = aliased(RunRow), aliased(RunRow)
        rows = connection.execute(
            select(SearchRow.trial_number, first.id, first.config_id, run.seed, run.state, Result.value)
            .join(first, first.id == SearchRow.run_id)
            .join(run, and_(run.config_id == first.config_id, run.code_epoch == first.code_epoch))
            .outerjoin(
                Result,
                and_(Result.run_id == run.id, Result.metric == self.spec.metric, Result.agg == "final"),
            )
            .where(SearchRow.study_id == self.study_id, SearchRow.optuna_study == self.name, run.seed.in_(self.seeds))
            .order_by(SearchRow.trial_number, run.seed)
        )
        found: dict[int, list[Any]] = {}
        for row in rows:
            found.setdefault(row.trial_number, []).append(row)
        return {number: linked(seeds, len(self.seeds)) for number, seeds in found.items()}

    def _trial_runs(self, connection: Connection) -> list[int]:
        """Every seed of every trial."""
        configs = {run.config_id for run in self._linked(connection).values()}
        mine = (RunRow.config_id.in_(configs), RunRow.seed.in_(self.seeds), RunRow.code_epoch == CODE_EPOCH)
        return sorted(connection.scalars(select(RunRow.id).where(*mine)))

    def _link(self, connection: Connection, trial: FrozenTrial, config: Mapping[str, Any]) -> Linked | None:
        """Config, run, cell and link of a trial in one transaction; None where the budget is spent."""
        revision = connection.scalar(select(StudyRow.revision).where(StudyRow.id == self.study_id).with_for_update())
        (config_id,) = registering.register_configs(connection, [config])
        before = connection.execute(
            select(RunRow.state, func.count(SearchRow.run_id).label("num_links"))
            .outerjoin(SearchRow, and_(SearchRow.run_id == RunRow.id, SearchRow.optuna_study == self.name))
            .where(RunRow.config_id == config_id, RunRow.seed.in_(self.seeds), RunRow.code_epoch == CODE_EPOCH)
            .group_by(RunRow.id, RunRow.state)
        ).all()
        ended = [run.state for run in before if run.state in set(FINAL_STATES) - {"cancelled"}]
        # One seed that ended without a number is the trial's end.
        is_cached = any(run.num_links > 0 for run in before) or len(ended) == len(self.seeds)
        is_cached = is_cached or any(state != "done" for state in ended)
        if not is_cached and self.num_charged(connection) >= self.spec.budget:
            return None
        (run_id,) = registering.register_runs(connection, [(config_id, self.seed)], priority=self.priority)
        display = {
            "row_label": f"trial {trial.number}", "col_label": "", "row_order": trial.number + 1, "col_order": 0,
            "is_random_init": False, "trial": {"study": self.name, "params": trial.params, "is_cached": is_cached},
        }  # fmt: skip
        cell = {"row_key": f"{TRIAL}{trial.number}", "col_key": "", "config_id": config_id, "display": display}
        connection.execute(insert(CellRow), [{"study_id": self.study_id, "revision": revision} | cell])
        link = {"study_id": self.study_id, "optuna_study": self.name, "trial_number": trial.number, "run_id": run_id}
        insert_new(connection, SearchRow, [link])
        return self._linked(connection)[trial.number]

    def _carry_trials(self, connection: Connection) -> None:
        """Bring the trials' cells into the study's newest revision: an edited budget or caption keeps them."""
        revision = connection.scalar(select(StudyRow.revision).where(StudyRow.id == self.study_id))
        newest = {cell.row_key: cell for cell in self._trial_cells(connection)}
        rows = [
            {
                "study_id": self.study_id, "revision": revision, "row_key": cell.row_key, "col_key": "",
                "config_id": cell.config_id, "display": cell.display,
            }
            for cell in newest.values()
        ]  # fmt: skip
        insert_new(connection, CellRow, rows)


def linked(seeds: list[Any], num_wanted: int) -> Linked:
    """A trial from its runs, by seed: the first is that which Optuna's trial is linked to."""
    first = seeds[0]
    is_number = [run.state == "done" and run.value is not None and math.isfinite(run.value) for run in seeds]
    lost = next(
        (run for run, told in zip(seeds, is_number, strict=True) if run.state in FINAL_STATES and not told), None
    )
    still_open = next((run for run in seeds if run.state not in FINAL_STATES), None)
    if lost is not None or still_open is not None:
        run = lost if lost is not None else still_open
        assert run is not None
        return Linked(first.id, first.config_id, run.state, None, is_short=False)
    value = sum(run.value for run in seeds) / len(seeds)
    return Linked(first.id, first.config_id, "done", value, is_short=len(seeds) < num_wanted)


def told_as(run: Linked) -> tuple[TrialState, float | None]:
    """What Optuna is told of a run that has ended."""
    if run.state == "done" and run.value is not None and math.isfinite(run.value):
        return TrialState.COMPLETE, run.value
    # Known to be bad: the sampler keeps away from it.
    return (TrialState.PRUNED if run.state in ("pruned", *BROKEN) else TrialState.FAIL), None


def resolve_with_core(request: Request, params: Mapping[str, Any]) -> dict[str, Any]:
    """The identity config of the study's own options with a trial's on top. Raises ConfigError."""
    # core.configuring.config imports torch, 3 s: only where trials are made.
    from core.configuring.config import flatten, identity, load

    default = next(cell for cell in request.study.cells(request.scale) if cell.row_key == DEFAULT_ROW)
    return identity(flatten(load(words(merge(default.overrides, params), request))))
