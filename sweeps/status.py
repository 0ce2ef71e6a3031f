"""What is done, running, queued, failed: one study, all of them, or one run with where each attempt ran.

python -m sweeps.status [study=NAME] [run=ID] [watch=true]
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from sqlalchemy import Engine

from sweeps import cli
from sweeps.answers import plateau
from sweeps.answers.collapse import MARK
from sweeps.answers.run_page import run_page
from sweeps.cells import edited
from sweeps.console.offered import HERE, Place
from sweeps.console.tables import duration
from sweeps.database.tables import WITHOUT_NUMBER
from sweeps.progress import to_finish
from sweeps.progress.study_status import MISSING, STYLES, StudyStatus, read_all, shown_loss, study_names

USAGE = """usage: python -m sweeps.status [study=NAME] [run=ID] [watch=true] [db=sqlite:///results/ablations.sqlite]

  (no option)      one line a study: done, running, queued, failed, diverged, collapsed, missing
  study=NAME       that study's running runs with step, speed and time left, and everything that is not done; of
                   another scale study=NAME@smoke, or scale=smoke beside it
  run=ID           one run: its options, results, and every attempt's host, device, code, cost and error
  plugins=[...]    taken as other commands take it, and not needed: nothing is built
  watch=true       again every two seconds until Ctrl-C

time left: of what runs, what waits and what a search or a rule for seeds will ask for, shared by the workers that are
at it (one, where none is), by the runs' speed and the estimates of `sweeps.plan`; with ≈ while no run has told its
speed. to finish: the hours of processors and GPUs that this takes, as `sweeps.plan` has them

example: python -m sweeps.status study=masking_ratio watch=true"""

OPTIONS = ("study", "run", "watch", "db", "plugins")
STATES = ("done", "running", "queued", *WITHOUT_NUMBER, "cancelled", MISSING)
ALWAYS = ("done", "running", "queued", "failed")  # shown also where no run is in them
REFRESH_S = 2.0
NUM_WAITING = 5  # of the waiting runs named while watching: a screen is short


# ---- showing ---------------------------------------------------------------------------------------------------------


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
    wrong, waiting = study.of(*WITHOUT_NUMBER, "cancelled"), study.of("queued", MISSING)
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
            (found,), estimator = read_all(connection, [study])
            shown = details(found, max_waiting=max_waiting)
            # scipy takes a third of a second to import: not for the overview.
            from sweeps.answers.arms import answer

            said = [
                to_finish.said(found.costs, estimator),
                answer(connection, study),
                *plateau.of_study(connection, study),
                *map(str, edited.edited(connection, [study], place)),
            ]
            return Group(*shown.renderables, *(escape(words) for words in said if words))
        return overview(read_all(connection, study_names(connection))[0])


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
    arguments.plugins()  # a word that names no module is refused here too
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
