"""A grid of attentive probes, trained at once: every parameter has the grid as its leading axis.

One query attends to frozen tokens, so the key projection folds into the query: q' W_k s = (W_k' q)' s. The scores of
all heads of all probes are then one product of the tokens with a few vectors; the tokens themselves are never
projected, and twenty probes read them as often as one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from core.types import truncated_normal_

EPS = 1e-6  # of every norm, as in the encoders
MLP_RATIO = 4


class Layout(Enum):
    """`vjepa`: query attention with a residual, an MLP, norms and a linear head; `plain`: query attention, linear."""

    vjepa = "vjepa"
    plain = "plain"


class Parameter(NamedTuple):
    """One tensor of a probe."""

    shape: tuple[int, ...]
    start: float | None  # its value at the start; None draws it from a normal of std .02 cut at two
    is_decayed: bool


class Probes:
    """`num_probes` attentive probes as one tensor `flat` [G, P], of which `parts` are views [G, *shape].

    All start at the same weights, drawn from `generator`.

    `vjepa` is V-JEPA's block: keys and values are linear maps of layer-normed tokens, the query is one of a learned
    token, whose sum with what it attended to goes through an MLP with a residual. There is no projection after the
    attention. `plain` has neither norms, biases (but the classifier's) nor residuals.

    With `depth` 2 a second such block follows, whose query is what the first made of the learned token: what a sample's
    tokens said decides where it looks next. (The paper names a two-layer probe, section 4.3, without describing it.)

    A bias of the keys is left out: it adds the same to the scores of all tokens, which the softmax takes away again.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), appendix B.1; the block as in its released evaluations.
    """

    def __init__(
        self,
        layout: Layout,
        width: int,
        heads: int,
        num_classes: int,
        num_probes: int,
        generator: Generator,
        *,
        depth: int = 1,
    ) -> None:
        assert width % heads == 0, (width, heads)
        self.layout, self.width, self.heads, self.depth = layout, width, heads, depth
        self.table = parameters(layout, width, num_classes, depth)
        drawn = [_drawn(parameter, generator) for parameter in self.table.values()]
        self.flat = torch.cat([value.flatten() for value in drawn]).repeat(num_probes, 1)  # [G, P]

    def to(self, device: torch.device) -> Probes:
        self.flat = self.flat.to(device)
        return self

    def only(self, index: int) -> Probes:
        """A grid of the one probe `index`."""
        chosen = object.__new__(Probes)
        chosen.__dict__.update(self.__dict__)
        chosen.flat = self.flat.detach()[index : index + 1].clone()
        return chosen

    def parts(self) -> dict[str, Tensor]:
        """Name -> [G, *shape]."""
        sizes = [math.prod(parameter.shape) for parameter in self.table.values()]
        columns = torch.split(self.flat, sizes, dim=1)
        return {
            name: column.view(-1, *parameter.shape)
            for (name, parameter), column in zip(self.table.items(), columns, strict=True)
        }

    def decayed_columns(self) -> list[tuple[slice, bool]]:
        """The runs of columns of `flat` that share whether weight decay applies."""
        runs: list[tuple[slice, bool]] = []
        start = 0
        for parameter in self.table.values():
            stop = start + math.prod(parameter.shape)
            if runs and runs[-1][1] == parameter.is_decayed:
                runs[-1] = (slice(runs[-1][0].start, stop), parameter.is_decayed)
            else:
                runs.append((slice(start, stop), parameter.is_decayed))
            start = stop
        return runs

    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits [G, B, K] float32 of tokens [B, n, D].

        bfloat16 tokens are multiplied in bfloat16; the softmax, the norms and what is added up are float32.
        """
        p = self.parts()
        if self.layout is Layout.plain:
            x = self.values(self.attend(p["query"], p["key.weight"], None, tokens), p["value.weight"], tokens)
            return _linear(x, p["head.weight"], p["head.bias"])
        tokens = F.layer_norm(tokens, (self.width,), eps=EPS)  # its scale and shift are folded in below
        x = p["query"]  # [G, D], the same for every sample
        for prefix in prefixes(self.depth):
            x = self.block(x, {name.removeprefix(prefix): part for name, part in p.items()}, tokens)  # [G, B, D]
        return _linear(x, p["head.weight"], p["head.bias"])

    def block(self, x: Tensor, p: dict[str, Tensor], tokens: Tensor) -> Tensor:
        """`x` [G, D] or [G, B, D] plus what its query finds among `tokens`, through the MLP: [G, B, D]."""
        if x.ndim == 2:
            query = torch.einsum("gd,ged->ge", x, p["query.weight"]) + p["query.bias"]
        else:
            query = _linear(x, p["query.weight"], p["query.bias"])
        pooled = self.attend(query, p["key.weight"], p["norm1.scale"], tokens)  # [G, H, B, D]
        pooled = pooled * p["norm1.scale"][:, None, None] + p["norm1.shift"][:, None, None]
        found = self.values(pooled, p["value.weight"], tokens)
        x = found + (p["value.bias"] + x)[:, None] if x.ndim == 2 else found + p["value.bias"][:, None] + x
        normed = torch.addcmul(
            p["norm2.shift"][:, None], F.layer_norm(x, (self.width,), eps=EPS), p["norm2.scale"][:, None]
        )
        with _autocast(tokens):
            hidden = F.gelu(_linear(normed, p["up.weight"], p["up.bias"]))
            return x + _linear(hidden, p["down.weight"], p["down.bias"]).float()

    def values(self, pooled: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        """Each head's part of the value projection of what it pooled [G, H, B, D]: [G, B, D] float32."""
        parts = weight.view(-1, self.heads, self.width // self.heads, self.width)  # [G, H, D / H, D]
        with _autocast(tokens):
            return (pooled @ parts.transpose(-2, -1)).transpose(1, 2).flatten(2).float()

    def attend(self, query: Tensor, key_weight: Tensor, scale: Tensor | None, tokens: Tensor) -> Tensor:
        """What each head pools: tokens [B, n, D] weighted by the softmax of their scores, [G, H, B, D] float32.

        `query` [G, D], or [G, B, D] of each sample, is projected already, `key_weight` [G, D, D] not applied yet;
        `scale` [G, D] is the norm's.
        """
        batch, size = len(tokens), self.width // self.heads
        keys = key_weight.view(-1, self.heads, size, self.width)
        if query.ndim == 2:
            folded = torch.einsum("ghe,ghed->ghd", query.view(-1, self.heads, size) * size**-0.5, keys)
            vectors = (folded if scale is None else folded * scale[:, None]).flatten(0, 1).expand(batch, -1, -1)
        else:
            queries = query.view(-1, batch, self.heads, size) * size**-0.5
            folded = torch.einsum("gbhe,ghed->bghd", queries, keys)
            vectors = (folded if scale is None else folded * scale[:, None]).flatten(1, 2)
        vectors = vectors.to(tokens.dtype)  # [B, G * H, D]
        scores = torch.bmm(vectors, tokens.transpose(1, 2))  # [B, G * H, n]
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(tokens.dtype)
        pooled = torch.bmm(weights, tokens).float()  # [B, G * H, D]
        return pooled.view(batch, -1, self.heads, self.width).permute(1, 2, 0, 3)


def prefixes(depth: int) -> list[str]:
    """Of the names of each block's parameters: "" for the first, "block2." ..."""
    return ["", *(f"block{number}." for number in range(2, depth + 1))]


def parameters(layout: Layout, width: int, num_classes: int, depth: int = 1) -> dict[str, Parameter]:
    """The tensors of one probe, by name; those that are decayed side by side."""
    d, hidden = width, MLP_RATIO * width

    def weight(*shape: int) -> Parameter:
        return Parameter(shape, None, is_decayed=True)

    def bias(size: int, start: float = 0.0) -> Parameter:
        return Parameter((size,), start, is_decayed=False)

    query, key, value = weight(d), weight(d, d), weight(d, d)
    if layout is Layout.plain:
        return {
            "query": query,
            "key.weight": key,
            "value.weight": value,
            "head.weight": weight(num_classes, d),
            "head.bias": bias(num_classes),
        }
    weights = {
        "query.weight": weight(d, d),
        "key.weight": key,
        "value.weight": value,
        "up.weight": weight(hidden, d),
        "down.weight": weight(d, hidden),
    }
    biases = {
        "query.bias": bias(d),
        "value.bias": bias(d),
        "norm1.scale": bias(d, 1.0),
        "norm1.shift": bias(d),
        "norm2.scale": bias(d, 1.0),
        "norm2.shift": bias(d),
        "up.bias": bias(hidden),
        "down.bias": bias(d),
    }
    return {
        "query": query,
        **{prefix + name: value for prefix in prefixes(depth) for name, value in weights.items()},
        "head.weight": weight(num_classes, d),
        **{prefix + name: value for prefix in prefixes(depth) for name, value in biases.items()},
        "head.bias": bias(num_classes),
    }


def _drawn(parameter: Parameter, generator: Generator) -> Tensor:
    if parameter.start is not None:
        return torch.full(parameter.shape, parameter.start)
    return truncated_normal_(torch.empty(parameter.shape), 0.02, generator)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[G, B, I] x [G, O, I] -> [G, B, O]."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def _autocast(tokens: Tensor) -> torch.autocast:
    return torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.dtype is torch.bfloat16)


def train(
    probes: Probes,
    batches: Iterable[tuple[Tensor, Tensor]],  # tokens [B, n, D] and classes [B] of each step
    *,
    settings: Sequence[tuple[float, float]],  # (peak learning rate, weight decay) of each probe
    num_steps: int,
    clip: float | None,  # largest norm of a probe's gradient
) -> None:
    """Train every probe by AdamW with a learning rate falling to 0 as half a cosine; changes `probes`.

    A probe depends on its own setting and not on its neighbours: the losses are summed, the gradients' norms are taken
    and cut probe by probe, and each has its own rate and decay in the one optimiser. The query and the weights are
    decayed, biases and norms are not.
    """
    probes.flat = probes.flat.detach().requires_grad_()
    probes.flat.grad = torch.zeros_like(probes.flat)
    optimizer = _adamw(probes, settings)
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step, (tokens, labels) in enumerate(batches):
        share = 0.5 * (1 + math.cos(math.pi * step / num_steps))
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * share
        probes.flat.grad.zero_()
        logits = probes(tokens)  # [G, B, K]
        losses = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
        (losses.sum() / len(labels)).backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            norms = probes.flat.grad.norm(dim=1, keepdim=True)
            probes.flat.grad.mul_((clip / (norms + 1e-6)).clamp(max=1))
        optimizer.step()
    probes.flat = probes.flat.detach()


def _adamw(probes: Probes, settings: Sequence[tuple[float, float]]) -> torch.optim.AdamW:
    """AdamW over views of `flat`, one group a probe and kind of parameter, their gradients views of `flat.grad`."""
    assert len(settings) == len(probes.flat) and probes.flat.grad is not None
    groups = []
    for index, (lr, weight_decay) in enumerate(settings):
        for columns, is_decayed in probes.decayed_columns():
            row = probes.flat.detach()[index, columns]
            row.grad = probes.flat.grad[index, columns]
            groups.append({"params": [row], "lr": lr, "weight_decay": weight_decay if is_decayed else 0.0})
    return torch.optim.AdamW(groups, fused=True)
