"""The narrow transformer of joint-embedding methods: context tokens and mask tokens in, target features out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from core.models.attention import key_mask
from core.models.blocks import Blocks, Init, LayerNorm, initialise, make_linear
from core.models.positions import Position, Positions, stream_type
from core.types import EncoderModule, Predictor, PredictorModule, View, truncated_normal_


@dataclass
class Narrow(Predictor):
    """Predict target features from context features, one mask token a target position.

    Views stacked along the batch are independent sequences, so the targets of different views do not see each other.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), section 3 and appendix A; V-JEPA (arXiv:2404.08471),
    section 3.2 (a mask token for each kind of mask). The released I-JEPA takes the encoder's number of heads.
    """

    depth: int = 6
    width: int = 384
    heads: int = 6
    mlp_ratio: float = 4.0
    init: Init = Init.jepa

    def __post_init__(self) -> None:
        check_widths(self.depth, self.width, self.heads, self.mlp_ratio)

    def build(self, encoder: EncoderModule, out_dim: int, num_kinds: int, generator: Generator) -> PredictorModule:
        return NarrowPredictor(self, encoder, out_dim, num_kinds, generator)


class NarrowPredictor(PredictorModule):
    def __init__(
        self, options: Narrow, encoder: EncoderModule, out_dim: int, num_kinds: int, generator: Generator
    ) -> None:
        super().__init__()
        self.num_prefix = encoder.num_prefix
        self.embed = make_linear(encoder.width, options.width)
        self.positions = Positions(Position.sincos, encoder.grid, options.width, encoder.num_prefix)
        self.mask_token = nn.Parameter(torch.empty(num_kinds, options.width))
        self.blocks = Blocks(options.width, options.depth, options.heads, options.mlp_ratio)
        self.norm = LayerNorm(options.width)
        self.head = make_linear(options.width, out_dim)

        initialise(self, options.init, generator)
        if options.init is Init.vjepa:
            nn.init.zeros_(self.mask_token)
        else:
            truncated_normal_(self.mask_token, 0.02, generator)

    def forward(self, tokens: Tensor, view: View) -> Tensor:
        """Predictions at `view.target`, [B, Nt, out_dim].

        `tokens` [B, P + Nc, D]. The batch of `view` may be a multiple of B: several views of the same contexts stacked
        one after the other; then the context is embedded once.
        """
        x, num_read = self._sequence(tokens, view)
        x = self.blocks(x, view_mask(view, self.num_prefix, x.dtype), skip=num_read)
        predictions: Tensor = self.head(self.norm(x))
        return predictions

    def many(self, tokens: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        if any(view.context_valid is not None or view.target_valid is not None for view in views):
            return super().many(tokens, views)
        sequences, num_read = zip(*map(self._sequence, tokens, views), strict=True)
        return [self.head(self.norm(x)) for x in self.blocks.many(sequences, num_read)]

    def _sequence(self, tokens: Tensor, view: View) -> tuple[Tensor, int]:
        """[prefix, context, target] tokens, and how many come before the target."""
        context = self.embed(tokens)
        repeats = view.context.shape[0] // context.shape[0]
        stream = stream_type(context)
        positions = self.positions(view.context[: context.shape[0]], stream)
        if self.num_prefix:
            positions = nn.functional.pad(positions, (0, 0, self.num_prefix, 0))
        context = (context + positions).repeat(repeats, 1, 1) if repeats > 1 else context + positions
        target = self.mask_token[view.kind].to(stream) + self.positions(view.target, stream)
        return torch.cat([context, target], dim=1), context.shape[1]


def view_mask(view: View, num_prefix: int, dtype: torch.dtype) -> Tensor | None:
    """Attention mask of the sequence [prefix, context, target]; None when every place counts."""
    if view.context_valid is None and view.target_valid is None:
        return None
    parts = [torch.ones_like(view.context[:, :1], dtype=torch.bool).expand(-1, num_prefix)]
    for index, valid in ((view.context, view.context_valid), (view.target, view.target_valid)):
        parts.append(torch.ones_like(index, dtype=torch.bool) if valid is None else valid)
    return key_mask(torch.cat(parts, dim=1), dtype)


def check_widths(depth: int, width: int, heads: int, mlp_ratio: float) -> None:
    """ValueError, naming the option, unless a predictor of these numbers can be built."""
    for name, value in (("depth", depth), ("width", width), ("heads", heads)):
        if value < 1:
            raise ValueError(f"predictor.{name} must be at least 1, got {value}")
    if width % heads:
        raise ValueError(f"predictor.width must be a multiple of predictor.heads, got {width} and {heads}")
    if width % 4:
        raise ValueError(f"predictor.width must be a multiple of 4, got {width}")
    if mlp_ratio <= 0:
        raise ValueError(f"predictor.mlp_ratio must be positive, got {mlp_ratio}")
