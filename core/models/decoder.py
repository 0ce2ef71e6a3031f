"""The decoder of masked autoencoders: a token for every patch of the clip, predictions at the hidden ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from core.models.attention import key_mask
from core.models.blocks import Blocks, Init, LayerNorm, initialise, make_linear
from core.models.narrow import check_widths
from core.models.positions import Position, Positions, stream_type
from core.types import EncoderModule, Predictor, PredictorModule, View


@dataclass
class Decoder(Predictor):
    """Decode all patches of a clip from the encoded ones and mask tokens.

    A patch in neither the context nor the target also takes part as a mask token, so that the sequence always covers
    the grid. With `dense_encoder` the encoder has already seen mask tokens, and none are added here.

    Not as MAE's released code: the mask token is not decayed (nor is VideoMAE's), see `core.optim.make_adamw`.

    Source: MAE (He et al., 2021, arXiv:2111.06377), section 3; MAE-ST (Feichtenhofer et al., 2022,
    arXiv:2205.09113), section 4 (`position=learned`) and table 1 (`dense_encoder`).
    """

    depth: int = 8
    width: int = 512
    heads: int = 16
    mlp_ratio: float = 4.0
    dense_encoder: bool = False
    position: Position = Position.sincos
    init: Init = Init.mae

    def __post_init__(self) -> None:
        check_widths(self.depth, self.width, self.heads, self.mlp_ratio)
        if self.position is Position.rope:
            raise ValueError("predictor.position=rope is for encoders: choose sincos, sequence or learned")

    def build(self, encoder: EncoderModule, out_dim: int, num_kinds: int, generator: Generator) -> PredictorModule:
        return TokenDecoder(self, encoder, out_dim, generator)


class TokenDecoder(PredictorModule):
    def __init__(self, options: Decoder, encoder: EncoderModule, out_dim: int, generator: Generator) -> None:
        super().__init__()
        self.grid, self.num_prefix, self.dense_encoder = encoder.grid, encoder.num_prefix, options.dense_encoder
        self.embed = make_linear(encoder.width, options.width)
        self.positions = Positions(options.position, encoder.grid, options.width, encoder.num_prefix)
        self.blocks = Blocks(options.width, options.depth, options.heads, options.mlp_ratio)
        self.norm = LayerNorm(options.width)
        self.head = make_linear(options.width, out_dim)

        initialise(self, options.init, generator)
        self.positions.initialise(generator)
        if options.dense_encoder:
            self.register_parameter("mask_token", None)
            encoder.add_mask_token(generator)
        else:
            self.mask_token = nn.Parameter(torch.empty(options.width).normal_(std=0.02, generator=generator))

    def forward(self, tokens: Tensor, view: View) -> Tensor:
        """Predictions at `view.target`, [B, Nt, out_dim], from `tokens` [B, P + Nc, D] ([B, P + N, D] if dense).

        The sequence is [prefix, context, others, target] and not in raster order: attention does not depend on the
        order, and the last block, the norm and the head then run on the targets as one slice.
        """
        x = self.embed(tokens)
        stream = stream_type(x)
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        others, valid = self._others(view)
        seen = view.context if others is None else torch.cat([view.context, others], dim=1)
        blank = torch.cat([view.target] if others is None else [others, view.target], dim=1)
        if self.mask_token is None:
            order = torch.cat([view.context, blank], dim=1)
            patches = patches.gather(1, order[..., None].expand(-1, -1, x.shape[-1])) + self.positions(order, stream)
        else:
            patches = torch.cat(
                [
                    patches + self.positions(view.context, stream),
                    self.mask_token.to(stream) + self.positions(blank, stream),
                ],
                dim=1,
            )
        sequence = torch.cat([self.positions.of_prefix(prefix), patches], dim=1) if self.num_prefix else patches
        if valid is not None:
            valid = nn.functional.pad(valid, (self.num_prefix, 0), value=True)
        attn_mask = None if valid is None else key_mask(valid, x.dtype)
        decoded = self.blocks(sequence, attn_mask, skip=self.num_prefix + seen.shape[1])
        predictions: Tensor = self.head(self.norm(decoded))
        return predictions

    def _others(self, view: View) -> tuple[Tensor | None, Tensor | None]:
        """Patches in neither part [B, n] (None if there are none), and which of the whole sequence are valid."""
        sets = ((view.context, view.context_valid), (view.target, view.target_valid))
        num_named = view.context.shape[1] + view.target.shape[1]
        if view.context_valid is None and view.target_valid is None and num_named == self.grid.num_patches:
            return None, None
        batch = view.context.shape[0]
        is_other = torch.ones(batch, self.grid.num_patches, dtype=torch.bool, device=view.context.device)
        for index, _ in sets:
            # Unused places repeat an index that is used, so they need no special care here.
            is_other.scatter_(1, index, False)
        counts = is_other.sum(1)
        if view.context_valid is None and view.target_valid is None:
            most = self.grid.num_patches - num_named  # known without looking at values, which a GPU is waited for
        else:
            most = int(counts.max())
        others = is_other.int().argsort(dim=1, descending=True, stable=True)[:, :most]
        other_valid = torch.arange(most, device=others.device) < counts[:, None]
        parts = [torch.ones_like(index, dtype=torch.bool) if valid is None else valid for index, valid in sets]
        return others, torch.cat([parts[0], other_valid, parts[1]], dim=1)
