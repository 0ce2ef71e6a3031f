"""What is done, running, queued, failed: one study, all of them, or one run with where each attempt ran.

python -m sweeps.status [study=...] [run=<id>] [watch=true]
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Connection, Engine, and_, func, select

from sweeps import cli, edited, plateau, work
from sweeps.cli import UserError, duration
from sweeps.collapse import MARK
from sweeps.db import Attempt, CellRow, Config, Event, RunRow, StudyRow
from sweeps.estimate import Estimator, RunKey, recorded
from sweeps.identity import CODE_EPOCH
from sweeps.offered import HERE, Place
from sweeps.run_page import run_page
from sweeps.search_space import first_and_further, is_given_later, stored_search
from sweeps.study_files import close_matches

USAGE = """usage: python -m sweeps.status [study=...] [run=<id>] [watch=true] [db=sqlite:///results/ablations.sqlite]

  (no option)      one line a study: done, running, queued, failed, diverged, missing
  study=NAME       that study's running runs with step, speed and time left, and everything that is not done
  run=ID           one run: its options, results, and every attempt's host, device, code, cost and error
  watch=true       again every two seconds until Ctrl-C

time left: of what runs and what waits, shared by the workers that are at it (one, where none is), by the runs' speed
and the estimates of `sweeps.plan`; with ≈ while no run has told its speed

example: python -m sweeps.status study=masking_ratio watch=true"""

OPTIONS = ("study", "run", "watch", "db")
MISSING = "missing"
OPEN = ("running", "queued", "missing")  # states of a run that is to have numbers yet
STATES = ("done", "running", "queued", "failed", "diverged", "pruned", "cancelled", MISSING)
ALWAYS = ("done", "running", "queued", "failed")  # shown also where no run is in them
REFRESH_S = 2.0
NUM_WAITING = 5  # of the waiting runs named while watching: a screen is short
STYLES = {"done": "green", "running": "cyan", "failed": "red", "diverged": "magenta", MISSING: "yellow"}


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
    collapse: str = ""  # what is said of a finished run's features, where they say too little
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

        each = [seconds for run in (*running, *waiting) if (seconds := left(run)) is not None]
        if len(each) < len(running) + len(waiting) or not each:
            return None
        return max(sum(each) / max(1, len(running)), *each)

    @property
    def shown_left(self) -> str:
        """`3 min 05 s`; with `≈` while no run has told its speed."""
        left = duration(self.seconds_left)
        is_guess = self.seconds_left is not None and not any(run.speed for run in self.of("running"))
        return f"≈ {left}" if is_guess else left


# ---- reading ---------------------------------------------------------------------------------------------------------


def read(connection: Connection, name: str, estimator: Estimator | None = None) -> StudyStatus:
    """Raises UserError when the database has no study of that name. `estimator` tells what is left, if it is given."""
    study = connection.execute(select(StudyRow).where(StudyRow.name == name)).one_or_none()
    if study is None:
        known = study_names(connection)
        raise UserError(
            f"study={name}: the database has no such study{close_matches(name, known)}; "
            f"it has: {', '.join(known) or 'none yet'}"
        )
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
    runs = [
        _run_status(f"{label}, seed {seed}", cell, seed, found.get((config_id, seed)), given_up)
        for config_id, (label, cell) in first.items()
        for seed in (*seeds, *further)
        if (config_id, seed) in found or not is_given_later(cell.row_key, seed, seeds, further)
    ]
    if estimator is not None:
        keys = [(run.config, run.seed) for run in runs]
        mine = estimator.for_study(study.spec["scale"], keys)
        runs = [_estimated(run, mine, keys) if run.state in OPEN else run for run in runs]
    return StudyStatus(name, study.id, len(cells), runs)


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
    last = select(func.max(Event.id)).where(Event.run_id.in_(run_ids)).group_by(Event.run_id)
    found = connection.execute(select(Event.run_id, Event.detail).where(Event.id.in_(last), Event.kind == "gave_up"))
    return {row.run_id: row.detail for row in found}


def _run_status(label: str, cell: Any, seed: int, row: Any, given_up: Mapping[int, str]) -> RunStatus:
    num_steps = cell.num_steps or 0
    if row is None:
        return RunStatus(label, seed, num_steps, config=cell.hash)
    step = row.step or row.checkpoint_step or 0
    speed = None
    if row.state == "running" and row.step and row.heartbeat and row.heartbeat > row.started:
        speed = (row.step - (row.resume_step or 0)) / (row.heartbeat - row.started)
    loss = row.loss if row.state == "running" else None
    error = given_up.get(row.id, row.error)
    said = str((row.collapse or {}).get("said", "")) if row.state == "done" else ""
    return RunStatus(
        label, seed, num_steps, row.id, row.state, step, speed, loss, error, said, row.owner, config=cell.hash
    )


def _estimated(run: RunStatus, estimator: Estimator, study: Sequence[RunKey]) -> RunStatus:
    left = estimator.left((run.config, run.seed), run.num_steps, study)
    parts = estimator.parts(run.config, run.num_steps, study)
    if left is None or parts is None:
        return run
    return dataclasses.replace(run, estimate=left.seconds, judging=parts.judging.seconds)


def estimator_of(connection: Connection, names: Sequence[str], *, counting: bool = True) -> Estimator | None:
    """For what is left of these studies; None where nothing is, for which no run need be read.

    `counting` what was not counted before imports torch.
    """
    configs = {run.config for name in names for run in read(connection, name).of(*OPEN)}
    if not configs:
        return None
    runs = recorded(connection)
    measured = {run.key[0] for run in runs if run.state == "done"}
    return Estimator(runs, work.of_configs(connection, configs - measured, counting=counting))


# ---- showing ---------------------------------------------------------------------------------------------------------


def shown_loss(run: RunStatus) -> str:
    return "–" if run.loss is None else f"{run.loss:.4g}"


def shown_step(run: RunStatus) -> str:
    """`loss 0.61 at step 120 of 300`, and without a loss the step."""
    step = f"step {run.step} of {run.num_steps}"
    return step if run.loss is None else f"loss {shown_loss(run)} at {step}"


def overview(studies: Sequence[StudyStatus]) -> Table:
    table = Table(title="Studies")
    # Only states that a run is in: with all of them a terminal of 100 columns cuts every header.
    states = [state for state in STATES if state in ALWAYS or any(study.counts()[state] for study in studies)]
    table.add_column("study", overflow="fold")
    for header in ("cells", "runs", *states, "time left"):
        table.add_column(header, justify="right", no_wrap=True)
    for study in studies:
        counts = study.counts()
        numbers = [f"[{STYLES.get(s, 'white')}]{counts[s]}[/]" if counts[s] else "·" for s in states]
        if any(run.collapse for run in study.runs):
            numbers[0] += f" {MARK}"
        table.add_row(escape(study.name), str(study.num_cells), str(len(study.runs)), *numbers, study.shown_left)
    return table


def details(study: StudyStatus, *, max_waiting: int | None = None) -> Group:
    """The study's line, what runs now, and everything else that is not done, what went wrong first.

    `max_waiting` is how many waiting runs are named; None: all.
    """
    parts: list[Table] = [overview([study])]
    if running := study.of("running"):
        table = Table("run", "cell", "step", "loss", "steps/s", "time left", "worker", title="Running")
        for run in running:
            speed = f"{run.speed:.2f}" if run.speed else "–"
            table.add_row(
                str(run.run_id), escape(run.label), f"{run.step} of {run.num_steps}", shown_loss(run), speed,
                duration(run.seconds_left), escape(run.worker or "–"),
            )  # fmt: skip
        parts.append(table)
    wrong, waiting = study.of("failed", "diverged", "pruned", "cancelled"), study.of("queued", MISSING)
    if wrong or waiting:
        table = Table("run", "cell", "state", "step", "error", title="Not done")
        for run in [*wrong, *waiting[:max_waiting]]:
            state = f"[{STYLES.get(run.state, 'white')}]{run.state}[/]"
            table.add_row(str(run.run_id or "–"), escape(run.label), state, str(run.step), escape(run.error or ""))
        if num_more := len(waiting) - len(waiting[:max_waiting]):
            table.caption = f"and {num_more} more that wait"
        parts.append(table)
    if said := [run for run in study.runs if run.collapse]:
        table = Table("run", "cell", "features", title=f"{MARK} Collapsed, or as before training")
        for run in said:
            table.add_row(str(run.run_id), escape(run.label), escape(run.collapse))
        parts.append(table)
    return Group(*parts)


# ---- command line ----------------------------------------------------------------------------------------------------


def page(
    engine: Engine, study: str | None, run_id: int | None, place: Place = HERE, *, max_waiting: int | None = None
) -> Table | Group:
    with engine.connect() as connection:
        if run_id is not None:
            return run_page(connection, run_id)
        if study is not None and study != "all":
            estimator = estimator_of(connection, [study])
            shown = details(read(connection, study, estimator), max_waiting=max_waiting)
            # scipy takes a third of a second to import: not for the overview.
            from sweeps.arms import answer

            said = [
                answer(connection, study),
                *plateau.of_study(connection, study),
                *map(str, edited.edited(connection, [study], place)),
            ]
            return Group(*shown.renderables, *(escape(words) for words in said if words))
        known = study_names(connection)
        estimator = estimator_of(connection, known)
        return overview([read(connection, name, estimator) for name in known])


def watch(engine: Engine, study: str | None, run_id: int | None, place: Place, console: Console) -> None:
    """The page on a screen of its own, again and again until Ctrl-C."""

    def now() -> Group:
        clock = time.strftime("%H:%M:%S")
        return Group(
            page(engine, study, run_id, place, max_waiting=NUM_WAITING),
            f"[dim]{clock}, again every {REFRESH_S:g} s; Ctrl-C ends[/]",
        )

    with contextlib.suppress(KeyboardInterrupt), Live(now(), console=console, screen=console.is_terminal) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(now())


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    study = arguments.values.get("study")
    run_id = arguments.whole("run", 0, least=1) if "run" in arguments.values else None
    engine = cli.open_for_reading(arguments, is_live=arguments.flag("watch"))
    console, place = cli.console(), Place.typed(words)
    try:
        if not arguments.flag("watch"):
            console.print(page(engine, study, run_id, place))
            return cli.OK
        watch(engine, study, run_id, place, console)
        # What was watched left with its screen.
        console.print(page(engine, study, run_id, place, max_waiting=NUM_WAITING))
        return cli.OK
    except KeyboardInterrupt:
        return cli.OK
    finally:
        engine.dispose()


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
