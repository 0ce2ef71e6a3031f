"""How far a study is: every run that it asks for, its state, and what is left of it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, func, select

from sweeps.answers import collapse
from sweeps.cells import edited
from sweeps.cells.estimate import Cost, Estimator, RunKey
from sweeps.cells.work import COUNTED
from sweeps.console.errors import UserError, no_such_study
from sweeps.console.tables import duration
from sweeps.database.tables import Attempt, CellRow, Config, Event, RunRow, StudyRow
from sweeps.progress import to_finish
from sweeps.progress.to_finish import Line
from sweeps.study.identity import CODE_EPOCH
from sweeps.study.model import DEFAULT_SCALE
from sweeps.study.search_space import first_and_further, is_given_later, stored_search

MISSING = "missing"

OPEN = ("running", "queued", "missing")  # states of a run that is to have numbers yet


@dataclass(frozen=True)
class RunStatus:
    """One run that a study wants; `run_id` is None while nobody has registered it."""

    label: str  # of the first cell that asks for it: "multi-block, 400 epochs, seed 0"
    seed: int
    num_steps: int
    run_id: int | None = None
    state: str = MISSING
    step: int = 0
    speed: float | None = None  # steps a second of the running attempt
    loss: float | None = None  # of a running run, at `step`
    error: str | None = None
    collapse: str = ""  # what is said of a run's features, where they say too little
    worker: str | None = None
    estimate: float | None = None  # seconds until a run that has not ended has its numbers, as `sweeps.plan` has them
    judging: float = 0.0  # of these, those after the last step
    config: str = ""  # its hash

    @property
    def seconds_left(self) -> float | None:
        """By its speed, before that is known by the estimate."""
        return (self.num_steps - self.step) / self.speed + self.judging if self.speed else self.estimate


@dataclass(frozen=True)
class StudyStatus:
    """Every run that the current revision of a study asks for, in the table's order; shared runs once."""

    name: str
    study_id: int
    num_cells: int
    runs: list[RunStatus]
    to_come: Sequence[Cost | None] = ()  # runs that results decide on: a search's, a rule's for seeds
    costs: Sequence[Cost | None] = ()  # of all that is left and to come, as `sweeps.plan` has them
    scale: str = DEFAULT_SCALE

    def counts(self) -> Counter[str]:
        return Counter(run.state for run in self.runs)

    def of(self, *states: str) -> list[RunStatus]:
        return [run for run in self.runs if run.state in states]

    @property
    def seconds_left(self) -> float | None:
        """Of what runs now and what waits, shared by as many workers as are at it; never less than a run of its own.

        A run that nothing is known of takes as long a step as those that run now; None where nothing runs either.
        """
        running, waiting = self.of("running"), self.of("queued", MISSING)
        speeds = [run.speed for run in running if run.speed]
        a_step = len(speeds) / sum(speeds) if speeds else None

        def left(run: RunStatus) -> float | None:
            if run.seconds_left is not None:
                return run.seconds_left
            return None if a_step is None else a_step * (run.num_steps - run.step)

        to_come = [cost and cost.seconds for cost in self.to_come]
        told = [*map(left, (*running, *waiting)), *to_come]
        each = [seconds for seconds in told if seconds is not None]
        if len(each) < len(told) or not each:
            return None
        return max(sum(each) / max(1, len(running)), *each)

    @property
    def shown_left(self) -> str:
        """`3 min 05 s`; with `≈` while no run has told its speed."""
        left = duration(self.seconds_left)
        is_guess = self.seconds_left is not None and not any(run.speed for run in self.of("running"))
        return f"≈ {left}" if is_guess else left


def read(connection: Connection, name: str) -> StudyStatus:
    """Without what is left of it. Raises UserError when the database has no study of that name."""
    study = connection.execute(select(StudyRow).where(StudyRow.name == name)).one_or_none()
    if study is None:
        known = study_names(connection)
        raise UserError(f"{no_such_study(name, known)}; it has: {', '.join(known) or 'none yet'}")
    cells = connection.execute(
        select(
            CellRow.row_key, CellRow.col_key, CellRow.config_id, CellRow.display, Config.hash,
            Config.json["optim.steps"].as_integer().label("num_steps"),
        )
        .join(Config, Config.id == CellRow.config_id)
        .where(CellRow.study_id == study.id, CellRow.revision == study.revision)
    ).all()  # fmt: skip
    words = edited.shown_row(connection, study)
    named = [(words.cell(cell).display, cell) for cell in cells]
    named.sort(key=lambda one: (one[0]["row_order"], one[0]["col_order"]))
    first: dict[int, tuple[str, Any]] = {}
    for display, cell in named:
        first.setdefault(cell.config_id, (edited.label_of(display), cell))
    seeds, further = first_and_further(study.spec["seeds"], stored_search(study.spec))
    found = _read_runs(connection, list(first), [*seeds, *further])
    given_up = _given_up(connection, [row.id for row in found.values() if row.state == "queued"])
    looks = collapse.of_running(connection, [row.id for row in found.values() if row.state == "running"])
    runs = [
        _run_status(f"{label}, seed {seed}", cell, seed, found.get((config_id, seed)), given_up, looks)
        for config_id, (label, cell) in first.items()
        for seed in (*seeds, *further)
        if (config_id, seed) in found or not is_given_later(cell.row_key, seed, seeds, further)
    ]
    return StudyStatus(name, study.id, len(cells), runs, scale=study.spec.get("scale", DEFAULT_SCALE))


