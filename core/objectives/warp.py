"""Moving pictures by a flow, comparing a pixel with its neighbours, and which pixels two flows agree on.

A flow is [B, 2, h, w] float32: how far each pixel's content moves, in pixels of its own grid, to the right and down.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8  # pixels a side of the pieces that `correlate` multiplies


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """`maps` [B, C, h, w] as seen from where `flow` starts: out(p) = maps(p + flow(p)), bilinear, in float32.

    With `flow` from frame 1 to frame 2 this makes of frame 2 what frame 1 should look like. Places outside the frame
    take the value at its edge; `inside` says which they are.
    """
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=torch.float32)
    # grid_sample without align_corners puts -1 at the outer edge of the first pixel, half a pixel before its centre.
    x = (2 * (columns + flow[:, 0].float()) + 1) / width - 1
    y = (2 * (rows + flow[:, 1].float()) + 1) / height - 1
    place = torch.stack([x, y], dim=-1)
    return F.grid_sample(maps.float(), place, mode="bilinear", padding_mode="border", align_corners=False)


def inside(flow: Tensor) -> Tensor:
    """Whether each pixel's end is between the centres of the frame's outer pixels: [B, 1, h, w] bool."""
    height, width = flow.shape[-2:]
    x = torch.arange(width, device=flow.device) + flow[:, 0]
    y = torch.arange(height, device=flow.device)[:, None] + flow[:, 1]
    return ((x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1))[:, None]


@torch.no_grad()
def visible(flow: Tensor, back: Tensor, share: float = 0.01, slack: float = 0.5) -> Tensor:
    """Pixels whose content is in the other frame too, as far as both flows agree: [B, 1, h, w] bool.

    There and back must end where it began: |f + b(p + f)|^2 < share (|f|^2 + |b(p + f)|^2) + slack, in pixels.

    Source: UnFlow (Meister et al., 2018, arXiv:1711.07837), section 3.2, with its constants; DDFlow (Liu et al., 2019,
    arXiv:1902.09145), which MC-JEPA (arXiv:2307.12698, section 3.1) follows.
    """
    returned = warp(back, flow)
    gap = (flow + returned).square().sum(1, keepdim=True)
    bound = share * (flow.square() + returned.square()).sum(1, keepdim=True) + slack
    return (gap < bound) & inside(flow)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """The same movement on another grid: bilinear, its numbers in that grid's pixels."""
    if flow.shape[-2:] == (height, width):
        return flow
    # Filled on the device: a tensor made of numbers of the host would wait for all that the device has to do.
    ratios = (width / flow.shape[-1], height / flow.shape[-2])
    factors = torch.cat([torch.full((1, 1, 1, 1), ratio, device=flow.device) for ratio in ratios], dim=1)
    return F.interpolate(flow, (height, width), mode="bilinear", align_corners=False) * factors


def correlate(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """How much each pixel of `first` is like those of `second` up to `radius` away, rows before columns.

    [B, C, h, w] twice -> [B, (2 radius + 1)^2, h, w] float32: the mean over channels of their product, 0 beyond the
    frame. Entry (dy + radius) (2 radius + 1) + dx + radius is that of the pixel dy further down and dx to the right.

    Source: PWC-Net (Sun et al., 2018, arXiv:1709.02371), section 3, the partial cost volume.
    """
    # Every 8 x 8 piece is multiplied with all of its surroundings at once: a third of the products are needed, and they
    # are one matrix product instead of (2 radius + 1)^2 passes over the maps.
    (batch, channels, height, width), side, window = first.shape, 2 * radius + 1, TILE + 2 * radius
    rows, columns = -(-height // TILE), -(-width // TILE)
    spare_h, spare_w = rows * TILE - height, columns * TILE - width
    first = F.pad(first.float(), (0, spare_w, 0, spare_h))
    second = F.pad(second.float(), (radius, radius + spare_w, radius, radius + spare_h))
    pieces = first.view(batch, channels, rows, TILE, columns, TILE).permute(0, 2, 4, 3, 5, 1)
    around = second.unfold(2, window, TILE).unfold(3, window, TILE).permute(0, 2, 3, 1, 4, 5)
    products = torch.bmm(
        pieces.reshape(-1, TILE**2, channels), around.reshape(-1, channels, window**2) / channels
    )  # [B * rows * columns, TILE^2, window^2]
    # Entry (y, x, dy, dx) is product (y, x, y + dy, x + dx): steps along y and x move in both.
    wanted = products.contiguous().as_strided(
        (len(products), TILE, TILE, side, side),
        (TILE**2 * window**2, TILE * window**2 + window, window**2 + 1, window, 1),
    )
    volume = wanted.reshape(batch, rows, columns, TILE, TILE, side**2).permute(0, 5, 1, 3, 2, 4)
    return volume.reshape(batch, side**2, rows * TILE, columns * TILE)[:, :, :height, :width]
