"""Where a table's numbers came from, in one line: what was read, how many runs, of which code, at what cost."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pandas as pd

from analysis.numbers.frame import Frame, records
from sweeps.database.seen_data import PLUGIN, of_config
from sweeps.database.tables import WITHOUT_NUMBER

ENDED_WITHOUT = (*WITHOUT_NUMBER, "cancelled")  # states of runs that will not have a number


def provenance(frame: Frame) -> str:
    """Where the numbers came from: digest of what was read, runs, seeds, code, scale and cost of distinct runs."""
    runs = frame.runs
    trained = runs.dropna(subset="run_id").drop_duplicates("run_id")
    done = trained[trained["state"] == "done"]
    # Cells that share a config share its runs: the default row is trained once and counted once.
    num_wanted = len(runs.drop_duplicates(["config_id", "seed"]))
    seeds = ", ".join(map(str, frame.seeds))
    lost = [
        f"{int((trained['state'] == state).sum())} {state}" for state in ENDED_WITHOUT if state in set(trained["state"])
    ]
    parts = [
        f"database digest {frame.digest}",
        f"{len(done)} of {num_wanted} runs" + (f" ({', '.join(lost)})" if lost else ""),
        f"seeds {seeds}",
        data(frame),
        _code(done),
        f"scale {frame.scale}",
        f"{hours(float(trained['cpu_seconds'].fillna(0).sum()))} CPU-hours",
        f"{hours(float(trained['gpu_seconds'].fillna(0).sum()))} GPU-hours",
    ]
    return " · ".join(parts)


def data(frame: Frame) -> str:
    """The fingerprints of what the finished runs saw, and whether any set had more than one."""
    runs = frame.runs.dropna(subset="run_id").drop_duplicates("run_id")
    done = runs[runs["state"] == "done"]
    seen: dict[str, set[str]] = defaultdict(set)
    num_unknown = 0
    for run in records(done):
        if not isinstance(run.data, str):
            num_unknown += 1
            continue
        config = frame.configs.loc[run.config_id].dropna().to_dict()
        for name, value in of_config(config, json.loads(run.data)).items():
            seen[name].add(value)
    plugins = [
        f" · {name} {', '.join(sorted(value[:8] for value in seen.pop(name)))}"
        for name in sorted(seen)
        if name.startswith(PLUGIN)
    ]
    values = sorted({value[:8] for found in seen.values() for value in found})
    if not values:
        return "data unknown" + "".join(plugins)
    text = f"data {', '.join(values)}"
    if any(len(found) > 1 for found in seen.values()):
        text += " (mixed: one set with several contents)"
    return text + (f" (of {num_unknown} runs: unknown)" if num_unknown else "") + "".join(plugins)


def _code(done: pd.DataFrame) -> str:
    shas = sorted({str(sha)[:12] for sha in done["git_sha"].dropna() if sha})
    if not shas:
        return "git unknown"
    text = f"git {', '.join(shas)}" + (" (mixed)" if len(shas) > 1 else "")
    return text + (" with uncommitted changes" if done["dirty"].fillna(False).astype(bool).any() else "")


def hours(seconds: float) -> str:
    """Three significant digits, in hours: a smoke study costs 0.002, a paper study 1430."""
    total = seconds / 3600
    if total == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(total)))
    return f"{total:.{decimals}f}"
