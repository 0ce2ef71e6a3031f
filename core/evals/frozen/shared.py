"""Several processes that work on a data set together, each on some of its batches, for the one that judges."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from core.types import Features, Look, Pooling, Sampling, TrackedVideo

# ---- what is to be done, in words that are sent --------------------------------------------------------------------


class Layers(NamedTuple):
    """Clips are to be encoded."""

    split: str
    num_layers: int
    sampling: Sampling
    pools: tuple[Pooling, ...]  # over which parts tokens are averaged
    with_tokens: bool  # and whether they are wanted themselves
    look: Look | None = None  # how clips are cropped and mirrored


class Maps(NamedTuple):
    """Some frames of each clip, as a level of the encoder's pyramid."""

    split: str
    frames: tuple[int, ...]
    level: int
    max_train: int | None


class Flows(NamedTuple):
    """The flow between the frames of each clip is to be estimated."""

    split: str
    max_samples: int | None
    batch_size: int
    size: tuple[int, int] | None


class Videos(NamedTuple):
    """Videos whose objects are known, each to be judged by itself. `judged` is sent by its name and its own values."""

    split: str
    max_sequences: int | None
    judged: Callable[[Features, Callable[[], TrackedVideo]], Tensor]


Job = Layers | Maps | Flows | Videos


# ---- by whom ---------------------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """This process among those that work. `group` is on the host, and waits for as long as judging takes."""

    rank: int
    size: int
    group: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def owner(self, batch: int) -> int:
        """Whose batch number `batch` is."""
        return batch % self.size

    def tell(self, job: Job | None) -> None:
        """Have the others do their batches of `job`; None lets them go."""
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


class Turns:
    """Batches in their order, each made by the process that it belongs to; by this one alone without a `share`."""

    def __init__(self, share: Share | None) -> None:
        self.share = share
        self._going: Generator[list[Tensor], None, None] | None = None

    def is_mine(self, batch: int) -> bool:
        return self.share is None or self.share.owner(batch) == self.share.rank

    def taken(self, job: Job, batches: Iterable[int], mine: Iterator[list[Tensor]]) -> Iterator[list[Tensor]]:
        """What each of `batches`, in which a number may come several times, gives of `job`; to the main process, the
        others get nothing. `mine` makes what is this process's, in the same order.
        """
        if self.share is None:
            return mine
        self._going = _in_turn(self.share, job, batches, mine)
        return self._going

    def each(
        self, job: Job, parts: Sequence[Tensor], made: Callable[[Tensor], Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each of `parts` and what is `made` of it; to the main process, the others get nothing."""
        mine = ([made(part)] for number, part in enumerate(parts) if self.is_mine(number))
        found = self.taken(job, range(len(parts)), mine)
        return ((part, tensor) for part, (tensor,) in zip(parts, found, strict=False))

    def dismiss(self) -> None:
        """Let the others go; from now on this process works alone. Of a job that was given up they finish theirs."""
        if self.share is not None:
            if self._going is not None:
                self._going.close()
            self.share.tell(None)
        self.share = None


def _in_turn(
    share: Share, job: Job, batches: Iterable[int], mine: Iterator[list[Tensor]]
) -> Generator[list[Tensor], None, None]:
    if share.is_main:
        share.tell(job)
    left = iter(batches)
    try:
        for number in left:
            if share.owner(number) == share.rank:
                if share.is_main:
                    yield next(mine)
                else:
                    share.give(next(mine))
            elif share.is_main:
                yield share.take(number)
    except BaseException:  # or GeneratorExit: whoever asked has given up
        for number in left if share.is_main else ():  # a process that gives waits until it is taken from
            if share.owner(number) != share.rank:
                share.take(number)
        raise
