"""ResNet on timm's blocks, with its pyramid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from core.models.blocks import DropPath
from core.models.pyramid import Maps, PyramidModule, StagedEncoder, make_conv
from core.types import DataSpec, EncoderModule


@dataclass
class ResNet(StagedEncoder):
    """Residual network; ResNet-50 by default, its last stage 2048 wide.

    Levels from the lowest resolution: the stages' outputs, the stem convolution's, and the frame itself.

    Source: He et al., 2015, arXiv:1512.03385, table 1; the stride is on the 3x3 convolution of a bottleneck, as in
    torchvision, whose initialisation this is too.
    """

    over_batch: ClassVar[str] = "batch norm"

    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512])  # of the stages; a bottleneck gives 4 times
    depths: list[int] = field(default_factory=lambda: [3, 4, 6, 3])
    levels: int = 6  # of the pyramid, from the lowest resolution
    bottleneck: bool = True  # blocks of three convolutions; false: of two, for ResNet-18 and smaller
    drop_path: float = 0.0  # rate at the last block, growing linearly from 0 at the first

    def __post_init__(self) -> None:
        self.check_stages()
        if sum(self.depths) < 2:  # timm divides by the number of the others
            raise ValueError(f"encoder.depths must have at least two blocks together, got {self.depths}")

    def map_widths(self) -> list[int]:
        expansion = 4 if self.bottleneck else 1
        return [self.widths[0], *(expansion * width for width in self.widths)]

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return ResNetModule(self, spec, generator)


class ResNetModule(PyramidModule):
    def __init__(self, options: ResNet, spec: DataSpec, generator: Generator) -> None:
        super().__init__(options, spec)
        # timm registers every model it has when imported, 6 s; commands that build no model must not wait for it.
        from timm.models.resnet import BasicBlock, Bottleneck, make_blocks

        width = options.widths[0]
        self.stem = make_conv(spec.channels, width, 7, stride=2, padding=3, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        # On the meta device nothing is drawn: timm's own initialisation would move the global generator.
        stages: Any
        with torch.device("meta"):
            stages, _ = make_blocks(
                (Bottleneck if options.bottleneck else BasicBlock,) * len(options.widths),
                tuple(options.widths),
                tuple(options.depths),
                width,
                output_stride=2 ** (len(options.widths) + 1),
                norm_layer=nn.BatchNorm2d,
                act_layer=nn.ReLU,
            )
        self.stages = nn.ModuleList(stage.to_empty(device=torch.get_default_device()) for _, stage in stages)
        blocks: list[Any] = [block for _, stage in stages for block in stage]
        for index, block in enumerate(blocks):
            rate = options.drop_path * index / max(len(blocks) - 1, 1)
            if rate > 0:
                block.drop_path = DropPath(rate)
        initialise(self, generator)

    def maps(self, frames: Tensor) -> Maps:
        half = nn.functional.relu(self.stem_norm(self.stem(frames)))
        x = nn.functional.max_pool2d(half, 3, stride=2, padding=1)
        levels: list[Tensor] = [half]
        blocks: list[Tensor] = []
        stage: Any
        for stage in self.stages:
            blocks = []
            for block in stage:
                x = block(x)
                blocks.append(x)
            levels.append(x)
        return Maps(levels, blocks)


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Kaiming normal (fan out) for convolutions, batch norms at the identity."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        if isinstance(child, nn.BatchNorm2d):
            child.reset_running_stats()
            nn.init.ones_(child.weight)
            nn.init.zeros_(child.bias)
