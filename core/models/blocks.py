"""A stack of timm transformer blocks, and how its parameters are initialised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.models.attention import Attention
from core.models.fast import cpu_block, stacked_block
from core.models.positions import Rotation
from core.types import Calls, moved, truncated_normal_


class Init(Enum):
    jepa = "jepa"
    mae = "mae"
    vjepa = "vjepa"


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm, eps 1e-6, whose gradients can be trusted in bfloat16 on CPU."""

    def __init__(self, width: int, **_: Any) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        # The CPU kernel sums the gradients of scale and shift over the tokens in the input's type: 72 % off after
        # 12,288 tokens in bfloat16.
        if x.device.type == "cpu" and x.dtype is torch.bfloat16 and torch.is_grad_enabled():
            return super().forward(x.float()).bfloat16()
        return super().forward(x)


class Drops:
    """Where all DropPaths of an encoder draw from, one after the other: a generator, or what was drawn from it before.

    torch.compile takes tensors into its graph, and no generator.
    """

    def __init__(self, generator: Generator, drawn: Tensor | None = None) -> None:
        self.generator, self.drawn, self.at = generator, drawn, 0

    def next(self, num: int) -> Tensor:
        """Uniform in [0, 1): [num]."""
        if self.drawn is None:
            return torch.rand(num, generator=self.generator)
        self.at += num
        assert self.at <= len(self.drawn), "the encoder was called more often than the step said: Learner.encoded"
        return self.drawn[self.at - num : self.at]


class DropPath(nn.Module):
    """Drop a residual branch for a random part of the batch, drawn from `drops` and never the global generator."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.drops: Drops | None = None

    def draw(self, num: int) -> Tensor | None:
        """What the branch of each of `num` samples is multiplied by: [num] float32; None where nothing is dropped."""
        if not self.training or self.rate == 0:
            return None
        assert self.drops is not None, "drop_path needs seed_drop_path(generator) before a training step"
        return (self.drops.next(num) >= self.rate) / (1 - self.rate)

    def forward(self, x: Tensor) -> Tensor:
        return scaled(x, self.draw(x.shape[0]))


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    """`x` [B, ...] with each sample times its `factor` [B]."""
    return x if factor is None else x * moved(factor.to(x.dtype), x.device).view(-1, *(1,) * (x.ndim - 1))


class Blocks(nn.ModuleList):
    """`depth` pre-norm blocks. On the last, tokens before `skip` are only read, not updated, and left out.

    `checkpointed`: of each block only the input is kept, and the backward pass computes the rest again.
    """

    checkpointed = False

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        # timm registers every model it has when imported, 6 s; commands that build no model must not wait for it.
        from timm.models.vision_transformer import Block

        # On the meta device nothing is drawn: timm's own initialisation would move the global generator.
        with torch.device("meta"):
            blocks = [
                Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm, attn_layer=Attention)
                for _ in range(depth)
            ]
        super().__init__(block.to_empty(device=torch.get_default_device()) for block in blocks)
        for index, block in enumerate(self):
            rate = drop_path * index / max(depth - 1, 1)
            if rate > 0:
                block.drop_path1, block.drop_path2 = DropPath(rate), DropPath(rate)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, skip: int = 0, rotation: Rotation | None = None
    ) -> Tensor:
        """[B, N, D] -> [B, N - skip, D]."""
        last = len(self) - 1
        for index, block in enumerate(self):
            x = self._kept_small(
                apply_block, block, x, attn_mask, skip if index == last else 0, rotation, drawn(block, x)
            )
        return x

    def _kept_small(self, apply: Callable[..., Tensor], *arguments: Any) -> Tensor:
        """`apply(*arguments)`, its insides forgotten until they are needed where blocks are checkpointed."""
        if not (self.checkpointed and torch.is_grad_enabled()):
            return apply(*arguments)
        # Nothing in a block is drawn from the global generator, so that its state need not be kept.
        kept: Tensor = checkpoint(apply, *arguments, use_reentrant=False, preserve_rng_state=False)
        return kept

    def many(self, sequences: Sequence[Tensor], skips: Sequence[int] | None = None) -> list[Tensor]:
        """`forward` of several batches of sequences, each of its own length [B, N, D] and with its own `skip`.

        On a CPU in bfloat16 all of them go through each layer together: half as many products, each twice as large.
        """
        skips = [0] * len(sequences) if skips is None else skips
        is_stacked = stacked_block.fits(self[0], sequences[0])
        if len(sequences) == 1 or is_stacked or not all(cpu_block.fits(block, sequences[0], None) for block in self):
            return [self(x, skip=skip) for x, skip in zip(sequences, skips, strict=True)]
        width, last = sequences[0].shape[-1], len(self) - 1
        flat = torch.cat([x.reshape(-1, width) for x in sequences])
        for index, block in enumerate(self):
            flat = self._kept_small(
                cpu_block.apply_flat,
                block,
                flat,
                tuple((*x.shape[:2], skip if index == last else 0) for x, skip in zip(sequences, skips, strict=True)),
            )
        lengths = [x.shape[1] - skip for x, skip in zip(sequences, skips, strict=True)]
        parts = torch.split(flat, [len(x) * length for x, length in zip(sequences, lengths, strict=True)])
        return [part.view(len(x), -1, width) for part, x in zip(parts, sequences, strict=True)]

    def last(
        self, num: int, x: Tensor, attn_mask: Tensor | None = None, rotation: Rotation | None = None
    ) -> Iterator[Tensor]:
        """The output of each of the last `num` blocks; those before are not kept."""
        for index, block in enumerate(self):
            x = apply_block(block, x, attn_mask, 0, rotation, drawn(block, x))
            if index >= len(self) - num:
                yield x


Factors = tuple[Tensor | None, Tensor | None]  # of a block's two branches


def drawn(block: Any, x: Tensor) -> Factors:
    """What the block's paths draw for the samples `x`; before it is applied, which may happen twice."""
    one, other = (
        path.draw(x.shape[0]) if isinstance(path, DropPath) else None for path in (block.drop_path1, block.drop_path2)
    )
    return one, other


