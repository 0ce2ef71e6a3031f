"""From two pyramids of features to the flow between them, coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from core.objectives.warp import correlate, resize_flow, warp
from core.types import full_precision

FILTERS = (128, 128, 96, 64, 32)
CONTEXT = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1))  # filters and dilation
FEATURES = 32  # of each frame that the estimator sees, for factor 1
SHARPNESS = 10.0  # of `favoured` at first; correlations are cosines
SLOPE = 0.1  # of the leaky rectifiers


@dataclass
class Shape:
    """What the estimator is made of; the options of objective=flow."""

    factor: float  # C: filters of every convolution in units of PWC-Net's
    norm: bool  # LayerNorm after every convolution but the last
    l2: bool  # unit length of the features before the last convolution
    radius: int  # of the correlation, pixels of each level
    dense: bool  # every convolution also sees what those before it saw
    match: bool  # the residual is a correction of the displacement that the correlation favours
    context: bool  # dilated convolutions that correct the finest flow
    clip: float  # largest flow along an axis, pixels of the frame


class FlowEstimator(nn.Module):
    """One small network that corrects the flow at every level, from the lowest resolution on.

    At each level the second frame's features are warped by the flow so far and correlated with the first's; the network
    sees correlation, both features and the flow, and gives what is missing (the residual flow).

    The levels share the network, each with a 1x1 convolution of its own to as many channels: only so the printed sizes
    come out, 2 M parameters for C = 1 and 8 M for C = 2 (here 2.6 M and 9.4 M with ConvNeXt-T).

    Source: MC-JEPA (arXiv:2307.12698), section 3.1, Figure 7 and Table 3; PWC-Net (arXiv:1709.02371), sections 3 and 4;
    one network for all levels: ARFlow (Liu et al., 2020, arXiv:2003.13045).
    """

    def __init__(self, shape: Shape, level_widths: Sequence[int], generator: Generator) -> None:
        super().__init__()
        self.shape = shape
        width = scaled(FEATURES, shape.factor)
        self.reduce = nn.ModuleList(make_conv(inputs, width, kernel=1) for inputs in level_widths)
        seen = (2 * shape.radius + 1) ** 2 + 2 * width + 2
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = seen
        for filters in (scaled(filters, shape.factor) for filters in FILTERS):
            self.convs.append(make_conv(inputs, filters))
            self.norms.append(ChannelNorm(filters) if shape.norm else nn.Identity())
            inputs = inputs + filters if shape.dense else filters
        self.last = make_conv(inputs, 2)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS).log()) if shape.match else None
        self.context: nn.ModuleList | None = None
        if shape.context:
            self.context, self.context_norms, inputs = nn.ModuleList(), nn.ModuleList(), inputs + 2
            for filters, dilation in ((scaled(filters, shape.factor), dilation) for filters, dilation in CONTEXT):
                self.context.append(make_conv(inputs, filters, dilation=dilation))
                self.context_norms.append(ChannelNorm(filters) if shape.norm else nn.Identity())
                inputs = filters
            self.context_last = make_conv(inputs, 2)
        self._initialise(generator)

    @torch.no_grad()
    def _initialise(self, generator: Generator) -> None:
        for child in self.modules():
            if isinstance(child, nn.Conv2d):
                nn.init.kaiming_normal_(child.weight, a=SLOPE, nonlinearity="leaky_relu", generator=generator)
                assert child.bias is not None
                nn.init.zeros_(child.bias)
        # The first flow is zero, not noise that nothing on the way could be matched with.
        nn.init.zeros_(self.last.weight)
        if self.context is not None:
            nn.init.zeros_(self.context_last.weight)

    def forward(self, first: Sequence[Tensor], second: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
        """The flow at every level, [B, 2, h_l, w_l] float32 in pixels of that level.

        `first` and `second` are the frames' pyramids, lowest resolution first; a pixel of level l is `scales[l]` pixels
        of the frame wide.
        """
        flows: list[Tensor] = []
        for number, (near, far, scale) in enumerate(zip(first, second, scales, strict=True)):
            height, width = near.shape[-2:]
            if flows:
                flow = resize_flow(flows[-1], height, width)
                warped = warp(far, flow)
            else:
                flow = torch.zeros(len(near), 2, height, width, device=near.device)
                warped = far.float()
            residual, seen = self.residual(number, near, warped, flow)
            flow = flow + residual
            if self.context is not None and number == len(self.reduce) - 1:
                flow = flow + self.correction(seen, flow)
            limit = self.shape.clip / scale
            flows.append(flow.clamp(-limit, limit))
        return flows

    def residual(self, level: int, near: Tensor, warped: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """What to add to `flow`, and the features that it was made of."""
        with full_precision(near):
            volume = correlate(standard(near), standard(warped), self.shape.radius)
            best = None if self.sharpness is None else favoured(volume * self.sharpness.exp(), self.shape.radius)
            volume = F.leaky_relu(volume, SLOPE)
        reduce = self.reduce[level]
        x = torch.cat([volume, reduce(near).float(), reduce(warped).float(), flow], dim=1)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = F.leaky_relu(norm(conv(x)), SLOPE)
            x = torch.cat([y, x.to(y.dtype)], dim=1) if self.shape.dense else y
        if self.shape.l2:
            x = F.normalize(x.float(), dim=1)
        moved = self.last(x).float()
        return (moved if best is None else moved + best), x

    def correction(self, seen: Tensor, flow: Tensor) -> Tensor:
        assert self.context is not None
        x = torch.cat([seen, flow.to(seen.dtype)], dim=1)
        for conv, norm in zip(self.context, self.context_norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), SLOPE)
        moved: Tensor = self.context_last(x)
        return moved.float()


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel, in float32: its gradients in bfloat16 cannot be trusted on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.float().permute(0, 2, 3, 1)
        normed = F.layer_norm(last, last.shape[-1:], self.weight, self.bias, eps=1e-6)
        return normed.permute(0, 3, 1, 2).to(x.dtype)


def standard(maps: Tensor) -> Tensor:
    """[B, C, h, w] with each channel's mean over the frame taken off and every pixel of length sqrt(C), float32.

    The correlation of two such maps is a cosine: a match is 1, whatever the contrast. UFlow (Jonschkowski et al., 2020,
    arXiv:2006.04902, section 3.1) normalises for the same reason, by one mean and variance of all features.
    """
    maps = maps.float()
    maps = maps - maps.mean(dim=(2, 3), keepdim=True)
    return maps * (maps.square().mean(dim=1, keepdim=True) + 1e-6).rsqrt()


def favoured(volume: Tensor, radius: int) -> Tensor:
    """The displacement that a correlation [B, (2 radius + 1)^2, h, w] speaks for, in the mean: [B, 2, h, w]."""
    side = torch.arange(-radius, radius + 1, device=volume.device, dtype=volume.dtype)
    down, right = torch.meshgrid(side, side, indexing="ij")
    ways = torch.stack([right.flatten(), down.flatten()])  # [2, (2 radius + 1)^2]
    return torch.einsum("bkhw,ck->bchw", volume.softmax(dim=1), ways)


def scaled(filters: int, factor: float) -> int:
    return max(round(filters * factor), 1)


def make_conv(inputs: int, outputs: int, *, kernel: int = 3, dilation: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, whose parameters are not drawn yet."""
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    return conv.to_empty(device=torch.get_default_device())
