"""Claim a run, train it with core, record it, repeat until there is nothing to claim.

    python -m sweeps.worker db=postgresql://... [results_dir=results] [study=<instance name>] [wait=true]

joins a sweep from any machine that sees the database; whoever shares `results_dir` can resume each other's runs.
SIGTERM, SIGUSR2 or Ctrl-C: the step is finished, the checkpoint written, the run given back.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from sqlalchemy import Engine, select

from core.configuring.config import MOST_THREADS, ConfigError, check_device
from core.running.ranks.processes import Together
from sweeps import cli
from sweeps.database import aliases
from sweeps.database.opening import upgrade
from sweeps.database.tables import StudyRow
from sweeps.engine import together
from sweeps.engine.queue import LEASE_S
from sweeps.engine.working import Work, stop_on_signals, work

USAGE = """usage: python -m sweeps.worker [db=URL] [results_dir=results] [study=NAME] [key=value ...]

Joins a sweep: claims runs from the database one after the other until none can be claimed.

  db=sqlite:///results/ablations.sqlite | postgresql://user@host/name
  results_dir=results     checkpoints go to results_dir/runs; share it between machines to resume each other's runs
  study=<name>            only this study's runs (default: whatever is queued)
  seeds=[0,1]             only runs of these seeds
  lease_s=300             after this long without a sign of life a run is given to another worker
  stack=1                 train up to this many runs of one shape together (auto: as many as the device takes)
  gpus_per_run=1          so many processes, a GPU each, take every step of a run
  threads=0               CPU threads of torch (0: torch's choice)
  device=auto|cpu|cuda
  plugins=[my_lab.masks]  imported at once, which tells early whether they are here: a run names its own
  wait=false|true         stay while other workers' runs may still come back to the queue"""

OPTIONS = (
    "db", "results_dir", "study", "seeds", "lease_s", "threads", "device", "wait", "stack", "gpus_per_run", "plugins",
)  # fmt: skip


def main(words: Sequence[str]) -> int:
    options = cli.parse(words, OPTIONS)
    lease_s = options.number("lease_s", LEASE_S, above=0)
    threads = options.whole("threads", 0, least=0, most=MOST_THREADS)
    device = options.choice("device", ("auto", "cpu", "cuda"), "auto")
    results_dir = cli.writable_folder(options.text("results_dir", "results"), "results_dir")
    try:
        check_device(device)
    except ConfigError as error:
        raise cli.UserError(str(error).replace("runtime.", "")) from None
    options.load_plugins()
    engine = cli.connect(options.text("db", cli.DEFAULT_DATABASE), read_only=False)
    try:
        upgrade(engine)
        aliases.apply_to(engine)
    except ValueError as error:
        raise cli.UserError(str(error)) from None
    study = options.values.get("study")
    what = Work(
        results_dir,
        study=None if study is None else study_id(engine, study),
        seeds=options.seeds(),
        lease_s=lease_s,
        wait=options.flag("wait"),
        runtime={"threads": threads, "device": device},
        stack=options.stack(),
        together=Together(together.asked(options, None, device)),
    )
    with stop_on_signals() as stop:
        outcomes = work(engine, what, stop=stop)
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing to claim")
    return cli.INTERRUPTED if stop.is_set() else cli.OK


def study_id(engine: Engine, name: str) -> int:
    with engine.begin() as connection:
        known: dict[str, int] = {row.name: row.id for row in connection.execute(select(StudyRow.name, StudyRow.id))}
    if name not in known:
        raise cli.UserError(f"study={name}: not in this database; it has: {', '.join(sorted(known)) or 'none'}")
    return known[name]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    sys.exit(cli.run(main, None, USAGE))
