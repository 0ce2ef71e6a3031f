"""What all tables at scale cpu with six seeds would take of one H100: an estimate from stored operations, not measured.

    python -m benchmarks.moonshot [--write]

Operations, steps and processor seconds are those that the committed database has of each config that a table shows.
What a card makes of them is stated: 400 TFLOP/s, and 400 launches a step, which a stack of runs shares. A launch is
taken once as the 5 us that are stated for it and once as what the host took for each of gpu.txt's, in the middle of
its methods. Where the host is what a step waits for (it is, at this scale), a card's own rate hardly counts.
Evaluations are counted by the processor seconds that they took, over the 16 cores beside such a card.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.lines import RESULTS, ROOT, arguments_of, show

OUTPUT = RESULTS / "moonshot.txt"
CARD = RESULTS / "gpu.txt"
SEEDS, ASKED_MINUTES = 6, 30
TFLOPS, LAUNCHES, STATED_LAUNCH_S, CORES = 400.0, 400, 5e-6, 16  # stated
STACKS = (1, 6, 16, 64)
QUERY = """
select r.config_id, max(r.step), max(case when v.metric = 'cost/pretrain_gflop' then v.value end),
  max(case when v.metric = 'cost/features_gflop' then v.value end),
  sum(case when v.metric like 'cost/eval\\_%\\_cpu_seconds' escape '\\' then v.value else 0 end)
    / count(distinct r.run_id)
from ab_runs r join ab_results v on v.run_id = r.run_id
where r.scale = 'cpu' and r.outcome = 'done' and r.config_id in (select config_id from ab_cells)
group by r.config_id
"""


class Config(NamedTuple):
    """Of one run."""

    steps: int
    gflop: float | None  # of training and of encoding; None: recorded before they were counted
    judging_s: float  # processor seconds of its evaluations


def stored(database: Path) -> list[Config]:
    with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True) as connection:
        rows = connection.execute(QUERY).fetchall()
    return [
        Config(steps or 0, None if trained is None else trained + (encoded or 0.0), judging)
        for _, steps, trained, encoded, judging in rows
    ]


def of_a_launch(text: str) -> float:
    """Seconds of the host for each launch of a step, in the middle of the methods that gpu.txt has."""
    hosts = re.findall(r"host +([\d.]+) ms until queued", text)
    counts = re.findall(r"busy .*? (\d+) launches", text)
    return median(1e-3 * float(host) / int(count) for host, count in zip(hosts, counts, strict=True))


def minutes(configs: Sequence[Config], stack: int, launch_s: float) -> tuple[float, float, float]:
    """Of the card's arithmetic, of launches and of evaluations, for all seeds of `configs`; operations that are not
    known are those of the mean."""
    known = [config.gflop for config in configs if config.gflop is not None]
    gflop = SEEDS * len(configs) * sum(known) / max(len(known), 1)
    launched = SEEDS * sum(config.steps for config in configs) * LAUNCHES * launch_s / stack
    judged = SEEDS * sum(config.judging_s for config in configs) / CORES
    return gflop / (1e3 * TFLOPS) / 60, launched / 60, judged / 60


def measure() -> Iterator[str]:
    configs = stored(ROOT / "results/ablations.sqlite")
    device, _, judged = minutes(configs, 1, STATED_LAUNCH_S)
    yield (
        f"{len(configs)} configs x {SEEDS} seeds = {SEEDS * len(configs):,} runs, "
        f"{SEEDS * sum(config.steps for config in configs) / 1e6:.2f} million steps"
    )
    yield f"arithmetic: {device:.1f} min at {TFLOPS:.0f} TFLOP/s, stated; judging: {judged:.1f} min of {CORES} cores"
    for launch_s, source in ((STATED_LAUNCH_S, "stated"), (of_a_launch(CARD.read_text(encoding="utf-8")), CARD.name)):
        for stack in STACKS:
            _, launched, _ = minutes(configs, stack, launch_s)
            whole = max(device, launched) + judged
            word = "within" if whole <= ASKED_MINUTES else "beyond"
            yield (
                f"launches of {1e6 * launch_s:2.0f} us ({source}), stacks of {stack:2d}: {launched:6.1f} min, "
                f"in all {whole:6.1f} min, {word} {ASKED_MINUTES}; estimated, not measured"
            )


def main() -> None:
    given = arguments_of(__doc__, OUTPUT).parse_args()
    show(measure(), OUTPUT if given.write else None, benchmark=__file__)


if __name__ == "__main__":
    main()
