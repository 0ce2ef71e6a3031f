"""Random crops, flips and colours of whole batches, and normalisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from core.types import DataSpec, moved, moved_together

_CROP_TRIES = 10
_NUM_DRAWS = 2 * _CROP_TRIES + 2 + 1 + 4  # area and aspect of each try, corner, flip, colour

# RGB -> luma and two chroma axes (NTSC), in which saturation is a length and hue an angle.
_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


@dataclass
class Augment:
    """How a training clip is changed before the model sees it: the same change for all its frames.

    A crop covers a share of the clip's area drawn from [scale_min, scale_max] with an aspect ratio (width / height)
    drawn log-uniformly from [aspect_min, aspect_max], and is resized to the size of the data set. The defaults are
    I-JEPA's. MAE: 0.2 to 1 with flips; MAE-ST: 0.5 to 1 with flips.

    `color` scales a random brightness (0.4), contrast (0.4), saturation (0.2) and hue (0.1 of a turn), the strengths of
    SimCLR's jitter in VICReg. They are one linear map of the pixels, with hue as a rotation in YIQ, and are clipped
    once at the end rather than after each, which is many times faster and not visibly different.

    `repeats` is repeated sampling: so many samples are made of each clip that is fetched, each augmented and masked by
    itself. `optim.batch_size` counts them all, so that fewer clips are decoded for the same steps.

    Source: I-JEPA (Assran et al., 2023, arXiv:2301.08243), appendix A; MAE-ST (Feichtenhofer et al., 2022,
    arXiv:2205.09113), section 3 and Tables 2c and 2d (`repeats`).
    """

    scale_min: float = 0.3
    scale_max: float = 1.0  # scale_min = scale_max = 1: no crop
    aspect_min: float = 3 / 4
    aspect_max: float = 4 / 3
    flip: bool = False  # mirror left and right with probability 0.5
    color: float = 0.0  # strength; 0 = off
    center_crop: float = 1.0  # share of each side, about the centre, that random crops are drawn from
    repeats: int = 1  # MAE-ST: 4

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"augment.{name} must be {allowed}, got {getattr(self, name)}")

        require(0 < self.scale_max <= 1, "scale_max", "in (0, 1]")
        require(0 < self.scale_min <= self.scale_max, "scale_min", f"in (0, augment.scale_max = {self.scale_max:g}]")
        require(0.1 <= self.aspect_max <= 10, "aspect_max", "in [0.1, 10]")
        require(
            0.1 <= self.aspect_min <= self.aspect_max,
            "aspect_min",
            f"in [0.1, augment.aspect_max = {self.aspect_max:g}]",
        )
        require(0 <= self.color <= 2, "color", "in [0, 2]")
        require(0 < self.center_crop <= 1, "center_crop", "in (0, 1]")
        require(self.repeats >= 1, "repeats", "at least 1")


class _Boxes(NamedTuple):
    """One rectangle of whole pixels for each sample, [B] float each."""

    top: Tensor
    left: Tensor
    height: Tensor
    width: Tensor


def augment(
    clips: Tensor,
    options: Augment,
    spec: DataSpec,
    *,
    generator: Generator,
    device: torch.device | str | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """uint8 [B, C, T, H, W] -> float32 [B, C, T, spec.height, spec.width] on `device`, augmented and normalised.

    With several processes, `clips` is the part number `rank` of a global batch of `world_size` equal parts: the numbers
    of the whole batch are drawn and the part's are used, so that the samples look as they would with one process.
    The numbers drawn do not depend on the options either, so switching flips off leaves the crops as they were.

    Resizing is bilinear, with a filter as wide as the shrinkage (antialiasing), as torchvision's `resized_crop` does.
    """
    draws = draw(len(clips) * world_size, generator)[rank * len(clips) : (rank + 1) * len(clips)]
    return changed(clips, draws, options, spec, device=device)


def draw(num: int, generator: Generator) -> Tensor:
    """The numbers that decide how each of `num` samples is changed, a row for each."""
    return torch.rand(num, _NUM_DRAWS, generator=generator)


def changed(
    clips: Tensor, draws: Tensor, options: Augment, spec: DataSpec, *, device: torch.device | str | None = None
) -> Tensor:
    """`augment` with numbers that were drawn before; each sample depends on its own row of `draws` only."""
    clips = moved(clips, device) if device is not None else clips

    # Few numbers a sample are made on the host, where they are drawn; what is made of them is made on the device.
    boxes = _crop_boxes(options, clips.shape[-2], clips.shape[-1], draws)
    numbers = [*boxes, draws[:, -5] < 0.5, *_scale(spec)]
    if options.color > 0:
        numbers += _colour_changes(options.color * (2 * draws[:, -4:] - 1))
    top, left, height, width, mirrored, factor, offset, *colours = moved_together(clips.device, *numbers)
    whole = options.scale_min == 1 and options.center_crop == 1
    if whole and clips.shape[-2:] == (spec.height, spec.width):
        pixels = clips.float()
        if options.flip:
            pixels = torch.where(mirrored.view(-1, 1, 1, 1, 1), pixels.flip(-1), pixels)
    else:
        pixels = _resize(clips, _Boxes(top, left, height, width), spec, mirrored if options.flip else None)
    if options.color > 0:
        pixels = _recolor(pixels, *colours)
    return pixels.mul_(factor).sub_(offset)


def normalise(clips: Tensor, spec: DataSpec, *, device: torch.device | str | None = None) -> Tensor:
    """uint8 [B, C, T, H, W] -> float32 [B, C, T, spec.height, spec.width] on `device`, resized if stored larger."""
    clips = moved(clips, device) if device is not None else clips
    factor, offset = moved_together(clips.device, *_scale(spec))
    if clips.shape[-2:] == (spec.height, spec.width):
        return clips.float().mul_(factor).sub_(offset)
    full = torch.ones(len(clips), device=clips.device)
    boxes = _Boxes(0 * full, 0 * full, clips.shape[-2] * full, clips.shape[-1] * full)
    return _resize(clips, boxes, spec, None).mul_(factor).sub_(offset)


def _scale(spec: DataSpec) -> tuple[Tensor, Tensor]:
    """Factor and offset that make zero mean and unit variance over the data set of pixels in [0, 255]."""
    mean, std = (torch.tensor(each).view(-1, 1, 1, 1) for each in (spec.mean, spec.std))
    return 1 / (255 * std), mean / std


def _crop_boxes(options: Augment, height: int, width: int, draws: Tensor) -> _Boxes:
    """The first of ten drawn rectangles that fits, else the largest central one of an allowed aspect ratio.

    That is torchvision's `RandomResizedCrop.get_params`, for all samples at once.
    """
    inner_h, inner_w = max(round(height * options.center_crop), 1), max(round(width * options.center_crop), 1)
    full = torch.ones(len(draws))
    if options.scale_min == 1:  # only the whole inner rectangle has its full area
        boxes = _Boxes(0 * full, 0 * full, inner_h * full, inner_w * full)
    else:
        area = inner_h * inner_w * _between(options.scale_min, options.scale_max, draws[:, :_CROP_TRIES])
        log_aspect = _between(
            math.log(options.aspect_min), math.log(options.aspect_max), draws[:, _CROP_TRIES : 2 * _CROP_TRIES]
        )
        crop_w, crop_h = (area * log_aspect.exp()).sqrt().round(), (area / log_aspect.exp()).sqrt().round()
        fits = (crop_w >= 1) & (crop_w <= inner_w) & (crop_h >= 1) & (crop_h <= inner_h)
        first = fits.int().argmax(dim=1, keepdim=True)
        aspect = min(max(inner_w / inner_h, options.aspect_min), options.aspect_max)
        spare_w, spare_h = round(min(inner_w, inner_h * aspect)), round(min(inner_h, inner_w / aspect))
        none_fits = ~fits.any(dim=1)
        crop_w = crop_w.gather(1, first).squeeze(1).masked_fill(none_fits, spare_w)
        crop_h = crop_h.gather(1, first).squeeze(1).masked_fill(none_fits, spare_h)
        corner = draws[:, 2 * _CROP_TRIES : 2 * _CROP_TRIES + 2].clone()
        # floor(u * places) may round up to `places` in float32.
        top = torch.minimum((corner[:, 0] * (inner_h - crop_h + 1)).floor(), inner_h - crop_h)
        left = torch.minimum((corner[:, 1] * (inner_w - crop_w + 1)).floor(), inner_w - crop_w)
        top = torch.where(none_fits, torch.full_like(top, (inner_h - spare_h) // 2), top)
        left = torch.where(none_fits, torch.full_like(left, (inner_w - spare_w) // 2), left)
        boxes = _Boxes(top, left, crop_h, crop_w)
    return boxes._replace(top=boxes.top + (height - inner_h) // 2, left=boxes.left + (width - inner_w) // 2)


def _between(low: float, high: float, uniform: Tensor) -> Tensor:
    return low + (high - low) * uniform


def _resize(clips: Tensor, boxes: _Boxes, spec: DataSpec, mirrored: Tensor | None) -> Tensor:
    """Each sample's box, resized to the size of `spec`: float32 [B, C, T, h, w].

    Resizing is separable and linear: two matrix products with each sample's own weights, which a flip merely reorders.
    """
    rows = _resize_weights(boxes.top, boxes.height, clips.shape[-2], spec.height)
    columns = _resize_weights(boxes.left, boxes.width, clips.shape[-1], spec.width)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None, None], columns.flip(1), columns)
    batch_size, channels, frames, height, width = clips.shape
    wide = torch.bmm(clips.reshape(batch_size, -1, width).float(), columns.transpose(1, 2))  # [B, C*T*H, w]
    wide = wide.view(batch_size, channels * frames, height, spec.width)
    return torch.matmul(rows[:, None], wide).view(batch_size, channels, frames, spec.height, spec.width)


def _resize_weights(start: Tensor, length: Tensor, size: int, out: int) -> Tensor:
    """Weight of each of `size` pixels for each of `out` pixels that share [start, start + length): [B, out, size]."""
    ratio = (length / out)[:, None, None]
    reach = ratio.clamp(min=1)  # of the triangle: one pixel when enlarging, wider when shrinking
    centre = start[:, None, None] + ratio * (torch.arange(out, device=start.device)[:, None] + 0.5)
    pixel = torch.arange(size, device=start.device) + 0.5
    weights = (1 - (pixel - centre).abs() / reach).clamp(min=0)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weights = weights * inside  # what is outside the crop is not seen, as if the crop were cut out first
    return weights / weights.sum(dim=2, keepdim=True)


def _colour_changes(amounts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Brightness, contrast, saturation and hue by `amounts` [B, 4] in [-strength, strength], as a map of the colours
    [B, 3, 3], the share of the mean luma that is added [B], and what luma is made of [3]."""
    brightness, contrast = (1 + 0.4 * amounts[:, 0]).clamp(min=0), (1 + 0.4 * amounts[:, 1]).clamp(min=0)
    saturation, hue = (1 + 0.2 * amounts[:, 2]).clamp(min=0), 2 * math.pi * 0.1 * amounts[:, 3]
    turn = torch.zeros(len(amounts), 3, 3)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -saturation * hue.sin(), saturation * hue.sin()
    matrix = (torch.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ) * (brightness * contrast)[:, None, None]
    return matrix, (1 - contrast) * brightness, _TO_YIQ[0]


def _recolor(pixels: Tensor, matrix: Tensor, share: Tensor, to_luma: Tensor) -> Tensor:
    """Pixels in [0, 255] changed as `_colour_changes` says; contrast keeps a clip's luma as brightness left it."""
    luma = torch.einsum("c,bcthw->b", to_luma, pixels) / pixels[0, 0].numel()
    shift = share * luma
    colored = torch.einsum("bdc,bcthw->bdthw", matrix, pixels)
    return (colored + shift.view(-1, 1, 1, 1, 1)).clamp_(0, 255)
