"""What a config will compute, before any of it runs: its operations, counted on torch's meta device.

Tensors of that device have shapes and no content, so a ViT-H is counted in seconds and takes no memory. The masks are
drawn for real: how many patches they leave is what a masked method's cost depends on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Generator

from core.config import ConfigError, Run, from_flat
from core.cost import count_flops, encoding_flops
from core.fitting import judged, spec_of, spec_of_pairs
from core.stepping import Inputs, draw_views
from core.trainer import build_learner
from core.types import DataSpec, Grid, Learner, Mask, Tuning, View, generator_for

log = logging.getLogger(__name__)

META = torch.device("meta")
MOST_ROWS = 256  # of a batch: masks of a larger one take long to draw, and leave as many patches


class Operations(NamedTuple):
    """1e9 floating-point operations, of one process or of all together."""

    training: float  # all steps, forward and backward
    clip: float  # encoding every patch of one clip
    clips: int | None  # of both splits that the run is judged on; None where only their files tell
    tuning: dict[str, float]  # of each evaluation that trains a copy of the encoder


def operations_of(flat: Mapping[str, Any]) -> Operations | None:
    """Of a stored config; None where it cannot be built here, as its data is elsewhere, or not be counted."""
    try:
        return operations(from_flat(flat, seed=0))
    # Without data or a teacher's file it is not built; what looks at a tensor's values cannot be counted. Either way
    # an estimate is lacking, which must stop nobody.
    except (ConfigError, ValueError, RuntimeError, TypeError, OSError) as error:
        log.debug("operations not counted: %s", error)
        return None


def operations(run: Run) -> Operations:
    spec = spec_of(run)
    rows = min(run.optim.batch_size, MOST_ROWS)
    with META:
        learner = build_learner(with_drawn_masks(run), spec).to(META)
        clip = encoding_flops(learner.judged_encoder, spec) / 1e9
        training = 0.0
        if run.optim.steps:
            # Motion and content: before flow starts a step has none of it.
            without = float(getattr(run.objective, "flow_start", 0.0))
            training = (1 - without) * _step(run, learner, spec, rows, run.optim.steps)
            if without:
                training += without * _step(run, learner, spec, rows, 1)
    data = judged(run).data
    sizes = [size for name in ("num_train", "num_test") if isinstance(size := getattr(data, name, None), int)]
    return Operations(
        training * run.optim.steps * run.optim.batch_size / rows,
        clip,
        sum(sizes) if len(sizes) == 2 else None,
        {name: clip * _passes(one) for name, one in run.evals.items() if isinstance(one, Tuning)},
    )


def _step(run: Run, learner: Learner, spec: DataSpec, rows: int, step: int) -> float:
    """1e9 operations of a step on `rows` clips."""
    of_pairs = spec_of_pairs(run) if run.objective.num_pairs() else None
    clips, labels, views, pairs = counted_inputs(run, learner, spec, of_pairs, rows, step)
    return count_flops(learner, clips, labels, views, contextlib.nullcontext(), pairs).total / 1e9


def counted_inputs(
    run: Run, learner: Learner, spec: DataSpec, of_pairs: DataSpec | None, rows: int, step: int
) -> Inputs:
    """What a step on `rows` clips is given, and the learner made ready for it; within the meta device."""
    views = draw_views(_of_rows(run, rows), learner.encoder.grid, step, slice(0, rows), META)
    clips = torch.empty(rows, spec.channels, spec.frames, spec.height, spec.width)
    labels = {name: torch.zeros(rows, dtype=torch.int64) for name in spec.classes}
    pairs = None
    if of_pairs is not None:
        num = max(2, round(run.objective.num_pairs() * rows / run.optim.batch_size))
        pairs = torch.empty(num, of_pairs.channels, 2, of_pairs.height, of_pairs.width)
    learner.seed_step(lambda purpose: generator_for(0, purpose, step), step, run.optim.steps, clips)
    learner.encoder.seed_drop_path(generator_for(0, "drop_path", step, 0))
    return Inputs(clips, labels, views, pairs)


def _of_rows(run: Run, rows: int) -> Run:
    drawn = with_drawn_masks(run)
    return dataclasses.replace(drawn, optim=dataclasses.replace(run.optim, batch_size=rows))


def _passes(evaluation: Tuning) -> float:
    """Passes through the encoder that one fine-tuning makes: a backward pass counts as two."""
    return 3.0 * float(getattr(evaluation, "steps", 0)) * float(getattr(evaluation, "batch_size", 1))


class _Drawn:
    """A mask whose draws have content also where everything else has only shapes."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        with torch.device("cpu"):
            return list(self._mask.sample(grid, batch_size, generator))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mask, name)


def with_drawn_masks(run: Run) -> Run:
    return run if run.mask is None else dataclasses.replace(run, mask=cast(Mask, _Drawn(run.mask)))
