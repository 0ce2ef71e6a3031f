"""What the trainer found of each run's features beside those of its untrained encoder (`core.evals.collapse`).

It is a fact of the attempt, no metric: {"rankme": ..., "std": ..., "rankme_untrained": ..., "std_untrained": ...,
"state": "collapsed", "untrained" or "", "said": the sentence for it}. Older attempts have none, nor have runs of no
steps. Without torch: analysis reads through here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sweeps.database import series

MARK = "†"
UNSEEN = "not looked at"  # runs from before the trainer did
STATES = {"collapsed": "collapsed", "untrained": "no different from untrained"}  # in words


def described(told: Mapping[str, Any]) -> str:
    """The sentence where there is one, else the numbers."""
    return str(told.get("said") or "") or (
        f"none (RankMe {told['rankme']:.3g}, untrained {told['rankme_untrained']:.3g};"
        f" std {told['std']:.2g}, untrained {told['std_untrained']:.2g})"
    )


def shown_facts(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """An attempt's facts as a page lists them."""
    return {
        str(key): described(value) if key == "collapse" and value else value for key, value in (facts or {}).items()
    }


def of_seeds(found: Mapping[int, Mapping[str, Any]], num_wanted: int, num_unseen: int = 0) -> str:
    """`1 of 3 seeds collapsed (seed 2: RankMe 1.3)`; empty where nothing is to be said. `found` is by seed."""
    parts = []
    for state, words in STATES.items():
        of = {seed: told for seed, told in sorted(found.items()) if told.get("state") == state}
        if of:
            seeds = ", ".join(f"seed {seed}: RankMe {told['rankme']:.3g}" for seed, told in of.items())
            verb = "" if state == "collapsed" else "are " if len(of) > 1 else "is "
            plural = "s" if num_wanted > 1 else ""
            parts.append(f"{len(of)} of {num_wanted} seed{plural} {verb}{words} ({seeds})")
    if parts and num_unseen:
        parts.append(f"{num_unseen} {'were' if num_unseen > 1 else 'was'} {UNSEEN}")
    return "; ".join(parts)


def ended(state: str, told: Mapping[str, Any] | None) -> str:
    """How a run of this state ended, in a word: of one that is done, whether its features collapsed, if they were
    looked at."""
    if state != "done":
        return state
    return UNSEEN if not told else "collapsed" if told.get("state") == "collapsed" else state


def of_running(connection: Connection, run_ids: Sequence[int]) -> dict[int, str]:
    """Of each run whose last look at its features found them nearly the same, what that found: see
    `core.running.monitoring.monitor`. Points that wait in a worker are not known yet."""
    if not run_ids:
        return {}
    found = series.read_many(connection, run_ids, ["monitor/collapsed", "monitor/rankme", "monitor/feature_std"])
    said = {}
    for run_id in run_ids:
        collapsed, rank, std = (
            found.get((run_id, f"monitor/{name}")) for name in ("collapsed", "rankme", "feature_std")
        )
        if collapsed is None or rank is None or std is None or collapsed.steps[-1] != std.steps[-1]:
            continue
        said[run_id] = (
            f"looks collapsed: feature std {std.values[-1]:.2g}, RankMe {rank.values[-1]:.3g} at step {std.steps[-1]}"
        )
    return said
