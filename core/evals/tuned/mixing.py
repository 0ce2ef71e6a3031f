"""Regularisation of a batch of clips and their classes: mixup, cutmix, label smoothing, random erasing, dropout.

The same formulas as timm's, whose own classes draw from the global generators of Python and numpy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from core.types import Part, moved, moved_together


def smoothed(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """One-hot [B, K] with `smoothing` of the mass spread evenly over all classes."""
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes


def mix(clips: Tensor, truth: Tensor, *, mixup: float, cutmix: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """Each clip [B, C, T, H, W] and its classes [B, K] mixed with those of the batch read backwards (see `Part`).

    One draw for the whole batch: of the share, from Beta(alpha, alpha), and, where both alphas are above 0, of which
    of the two it is. Cutmix pastes the same box into all frames, and counts what the box really covers.

    Source: mixup (Zhang et al., 2018, arXiv:1710.09412); cutmix (Yun et al., 2019, arXiv:1905.04899), section 3; both
    with probability 1 and a switch at 0.5 in MAE and MAE-ST.
    """
    if mixup == 0 and cutmix == 0:
        return clips, truth
    coin = torch.rand((), generator=generator).item()
    is_cut = cutmix > 0 and (mixup == 0 or coin < 0.5)
    # numpy's is the one beta distribution that draws from a generator of its own.
    draws = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    alpha = cutmix if is_cut else mixup
    kept = float(draws.beta(alpha, alpha))
    if not is_cut:
        return clips * kept + clips.flip(0) * (1 - kept), blend(truth, kept)
    height, width = clips.shape[-2:]
    top, bottom = span(height, math.sqrt(1 - kept), int(draws.integers(height)))
    left, right = span(width, math.sqrt(1 - kept), int(draws.integers(width)))
    clips = clips.clone()
    clips[..., top:bottom, left:right] = clips.flip(0)[..., top:bottom, left:right]
    return clips, blend(truth, 1 - (bottom - top) * (right - left) / (height * width))


def span(size: int, share: float, centre: int) -> tuple[int, int]:
    """First and last + 1 of `share` of `size` pixels about `centre`, cut at the ends."""
    length = int(size * share)
    return max(centre - length // 2, 0), min(centre + (length + 1) // 2, size)


def blend(truth: Tensor, kept: float) -> Tensor:
    return truth * kept + truth.flip(0) * (1 - kept)


def erase(clips: Tensor, probability: float, generator: Generator, part: Part | None = None) -> Tensor:
    """With `probability` a box of each clip, the same in all frames, is filled with noise of mean 0 and variance 1.

    It covers 2 % to a third of the area with an aspect ratio between 0.3 and 1 / 0.3; the first of ten drawn boxes that
    fits. `clips` are normalised.

    Source: random erasing (Zhong et al., 2017, arXiv:1708.04896), mode "pixel" of timm; V-JEPA (Bardes et al., 2024,
    arXiv:2404.08471), Table 8: 0.25.
    """
    if probability == 0:
        return clips
    part = part or Part(len(clips))
    batch, (height, width) = part.num, clips.shape[-2:]
    place_of = {row: place for place, row in enumerate(part.own(torch.arange(batch)).tolist())}
    draws = torch.rand(batch, 10, 2, generator=generator)
    area = height * width * (0.02 + (1 / 3 - 0.02) * draws[..., 0])
    aspect = (math.log(0.3) + 2 * math.log(1 / 0.3) * draws[..., 1]).exp()
    boxes = torch.stack([(area * aspect).sqrt().round(), (area / aspect).sqrt().round()], dim=-1).long()  # h, w
    fits = (boxes[..., 0] < height) & (boxes[..., 1] < width) & (boxes > 0).all(-1)
    chosen = fits.any(1) & (torch.rand(batch, generator=generator) < probability)
    box = boxes[torch.arange(batch), fits.int().argmax(1)]
    corner = torch.rand(batch, 2, generator=generator)
    places, noises = [], []
    for index in chosen.nonzero().flatten().tolist():
        h, w = box[index].tolist()
        top, left = int(corner[index, 0] * (height - h + 1)), int(corner[index, 1] * (width - w + 1))
        noise = torch.randn(*clips.shape[1:3], h, w, generator=generator)
        if index in place_of:
            places.append((place_of[index], slice(None), slice(None), slice(top, top + h), slice(left, left + w)))
            noises.append(noise.to(clips.dtype))
    clips = clips.clone()
    for place, noise in zip(places, moved_together(clips.device, *noises), strict=True):
        clips[place] = noise
    return clips


def dropout(features: Tensor, rate: float, generator: Generator, part: Part | None = None) -> Tensor:
    """Each value zeroed with probability `rate`, the others scaled up so that the mean stays."""
    if rate == 0:
        return features
    part = part or Part(len(features))
    kept = part.own(torch.rand(part.num, *features.shape[1:], generator=generator)) >= rate
    return features * moved((kept / (1 - rate)).to(features.dtype), features.device)
