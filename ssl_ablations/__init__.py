"""The commands from Python: what a notebook asks, trains and takes away.

    import ssl_ablations as ab

    ab.load("masking_ratio")                                   # a tidy DataFrame: a row a cell, seed and metric
    ab.results(where="{mask.ratio} > 0.8 and state = 'done'")  # a row a run, its options and metrics as columns
    ab.runs(where="state = 'failed'")                          # a row a run, with what became of it
    ab.curves(runs=[3, 4], metrics=["loss"])                   # a row a point
    ab.differences(3, 4)                                       # what the runs differ in
    ab.table("masking_ratio")                                  # the study's table
    ab.encoder(run=12)                                         # an nn.Module that takes pixels
    ab.train(["method=ijepa", "scale=smoke", "runtime.dir=runs/first"])
    ab.launch("masking_ratio", scale="smoke")

`db` and `results_dir` are those of the commands where they are left out. Questions read only, and import no torch:
`Encoder`, `encoder`, `launch` and `train` do, when they are first taken. A mistake that a command would answer by one
line and exit code 2 raises `AblationError` with that line.
"""

from typing import TYPE_CHECKING, Any

from ssl_ablations.errors import AblationError
from ssl_ablations.questions import (
    best,
    cells,
    costs,
    curves,
    data,
    differences,
    load,
    results,
    runs,
    sql,
    table,
)

if TYPE_CHECKING:
    from ssl_ablations.training import Encoder, encoder, launch, train

__all__ = [
    "AblationError",
    "Encoder",
    "best",
    "cells",
    "costs",
    "curves",
    "data",
    "differences",
    "encoder",
    "launch",
    "load",
    "results",
    "runs",
    "sql",
    "table",
    "train",
]
_TRAINING = ("Encoder", "encoder", "launch", "train")


def __getattr__(name: str) -> Any:
    if name not in _TRAINING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # It imports torch, which takes seconds, and which questions do without.
    from ssl_ablations import training

    globals().update({each: getattr(training, each) for each in _TRAINING})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
