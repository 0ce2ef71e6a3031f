"""What a config will compute, before any of it runs: its operations, counted on torch's meta device.

Tensors of that device have shapes and no content, so a ViT-H is counted in seconds and takes no memory. The masks are
drawn for real: how many patches they leave is what a masked method's cost depends on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from core.configuring.config import ConfigError, Run, from_flat
from core.configuring.fitting import judged, spec_of, spec_of_pairs
from core.configuring.places import located
from core.forecast.remembered import Remembered
from core.masks.drawn import drawn
from core.measuring.cost import count_flops, encoding_flops
from core.running.building import build_learner
from core.running.stepping import Inputs, draw_views
from core.types import DataSpec, Learner, Tuning, generator_for

log = logging.getLogger(__name__)

META = torch.device("meta")
MOST_ROWS = 256  # of a batch: masks of a larger one take long to draw, and leave as many patches


class Operations(NamedTuple):
    """1e9 floating-point operations, of one process or of all together."""

    training: float  # all steps, forward and backward
    clip: float  # encoding every patch of one clip
    clips: int | None  # of both splits that the run is judged on; None where only their files tell
    tuning: dict[str, float]  # of each evaluation that trains a copy of the encoder


def operations_of(flat: Mapping[str, Any], data_root: str = ".") -> Operations | None:
    """Of a stored config, whose data's paths begin from `data_root`; None where it cannot be built here, as its data is
    elsewhere, or not be counted."""
    try:
        return operations(from_flat(flat, seed=0, runtime={"data_root": data_root}))
    # Without data or a teacher's file it is not built; what looks at a tensor's values cannot be counted. Either way
    # an estimate is lacking, which must stop nobody.
    except (ConfigError, ValueError, RuntimeError, TypeError, OSError) as error:
        log.debug("operations not counted: %s", error)
        return None


def operations(run: Run) -> Operations:
    spec = spec_of(run)
    rows = min(run.optim.batch_size, MOST_ROWS)
    model = _Model(run, spec, rows)
    clip, training = model.clip(), 0.0
    if run.optim.steps:
        # Motion and content: before flow starts a step has none of it.
        without = float(getattr(run.objective, "flow_start", 0.0))
        training = (1 - without) * model.step(run.optim.steps)
        if without:
            training += without * model.step(1)
    data = judged(run).data
    sizes = [size for name in ("num_train", "num_test") if isinstance(size := getattr(data, name, None), int)]
    return Operations(
        training * run.optim.steps * run.optim.batch_size / rows,
        clip,
        sum(sizes) if len(sizes) == 2 else None,
        {name: clip * _passes(one) for name, one in run.evals.items() if isinstance(one, Tuning)},
    )


_COUNTED: dict[tuple[Any, ...], float] = {}  # 1e9 operations, by everything that decides them


class _Model:
    """A run's learner, which is built and run only for what no run of the same shapes was counted for before.

    Most runs of a study differ in what no shape depends on: a rate, a schedule, a seed, an evaluation.
    """

    def __init__(self, run: Run, spec: DataSpec, rows: int) -> None:
        self.run, self.spec, self.rows = run, spec, rows
        self.pairs = spec_of_pairs(run) if run.objective.num_pairs() else None
        # All that `build_learner` is given but the mask, whose part is what it draws.
        parts = (run.objective, run.encoder, located(run).target, run.predictor, run.loss)
        self.built = (repr(parts), run.runtime.checkpoint_blocks, repr(spec))

    @functools.cached_property
    def learner(self) -> Learner:
        with META, Remembered():
            return build_learner(with_drawn_masks(self.run), self.spec).to(META)

    def clip(self) -> float:
        """1e9 operations of encoding one clip."""
        key = ("clip", *self.built)
        if key not in _COUNTED:
            with META, Remembered():
                _COUNTED[key] = encoding_flops(self.learner.judged_encoder, self.spec) / 1e9
        return _COUNTED[key]

    def step(self, step: int) -> float:
        """1e9 operations of a step on `rows` clips."""
        run, steps = self.run, self.run.optim.steps
        when = "last" if step == steps else (step, steps)
        pairs = (repr(self.pairs), _num_pairs(run, self.rows)) if self.pairs is not None else None
        key = ("step", *self.built, self.rows, when, shapes_of_views(run, self.spec, self.rows, step), pairs)
        if key not in _COUNTED:
            with META, Remembered():
                inputs = counted_inputs(run, self.learner, self.spec, self.pairs, self.rows, step)
                flops = count_flops(self.learner, *inputs[:3], contextlib.nullcontext(), inputs.pairs)
                _COUNTED[key] = flops.total / 1e9
        return _COUNTED[key]


def shapes_of_views(run: Run, spec: DataSpec, rows: int, step: int) -> tuple[Any, ...]:
    """Of every tensor of a step's views, and which of them are one: a context that is shared is encoded once."""
    views = draw_views(_of_rows(run, rows), run.encoder.grid(spec), step, slice(0, rows), META)
    tensors = [tensor for view in views for tensor in view[:4]]
    first = [next(i for i, other in enumerate(tensors) if other is tensor) for tensor in tensors]
    sizes = [None if tensor is None else tuple(tensor.shape) for tensor in tensors]
    return (*zip(first, sizes, strict=True), *(view.kind for view in views))


def _num_pairs(run: Run, rows: int) -> int:
    num: int = run.objective.num_pairs()
    return max(2, round(num * rows / run.optim.batch_size))


def counted_inputs(
    run: Run,
    learner: Learner,
    spec: DataSpec,
    of_pairs: DataSpec | None,
    rows: int,
    step: int,
    num_pairs: int | None = None,
) -> Inputs:
    """What a step on `rows` clips is given, and the learner made ready for it; within the meta device.

    `num_pairs`: None for as many as belong to so many clips, but two at least.
    """
    views = draw_views(_of_rows(run, rows), learner.encoder.grid, step, slice(0, rows), META)
    clips = torch.empty(rows, spec.channels, spec.frames, spec.height, spec.width)
    labels = {name: torch.zeros(rows, dtype=torch.int64) for name in spec.classes}
    pairs = None
    if of_pairs is not None:
        num = _num_pairs(run, rows) if num_pairs is None else num_pairs
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


def with_drawn_masks(run: Run) -> Run:
    return dataclasses.replace(run, mask=drawn(run.mask))
