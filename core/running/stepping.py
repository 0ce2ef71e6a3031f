"""One optimiser step of a run, and the batches that it takes."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from core.configuring.config import ConfigError, Run
from core.data.augment import augment, normalise
from core.data.loader import StepLoader, chosen_workers, part_of
from core.measuring.cost import Flops, count_flops
from core.optim import clip_gradients, set_schedule
from core.running.ahead import Ahead
from core.running.halves import Halves
from core.running.ranks.distributed import World
from core.types import Batch, Calls, Dataset, DataSpec, Grid, Learner, View, generator_for
from core.types.transfer import moved_together, pinned


class Batches:
    """Each step's batch of the run's data, and of the clips that its pairs of frames are from, if it wants pairs.

    Iterates (step, batch, clips of pairs or None) from step `start` + 1 on. For a GPU a thread reads sets in memory
    ahead, into memory that is copied from without waiting; lazy sets have worker processes.
    """

    def __init__(
        self,
        run: Run,
        train_set: Dataset,
        pair_set: Dataset | None,
        start: int,
        where: World,
        device: torch.device | None = None,
    ) -> None:
        def loader(dataset: Dataset, **options: Any) -> StepLoader:
            return StepLoader(
                dataset,
                seed=run.seed,
                start_step=start,
                num_steps=run.optim.steps,
                num_workers=chosen_workers(run.runtime.workers, device),
                rank=where.rank,
                world_size=where.size,
                **options,
            )

        self._pair_set = pair_set
        self._main = loader(train_set, batch_size=run.optim.batch_size, repeats=run.augment.repeats)
        self._pairs = None
        if pair_set is not None:
            num = run.objective.num_pairs()
            option = "objective.flow_batch"
            self._pairs = loader(pair_set, batch_size=num, stream=("pairs",), option=option, may_repeat=True)
        is_lazy = any(getattr(dataset, "is_lazy", False) for dataset in (train_set, pair_set))
        on_gpu = device is not None and device.type == "cuda"
        self._ahead = Ahead(self._pinned, run.optim.steps) if on_gpu and not is_lazy else None

    def at(self, step: int) -> tuple[Batch, Batch | None]:
        """One step's batches."""
        return self._read(step) if self._ahead is None else self._ahead.at(step)

    def _read(self, step: int) -> tuple[Batch, Batch | None]:
        return self._main.batch(step), None if self._pairs is None else self._pairs.batch(step)

    def _pinned(self, step: int) -> tuple[Batch, Batch | None]:
        batch, pairs = self._read(step)
        return batch._replace(clips=pinned(batch.clips)), pairs

    @property
    def pair_size(self) -> tuple[int, int] | None:
        """Height and width that a pair's frames are resized to, of clips that are all of one size."""
        if self._pair_set is None or getattr(self._pair_set, "is_grouped", False):
            return None
        return self._pair_set.spec.height, self._pair_set.spec.width

    def __iter__(self) -> Iterator[tuple[int, Batch, Batch | None]]:
        if self._ahead is not None:
            yield from ((step, *self._ahead.at(step)) for step in self._main.steps)
            return
        if self._pairs is None:
            yield from ((step, batch, None) for step, batch in self._main)
            return
        for (step, batch), (_, pairs) in zip(self._main, self._pairs, strict=True):
            yield step, batch, pairs


