"""Training, and what was trained, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from torch import Tensor, nn

from core.configuring.config import ConfigError, load
from core.data.augment import normalise
from core.running.checkpoint import CheckpointError
from core.running.trainer import train as train_run
from core.terminal import given_twice
from core.train import ConsoleRecorder, finished
from core.types import DataError, DataSpec, EncoderModule
from ssl_ablations import questions
from ssl_ablations.errors import AblationError, answered
from sweeps import cli, export_encoder
from sweeps import launch as launching
from sweeps.answers.evaluations import trained_runs
from sweeps.console.offered import DEFAULT_DATABASE, DEFAULT_RESULTS, Place


class Encoder(nn.Module):
    """The judged encoder of a run with its preprocessing: pixels in, features out.

    Takes uint8 [B, C, T, H, W], or [B, C, H, W] for an encoder of images; larger pictures are resized to what it was
    trained on, and all are normalised as it is used to. Gives [B, P + N, D]: class tokens first, then the patches.
    """

    def __init__(self, module: EncoderModule, spec: DataSpec) -> None:
        super().__init__()
        self.module, self.spec = module, spec

    def preprocess(self, pixels: Tensor) -> Tensor:
        """float32 [B, C, T, H, W] on the encoder's device. Raises AblationError for another type or shape."""
        clips = pixels.unsqueeze(2) if pixels.ndim == 4 else pixels
        wanted = (self.spec.channels, self.spec.frames)
        if clips.ndim != 5 or tuple(clips.shape[1:3]) != wanted or str(clips.dtype) != "torch.uint8":
            got = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
            raise AblationError(f"pixels must be uint8 [B, {wanted[0]}, {wanted[1]}, H, W], got {got}")
        return normalise(clips, self.spec, device=next(self.module.parameters()).device)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.module(self.preprocess(pixels))
        return features


def encoder(run: int, *, db: str = DEFAULT_DATABASE, results_dir: str | Path = DEFAULT_RESULTS) -> Encoder:
    """The judged encoder of a done run (the moving average where there is one) from its checkpoint, on the CPU.

    Raises AblationError for a run that is not there or has not ended, and where `results_dir` lacks its checkpoint.
    """
    with questions.reading(db) as engine, engine.connect() as connection:
        [trained] = trained_runs(connection, ids=[run], study=None)
        stored = export_encoder.opened(trained, Path(results_dir).expanduser(), {})
    return Encoder(stored.encoder, stored.spec).eval()


def train(overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, float]:
    """Trains and judges one run as `core.train` does with the same words; its results by metric.

    The run's files are in `runtime.dir`. What has ended there is not trained again, what was stopped goes on from its
    checkpoint. Raises AblationError for a mistake, and where the run diverged.
    """
    words = (
        [f"{key}={_typed(value)}" for key, value in overrides.items()] if isinstance(overrides, Mapping) else overrides
    )
    if isinstance(words, str):
        raise AblationError(f"overrides must be a list such as ['method=ijepa'] or a mapping, got {words!r}")
    if (repeated := given_twice(words)) is not None:
        raise AblationError(repeated)
    with answered(Place(), ConfigError, CheckpointError, DataError):
        run = load(list(words))
        record = finished(run)
        if record is None:
            recorder = ConsoleRecorder(run, Console(stderr=True), is_main=True)
            with recorder.progress:
                train_run(run, recorder)
            record = finished(run)
    assert record is not None  # nobody asks a run of this process to stop
    if record["outcome"] != "done":
        raise AblationError(f"runtime.dir={run.runtime.dir}: the run ended as {record['outcome']}")
    return dict(record["results"])


def launch(
    study: str | Path,
    *overrides: str,
    scale: str = "cpu",
    db: str = DEFAULT_DATABASE,
    results_dir: str | Path = DEFAULT_RESULTS,
    **options: Any,
) -> pd.DataFrame:
    """Trains what a study still misses, as `sweeps.launch` does, and gives `load` of it.

    `options` are the command's: `seeds=[0, 1]`, `workers=2`, `name="other"`, `executor="inline"`; words such as
    "optim.steps=100" override every cell. Runs that failed are rows with that state.

    Raises AblationError for a study, an option or a value that the command refuses; KeyboardInterrupt where it was
    stopped, whose runs the same call goes on with.
    """
    place = Place(db=db, results_dir=str(results_dir))
    given = {"study": study, "scale": scale, "db": db, "results_dir": results_dir, **options}
    words = [*(f"{key}={_typed(value)}" for key, value in given.items()), *overrides]
    with answered(place):
        request = launching.parse(words).request
        code = launching.command(words)
    if code == cli.INTERRUPTED:
        raise KeyboardInterrupt
    return questions.load(request.instance, db=db)


def _typed(value: Any) -> str:
    """A value as it stands on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    return str(value)
