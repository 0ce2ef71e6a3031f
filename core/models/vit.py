"""A plain vision transformer for images and clips, on timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from core.models.attention import key_mask
from core.models.blocks import Blocks, Init, LayerNorm, initialise, make_linear, seed_drop_path
from core.models.positions import Position, Positions, stream_type
from core.types import Calls, DataSpec, Encoder, EncoderModule, Grid


@dataclass
class ViT(Encoder):
    """Vision transformer that embeds and processes only the patches it is shown.

    Source: ViT (Dosovitskiy et al., 2020, arXiv:2010.11929); tubelets as in MAE-ST (arXiv:2205.09113) and V-JEPA.
    """

    width: int = 192
    depth: int = 12
    heads: int = 3
    patch: int = 16  # pixels
    tubelet: int = 1  # frames
    mlp_ratio: float = 4.0
    position: Position = Position.sincos
    class_token: bool = False
    drop_path: float = 0.0  # rate at the last block, growing linearly from 0 at the first
    init: Init = Init.jepa

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "patch", "tubelet"):
            if getattr(self, name) < 1:
                raise ValueError(f"encoder.{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"encoder.width must be a multiple of encoder.heads, got {self.width} and {self.heads}")
        if self.position is Position.sincos and self.width % 4:
            raise ValueError(f"encoder.width must be a multiple of 4 for encoder.position=sincos, got {self.width}")
        if self.position is Position.sequence and self.width % 2:
            raise ValueError(f"encoder.width must be even for encoder.position=sequence, got {self.width}")
        if self.position is Position.rope and (self.width // self.heads < 6 or self.width // self.heads % 2):
            raise ValueError(
                "encoder.width / encoder.heads must be even and at least 6 for encoder.position=rope, which turns pairs"
                f" of features by frame, row and column; got {self.width} / {self.heads}"
            )
        if self.mlp_ratio <= 0:
            raise ValueError(f"encoder.mlp_ratio must be positive, got {self.mlp_ratio}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"encoder.drop_path must be in [0, 1), got {self.drop_path}")

    def token_width(self) -> int:
        return self.width

    def num_blocks(self) -> int:
        return self.depth

    def has_class_token(self) -> bool:
        return self.class_token

    def grid(self, spec: DataSpec) -> Grid:
        if spec.height % self.patch or spec.width % self.patch:
            raise ValueError(
                f"encoder.patch {self.patch} does not divide data size {spec.height}x{spec.width}: "
                "choose a divisor of both"
            )
        if spec.frames % self.tubelet:
            raise ValueError(
                f"encoder.tubelet {self.tubelet} does not divide data frames {spec.frames}: "
                "choose a divisor (1 for images)"
            )
        return Grid(spec.frames // self.tubelet, spec.height // self.patch, spec.width // self.patch)

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return VisionTransformer(self, spec, generator)


class VisionTransformer(EncoderModule):
    def __init__(self, options: ViT, spec: DataSpec, generator: Generator) -> None:
        super().__init__()
        self.grid, self.width = options.grid(spec), options.width
        self.num_prefix = int(options.class_token)
        self.patch, self.tubelet = options.patch, options.tubelet
        self.embed = make_linear(spec.channels * options.tubelet * options.patch**2, options.width)
        self.positions = Positions(options.position, self.grid, options.width, self.num_prefix, options.heads)
        self.class_token = nn.Parameter(torch.empty(1, options.width)) if options.class_token else None
        self.register_parameter("mask_token", None)
        self.blocks = Blocks(options.width, options.depth, options.heads, options.mlp_ratio, options.drop_path)
        self.norm = LayerNorm(options.width)

        initialise(self, options.init, generator)
        self.positions.initialise(generator)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.02, generator=generator)

    def add_mask_token(self, generator: Generator) -> None:
        self.mask_token = nn.Parameter(torch.empty(self.width).normal_(std=0.02, generator=generator))

    def seed_drop_path(self, generator: Generator, calls: Calls | None = None) -> None:
        seed_drop_path(self, generator, calls, [] if calls is None else [shape[0] for shape in calls.shapes])

    def forward(
        self,
        clips: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        x, attn_mask = self._tokens(clips, keep, valid, hidden)
        encoded: Tensor = self.norm(self.blocks(x, attn_mask, 0, self.positions.rotation(keep)))
        return encoded

    def many(self, clips: Tensor, keeps: Sequence[Tensor]) -> list[Tensor]:
        if self.positions.kind is Position.rope:  # each context has a rotation of its own
            return [self(clips, keep) for keep in keeps]
        x, _ = self._tokens(clips, torch.cat(list(keeps), dim=1))
        prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
        parts = torch.split(patches, [keep.shape[1] for keep in keeps], dim=1)
        sequences = [torch.cat([prefix, part], dim=1) for part in parts] if self.num_prefix else list(parts)
        return [self.norm(encoded) for encoded in self.blocks.many(sequences)]

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        return [layer[:, self.num_prefix :] for layer in self.with_prefix(clips, num_layers, keep)]

    def with_prefix(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        if not 1 <= num_layers <= len(self.blocks):
            raise ValueError(f"the last {num_layers} layers were asked of an encoder that has {len(self.blocks)}")
        x, _ = self._tokens(clips, keep)
        layers = self.blocks.last(num_layers, x, rotation=self.positions.rotation(keep))
        return [self.norm(layer) for layer in layers]

    def _tokens(
        self, clips: Tensor, keep: Tensor | None = None, valid: Tensor | None = None, hidden: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Embedded tokens [B, P + Nc, D] and the additive attention mask for those that are not `valid`."""
        x = self.embed(patchify(clips, self.grid, keep))
        if hidden is not None:
            assert keep is None and self.mask_token is not None
            is_hidden = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device).scatter(1, hidden, True)
            x = torch.where(is_hidden[..., None], self.mask_token.to(x.dtype), x)
        stream = stream_type(x)
        x = (x + self.positions(keep, stream)).to(stream)
        if self.class_token is not None:
            prefix = self.positions.of_prefix(self.class_token).to(x.dtype)
            x = torch.cat([prefix.expand(x.shape[0], -1, -1), x], dim=1)
        if valid is None:
            return x, None
        return x, key_mask(nn.functional.pad(valid, (self.num_prefix, 0), value=True), x.dtype)


def patchify(clips: Tensor, grid: Grid, keep: Tensor | None = None) -> Tensor:
    """Pixels of the patches at `keep` (all when None), [B, n, C * tubelet * patch**2].

    The order inside a patch is (channel, frame, row, column): a Linear on it equals a strided convolution.
    """
    b, c, frames, height, width = clips.shape
    cut = clips.view(b, c, grid.t, frames // grid.t, grid.h, height // grid.h, grid.w, width // grid.w)
    cut = cut.permute(0, 2, 4, 6, 1, 3, 5, 7)  # [B, t, h, w, C, u, p, q]
    if keep is None:
        return cut.reshape(b, grid.num_patches, -1)
    area = grid.h * grid.w
    sample = torch.arange(b, device=clips.device)[:, None]
    return cut[sample, keep // area, keep % area // grid.w, keep % grid.w].flatten(2)
