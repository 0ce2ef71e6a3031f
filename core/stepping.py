"""One optimiser step of a run, and the batches that it takes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from core.config import Run
from core.cost import Flops, count_flops
from core.data.augment import augment, normalise
from core.data.loader import StepLoader
from core.distributed import World
from core.optim import clip_gradients, set_schedule
from core.types import Batch, Dataset, DataSpec, Grid, Learner, View, generator_for


class Batches:
    """Each step's batch of the run's data, and of the clips that its pairs of frames are from, if it wants pairs.

    Iterates (step, batch, clips of pairs or None) from step `start` + 1 on.
    """

    def __init__(self, run: Run, train_set: Dataset, pair_set: Dataset | None, start: int, where: World) -> None:
        def loader(dataset: Dataset, **options: Any) -> StepLoader:
            return StepLoader(
                dataset,
                seed=run.seed,
                start_step=start,
                num_steps=run.optim.steps,
                num_workers=run.runtime.workers,
                rank=where.rank,
                world_size=where.size,
                **options,
            )

        self._pair_set = pair_set
        self._main = loader(train_set, batch_size=run.optim.batch_size, repeats=run.augment.repeats)
        self._pairs = None
        if pair_set is not None:
            num = run.objective.num_pairs()
            self._pairs = loader(pair_set, batch_size=num, stream=("pairs",), option="objective.flow_batch")

    def at(self, step: int) -> tuple[Batch, Batch | None]:
        """One step's batches, read on the spot."""
        return self._main.batch(step), None if self._pairs is None else self._pairs.batch(step)

    @property
    def pair_size(self) -> tuple[int, int] | None:
        """Height and width that a pair's frames are resized to, of clips that are all of one size."""
        if self._pair_set is None or getattr(self._pair_set, "is_grouped", False):
            return None
        return self._pair_set.spec.height, self._pair_set.spec.width

    def __iter__(self) -> Iterator[tuple[int, Batch, Batch | None]]:
        if self._pairs is None:
            yield from ((step, batch, None) for step, batch in self._main)
            return
        for (step, batch), (_, pairs) in zip(self._main, self._pairs, strict=True):
            yield step, batch, pairs


class Stepper(NamedTuple):
    """All that one optimiser step needs."""

    run: Run
    spec: DataSpec
    learner: Learner
    model: nn.Module  # the learner, wrapped for several processes
    optimizer: torch.optim.Optimizer
    precision: torch.dtype | None
    device: torch.device
    where: World
    pair_size: tuple[int, int] | None = None  # height and width of a pair's frames; None: as they are stored

    def step(self, step: int, batch: Batch, pairs: Batch | None = None) -> dict[str, Tensor | float]:
        """Forward, backward, update."""
        run = self.run
        inputs = self.inputs(step, batch, pairs)
        at, num_steps = run.objective.scheduled(step, run.optim.steps)
        optim = replace(run.optim, steps=num_steps)
        schedule = set_schedule(self.optimizer, optim, at)
        self.seed(step)
        with autocast(self.device, self.precision):
            losses = self.model(*inputs)
        losses["loss"].backward()
        if math.isfinite(self.learner.loss_limit):
            losses["grad_norm"] = gradient_norm(self.learner)
        clip_gradients(self.learner, optim, at)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        extra = self.learner.after_step(step, run.optim.steps)
        return {name: value.detach() for name, value in losses.items()} | schedule | extra

    def seed(self, step: int) -> None:
        """Give the learner the generators of this step."""
        seed, rank = self.run.seed, self.where.rank
        self.learner.seed_step(lambda purpose: generator_for(seed, purpose, step), step, self.run.optim.steps)
        # Each rank drops paths of its own samples: the rank is part of the purpose.
        self.learner.encoder.seed_drop_path(generator_for(seed, "drop_path", step, rank))

    def inputs(
        self, step: int, batch: Batch, pairs: Batch | None
    ) -> tuple[Tensor, dict[str, Tensor], list[View], Tensor | None]:
        """This rank's augmented clips, labels, views and pairs; all is drawn for the whole batch on every rank."""
        run = self.run
        rows = self.where.rows(run.optim.batch_size)
        clips = augment(
            batch.clips,
            run.augment,
            self.spec,
            generator=generator_for(run.seed, "augment", step),
            device=self.device,
            rank=self.where.rank,
            world_size=self.where.size,
        )
        labels = {name: value.to(self.device) for name, value in batch.labels.items()}
        views = draw_views(run, self.learner.encoder.grid, step, rows, self.device)
        return clips, labels, views, None if pairs is None else self.frames(step, pairs.clips)

    def frames(self, step: int, clips: Tensor) -> Tensor:
        """Two frames in a row of each of this rank's clips [P, C, T, h, w], from a drawn place: [P, C, 2, h, w].

        Normalised as the encoder is used to, whatever the statistics of these clips.
        """
        draws = torch.rand(self.run.objective.num_pairs(), generator=generator_for(self.run.seed, "pair", step))
        first = (draws[self.where.rows(len(draws))] * (clips.shape[2] - 1)).long()
        row = torch.arange(len(clips))
        two = torch.stack([clips[row, :, first], clips[row, :, first + 1]], dim=2)
        height, width = self.pair_size or two.shape[-2:]
        return normalise(two, replace(self.spec, height=height, width=width), device=self.device)

    def flops(self, step: int, batch: Batch, pairs: Batch | None = None) -> Flops:
        """What step `step` computes on all ranks together; it trains nothing."""
        self.seed(step)
        clips, labels, views, frames = self.inputs(step, batch, pairs)
        mine = count_flops(self.learner, clips, labels, views, autocast(self.device, self.precision), frames)
        return Flops(*(self.where.size * count for count in mine))


def draw_views(run: Run, grid: Grid, step: int, rows: slice, device: torch.device) -> list[View]:
    """This rank's rows of step `step`'s views; views that shared a context still do."""
    if run.mask is None:
        return []
    drawn = run.mask.sample(grid, run.optim.batch_size, generator_for(run.seed, "mask", step))
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor[rows].to(device, non_blocking=True)
        return moved[id(tensor)]

    return [
        view._replace(**{name: move(value) for name, value in view._asdict().items() if isinstance(value, Tensor)})
        for view in drawn
    ]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def gradient_norm(learner: Learner) -> Tensor:
    """Of all parameters together, before it is clipped."""
    return nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None], foreach=True)