def apply_block(
    block: Any,
    x: Tensor,
    attn_mask: Tensor | None,
    skip: int = 0,
    rotation: Rotation | None = None,
    factors: Factors = (None, None),
) -> Tensor:
    """What timm's Block.forward does, for the tokens after the first `skip` only."""
    if stacked_block.fits(block, x):
        return stacked_block.apply(block, x, attn_mask, skip, rotation)
    if rotation is None and cpu_block.fits(block, x, attn_mask):
        return cpu_block.apply(block, x, skip)
    mixed: Tensor = block.attn(block.norm1(x), attn_mask, skip=skip, rotation=rotation)
    x = x[:, skip:] + scaled(mixed, factors[0])
    x = x + scaled(block.mlp(block.norm2(x)), factors[1])
    return x


def checkpoint_blocks(module: nn.Module) -> None:
    """Keep only the inputs of all transformer blocks under `module`."""
    for child in module.modules():
        if isinstance(child, Blocks):
            child.checkpointed = True


def seed_drop_path(module: nn.Module, generator: Generator, calls: Calls | None, batch_sizes: Sequence[int]) -> None:
    """Give every DropPath under `module` what it draws from.

    With `calls`, in each of which a path sees one of `batch_sizes`, all is drawn now, and this part's moved there.
    """
    paths = [child for child in module.modules() if isinstance(child, DropPath)]
    if not paths:
        return
    found = None
    if calls is not None:
        each = (torch.rand(len(paths), num, generator=generator)[:, calls.rows(num)] for num in batch_sizes)
        found = moved(torch.cat([draws.flatten() for draws in each]), calls.device)
    drops = Drops(generator, found)
    for path in paths:
        path.drops = drops


def make_linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """A Linear whose parameters are not drawn yet: nn.Linear would draw them from the global generator."""
    with torch.device("meta"):
        linear = nn.Linear(inputs, outputs, bias=bias)
    return linear.to_empty(device=torch.get_default_device())


@torch.no_grad()
def initialise(module: nn.Module, scheme: Init, generator: Generator) -> None:
    """Draw every Linear and LayerNorm under `module` from `generator`, in the order they are registered.

    jepa: weights from a normal of std 0.02 cut at +-2 (absolute); I-JEPA's effective initialisation, as its rescaling
    by depth is overwritten in the released code. vjepa: the same, with mask tokens of zeros in a predictor. mae: Xavier
    uniform. Biases are zero in all.
    """
    if all(parameter.is_meta for parameter in module.parameters()):  # they have no content
        return
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        if not isinstance(child, nn.Linear):
            continue
        if scheme is Init.mae:
            nn.init.xavier_uniform_(child.weight, generator=generator)
        else:
            truncated_normal_(child.weight, 0.02, generator)
        if child.bias is not None:
            nn.init.zeros_(child.bias)
