"""What a launch says at its end, and the exit code of that: what lacks a number, and the command that goes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sweeps.console import on_screen
from sweeps.console.errors import INCOMPLETE, OK
from sweeps.console.offered import Place, repeated
from sweeps.console.tables import counted
from sweeps.progress.study_status import RunStatus, StudyStatus
from sweeps.progress.to_finish import UNFINISHED

NAMED = 3  # runs that failed of one thing
_ONCE = "retry="  # what is asked for one launch only


def again(words: Sequence[str], *more: str) -> str:
    """The command that goes on with a launch, without what was asked for that once, and with `more`."""
    command = repeated("sweeps.launch", [*(word for word in words if not word.startswith(_ONCE)), *more])
    return f"{command} (with its password in place of ***)" if ":***@" in command else command


def stopped(study: StudyStatus, words: Sequence[str], *, on_slurm: bool = False) -> str:
    """What is said of a launch that was stopped by Ctrl-C."""
    left = study.of(*UNFINISHED)
    are_left = counted(len(left), "run is", "runs are")
    if on_slurm:
        return f"stopped waiting: {are_left} left, whose Slurm jobs go on; to wait for them again: {again(words)}"
    num_begun = sum(run.step > 0 for run in left)
    begun = f", {num_begun} of them from the last checkpoint" if num_begun else ""
    return f"stopped: {are_left} left; to go on{begun}: {again(words)}"


def verdict(study: StudyStatus, words: Sequence[str], *, is_search: bool = False) -> int:
    """0 when every run has ended with numbers or has diverged or collapsed; else what is missing, on stderr, and 1.

    In a search a pruned run is an ending too. Of a collapsed run that has numbers the table's notes have told.
    """
    for run in study.of("diverged"):
        print(f"diverged at step {run.step}: {run.label}", file=sys.stderr)
    collapsed = [f"{run.label}: {run.collapse}" for run in study.of("collapsed") if run.collapse]
    for line in on_screen.few(collapsed, Place.typed(words).command("sweeps.status", f"study={study.name}")):
        print(line, file=sys.stderr)
    lacking = study.of("failed", *(() if is_search else ("pruned",)), *UNFINISHED)
    alike: dict[tuple[str, str], list[RunStatus]] = {}  # one thing that is wrong with all of them is said once
    for run in lacking:
        alike.setdefault((run.state, run.error or f"{run.run_id}, {run.label}"), []).append(run)
    for (state, _), runs in alike.items():
        reason = f": {runs[0].error}" if runs[0].error else ""
        others = f" (so did {len(runs) - 1} more: {_named(runs[1:])})" if len(runs) > 1 else ""
        print(f"{state}: {_named(runs[:1])}{reason}{others}", file=sys.stderr)
    if not lacking:
        return OK
    is_failed = bool(study.of("failed"))
    hint = f"try failed ones again with: {again(words, 'retry=true')}" if is_failed else f"go on with: {again(words)}"
    print(
        f"{len(lacking)} of {counted(len(study.runs), 'run')} of {study.name} without a result; {hint}", file=sys.stderr
    )
    return INCOMPLETE


def _named(runs: Sequence[RunStatus]) -> str:
    shown = [f"{run.label} (run {run.run_id or '–'})" for run in runs[:NAMED]]
    return "; ".join([*shown, *([f"and {len(runs) - NAMED} more"] if len(runs) > NAMED else [])])
