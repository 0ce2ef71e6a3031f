"""Decode what trained runs' representations hold of the pixels: `python -m sweeps.decode study=ijepa_rcdm`.

Nothing of the run is trained on: its encoder and predictor are read from its checkpoint and frozen, small decoders of
them are fitted, and samples kept beside the run's other pictures for `python -m analysis.gallery`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine, select

from core.configuring.config import ConfigError, from_flat, parse
from core.running.checkpoint import CheckpointError
from core.running.decoder import STEPS, decoded
from core.running.stored import open_stored, told_where_data_was
from sweeps import cli
from sweeps.answers.evaluations import Trained, checkpoint_folder, trained_runs
from sweeps.console.errors import UserError
from sweeps.database import aliases, artifacts
from sweeps.database.opening import upgrade
from sweeps.database.tables import RunRow
from sweeps.evaluate import run_ids

OPTIONS = ("db", "results_dir", "run", "study", "steps", "plugins")
USAGE = """usage: python -m sweeps.decode run=12|run=1,2,3|study=NAME [key=value ...]

Fit small decoders of trained runs' frozen representations and keep samples of them for python -m analysis.gallery.

  run=ID[,ID...]     runs of the database; study=NAME: all done runs of a study
  steps=1000         of each decoder
  plugins=[my_lab.encoders]    imported at once; a run names its own
  db=sqlite:///results/ablations.sqlite   where the runs are recorded
  results_dir=results                     where their checkpoints are
  runtime.device=auto runtime.threads=0 runtime.cache=.cache    where and how to compute

example: python -m sweeps.decode study=ijepa_rcdm"""


# A decoder learns from what the encoder did.
TRAIN_ON_THEM = "train on the new ones, at a launch of the study with data.version=WORD"


def command(words: Sequence[str]) -> int:
    wrong = cli.Wrong()
    arguments = cli.parse(words, OPTIONS, overrides=("runtime",), wrong=wrong)
    ids, study, steps = None, arguments.values.get("study"), STEPS
    with wrong.collected():
        ids = run_ids(arguments.values.get("run"))
    with wrong.collected():
        steps = arguments.whole("steps", STEPS, least=1)
    if not {"run", "study"} & {*arguments.values, *arguments.refused}:
        wrong.add("say which runs: run=12, run=1,2,3 or study=NAME")
    unread: list[str] = []
    settings = parse(arguments.overrides, unread)
    unread += [
        f"{key}={value}: the run is trained; only runtime.* can still be chosen"
        for key, value in settings.items()
        if not key.startswith("runtime.")
    ]
    for text in unread:
        wrong.add(text)
    with wrong.collected():
        arguments.load_plugins()
    wrong.settle()
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
        decode(engine, run, runtime, results_dir, steps)
    engine.dispose()
    return cli.OK


def decode(engine: Engine, run: Trained, runtime: dict[str, object], results_dir: Path, steps: int) -> None:
    """Keep the run's ``decoded.npz`` in its folder and in the database."""
    folder = checkpoint_folder(run, results_dir)
    if run.checkpoint is None:
        raise UserError(f"run={run.id}: a run of no steps has learned nothing that could be decoded")
    try:
        with told_where_data_was(run.config, folder, str(runtime.get("data_root", "."))):
            stored = open_stored(from_flat(run.config, seed=run.seed, runtime=runtime, is_trained=True), folder)
            files = decoded(replace(stored, instead=TRAIN_ON_THEM), steps=steps)
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
