"""RandAugment for batches of clips, the same change for all frames of a clip."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from core.types import Part

_GREY = 128.0  # what a turned or shifted picture leaves empty


class Change(NamedTuple):
    """One operation: `apply` of uint8 clips [B, T, C, H, W] and a strength in [-1, 1]."""

    apply: Callable[[Tensor, float], Tensor]
    is_signed: bool = False  # goes either way, with probability 0.5 each


@functools.cache
def changes() -> dict[str, Change]:
    """timm's "increasing" set by name: each is the stronger the larger its strength."""
    # torchvision imports its models, 3 s; commands that train nothing must not wait for it.
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    def enhance(function: Callable[[Tensor, float], Tensor]) -> Change:
        return Change(lambda clips, strength: function(clips, max(0.1, 1 + 0.9 * strength)), is_signed=True)

    def affine(clips: Tensor, *, angle: float = 0.0, x: float = 0.0, y: float = 0.0, shear: tuple[float, float]) -> Any:
        return F.affine(
            clips,
            angle=angle,
            translate=[round(x), round(y)],
            scale=1.0,
            shear=list(shear),
            interpolation=InterpolationMode.BILINEAR,
            fill=[_GREY] * clips.shape[-3],
            center=None if shear == (0.0, 0.0) else [0.0, 0.0],
        )

    def rotate(clips: Tensor, strength: float) -> Any:
        return affine(clips, angle=-30 * strength, shear=(0.0, 0.0))

    def solarize_add(clips: Tensor, strength: float) -> Tensor:
        brighter = (clips.int() + min(128, int(110 * strength))).clamp(max=255).to(torch.uint8)
        return torch.where(clips < 128, brighter, clips)

    def shift(x: float, y: float) -> Change:
        """In whole pixels, up to this share of the width and the height."""
        return Change(
            lambda clips, s: affine(clips, x=x * s * clips.shape[-1], y=y * s * clips.shape[-2], shear=(0.0, 0.0)),
            is_signed=True,
        )

    return {
        "auto_contrast": Change(lambda clips, _: F.autocontrast(clips)),
        "equalize": Change(lambda clips, _: F.equalize(clips)),
        "invert": Change(lambda clips, _: F.invert(clips)),
        "rotate": Change(rotate, is_signed=True),
        "posterize": Change(lambda clips, s: F.posterize(clips, bits=4 - int(4 * s))),
        "solarize": Change(lambda clips, s: F.solarize(clips, threshold=256 - min(256, int(256 * s)))),
        "solarize_add": Change(solarize_add),
        "color": enhance(F.adjust_saturation),
        "contrast": enhance(F.adjust_contrast),
        "brightness": enhance(F.adjust_brightness),
        "sharpness": enhance(F.adjust_sharpness),
        "shear_x": Change(lambda clips, s: affine(clips, shear=(_shear(s), 0.0)), is_signed=True),
        "shear_y": Change(lambda clips, s: affine(clips, shear=(0.0, _shear(s))), is_signed=True),
        "translate_x": shift(-0.45, 0.0),
        "translate_y": shift(0.0, -0.45),
    }


def _shear(strength: float) -> float:
    """In degrees, of an offset of up to 0.3 pixels a pixel."""
    return math.degrees(math.atan(0.3 * strength))


def rand_augment(
    clips: Tensor, *, layers: int, magnitude: float, std: float, generator: Generator, part: Part | None = None
) -> Tensor:
    """`layers` changes of each clip, one after the other: uint8 [B, C, T, H, W] -> the same.

    Each is drawn for each clip from `changes()` and made with probability 0.5; its strength is a normal draw about
    `magnitude` (in tenths) of standard deviation `std`. One draw of the strength serves all clips of a batch that get
    the same change in the same direction, so that they are changed together.

    Source: RandAugment (Cubuk et al., 2020, arXiv:1909.13719), as timm's "rand-m9-mstd0.5-inc1" that MAE names;
    MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), Table 5b: (9, 0.5).
    """
    frames_first = clips.transpose(1, 2).clone()
    names, part = list(changes()), part or Part(len(clips))
    for _ in range(layers):
        drawn = part.own(torch.randint(len(names), (part.num,), generator=generator))
        is_made = part.own(torch.rand(part.num, generator=generator)) < 0.5
        is_negative = part.own(torch.rand(part.num, generator=generator)) < 0.5
        strengths = (magnitude + std * torch.randn(len(names), 2, generator=generator)).clamp(0, 10) / 10
        for number, name in enumerate(names):
            change = changes()[name]
            for sign in (0, 1) if change.is_signed else (0,):
                rows = (drawn == number) & is_made
                if change.is_signed:
                    rows &= is_negative == bool(sign)
                if rows.any():
                    strength = strengths[number, sign].item() * (-1 if sign else 1)
                    index = rows.nonzero().flatten().to(clips.device)
                    frames_first[index] = change.apply(frames_first[index], strength)
    return frames_first.transpose(1, 2)
