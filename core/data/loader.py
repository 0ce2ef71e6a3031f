"""Batches by step: which samples a step sees is a pure function of the seed and the step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from core.types import Batch, DataError, Dataset, generator_for

MOST_WORKERS = 12  # that are chosen for a GPU: more read no faster from most disks


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, length: int, *stream: str) -> Tensor:
    """The order in which epoch number `epoch` visits a data set of `length` samples."""
    return torch.randperm(length, generator=generator_for(seed, "order", *stream, epoch))


def step_indices(seed: int, step: int, *stream: str, batch_size: int, length: int) -> Tensor:
    """The samples of step `step` (from 1), for all processes together: [batch_size] int64.

    Epochs follow one another without a gap, so a batch may hold the end of one and the start of the next; no sample is
    left out. A batch larger than the data set holds several epochs.
    """
    position = (step - 1) * batch_size + torch.arange(batch_size)
    epochs = position // length
    parts = [
        epoch_order(seed, epoch, length, *stream)[position[epochs == epoch] % length]
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return torch.cat(parts)


def can_share(num: int, size: int) -> bool:
    """Whether so many processes can each take as much of a batch of `num`, or as many of them each one of its samples,
    so that the mean of their means is the batch's."""
    return num % size == 0 or size % num == 0


def part_of(num: int, rank: int, size: int) -> slice:
    """What process `rank` takes of a batch of `num` that `can_share`."""
    start = rank * num // size
    return slice(start, start + max(1, num // size))


def chosen_workers(asked: int, device: torch.device | None) -> int:
    """How many processes decode what is not held in memory: as many as asked for. Where none are, for a GPU, which
    would wait, its share of this machine's cores but one; on a CPU they would take what the training needs.
    """
    if asked or device is None or device.type != "cuda":
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores // max(1, torch.cuda.device_count()) - 1))


class DrawnDataset(Protocol):
    """A data set whose samples leave something to chance (where in a video a clip starts), which has an attribute
    `is_drawn` = True: `fetch` is a pure function of the indices and of as many numbers in [0, 1)."""

    def fetch(self, indices: Tensor, draws: Tensor | None = None) -> Batch: ...


class GroupedDataset(Protocol):
    """A data set of several whose clips differ in size, which has an attribute `is_grouped` = True: it chooses the
    samples of a step itself, all of one size, as a pure function of its arguments. `fetch` takes such samples only and
    gives them at their own size."""

    def step_indices(self, seed: int, step: int, batch_size: int) -> Tensor:
        """The samples of step `step` (from 1), for all processes together: [batch_size] int64."""


class StepLoader:
    """Iterates (step, batch) over steps `start_step` + 1 to `num_steps`; `start_step` steps are already done.

    With `repeats`, a batch holds each of its samples that many times in a row, fetched once.
    `batch_size` counts the samples of all processes; each step's batch is cut into `world_size` equal runs and this
    process gets number `rank`. Sets held in memory are indexed on the spot; for lazy ones `num_workers` processes read
    ahead. The batches are the same for any number of workers and wherever the iteration starts.

    A run that reads two sets at once gives each a `stream` of its own, an order by another name. `option` is what
    messages call the batch size. With `may_repeat` there may be more processes than samples, each of which is then
    given to as many processes as every other. `rows` of each batch, in order, are given in place of a run of them.

    Raises ValueError if `batch_size` cannot be shared so.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        num_steps: int,
        num_workers: int = 0,
        repeats: int = 1,
        rank: int = 0,
        world_size: int = 1,
        stream: Sequence[str] = (),
        option: str = "optim.batch_size",
        may_repeat: bool = False,
        rows: Tensor | None = None,
    ) -> None:
        if batch_size < 1 or (batch_size % world_size and not (may_repeat and can_share(batch_size, world_size))):
            raise ValueError(
                f"{option} must be a positive multiple {'or a divisor ' if may_repeat else ''}of the {world_size} "
                f"processes it is shared by, got {batch_size}"
            )
        if num_workers < 0:
            raise ValueError(f"runtime.num_workers must be at least 0, got {num_workers}")
        assert 0 <= rank < world_size and start_step >= 0, (rank, world_size, start_step)
        assert batch_size % repeats == 0, "core.configuring.config refuses repeats that do not divide the batch"
        self.steps = range(start_step + 1, num_steps + 1)
        self._num_workers = num_workers if getattr(dataset, "is_lazy", False) else 0
        own = part_of(batch_size, rank, world_size) if rows is None else rows
        self._batches = _Batches(dataset, seed, batch_size, repeats, own, tuple(stream))

    def __len__(self) -> int:
        return len(self.steps)

    def batch(self, step: int) -> Batch:
        """One step's batch, read on the spot."""
        return self._batches[step]

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        if self._num_workers == 0 or not self.steps:
            for step in self.steps:
                yield step, self._batches[step]
            return
        loader: DataLoader[Batch] = DataLoader(
            self._batches,
            batch_size=None,  # `_Batches` returns whole batches
            sampler=self.steps,
            num_workers=self._num_workers,
            persistent_workers=True,
            prefetch_factor=2,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it takes its workers' seeds from the global generator
        )
        try:
            yield from zip(self.steps, loader, strict=True)
        except DataError as error:  # torch has put the worker's traceback before the message
            raise DataError(str(error).strip().splitlines()[-1].partition("DataError: ")[2]) from error


class _Batches(TorchDataset[Batch]):
    """This process's part of each step's batch, addressed by step."""

    def __init__(
        self,
        dataset: Dataset,
        seed: int,
        batch_size: int,
        repeats: int,
        own: slice | Tensor,
        stream: tuple[str, ...],
    ) -> None:
        self._stream = stream
        self._dataset, self._seed, self._batch_size, self._repeats = dataset, seed, batch_size, repeats
        self._part = own

    def __getitem__(self, step: int) -> Batch:
        num_samples = self._batch_size // self._repeats
        if getattr(self._dataset, "is_grouped", False):
            indices = cast(GroupedDataset, self._dataset).step_indices(self._seed, step, num_samples)
        else:
            length = len(self._dataset)
            indices = step_indices(self._seed, step, *self._stream, batch_size=num_samples, length=length)
        of_row = torch.arange(self._batch_size)[self._part] // self._repeats  # a rank may hold part of a sample's rows
        if getattr(self._dataset, "is_drawn", False):
            # Of the whole batch, so that the samples are as they would be with one process; one for each repeat.
            draws = torch.rand(self._batch_size, generator=generator_for(self._seed, "clip", *self._stream, step))
            return cast(DrawnDataset, self._dataset).fetch(indices[of_row], draws[self._part])
        is_first = of_row.diff(prepend=of_row[:1] - 1) > 0  # of its sample's rows
        samples, place = of_row[is_first], is_first.cumsum(0) - 1
        batch = self._dataset.fetch(indices[samples])
        if self._repeats == 1:
            return batch
        return Batch(batch.clips[place], {name: values[place] for name, values in batch.labels.items()})
