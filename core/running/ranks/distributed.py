"""Several processes as one: rank, world size and wrapping under `torchrun`; the identity on a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.evals.frozen.shared import Share
from core.types import Learner

PATIENCE = timedelta(days=7)  # of those that wait while the main process loads or evaluates


class World(NamedTuple):
    """This process among all."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    # On the host, for waiting and votes: NCCL ends processes that wait ten minutes, and a vote by it waits for the GPU.
    patient: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def share(self) -> Share | None:
        """Of what all encode together; None where there is one process."""
        return None if self.patient is None else Share(self.rank, self.size, self.patient)

    def rows(self, batch_size: int) -> slice:
        """This rank's share of a batch that was drawn whole on every rank.

        Raises ValueError when the batch cannot be shared out evenly: the mean of the ranks' means would not be the
        mean over the batch.
        """
        if batch_size % self.size:
            raise ValueError(f"optim.batch_size must be a multiple of the {self.size} processes, got {batch_size}")
        share = batch_size // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


@contextmanager
def world(device_type: str) -> Iterator[World]:
    """Join the process group that `torchrun` announces in the environment, and leave it at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device_type == "cuda":
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
    try:
        patient = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=PATIENCE))
        yield World(dist.get_rank(), dist.get_world_size(), local_rank, patient)
    finally:
        dist.destroy_process_group()


def wrap(learner: Learner, where: World, device: torch.device) -> nn.Module:
    """Average gradients over the ranks. The frozen target encoder is the same everywhere by construction."""
    if where.size == 1:
        return learner
    ids = [where.local_rank] if device.type == "cuda" else None
    return DistributedDataParallel(
        learner, device_ids=ids, broadcast_buffers=False, find_unused_parameters=learner.has_idle_parts
    )


def take_from_main(module: nn.Module, where: World) -> None:
    """Give every rank the main one's parameters and buffers."""
    if where.size > 1:
        for values in module.state_dict().values():
            dist.broadcast(values, 0)


def any_rank(flag: bool, where: World) -> bool:
    """True on every rank as soon as one rank says so: all stop after the same step, or none does."""
    if where.size == 1:
        return flag
    votes = torch.tensor(float(flag))
    dist.all_reduce(votes, group=where.patient)
    return bool(votes > 0)


def same_on_all(number: int, where: World) -> bool:
    """Whether every rank has the same number."""
    if where.size == 1:
        return True
    ends = torch.tensor([number, -number])
    dist.all_reduce(ends, dist.ReduceOp.MAX, group=where.patient)
    return int(ends[0]) == -int(ends[1])


def mean_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The mean of every rank's `values`, in float32, on every rank."""
    total = values.detach().float().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def mean_gradients(module: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """Give every rank the mean of all ranks' gradients; the mean of their `loss`, on every rank."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    mean = mean_over_ranks(torch.cat([loss.detach().float().view(1), *(each.flatten() for each in gradients)]))
    parts = torch.split(mean[1:], [each.numel() for each in gradients])
    for each, part in zip(gradients, parts, strict=True):
        each.copy_(part.view_as(each))
    return mean[0].clone()


def said_by_main(word: str | None, where: World) -> str | None:
    """The main rank's `word`, on every rank."""
    told = [word]
    dist.broadcast_object_list(told, src=0, group=where.patient)
    return told[0]


def wait(where: World) -> None:
    """Hold until every rank is here."""
    if where.size > 1:
        dist.barrier(group=where.patient)
