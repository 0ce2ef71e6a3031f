"""Two random views of every picture of a batch, made on the device for all pictures at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from core.objectives.gathered import num_processes, own_rows
from core.types import moved_together

NUM_DRAWS = 13  # of each view: area, aspect, corner x 2, flip, jitter or not, its 4 amounts, grey, blur, its width
SOLARIZE = 13  # and one more
ASPECT = (3 / 4, 4 / 3)  # width / height of crops
BLUR = (0.1, 2.0)  # standard deviation, pixels of a picture of 224
JITTER = (0.4, 0.4, 0.2, 0.1)  # brightness, contrast, saturation; hue in turns

# RGB -> luma and two chroma axes (NTSC), in which saturation is a length and hue an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass
class ViewOptions:
    """How a view is made of a picture. Lists have one number for each of the two views, or one for both.

    A crop of a share of the area in [crop_min, crop_max], enlarged to the whole; mirrored; brightness, contrast,
    saturation and hue changed by up to `jitter` times (0.4, 0.4, 0.2, 0.1); grey; blurred; bright pixels inverted
    (solarised). The defaults are VICReg's, whose two views differ in blur and solarisation.

    Three departures that cannot be seen: the changes of colour are one linear map (hue as a rotation in YIQ) in a fixed
    order, a crop that does not fit is cut to the picture and not drawn anew, and its corner need not be a whole pixel.

    Source: VICReg (Bardes et al., 2022, arXiv:2105.04906), appendix C.1; BYOL (arXiv:2006.07733), Table 6.
    """

    crop_min: float = 0.08
    crop_max: float = 1.0
    flip: bool = True  # mirror left and right with probability 0.5: not for digits
    jitter: float = 1.0  # strength; 0 = off
    jitter_share: float = 0.8  # of views whose colours change
    grey: float = 0.2  # share of views without colour
    blur: list[float] = field(default_factory=lambda: [1.0, 0.1])  # share of blurred views
    solarize: list[float] = field(default_factory=lambda: [0.0, 0.2])  # share of solarised views

    def __post_init__(self) -> None:
        if not 0 < self.crop_max <= 1:
            raise ValueError(f"objective.crop_max must be in (0, 1], got {self.crop_max}")
        if not 0 < self.crop_min <= self.crop_max:
            raise ValueError(
                f"objective.crop_min must be in (0, objective.crop_max = {self.crop_max:g}], got {self.crop_min}"
            )
        if not 0 <= self.jitter <= 2:
            raise ValueError(f"objective.jitter must be in [0, 2], got {self.jitter}")
        for name in ("jitter_share", "grey"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"objective.{name} must be in [0, 1], got {getattr(self, name)}")
        for name in ("blur", "solarize"):
            shares = getattr(self, name)
            if len(shares) not in (1, 2) or not all(0 <= share <= 1 for share in shares):
                raise ValueError(f"objective.{name} must be one or two numbers in [0, 1], got {list(shares)}")


class Changes(NamedTuple):
    """What makes the two views of each of B pictures: the first view's of all, then the second's."""

    theta: Tensor  # [2 * B, 2, 3] crop and mirror, as `affine_grid` takes it
    sigma: Tensor  # [2 * B] pixels of blur, 0 = none
    inverted: Tensor  # [2 * B] bool: bright pixels are
    matrix: Tensor  # [2 * B, 3, 3] of the colours
    share: Tensor  # [2 * B] of the mean luma that is added
    to_luma: Tensor  # [3] what luma is made of


def draw_changes(options: ViewOptions, generator: Generator, pictures: Tensor) -> Changes:
    """For `pictures` [B, C, T, H, W], on their device.

    With several processes, B is this one's share of a batch; the numbers of the whole batch are drawn. They are few,
    and stay on the host until they are what a view is made with; all then go to the device in one copy.
    """
    num, (height, width) = len(pictures), pictures.shape[-2:]
    draws = own_rows(torch.rand(2, num * num_processes(), NUM_DRAWS + 1, generator=generator), num, dim=1)
    shares = torch.tensor([[_of(options.blur, view), _of(options.solarize, view)] for view in (0, 1)])
    shares = shares[:, None].expand(2, num, 2).flatten(0, 1)  # [2 * B, 2]
    draws = draws.flatten(0, 1)
    low, high = BLUR
    sigma = (low + (high - low) * draws[:, 12]) * (draws[:, 11] < shares[:, 0])
    return Changes(
        *moved_together(
            pictures.device,
            _crops(options, draws, height, width),
            sigma * height / 224,
            draws[:, SOLARIZE] < shares[:, 1],
            *_colour_changes(options, draws),
        )
    )


def two_views(pictures: Tensor, options: ViewOptions, changes: Changes) -> Tensor:
    """float [B, C, T, H, W] in [0, 1] -> two views of each [2, B, C, T, H, W], the same change for all T frames."""
    num, channels, frames, _, _ = pictures.shape
    views = pictures.flatten(1, 2).repeat(2, 1, 1, 1)  # [2 * B, C * T, H, W]
    if options.crop_min < 1 or options.flip:
        views = _cropped(views, changes.theta)
    views = views.view(2 * num, channels, frames, *views.shape[-2:])
    if options.jitter * options.jitter_share > 0 or options.grey > 0:
        views = _recoloured(views, changes.matrix, changes.share, changes.to_luma)
    if max(options.blur) > 0:
        views = _blurred(views, changes.sigma)
    if max(options.solarize) > 0:
        inverted = changes.inverted.view(-1, 1, 1, 1, 1)
        views = torch.where(inverted & (views >= 0.5), 1 - views, views)
    return views.view(2, num, *views.shape[1:])


def _of(shares: list[float], view: int) -> float:
    return shares[view % len(shares)]


def _crops(options: ViewOptions, draws: Tensor, height: int, width: int) -> Tensor:
    """Where each view is in its picture of height x width, and whether it is mirrored: [2 * B, 2, 3], as `affine_grid`
    takes it."""
    area = options.crop_min + (options.crop_max - options.crop_min) * draws[:, 0]
    least, most = (math.log(edge) for edge in ASPECT)
    aspect = (least + (most - least) * draws[:, 1]).exp() if options.crop_min < 1 else torch.ones_like(area)
    # A picture of 2:1 is 1 x 1 here: its crops' aspect is in units of its own.
    aspect = aspect * height / width if options.crop_min < 1 else aspect
    wide, high = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    left, top = draws[:, 2] * (1 - wide), draws[:, 3] * (1 - high)
    sign = torch.where(draws[:, 4] < 0.5, -1.0, 1.0) if options.flip else torch.ones_like(area)
    zero = torch.zeros_like(area)
    rows = [torch.stack([wide * sign, zero, 2 * left + wide - 1], dim=1)]
    rows.append(torch.stack([zero, high, 2 * top + high - 1], dim=1))
    return torch.stack(rows, dim=1)


def _cropped(pictures: Tensor, theta: Tensor) -> Tensor:
    """Each picture's crop, mirrored or not, at the size of the picture."""
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _colour_changes(options: ViewOptions, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness, contrast, saturation and hue of some, and some without colour, as a map of the colours [2 * B, 3, 3],
    the share of the mean luma that is added [2 * B], and what luma is made of [3]."""
    on = (draws[:, 5] < options.jitter_share)[:, None]
    amounts = options.jitter * on * (2 * draws[:, 6:10] - 1) * torch.tensor(JITTER)
    brightness, contrast, saturation = (1 + amounts[:, :3]).clamp(min=0).unbind(1)
    saturation = saturation * (draws[:, 10] >= options.grey)
    hue = 2 * math.pi * amounts[:, 3]
    turn = torch.zeros(len(draws), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * hue.sin(), saturation * hue.sin()
    matrix = (torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ) * (brightness * contrast)[:, None, None]
    return matrix, (1 - contrast) * brightness, _TO_YIQ[0]


def _recoloured(views: Tensor, matrix: Tensor, share: Tensor, to_luma: Tensor) -> Tensor:
    """RGB in [0, 1] changed as `_colour_changes` says; contrast keeps a view's luma as brightness left it."""
    luma = torch.einsum("c,bcthw->b", to_luma, views) / views[0, 0].numel()
    shift = share * luma
    coloured = torch.einsum("bdc,bcthw->bdthw", matrix, views)
    return (coloured + shift.view(-1, 1, 1, 1, 1)).clamp(0, 1)


def _blurred(views: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of standard deviation `sigma` [B] pixels, 0 = none; what it covers beyond the edge does not count."""

    def weights(size: int) -> Tensor:
        place = torch.arange(size, device=views.device)
        distance = place[:, None] - place
        near = (-0.5 * (distance / sigma.clamp(min=1e-3)[:, None, None]) ** 2).exp()  # [B, size, size]
        return (near / near.sum(dim=2, keepdim=True))[:, None, None].to(views)

    height, width = views.shape[-2:]
    return weights(height) @ views @ weights(width).transpose(-1, -2)
