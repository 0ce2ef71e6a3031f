"""The few shapes everything in `core` speaks, and the base class of every kind of component.

Shape letters: B batch, N patches, Nc/Nt context/target patches, P prefix (class) tokens, D width, C channels,
T H W frames and pixels of a clip. A patch index counts the patches of a `Grid` in (t, h, w) raster order:
``index = (t * grid.h + h) * grid.w + w``. An image is a clip of one frame.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Generator, Tensor

from core.types.data import Batch, Data, DataError, Dataset, DataSpec, FlowTruth, Grid, Regions, Stamp, TrackedVideo
from core.types.draws import truncated_normal_
from core.types.judging import (
    SAMPLE,
    Evaluation,
    Features,
    Look,
    Part,
    Pooling,
    Recipe,
    Sampling,
    Stopped,
    Tokens,
    Tuned,
    Tuning,
    Workshop,
)
from core.types.optimizers import Optimizer, refuse_others, taken, takes
from core.types.training import (
    Calls,
    Encoder,
    EncoderModule,
    Learner,
    Loss,
    Mask,
    Objective,
    Pace,
    Parts,
    Predictor,
    PredictorModule,
    Recorder,
    Target,
    TargetModule,
    View,
)
from core.types.transfer import moved, moved_together

__all__ = [
    "SAMPLE",
    "Batch",
    "Calls",
    "Data",
    "DataError",
    "DataSpec",
    "Dataset",
    "Encoder",
    "EncoderModule",
    "Evaluation",
    "Features",
    "FlowTruth",
    "Grid",
    "Learner",
    "Look",
    "Loss",
    "Mask",
    "Objective",
    "Optimizer",
    "Pace",
    "Part",
    "Parts",
    "Pooling",
    "Predictor",
    "PredictorModule",
    "Recipe",
    "Recorder",
    "Regions",
    "Sampling",
    "Stamp",
    "Stopped",
    "Target",
    "TargetModule",
    "Tokens",
    "TrackedVideo",
    "Tuned",
    "Tuning",
    "View",
    "Workshop",
    "full_precision",
    "generator_for",
    "moved",
    "moved_together",
    "refuse_others",
    "taken",
    "takes",
    "truncated_normal_",
]


def generator_for(seed: int, *purpose: str | int) -> Generator:
    """A CPU generator that is a pure function of the seed and the purpose: ``generator_for(0, "mask", step)``.

    Nothing random in `core` reads or moves the global generators, so a resumed run sees what an uninterrupted one saw.
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))


def full_precision(like: Tensor) -> AbstractContextManager[Any]:
    """Without autocast, where `like` is; on the meta device, on which operations are only counted, there is none."""
    device = like.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
