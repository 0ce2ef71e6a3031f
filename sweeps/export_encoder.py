"""The encoder of a run as a folder: weights that timm reads, and a model card made from the database.

python -m sweeps.export_encoder run=12 to=encoders/ijepa
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from core.configuring.config import ConfigError, from_flat
from core.running.checkpoint import CheckpointError
from core.running.stored import Stored, open_stored, told_where_data_was
from core.weights.writing import is_timms, write_encoder
from sweeps import cli
from sweeps.answers.evaluations import Trained, checkpoint_folder, trained_runs
from sweeps.answers.model_card import model_card, read_known
from sweeps.console.errors import UserError
from sweeps.database import aliases

USAGE = """usage: python -m sweeps.export_encoder run=ID to=FOLDER [results_dir=results]
                                        [db=sqlite:///results/ablations.sqlite]

Writes the judged encoder of a done run (the moving average where there is one) into a new folder:
  model.safetensors   timm's names; read here with weights=file weights.path=FOLDER/model.safetensors
  config.json         for timm.create_model("local-dir:FOLDER", pretrained=True); encoders of images only
  README.md           a model card: results with intervals, data, options, code and cost, from the database

  plugins=[my_lab.encoders]    imported at once; a run names its own
  runtime.data_root=. runtime.cache=.cache    where the data is, whose shape older checkpoints do not tell"""
OPTIONS = ("run", "to", "db", "results_dir", "runtime.data_root", "runtime.cache", "plugins")


def command(words: Sequence[str]) -> int:
    arguments = cli.parse(words, OPTIONS)
    arguments.load_plugins()
    run_id = arguments.whole("run", 0, least=1)
    if not run_id or "to" not in arguments.values:
        raise UserError("say run=ID and to=FOLDER; `python -m sweeps.export_encoder --help` shows how")
    folder = arguments.path("to")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"to={folder}: there is something already; give a new folder")
    cli.writable_folder(str(folder), "to")
    engine = cli.open_for_reading(arguments)
    try:
        with engine.connect() as connection:
            [run] = trained_runs(connection, ids=[run_id], study=None)
            known = read_known(connection, run_id)
    finally:
        engine.dispose()
    runtime = {name.removeprefix("runtime."): v for name, v in arguments.values.items() if name.startswith("runtime.")}
    stored = opened(run, arguments.path("results_dir", "results"), runtime)
    card = model_card(
        known,
        num_parameters=sum(p.numel() for p in stored.encoder.parameters()),
        step=stored.step,
        is_timms=is_timms(stored.encoder),
    )
    try:
        write(folder, stored, card)
    except ValueError as error:
        raise UserError(f"run={run_id}: {error}") from None
    print(f"run {run_id} -> {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return cli.OK


def opened(run: Trained, results_dir: Path, runtime: dict[str, str]) -> Stored:
    """The run's encoder on the CPU, from its newest checkpoint."""
    try:
        folder = checkpoint_folder(run, results_dir)
        with told_where_data_was(run.config, folder, runtime.get("data_root", ".")):
            built = from_flat(
                aliases.migrated(run.config), seed=run.seed, runtime={**runtime, "device": "cpu"}, is_trained=True
            )
            return open_stored(built, folder)
    except (ConfigError, CheckpointError) as error:
        raise UserError(f"run={run.id}: {error}") from None


def write(folder: Path, stored: Stored, card: str) -> None:
    """All files at once: a folder that is there is whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".encoder-") as made:
        draft = Path(made) / "encoder"
        draft.mkdir()
        write_encoder(draft, stored.encoder, stored.run.encoder, stored.spec)
        (draft / "README.md").write_text(card, encoding="utf-8")
        draft.rename(folder)  # an empty folder of that name is replaced


def main(arguments: Sequence[str] | None = None) -> int:
    return cli.run(command, arguments, USAGE)


if __name__ == "__main__":
    sys.exit(main())
