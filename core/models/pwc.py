"""The feature pyramid of PWC-Net, a small network for optical flow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor, nn

from core.models.pyramid import Maps, PyramidEncoder, PyramidModule, check_list, make_conv
from core.types import DataSpec, EncoderModule

SLOPE = 0.1  # of the leaky rectifiers


@dataclass
class PWC(PyramidEncoder):
    """At each level a convolution of stride 2 and two more, each with a leaky rectifier.

    Source: PWC-Net (Sun et al., 2018, arXiv:1709.02371), figure 3 and section 4: 16, 32, 64, 96, 128 and 196 channels.
    """

    widths: list[int] = field(default_factory=lambda: [16, 32, 64, 96, 128, 196])  # from half of the frame's size on
    levels: int = 6  # of the pyramid, from the lowest resolution

    def __post_init__(self) -> None:
        check_list("widths", self.widths, least=1)
        self.check_levels()

    def map_widths(self) -> list[int]:
        return list(self.widths)

    def num_blocks(self) -> int:
        return 1

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return PWCModule(self, spec, generator)


class PWCModule(PyramidModule):
    def __init__(self, options: PWC, spec: DataSpec, generator: Generator) -> None:
        super().__init__(options, spec)
        inputs = [spec.channels, *options.widths]
        self.stages: Any = nn.ModuleList(
            nn.ModuleList(
                make_conv(before if number == 0 else width, width, 3, stride=2 if number == 0 else 1, padding=1)
                for number in range(3)
            )
            for before, width in zip(inputs, options.widths, strict=False)
        )
        initialise(self, generator)

    def maps(self, frames: Tensor) -> Maps:
        levels = []
        x = frames
        for stage in self.stages:
            for conv in stage:
                x = nn.functional.leaky_relu(conv(x), SLOPE)
            levels.append(x)
        return Maps(levels, [x])


@torch.no_grad()
def initialise(module: nn.Module, generator: Generator) -> None:
    """Kaiming normal for a leaky rectifier, biases 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, a=SLOPE, nonlinearity="leaky_relu", generator=generator)
            assert child.bias is not None
            nn.init.zeros_(child.bias)
