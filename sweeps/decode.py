"""Decode what trained runs' representations hold of the pixels: `python -m sweeps.decode study=ijepa_rcdm`.

Nothing of the run is trained on: its encoder and predictor are read from its checkpoint and frozen, small decoders of
them are fitted, and samples kept beside the run's other pictures for `python -m analysis.gallery`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine, select

from core.checkpoint import CheckpointError
from core.config import ConfigError, from_flat, parse
from core.decoder import STEPS, decoded
from core.stored import open_stored
from sweeps import aliases, artifacts, cli
from sweeps.cli import UserError
from sweeps.db import RunRow, upgrade
from sweeps.evaluate import run_ids
from sweeps.evaluations import Trained, checkpoint_folder, trained_runs

OPTIONS = ("db", "results_dir", "run", "study", "steps")
USAGE = """usage: python -m sweeps.decode run=12|run=1,2,3|study=NAME [key=value ...]

Fit small decoders of trained runs' frozen representations and keep samples of them for python -m analysis.gallery.

  run=ID[,ID...]     runs of the database; study=NAME: all done runs of a study
  steps=1000         of each decoder
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     where their checkpoints are
  runtime.device=auto runtime.threads=0 runtime.cache=.cache    where and how to compute

example: python -m sweeps.decode study=ijepa_rcdm"""


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS, takes_overrides=True)
    ids, study = run_ids(arguments.values.get("run")), arguments.values.get("study")
    if ids is None and study is None:
        raise UserError("say which runs: run=12, run=1,2,3 or study=NAME")
    settings = parse(arguments.overrides)
    if other := [key for key in settings if not key.startswith("runtime.")]:
        raise UserError(f"{other[0]}={settings[other[0]]}: the run is trained; only runtime.* can still be chosen")
    url = arguments.text("db", cli.DEFAULT_DATABASE)
    if cli.is_absent(url):
        raise UserError(f"db={url}: there is no such file; launch a study first or name another db")
    engine = cli.connect(url, read_only=False)
    try:
        upgrade(engine)
        aliases.apply_to(engine)
    except ValueError as error:
        raise UserError(str(error)) from None
    with engine.connect() as connection:
        runs = trained_runs(connection, ids=ids, study=study)
    runtime = {key.removeprefix("runtime."): value for key, value in settings.items()}
    results_dir = arguments.path("results_dir", "results")
    for run in runs:
        decode(engine, run, runtime, results_dir, arguments.whole("steps", STEPS, least=1))
    engine.dispose()
    return cli.OK


def decode(engine: Engine, run: Trained, runtime: dict[str, object], results_dir: Path, steps: int) -> None:
    """Keep the run's ``decoded.npz`` in its folder and in the database."""
    folder = checkpoint_folder(run, results_dir)
    if run.checkpoint is None:
        raise UserError(f"run={run.id}: a run of no steps has learned nothing that could be decoded")
    try:
        files = decoded(
            open_stored(from_flat(run.config, seed=run.seed, runtime=runtime, is_trained=True), folder), steps=steps
        )
    except (ValueError, ConfigError, CheckpointError) as error:
        raise UserError(f"run={run.id}: {error}") from None
    run_folder = results_dir.joinpath(*Path(run.checkpoint).parts[:2])
    kept = [
        artifacts.write_file(run_folder / name, "picture", content, results_dir=results_dir)
        for name, content in files.items()
    ]
    with engine.begin() as connection:
        attempt = connection.scalar(select(RunRow.attempt).where(RunRow.id == run.id))
        assert attempt is not None
        artifacts.store(connection, run.id, attempt, kept)
    print(f"run {run.id}: {', '.join(str(run_folder / file.name) for file in kept)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
