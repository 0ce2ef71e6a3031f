"""Several processes that encode a data set together, each some of its batches, for the one that judges."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from core.types import Pooling, Sampling


class Job(NamedTuple):
    """What is to be encoded, in words that are sent."""

    split: str
    num_layers: int
    sampling: Sampling
    pools: tuple[Pooling, ...]  # over which parts tokens are averaged
    with_tokens: bool  # and whether they are wanted themselves


class Share(NamedTuple):
    """This process among those that encode. `group` is on the host, and waits for as long as judging takes."""

    rank: int
    size: int
    group: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def owner(self, batch: int) -> int:
        """Who encodes batch number `batch`."""
        return batch % self.size

    def tell(self, job: Job | None) -> None:
        """Have the others encode their batches of `job`; None lets them go."""
        dist.broadcast_object_list([job], src=0, group=self.group)

    def hear(self) -> Job | None:
        told: list[Job | None] = [None]
        dist.broadcast_object_list(told, src=0, group=self.group)
        return told[0]

    def give(self, tensors: list[Tensor]) -> None:
        """To the process that judges, which takes them in the order of batches."""
        shapes: list[Any] = [[(tuple(each.shape), each.dtype) for each in tensors]]
        dist.send_object_list(shapes, dst=0, group=self.group)
        for each in tensors:
            dist.send(as_bytes(each.cpu()), dst=0, group=self.group)

    def take(self, batch: int) -> list[Tensor]:
        shapes: list[Any] = [None]
        dist.recv_object_list(shapes, src=self.owner(batch), group=self.group)
        tensors = [torch.empty(shape, dtype=dtype) for shape, dtype in shapes[0]]
        for each in tensors:
            dist.recv(as_bytes(each), src=self.owner(batch), group=self.group)
        return tensors


def as_bytes(tensor: Tensor) -> Tensor:
    """Half precision is nothing that a group on the host knows."""
    return tensor.contiguous().flatten().view(torch.uint8)