class Inputs(NamedTuple):
    """What a learner's `forward` is given."""

    clips: Tensor
    labels: dict[str, Tensor]
    views: list[View]
    pairs: Tensor | None

    def part(self, number: int, num_parts: int) -> Inputs:
        """Part `number` of `num_parts` of the samples; views that share a context still do."""
        assert self.pairs is None, "core.configuring.fitting refuses parts of what learns from pairs"
        share = len(self.clips) // num_parts
        rows = slice(number * share, (number + 1) * share)
        labels = {name: values[rows] for name, values in self.labels.items()}
        return Inputs(self.clips[rows], labels, of_rows(self.views, rows), None)


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
    masks: Ahead[list[View]] | None = None  # drawn ahead; None: in the step
    varying: tuple[str, ...] = ()  # of a view's tensors: what is compiled must take other lengths too
    halves: Halves | None = None  # `learner` with its weights cast at once; None: `model` as autocast runs it

    def step(self, step: int, batch: Batch, pairs: Batch | None = None) -> dict[str, Tensor | float]:
        """Forward, backward, update."""
        run = self.run
        inputs = self.inputs(step, batch, pairs)
        at, num_steps = run.objective.scheduled(step, run.optim.steps)
        optim = replace(run.optim, steps=num_steps)
        schedule = set_schedule(self.optimizer, optim, at)
        losses = self.gradients(step, inputs)
        if math.isfinite(self.learner.loss_limit):
            losses["grad_norm"] = gradient_norm(self.learner)
        clip_gradients(self.learner, optim, at)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        extra = self.learner.after_step(step, run.optim.steps)
        return losses | schedule | extra

    def gradients(self, step: int, inputs: Inputs) -> dict[str, Tensor | float]:
        """Those of the batch's loss, added to what parameters have; returns the loss and its parts.

        With `runtime.accumulate` parts one after the other, the mean of whose losses is the batch's.
        """
        num_parts = self.run.runtime.accumulate
        total: dict[str, Tensor | float] = {}
        for part in range(num_parts):
            self.seed(step, inputs, part)
            given = inputs if num_parts == 1 else inputs.part(part, num_parts)
            if self.varying:
                given = given._replace(views=of_any_length(given.views, self.varying))
            with self.exchange(part == num_parts - 1), tensor_float32(self.device, self.precision):
                with autocast(self.device, self.precision):
                    losses = (self.halves or self.model)(*given)
                (losses["loss"] if num_parts == 1 else losses["loss"] / num_parts).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0.0) + (value.detach() if num_parts == 1 else value.detach() / num_parts)
        return total

    def exchange(self, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients are averaged over processes once a step, in its last part."""
        model = self.model
        return (
            model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else contextlib.nullcontext()
        )

    def seed(self, step: int, inputs: Inputs, part: int = 0) -> None:
        """Give the learner what is random in this step beside its inputs, which are those of the whole batch."""
        seed, rank = self.run.seed, self.where.rank
        clips, _, views, pairs = inputs
        self.learner.seed_step(lambda purpose: generator_for(seed, purpose, step), step, self.run.optim.steps, clips)
        # Each rank drops paths of its own samples: the rank is part of the purpose.
        shapes = self.learner.encoded(clips, views, pairs)
        calls = Calls(shapes, self.device, part, self.run.runtime.accumulate)
        self.learner.encoder.seed_drop_path(generator_for(seed, "drop_path", step, rank), calls)

    def inputs(self, step: int, batch: Batch, pairs: Batch | None) -> Inputs:
        """This rank's augmented clips, labels that are read, views and pairs; all is drawn for the whole batch on every
        rank."""
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
        names = self.learner.labels_read
        labels = moved_together(self.device, *(batch.labels[name] for name in names))
        views = draw_views(run, self.learner.encoder.grid, step, rows, self.device, self.masks)
        frames = None if pairs is None else self.frames(step, pairs.clips)
        return Inputs(clips, dict(zip(names, labels, strict=True)), views, frames)

    def frames(self, step: int, clips: Tensor) -> Tensor:
        """Two frames in a row of each of this rank's clips [P, C, T, h, w], from a drawn place: [P, C, 2, h, w].

        Normalised as the encoder is used to, whatever the statistics of these clips.
        """
        draws = torch.rand(self.run.objective.num_pairs(), generator=generator_for(self.run.seed, "pair", step))
        own = draws[part_of(len(draws), self.where.rank, self.where.size)]
        first = (own * (clips.shape[2] - 1)).long()
        row = torch.arange(len(clips))
        two = torch.stack([clips[row, :, first], clips[row, :, first + 1]], dim=2)
        height, width = self.pair_size or two.shape[-2:]
        return normalise(two, replace(self.spec, height=height, width=width), device=self.device)

    def flops(self, step: int, batch: Batch, pairs: Batch | None = None) -> Flops:
        """What step `step` computes on all ranks together; it trains nothing."""
        whole, num_parts = self.inputs(step, batch, pairs), self.run.runtime.accumulate
        self.seed(step, whole)
        clips, labels, views, frames = whole if num_parts == 1 else whole.part(0, num_parts)  # as large as the others
        mine = count_flops(self.learner, clips, labels, views, autocast(self.device, self.precision), frames)
        return Flops(*(self.where.size * num_parts * count for count in mine))


def make_stepper(
    run: Run,
    spec: DataSpec,
    learner: Learner,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    precision: torch.dtype | None,
    device: torch.device,
    where: World,
    pair_size: tuple[int, int] | None,
) -> Stepper:
    """A step as it is fastest on `device`; the numbers are the same."""
    share = len(range(run.optim.batch_size)[where.rows(run.optim.batch_size)])
    if share % run.runtime.accumulate:
        raise ConfigError(
            f"runtime.accumulate must divide a process's share of optim.batch_size, got {run.runtime.accumulate} and "
            f"{share} of {run.optim.batch_size}"
        )
    masks = halves = None
    is_varying = run.runtime.compile and run.mask is not None
    varying = run.mask.varying(learner.encoder.grid) if is_varying else ()
    if device.type == "cuda":
        if run.mask is not None:  # the GPU would wait for them: V-JEPA's of 256 clips take 13 ms
            masks = Ahead(mask_draws(run, learner.encoder.grid), run.optim.steps)
        # Blocks that are computed again would be so with the weights as they are stored.
        is_plain = not run.runtime.compile and not run.runtime.checkpoint_blocks
        if precision is not None and where.size == 1 and is_plain:
            halves = Halves(learner, precision)
    return Stepper(run, spec, learner, model, optimizer, precision, device, where, pair_size, masks, varying, halves)


def of_any_length(views: Sequence[View], names: Sequence[str]) -> list[View]:
    """Tell torch.compile that these tensors will have other lengths, before it has seen one and compiles again.

    They are copied, as it would hold to their places in a common memory too; views that share a context still do.
    """
    tensors = {id(tensor): tensor for view in views for name in names if (tensor := getattr(view, name)) is not None}
    copies = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in tensors.items()}
    for copy in copies.values():
        torch._dynamo.maybe_mark_dynamic(copy, 1)
    replaced: list[dict[str, Any]] = [{name: copies.get(id(getattr(view, name))) for name in names} for view in views]
    return [view._replace(**parts) for view, parts in zip(views, replaced, strict=True)]


def compile_step(model: nn.Module, mode: str | None = None) -> None:
    """Under torch.compile from now on, `mode` being torch's."""
    # What the compiler deprecates in itself, or would like its authors to be told, is nothing that a user can act on.
    warnings.filterwarnings("ignore", module=r"torch\._inductor\.")
    model.compile(mode=mode)


def mask_draws(run: Run, grid: Grid) -> Callable[[int], list[View]]:
    """The views of the whole batch by the step."""
    return lambda step: run.mask.sample(grid, run.optim.batch_size, generator_for(run.seed, "mask", step))


def draw_views(
    run: Run, grid: Grid, step: int, rows: slice, device: torch.device, masks: Ahead[list[View]] | None = None
) -> list[View]:
    """This rank's rows of step `step`'s views; views that shared a context still do."""
    if run.mask is None:
        return []
    drawn = mask_draws(run, grid)(step) if masks is None else masks.at(step)
    return of_rows(drawn, rows, device)


def of_rows(views: Sequence[View], rows: slice, device: torch.device | None = None) -> list[View]:
    """These samples' views, on `device` where one is given; views that share a context still do."""
    tensors = {id(value): value[rows] for view in views for value in view if isinstance(value, Tensor)}
    moved = tensors.values() if device is None else moved_together(device, *tensors.values())
    there = dict(zip(tensors, moved, strict=True))
    return [
        view._replace(
            context=there[id(view.context)],
            target=there[id(view.target)],
            context_valid=there.get(id(view.context_valid)),
            target_valid=there.get(id(view.target_valid)),
        )
        for view in views
    ]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


@contextlib.contextmanager
def tensor_float32(device: torch.device, precision: torch.dtype | None) -> Iterator[None]:
    """On a GPU, products that autocast leaves in float32 (VICReg's expander and covariances, flow's correlations) by
    the units that round their factors to ten bits, where all others have seven; nothing where float32 was asked for.
    """
    if device.type != "cuda" or precision is None:
        yield
        return
    units = torch.backends.cuda.matmul
    before, units.allow_tf32 = units.allow_tf32, True
    try:
        yield
    finally:
        units.allow_tf32 = before


def gradient_norm(learner: Learner) -> Tensor:
    """Of all parameters together, before it is clipped."""
    return nn.utils.get_total_norm([p.grad for p in learner.parameters() if p.grad is not None], foreach=True)
