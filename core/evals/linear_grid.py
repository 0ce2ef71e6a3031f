"""Linear heads, a grid of settings trained at once.

All heads see the same batch, so a grid is one matrix product with more columns, and what else a step does is a few
operations on all heads together. Twenty heads are twenty times the arithmetic, which a core does in 0.1 ms a step;
with one head a step is the calls themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.evals.samples import Samples
from core.types import generator_for

MOMENTUM = 0.9
NORM_MOMENTUM = 0.1  # of running statistics, torch's default
TRUST = 0.001  # of LARS
# Of a gradient; less is 0. A head that knows its samples gives probabilities of 1e-40, and arithmetic with such numbers
# (denormal ones) takes a CPU a hundred times as long.
TINY = 1e-25


class Optimizer(Enum):
    """`sgd` with momentum .9, or `lars`: the same on a gradient scaled to the size of the weights it changes."""

    sgd = "sgd"
    lars = "lars"


class Head(NamedTuple):
    """One linear head, with the setting that trained it."""

    lr: float
    weight_decay: float
    norm: nn.Module  # of the features, in evaluation mode; one object for all heads of a grid
    weight: Tensor  # [D + 1, K]; the last row is the bias

    def __call__(self, features: Tensor) -> Tensor:
        return _with_one(self.norm(features)) @ self.weight


def cosine(epoch: int, progress: float) -> float:
    """The share of the peak learning rate: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def steps(every: int) -> Callable[[int, float], float]:
    """The share of the peak learning rate: a tenth of what it was after each `every` epochs."""
    return lambda epoch, progress: 0.1 ** (epoch // every)


def train_heads(
    samples: Samples,
    num_classes: int,
    *,
    settings: Sequence[tuple[float, float]],  # (peak learning rate, weight decay) of each head
    epochs: int,
    batch_size: int,
    batch_norm: bool,
    seed: int,
    purpose: str,
    rate: Callable[[int, float], float] = cosine,  # of the epoch, and of the share of all steps that is done
    optimizer: Optimizer = Optimizer.sgd,
    looks: Sequence[Tensor] = (),  # other features of the samples, [N, D] each
) -> list[Head]:
    """One head a setting: momentum .9 and a learning rate that falls as `rate` says.

    A head depends on its own setting, not on its neighbours in the grid: all start at the same weights and see the
    same batches. An epoch sees one of the `looks`, in turn, where there are any. `batch_size` is the least size of a
    batch: an epoch's samples are divided evenly, none is left out.
    The heads are trained where the samples are.

    LARS as in timm, each head's weights with a trust ratio of their own; the bias takes neither that nor weight decay.
    timm's own steps tensor by tensor: with twenty heads of 96 x 10 an update took three times as long (2.5 ms, .8).
    """
    device, num_features = samples.features.device, samples.features.shape[1]
    num_heads, num_batches = len(settings), max(1, len(samples.labels) // batch_size)
    num_outputs = num_classes * num_heads
    # Rows go class by class, head by head, and samples are columns: a softmax whose inner dimension is heads x samples
    # takes half as long as one over heads alone.
    lr, weight_decay = (
        torch.tensor(column, device=device).repeat(num_classes)[:, None] for column in zip(*settings, strict=True)
    )  # [K * H, 1]
    generator = generator_for(seed, "linear", purpose, "init")
    start = 0.01 * torch.randn(num_features, num_classes, generator=generator)  # std as in MAE's linear probe
    weight = F.pad(start.T, (0, 1)).repeat_interleave(num_heads, dim=0).to(device)  # [K * H, D + 1]
    velocity = torch.zeros_like(weight)
    # No scale and shift: the head has its own. eps as in MAE's linear probe.
    norm = (
        nn.BatchNorm1d(num_features, eps=1e-6, momentum=NORM_MOMENTUM, affine=False) if batch_norm else nn.Identity()
    ).to(device)
    inputs = Inputs(looks or [samples.features], samples.labels, norm, num_batches)
    minus_one = torch.tensor(-1.0, device=device)
    # Fresh memory for each result of a step would cost more than the arithmetic that fills it.
    room = torch.empty(num_outputs * inputs.longest, device=device)

    for epoch in range(epochs):
        order = torch.randperm(len(samples.labels), generator=generator_for(seed, "linear", purpose, epoch)).to(device)
        for batch, (x, columns, labels) in enumerate(inputs.batches(epoch, order)):
            # The gradient of the mean cross-entropy is known: (softmax - one-hot) / B. Autograd would cost more than
            # the arithmetic of a head this small.
            size = len(x)
            error = room[: num_outputs * size].view(num_outputs, size)
            torch.mm(weight, columns, out=error)
            by_class = error.view(num_classes, num_heads * size)
            torch.softmax(by_class, dim=0, out=by_class)
            truth = labels.expand(1, num_heads, size)
            error.view(num_classes, num_heads, size).scatter_add_(0, truth, minus_one.expand(1, num_heads, size))
            torch.ops.aten.hardshrink.out(error, TINY * size, out=error)
            if optimizer is Optimizer.lars:
                gradient = torch.mm(error, x).div_(size)
                velocity.mul_(MOMENTUM).add_(_trusted(gradient, weight, weight_decay, num_heads))
            else:
                velocity.addmm_(error, x, beta=MOMENTUM, alpha=1 / size).addcmul_(weight, weight_decay)
            progress = (epoch * num_batches + batch) / (epochs * num_batches)
            weight.addcmul_(velocity, lr, value=-rate(epoch, progress))

    norm.eval()
    heads = weight.view(num_classes, num_heads, num_features + 1).permute(1, 2, 0)  # [H, D + 1, K]
    return [Head(*setting, norm, head.contiguous()) for setting, head in zip(settings, heads, strict=True)]


class Inputs:
    """The batches of every epoch, as heads see them: features with a 1 at their end, behind the batch norm if any.

    Each epoch sees one of the `looks`, in turn. Where an epoch is one batch, the order of its samples makes no
    difference to a head; with one look, what it sees is then made once.
    """

    def __init__(self, looks: Sequence[Tensor], labels: Tensor, norm: nn.Module, num_batches: int) -> None:
        self._looks, self._labels, self._norm, self._num_batches = looks, labels, norm, num_batches
        self.longest = -(-len(labels) // num_batches)
        # Reused by every batch, as the room for errors is.
        self._shown = looks[0].new_ones(self.longest, looks[0].shape[1] + 1)
        self._whole: Whole | None = None

    def batches(self, epoch: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features [B, D + 1], the same as [D + 1, B], which are good until the next batch, and labels [B]."""
        features = self._looks[epoch % len(self._looks)]
        if self._num_batches == 1:
            yield *self._all_of(features), self._labels
            return
        labels = self._labels[order].tensor_split(self._num_batches)
        for index, truth in zip(order.tensor_split(self._num_batches), labels, strict=True):
            shown = self._shown[: len(index)]
            shown[:, :-1] = self._norm(features.index_select(0, index))
            yield shown, shown.T, truth

    def _all_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        if self._whole is not None:
            running = (values for name, values in self._norm.named_buffers() if name.startswith("running"))
            for values, own in zip(running, self._whole[2:], strict=False):  # without a norm there are none
                values.lerp_(own, NORM_MOMENTUM)
            return self._whole[:2]
        rows = _with_one(self._norm(features))
        # Written both ways: products with a matrix that lies the other way take a third longer.
        whole = Whole(rows, rows.T.contiguous(), features.mean(dim=0), features.var(dim=0))
        if len(self._looks) == 1:  # two copies of every look might not fit in memory
            self._whole = whole
        return whole[:2]


class Whole(NamedTuple):
    """All samples of one look as one batch, in both layouts, and what a batch norm learns from it."""

    rows: Tensor  # [N, D + 1]
    columns: Tensor  # [D + 1, N]
    mean: Tensor  # [D]
    variance: Tensor  # [D], unbiased


def _trusted(gradient: Tensor, weight: Tensor, weight_decay: Tensor, num_heads: int) -> Tensor:
    """The gradient that LARS hands to momentum; all [K * H, D + 1], the last column the bias."""

    def norms(values: Tensor) -> Tensor:  # of each head's weights: [H]
        return values[:, :-1].square().sum(dim=1).view(-1, num_heads).sum(dim=0).sqrt()

    ours, theirs = norms(weight), norms(gradient)
    trust = TRUST * ours / (theirs + ours * weight_decay[:num_heads, 0] + 1e-8)
    trust = torch.where((ours > 0) & (theirs > 0), trust, 1.0).repeat(len(weight_decay) // num_heads)
    trusted: Tensor = (gradient[:, :-1] + weight_decay * weight[:, :-1]) * trust[:, None]
    return torch.cat([trusted, gradient[:, -1:]], dim=1)


def _with_one(features: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1]: a feature that is always 1 makes the bias a row of the weights."""
    return F.pad(features, (0, 1), value=1.0)
