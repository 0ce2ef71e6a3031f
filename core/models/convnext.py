"""ConvNeXt with a stem of two convolutions, so that its pyramid has one level more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from core.models.blocks import DropPath, LayerNorm
from core.models.pyramid import LayerNorm2d, Maps, PyramidModule, StagedEncoder, check_list, make_conv
from core.types import DataSpec, EncoderModule, truncated_normal_


@dataclass
class ConvNeXt(StagedEncoder):
    """ConvNeXt whose patchifying stem is split into two convolutions of stride 2; ConvNeXt-T by default.

    Levels from the lowest resolution: the stages' outputs, the first stem convolution's, and the frame itself. Only so
    the six levels of the paper come out of four stages: its appendix C counts five before the stem was split.

    Source: ConvNeXt (Liu et al., 2022, arXiv:2201.03545); MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), appendix C:
    kernels 3 and 4 ([3, 4]); appendix A says two kernels of size 2 ([2, 2]).
    """

    widths: list[int] = field(default_factory=lambda: [96, 192, 384, 768])  # of the stages, from the stem on
    depths: list[int] = field(default_factory=lambda: [3, 3, 9, 3])
    levels: int = 6  # of the pyramid, from the lowest resolution
    stem_kernels: list[int] = field(default_factory=lambda: [3, 4])
    drop_path: float = 0.0  # rate at the last block, growing linearly from 0 at the first
    layer_scale: float = 0.0  # initial scale of each residual branch, as ConvNeXt's code has it: 0 = no such scale

    def __post_init__(self) -> None:
        self.check_stages()
        check_list("stem_kernels", self.stem_kernels, least=2)
        if len(self.stem_kernels) != 2 or max(self.stem_kernels) > 4:
            raise ValueError(f"encoder.stem_kernels must be two numbers in [2, 4], got {self.stem_kernels}")
        if self.layer_scale < 0:
            raise ValueError(f"encoder.layer_scale must be at least 0, got {self.layer_scale}")

    def map_widths(self) -> list[int]:
        return [self.widths[0], *self.widths]

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return ConvNeXtModule(self, spec, generator)


class ConvNeXtModule(PyramidModule):
    def __init__(self, options: ConvNeXt, spec: DataSpec, generator: Generator) -> None:
        super().__init__(options, spec)
        # timm registers every model it has when imported, 6 s; commands that build no model must not wait for it.
        from timm.models.convnext import ConvNeXtBlock, ConvNeXtStage

        first, second = options.stem_kernels
        width = options.widths[0]
        # Kernels of 3 and 4 need a border of one pixel to halve the frame, one of 2 none.
        self.stem = nn.ModuleList(
            [
                make_conv(spec.channels, width, first, stride=2, padding=(first - 1) // 2),
                make_conv(width, width, second, stride=2, padding=(second - 1) // 2),
            ]
        )
        self.stem_norms = nn.ModuleList([LayerNorm2d(width), LayerNorm2d(width)])
        # On the meta device nothing is drawn: timm's own initialisation would move the global generator.
        no_scale: Any = None
        with torch.device("meta"):
            stages = [
                ConvNeXtStage(
                    options.widths[max(number - 1, 0)],
                    stage_width,
                    stride=1 if number == 0 else 2,
                    depth=depth,
                    ls_init_value=options.layer_scale or no_scale,
                    norm_layer=LayerNorm2d,
                    norm_layer_cl=LayerNorm,
                )
                for number, (stage_width, depth) in enumerate(zip(options.widths, options.depths, strict=True))
            ]
        self.stages = nn.ModuleList(stage.to_empty(device=torch.get_default_device()) for stage in stages)
        self.norm = LayerNorm(self.width)
        blocks: list[Any] = [module for module in self.stages.modules() if isinstance(module, ConvNeXtBlock)]
        for index, block in enumerate(blocks):
            rate = options.drop_path * index / max(len(blocks) - 1, 1)
            if rate > 0:
                block.drop_path = DropPath(rate)
            if block.gamma is not None:
                nn.init.constant_(block.gamma, options.layer_scale)
        initialise(self, generator)

    def maps(self, frames: Tensor) -> Maps:
        half = self.stem_norms[0](self.stem[0](frames))
        # Not in the paper: without a non-linearity between them the two convolutions would be one.
        x = self.stem_norms[1](self.stem[1](nn.functional.gelu(half)))
        levels: list[Tensor] = [half]
        blocks: list[Tensor] = []
        stage: Any
        for stage in self.stages:
            x, blocks = stage.downsample(x), []
            for block in stage.blocks:
                x = block(x)
                blocks.append(x)
            levels.append(x)
        return Maps(levels, blocks)

    def finish(self, last: Tensor) -> Tensor:
        normed: Tensor = self.norm(last)
        return normed


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Weights of convolutions and linear layers from a normal of std 0.02 cut at 2 std, biases 0: ConvNeXt's own."""
    for child in module.modules():
        if isinstance(child, nn.LayerNorm):
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
        if isinstance(child, nn.Conv2d | nn.Linear):
            truncated_normal_(child.weight, 0.02, generator)
            if child.bias is not None:
                nn.init.zeros_(child.bias)