def read_all(connection: Connection, names: Sequence[str]) -> tuple[list[StudyStatus], Estimator | None]:
    """Each study with what is left of it, and what told that; None where nothing is, for which no run need be read."""
    found = [read(connection, name) for name in names]
    if not any(study.of(*to_finish.UNFINISHED) for study in found):
        return found, None
    lines, estimator = to_finish.of_database(connection, names)
    return [with_estimates(study, lines[study.name], estimator) for study in found], estimator


def with_estimates(study: StudyStatus, line: Line, estimator: Estimator) -> StudyStatus:
    keys = [(run.config, run.seed) for run in study.runs]
    mine = estimator.for_study(study.scale, keys)
    runs = [_estimated(run, mine, keys) if run.state in OPEN else run for run in study.runs]
    return dataclasses.replace(study, runs=runs, to_come=line.to_come, costs=line.costs)


def study_names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(StudyRow.name).order_by(StudyRow.name)))


def _read_runs(connection: Connection, config_ids: list[int], seeds: list[int]) -> dict[tuple[int, int], Any]:
    query = (
        select(
            RunRow.id, RunRow.config_id, RunRow.seed, RunRow.state, RunRow.owner, RunRow.checkpoint_step,
            Attempt.error, Attempt.step, Attempt.loss, Attempt.resume_step, Attempt.started, Attempt.heartbeat,
            Attempt.facts["collapse"].label("collapse"),
        )
        .outerjoin(Attempt, and_(Attempt.run_id == RunRow.id, Attempt.n == RunRow.attempt))
        .where(RunRow.config_id.in_(config_ids), RunRow.seed.in_(seeds), RunRow.code_epoch == CODE_EPOCH)
    )  # fmt: skip
    return {(row.config_id, row.seed): row for row in connection.execute(query)}


def _given_up(connection: Connection, run_ids: Sequence[int]) -> dict[int, str]:
    """Why a launcher gave up on a run, where nothing has happened to it since."""
    happened = (Event.run_id.in_(run_ids), Event.kind != COUNTED)
    last = select(func.max(Event.id)).where(*happened).group_by(Event.run_id)
    found = connection.execute(select(Event.run_id, Event.detail).where(Event.id.in_(last), Event.kind == "gave_up"))
    return {row.run_id: row.detail for row in found}


def _run_status(
    label: str, cell: Any, seed: int, row: Any, given_up: Mapping[int, str], looks: Mapping[int, str]
) -> RunStatus:
    num_steps = cell.num_steps or 0
    if row is None:
        return RunStatus(label, seed, num_steps, config=cell.hash)
    step = row.step or row.checkpoint_step or 0
    speed = None
    if row.state == "running" and row.step and row.heartbeat and row.heartbeat > row.started:
        speed = (row.step - (row.resume_step or 0)) / (row.heartbeat - row.started)
    loss = row.loss if row.state == "running" else None
    error = given_up.get(row.id, row.error)
    ended = str((row.collapse or {}).get("said", "")) if row.state in ("done", "collapsed") else ""
    said = looks.get(row.id, ended)
    return RunStatus(
        label, seed, num_steps, row.id, row.state, step, speed, loss, error, said, row.owner, config=cell.hash
    )


def _estimated(run: RunStatus, estimator: Estimator, study: Sequence[RunKey]) -> RunStatus:
    left = estimator.left((run.config, run.seed), run.num_steps, study)
    parts = estimator.parts(run.config, run.num_steps, study)
    if left is None or parts is None:
        return run
    return dataclasses.replace(run, estimate=left.seconds, judging=parts.judging.seconds)


def shown_loss(run: RunStatus) -> str:
    return "–" if run.loss is None else f"{run.loss:.4g}"


def shown_step(run: RunStatus) -> str:
    """`loss 0.61 at step 120 of 300`, and without a loss the step; of a run that looks collapsed, that too."""
    step = f"step {run.step} of {run.num_steps}"
    shown = step if run.loss is None else f"loss {shown_loss(run)} at {step}"
    return f"{shown}, {run.collapse}" if run.collapse else shown


STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "diverged": "magenta",
    "collapsed": "magenta",
    MISSING: "yellow",
}
