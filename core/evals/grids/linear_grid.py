"""Linear heads, a grid of settings trained at once.

All heads see the same batch, so a grid is one matrix product with more columns, and what else a step does is a few
operations on all heads together. Twenty heads are twenty times the arithmetic, which a core does in 0.1 ms a step;
with one head a step is the calls themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.evals.frozen.samples import Samples
from core.types import Optimizer, generator_for

MOMENTUM = 0.9
NORM_MOMENTUM = 0.1  # of running statistics, torch's default
NORM_EPS = 1e-6  # as in MAE's linear probe
TRUST = 0.001  # of LARS
# Of a gradient; less is 0. A head that knows its samples gives probabilities of 1e-40, and arithmetic with such numbers
# (denormal ones) takes a CPU a hundred times as long.
TINY = 1e-25


class Head(NamedTuple):
    """One linear head, with the setting that trained it."""

    lr: float
    weight_decay: float
    norm: nn.Module  # of the features, in evaluation mode; one object for all heads of a grid
    weight: Tensor  # [D + 1, K]; the last row is the bias

    def __call__(self, features: Tensor) -> Tensor:
        return next(scores_of([self], features))


def scores_of(heads: Sequence[Head], features: Tensor) -> Iterator[Tensor]:
    """What each head of one grid says of the same features [N, D]: [N, K] each, one after the other."""
    shown = _with_last(heads[0].norm(features), 1.0)
    for head in heads:
        yield shown @ head.weight


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
    optimizer: Optimizer = Optimizer.sgd,  # or lars
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
    assert optimizer in (Optimizer.sgd, Optimizer.lars), optimizer
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
    inputs = Inputs(looks or [samples.features], samples.labels, num_batches, batch_norm=batch_norm)
    minus_one = torch.tensor(-1.0, device=device)
    # Fresh memory for each result of a step would cost more than the arithmetic that fills it.
    room = torch.empty(num_outputs * -(-len(samples.labels) // num_batches), device=device)

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

    norm = inputs.norm()
    heads = weight.view(num_classes, num_heads, num_features + 1).permute(1, 2, 0)  # [H, D + 1, K]
    return [Head(*setting, norm, head.contiguous()) for setting, head in zip(settings, heads, strict=True)]


class Inputs:
    """The batches of every epoch, as heads see them: features with a 1 at their end, behind the batch norm if any.

    Each epoch sees one of the `looks`, in turn. Where an epoch is one batch, the order of its samples makes no
    difference to a head; with one look, what it sees is then made once.
    """

    def __init__(self, looks: Sequence[Tensor], labels: Tensor, num_batches: int, *, batch_norm: bool) -> None:
        self._looks, self._labels, self._num_batches, self._batch_norm = looks, labels, num_batches, batch_norm
        num_features = looks[0].shape[1]
        self._mean = torch.zeros(num_features + 1, dtype=looks[0].dtype, device=labels.device)
        self._variance = torch.ones_like(self._mean)
        # Without scale and shift, as the head has its own. Only the 0 that features get at their end, and that any norm
        # leaves as it is, is shifted to a 1: adding that behind the norm would copy every batch once more.
        self._last = 0.0 if batch_norm else 1.0
        self._scale, self._shift = torch.ones_like(self._mean), torch.zeros_like(self._mean)
        self._shift[-1] = 1.0
        self._wide: Tensor | None = None
        self._whole: Whole | None = None

    def batches(self, epoch: int, order: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Features [B, D + 1], the same as [D + 1, B], and labels [B]."""
        if self._num_batches == 1:
            yield *self._all_of(epoch), self._labels
            return
        features, labels = self._widened(epoch), self._labels[order].tensor_split(self._num_batches)
        for index, truth in zip(order.tensor_split(self._num_batches), labels, strict=True):
            shown = features.index_select(0, index)
            if self._batch_norm:
                shown = self._normed(shown, self._mean, self._variance, NORM_MOMENTUM)
            yield shown, shown.T, truth

    def norm(self) -> nn.Module:
        """What the heads have in front of them once they are trained, in evaluation mode."""
        if not self._batch_norm:
            return nn.Identity()
        norm = nn.BatchNorm1d(len(self._mean) - 1, eps=NORM_EPS, affine=False, device=self._mean.device).eval()
        norm.running_mean, norm.running_var = self._mean[:-1].clone(), self._variance[:-1].clone()
        return norm

    def _look(self, epoch: int) -> Tensor:
        # All looks of a large set might not fit on the device together.
        return self._looks[epoch % len(self._looks)].to(self._labels.device)

    def _widened(self, epoch: int) -> Tensor:
        """The look of this epoch, [N, D + 1]."""
        if len(self._looks) > 1:  # copies of all looks might not fit in memory
            return _with_last(self._look(epoch), self._last)
        if self._wide is None:
            self._wide = _with_last(self._look(0), self._last)
        return self._wide

    def _all_of(self, epoch: int) -> tuple[Tensor, Tensor]:
        if self._whole is None or len(self._looks) > 1:
            rows = _with_last(self._look(epoch), self._last)
            mean, variance = torch.zeros_like(self._mean), torch.zeros_like(self._variance)
            if self._batch_norm:
                rows = self._normed(rows, mean, variance, 1.0)
            # Written both ways: products with a matrix that lies the other way take a third longer.
            self._whole = Whole(rows, rows.T.contiguous(), mean, variance)
        if self._batch_norm:
            self._mean.lerp_(self._whole.mean, NORM_MOMENTUM)
            self._variance.lerp_(self._whole.variance, NORM_MOMENTUM)
        return self._whole[:2]

    def _normed(self, rows: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> Tensor:
        """`rows` [B, D + 1] behind the norm; `mean` and `variance` [D + 1] go on as its running ones."""
        # What nn.BatchNorm1d calls; its own checks take half as long again.
        return torch.batch_norm(rows, self._scale, self._shift, mean, variance, True, momentum, NORM_EPS, False)


class Whole(NamedTuple):
    """All samples of one look as one batch, in both layouts, and what a batch norm learns from it."""

    rows: Tensor  # [N, D + 1]
    columns: Tensor  # [D + 1, N]
    mean: Tensor  # [D + 1]
    variance: Tensor  # [D + 1], unbiased


def _trusted(gradient: Tensor, weight: Tensor, weight_decay: Tensor, num_heads: int) -> Tensor:
    """The gradient that LARS hands to momentum; all [K * H, D + 1], the last column the bias."""

    def norms(values: Tensor) -> Tensor:  # of each head's weights: [H]
        return values[:, :-1].square().sum(dim=1).view(-1, num_heads).sum(dim=0).sqrt()

    ours, theirs = norms(weight), norms(gradient)
    trust = TRUST * ours / (theirs + ours * weight_decay[:num_heads, 0] + 1e-8)
    trust = torch.where((ours > 0) & (theirs > 0), trust, 1.0).repeat(len(weight_decay) // num_heads)
    trusted: Tensor = (gradient[:, :-1] + weight_decay * weight[:, :-1]) * trust[:, None]
    return torch.cat([trusted, gradient[:, -1:]], dim=1)


def _with_last(features: Tensor, value: float) -> Tensor:
    """[N, D] -> [N, D + 1]: a feature that is always 1 makes the bias a row of the weights."""
    return F.pad(features, (0, 1), value=value)
