"""Linear heads, a grid of settings trained at once.

All heads see the same batch, so a grid is one matrix product with more columns: twenty heads cost about as much as
one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.evals.samples import Samples
from core.types import generator_for

MOMENTUM = 0.9
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
    # Columns go class by class, head by head: a softmax whose inner dimension is the heads is ten times faster.
    lr, weight_decay = (
        torch.tensor(column, device=device).repeat(num_classes) for column in zip(*settings, strict=True)
    )  # [K * H]
    generator = generator_for(seed, "linear", purpose, "init")
    start = 0.01 * torch.randn(num_features, num_classes, generator=generator)  # std as in MAE's linear probe
    weight = F.pad(start, (0, 0, 0, 1)).repeat_interleave(num_heads, dim=1).to(device)  # [D + 1, K * H]
    velocity = torch.zeros_like(weight)
    # No scale and shift: the head has its own. eps as in MAE's linear probe.
    norm = nn.BatchNorm1d(num_features, eps=1e-6, affine=False).to(device) if batch_norm else nn.Identity()

    for epoch in range(epochs):
        order = torch.randperm(len(samples.labels), generator=generator_for(seed, "linear", purpose, epoch)).to(device)
        features = looks[epoch % len(looks)] if looks else samples.features
        for batch, index in enumerate(order.tensor_split(num_batches)):
            x = _with_one(norm(features[index]))
            truth = F.one_hot(samples.labels[index], num_classes).float()
            # The gradient of the mean cross-entropy is known: (softmax - one-hot) / B. Autograd would cost more than
            # the arithmetic of a head this small.
            logits = (x @ weight).view(len(x), num_classes, num_heads)
            error = (logits.softmax(dim=1) - truth[:, :, None]).view(len(x), -1) / len(x)
            error = F.hardshrink(error, TINY)
            if optimizer is Optimizer.lars:
                gradient = _trusted(x.T @ error, weight, weight_decay, num_heads)
            else:
                gradient = torch.addmm(weight_decay * weight, x.T, error)
            velocity.mul_(MOMENTUM).add_(gradient)
            progress = (epoch * num_batches + batch) / (epochs * num_batches)
            weight.addcmul_(velocity, lr * rate(epoch, progress), value=-1)

    norm.eval()
    columns = weight.view(num_features + 1, num_classes, num_heads).unbind(dim=2)
    return [Head(*setting, norm, column) for setting, column in zip(settings, columns, strict=True)]


def _trusted(gradient: Tensor, weight: Tensor, weight_decay: Tensor, num_heads: int) -> Tensor:
    """The gradient that LARS hands to momentum; all [D + 1, K * H], the last row the bias."""

    def norms(values: Tensor) -> Tensor:  # of each head's weights: [H]
        return values[:-1].reshape(-1, num_heads).square().sum(dim=0).sqrt()

    ours, theirs = norms(weight), norms(gradient)
    trust = TRUST * ours / (theirs + ours * weight_decay[:num_heads] + 1e-8)
    trust = torch.where((ours > 0) & (theirs > 0), trust, 1.0).repeat(len(weight_decay) // num_heads)
    trusted: Tensor = (gradient[:-1] + weight_decay * weight[:-1]) * trust
    return torch.cat([trusted, gradient[-1:]])


def _with_one(features: Tensor) -> Tensor:
    """[N, D] -> [N, D + 1]: a feature that is always 1 makes the bias a row of the weights."""
    return F.pad(features, (0, 1), value=1.0)
