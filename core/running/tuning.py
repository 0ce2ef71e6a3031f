"""The pieces of the trainer that an evaluation needs which trains a copy of the encoder (`core.types.Tuning`).

`Bench` gives them out: data, crops, optimiser, schedules and checkpoints are those of pretraining, drawn from the same
generators, so that fine-tuning a random encoder takes the same steps as training it from scratch. Several processes
share out each batch, whose draws are those of the whole.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Generator, Tensor

from core.configuring.config import JUDGING, Run, flatten, identity
from core.data.augment import Augment, changed, normalise
from core.data.augment import draw as draw_changes
from core.data.loader import StepLoader, chosen_workers
from core.evals.frozen.clips import plan
from core.evals.frozen.maps import read_segments
from core.measuring.cost import encoding_flops
from core.models.adapted import adapted
from core.optim import Optim, clip_gradients, make_adamw, make_sgd, set_schedule
from core.running import checkpoint
from core.running.checkpoint import CheckpointError
from core.running.ranks.distributed import World, any_rank, mean_gradients, mean_over_ranks, said_by_main, same_on_all
from core.types import (
    SAMPLE,
    Batch,
    Calls,
    Dataset,
    DataSpec,
    EncoderModule,
    Part,
    Recipe,
    Recorder,
    Regions,
    Sampling,
    Stopped,
    Tuned,
    Tuning,
    generator_for,
    moved,
)

log = logging.getLogger(__name__)
FOLDER = "finetune"  # of a stage's checkpoints, in the run's


class Bench:
    """`core.types.Workshop` of a run whose pretraining has ended at `step`.

    `splits` are "train", "test" and "pretrain". Stages are checkpointed in folders of their own beside the run's
    checkpoints every `runtime.checkpoint_every` steps; what is left of a stage that has ended is its weights. Of the
    processes `where` the main one is a context in which the others `help`.
    """

    def __init__(
        self,
        run: Run,
        encoder: EncoderModule,
        splits: Mapping[str, Dataset],
        record: Recorder,
        *,
        built_for: DataSpec,
        step: int,
        device: torch.device,
        precision: torch.dtype | None,
        where: World = World(),  # noqa: B008  a constant
    ) -> None:
        self.device, self._world, self._where = device, where, World()
        self._run, self._encoder, self._splits, self._record = run, encoder, splits, record
        self._built_for, self._step, self._precision = built_for, step, precision
        self.steps_done = step  # of pretraining and of the stages that have ended: the series go on from there

    # ---- by whom -----------------------------------------------------------------------------------------------------

    def begin(self, name: str, evaluation: Tuning) -> int:
        """Have the others do `evaluation` too, where it can be shared out to them; by how many it is done."""
        size = self._world.size
        is_shared = size > 1 and not self._run.encoder.over_batch and evaluation.can_share(size)
        self._where = self._world if is_shared else World()
        if is_shared:
            said_by_main(name, self._world)
        elif size > 1:
            log.info("evals.%s is tuned by the first process alone: its batches cannot be shared out", name)
        return self._where.size

    def help(self) -> None:
        """Do this process's share of what the main one begins, until it lets this one go."""
        self._where = self._world
        while (name := said_by_main(None, self._world)) is not None:
            # The main one ends by the same, and tells.
            with suppress(Stopped, FloatingPointError):
                cast(Tuning, self._run.evals[name]).tune(self, self._run.seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # By any other error this process is in the middle of something, and it ends: the others cannot hear it.
        if self._world.size > 1 and (kind is None or issubclass(kind, Stopped | FloatingPointError)):
            said_by_main(None, self._world)

    def summed(self, values: Tensor) -> Tensor:
        if self._where.size > 1:
            dist.all_reduce(values, group=self._where.patient)
        return values

    def _part(self, batch_size: int) -> Part:
        rank, size = self._where.rank, self._where.size
        return Part(batch_size) if size == 1 else Part(batch_size, mirrored(batch_size, rank, size), mean_over_ranks)

    # ---- what there is -----------------------------------------------------------------------------------------------

    def spec(self, split: str, size: int | None = None) -> DataSpec:
        """The clips' shape as the encoder gets them: cut to its size (or `size`) and length, its mean and std.

        An encoder of images gets whole clips, one of clips single images as they are: its copy is inflated or deflated.
        """
        data, built_for = self._splits[split].spec, of_size(self._built_for, size)
        frames = data.frames if 1 in (data.frames, built_for.frames) else built_for.frames
        data = dataclasses.replace(data, mean=built_for.mean, std=built_for.std)
        return dataclasses.replace(data, frames=frames, height=built_for.height, width=built_for.width)

    def labels(self, split: str) -> dict[str, Tensor]:
        """Of every sample of "train" and "pretrain", of every video of "test"."""
        every = self._splits[split].spec.clips_per_video if split == "test" else 1
        return {name: values[::every] for name, values in self._splits[split].labels().items()}

    def regions(self, split: str) -> Regions:
        dataset = self._splits[split]
        found: Regions = cast(Any, dataset).regions(torch.arange(len(dataset)))
        return found

    def num_samples(self, split: str) -> int:
        return len(self._splits[split])

    def segments(self, split: str, samples: Tensor, frames: Sequence[int]) -> Tensor:
        return read_segments(self._splits[split], split, samples, frames)

    def encoder(
        self, split: str, *, drop_path: float, start: EncoderModule | None, tubelet: int, size: int | None = None
    ) -> EncoderModule:
        source = self._encoder if start is None else start
        return adapted(source, self._run.encoder, self.spec(split, size), drop_path=drop_path, tubelet=tubelet)

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._precision is None else torch.autocast(self.device.type, self._precision)

    def views(self, sampling: Sampling, size: int | None = None) -> Iterator[tuple[slice, int, Tensor]]:
        test, spec = self._splits["test"], self.spec("test", size)
        clips = plan(test.spec, of_size(self._built_for, size), sampling)
        cuts = [(view[0], number) for number, view in enumerate(clips.views)]
        batch_size = max(1, (64 if self.device.type == "cpu" else 256) // spec.frames)
        for batch, start in enumerate(range(0, len(test), batch_size * test.spec.clips_per_video)):
            if batch % self._where.size != self._where.rank:
                continue
            first = torch.arange(start, min(start + batch_size * test.spec.clips_per_video, len(test)))
            first = first[:: test.spec.clips_per_video]
            row = start // test.spec.clips_per_video
            for sample, group in itertools.groupby(sorted(cuts), key=lambda item: item[0].sample):
                stored = test.fetch(first + sample).clips
                # The data set's own size: a spatial view is cut from what is larger than the encoder's.
                whole = dataclasses.replace(spec, height=test.spec.height, width=test.spec.width)
                pixels = normalise(stored, whole, device=self.device)
                for cut, number in group:
                    clip = pixels[:, :, cut.first : cut.first + clips.frames]
                    clip = clip[..., cut.top : cut.top + spec.height, cut.left : cut.left + spec.width]
                    yield slice(row, row + len(first)), number, clip.contiguous()

    def forward_mmac(self, encoder: EncoderModule, size: int | None = None) -> float:
        return encoding_flops(encoder, self.spec("test", size)) / 2e6

    # ---- training ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        stage: str,
        tuned: Tuned,
        split: str,
        samples: Tensor,
        recipe: Recipe,
        settings: Mapping[str, Any],
        seed: int,
    ) -> dict[str, float]:
        spec, folder = self.spec(split, recipe.size), self._record.folder / FOLDER / stage
        optim, crops = optim_of(recipe), crops_of(recipe)
        tuned.to(self.device).train()
        tuned.part = part = self._part(recipe.batch_size)
        make = make_sgd if recipe.sgd else make_adamw
        optimizer = make(tuned, optim, recipe.layer_decay)
        config = self._identity(stage, split, recipe, settings, seed)
        step, seconds, losses = resume(folder, config, tuned, optimizer, recipe.steps)
        if not same_on_all(step, self._where):
            raise CheckpointError(f"{folder}: the processes found different checkpoints there, this one step {step}")
        self._tell(stage, 0, losses)
        loader = StepLoader(
            Chosen(self._splits[split], samples),
            batch_size=recipe.batch_size,
            seed=seed,
            start_step=step,
            num_steps=recipe.steps,
            num_workers=chosen_workers(self._run.runtime.workers, self.device),
            repeats=recipe.repeats,
            rows=part.rows,
        )
        window: list[Tensor] = []  # losses that are still on the device

        def flush() -> None:
            if not window:
                return
            read = torch.stack(window).cpu()
            self._tell(stage, len(losses), read)
            if not read.isfinite().all():
                broken = len(losses) + int((~read.isfinite()).nonzero()[0]) + 1
                raise FloatingPointError(f"fine-tuning {stage}: the loss is not finite at step {broken}")
            losses.extend(read.tolist())
            window.clear()

        clock = time.perf_counter()
        for step, batch in loader:
            window.append(self._one_step(step, batch, tuned, optimizer, optim, crops, spec, recipe, seed))
            stopping, ending = any_rank(self._record.should_stop(), self._where), step == recipe.steps
            saving = step % self._run.runtime.checkpoint_every == 0 or stopping or ending
            if saving or step % self._run.runtime.log_every == 0:
                flush()  # waits for the device
            if saving and self._where.is_main:
                now = time.perf_counter()
                seconds, clock = seconds + now - clock, now
                state = {"tuned": tuned.state_dict(), "seconds": seconds, "losses": torch.tensor(losses)}
                if not ending:
                    state["optimizer"] = optimizer.state_dict()
                checkpoint.save(folder, step, state, config, keep=1 if ending else self._run.runtime.keep_checkpoints)
            if stopping and not ending:
                raise Stopped(f"{stage}, step {step}")
        self.steps_done += recipe.steps
        if any_rank(self._record.should_stop(), self._where):
            raise Stopped(f"{stage} has ended")
        return {"train_seconds": seconds, "seconds_per_step": seconds / recipe.steps, "last_loss": losses[-1]}

    def _one_step(
        self,
        step: int,
        batch: Batch,
        tuned: Tuned,
        optimizer: torch.optim.Optimizer,
        optim: Optim,
        crops: Augment,
        spec: DataSpec,
        recipe: Recipe,
        seed: int,
    ) -> Tensor:
        def draw(purpose: str) -> Generator:
            return generator_for(seed, purpose, step)

        part = tuned.part or Part(recipe.batch_size)
        clips = piece(batch.clips, spec.frames, draw, part)
        changes = part.own(draw_changes(part.num, draw("augment")))
        clips = changed(clips, changes, crops, spec, device=self.device)
        labels = {name: moved(values, self.device) for name, values in batch.labels.items()}
        set_schedule(optimizer, optim, step)
        whole = torch.Size((part.num, *clips.shape[1:]))
        calls = None if part.rows is None else Calls([whole], self.device, own=part.rows)
        tuned.encoder.seed_drop_path(generator_for(seed, "drop_path", step, 0), calls)  # as the first of pretraining
        with torch.enable_grad(), self.autocast():
            loss: Any = tuned.loss(clips, labels, draw, (step - 1) / max(recipe.steps - 1, 1))["loss"]
        loss.backward()
        detached: Tensor = loss.detach().float() if self._where.size == 1 else mean_gradients(tuned, loss)
        clip_gradients(tuned, optim, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return detached

    def _tell(self, stage: str, before: int, losses: Any) -> None:
        """Log the losses of the steps after `before`, numbered on from pretraining's."""
        if not self._where.is_main:
            return
        for index, loss in enumerate(losses, start=1):
            self._record.log(self.steps_done + before + index, {f"finetune/{stage}_loss": float(loss)})

    def _identity(
        self, stage: str, split: str, recipe: Recipe, settings: Mapping[str, Any], seed: int
    ) -> dict[str, Any]:
        flat = identity(flatten(self._run))
        run = {key: value for key, value in flat.items() if key.split(".")[0] not in JUDGING}
        # Pretraining's checkpoints may be judged on any data; the weights of a stage come from it.
        data = {key: value for key, value in flat.items() if key.split(".")[0] == "eval_data"}
        own = data | {"stage": stage, "split": split, "step": self._step, **recipe._asdict(), **settings}
        return (
            run | {"seed": self._run.seed} | {f"finetune.{key}": value for key, value in own.items()} | {"draws": seed}
        )


def of_size(spec: DataSpec, size: int | None) -> DataSpec:
    return spec if size is None else dataclasses.replace(spec, height=size, width=size)


class Chosen:
    """The samples of a data set at `indices`, as a data set."""

    def __init__(self, dataset: Dataset, indices: Tensor) -> None:
        self.spec, self._dataset, self._indices = dataset.spec, dataset, indices
        self.is_lazy = getattr(dataset, "is_lazy", False)
        self.is_drawn = getattr(dataset, "is_drawn", False)

    def __len__(self) -> int:
        return len(self._indices)

    def fetch(self, indices: Tensor, *draws: Tensor) -> Batch:
        which = self._indices[indices]
        batch = self._dataset.fetch(which, *draws)
        return Batch(batch.clips, batch.labels | {SAMPLE: which})

    def labels(self) -> dict[str, Tensor]:
        return {name: values[self._indices] for name, values in self._dataset.labels().items()}


def mirrored(batch_size: int, rank: int, size: int) -> Tensor:
    """The rows of a batch that are process `rank`'s of `size`, in order: as many from its end as from its start."""
    share = batch_size // (2 * size)
    front = torch.arange(rank * share, (rank + 1) * share)
    return torch.cat([front, (batch_size - 1 - front).flip(0)])


def piece(clips: Tensor, frames: int, draw: Callable[[str], Generator], part: Part) -> Tensor:
    """`frames` frames in a row of each clip, from a moment of its own; the clips themselves where they are as long."""
    spare = clips.shape[2] - frames
    if spare == 0:
        return clips
    first = part.own(torch.randint(spare + 1, (part.num,), generator=draw("piece")))
    return torch.stack([clip[:, start : start + frames] for clip, start in zip(clips, first.tolist(), strict=True)])


def optim_of(recipe: Recipe) -> Optim:
    names = {field.name for field in dataclasses.fields(Optim)} & set(recipe._fields)
    return Optim(**{name: getattr(recipe, name) for name in names})


def crops_of(recipe: Recipe) -> Augment:
    names = {field.name for field in dataclasses.fields(Augment)} & set(recipe._fields)
    return Augment(**{name: getattr(recipe, name) for name in names})


def resume(
    folder: Any, config: Mapping[str, Any], tuned: Tuned, optimizer: torch.optim.Optimizer, num_steps: int
) -> tuple[int, float, list[float]]:
    """Step, seconds and losses of the stage's newest checkpoint, its state loaded; zeros and none without one."""
    state = checkpoint.load_latest(folder, config)
    if state is None:
        return 0, 0.0, []
    tuned.load_state_dict(state["tuned"])
    if state["step"] < num_steps:
        optimizer.load_state_dict(checkpoint.copied(state["optimizer"]))
    log.info("fine-tuning goes on at step %d from %s", state["step"], folder)
    return int(state["step"]), float(state["seconds"]), state["losses"].tolist()
