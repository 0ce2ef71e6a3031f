"""What makes a flow right without knowing it: Equations 2 to 6 of MC-JEPA, each a function of tensors.

All are means, over pixels and channels, so that a coefficient does not depend on the size of a picture or the width of
a level; the paper prints sums and no normalisation. In the paper the frame at t is warped and compared with the one at
t + 1. `warp` looks up, so here the second frame is warped by the flow that starts in the first one and compared with
the first; each pair is used in both directions, which makes the two the same.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from core.objectives.gathered import averaged, gather, num_processes
from core.objectives.warp import warp
from core.types import full_precision

SSIM_WINDOW = 3  # pixels a side
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def regression(features: Tensor, warped: Tensor, seen: Tensor | None = None) -> Tensor:
    """Squared difference of `features` and those of the other frame warped to them, where `seen` [B, 1, h, w] is True.

    Source: MC-JEPA (arXiv:2307.12698), Equation 2, at one level; occluded pixels are left out (section 3.1).
    """
    return masked_mean((features.float() - warped.float()).square(), seen)


def reconstruction(
    image: Tensor, warped: Tensor, *, l1: float, l2: float, ssim: float, seen: Tensor | None = None
) -> Tensor:
    """How far `warped` is from `image`, [B, C, H, W] in [0, 1]: l1 |d| + l2 d^2 + ssim (1 - SSIM) / 2.

    Source: MC-JEPA (arXiv:2307.12698), Equation 3; the dissimilarity (1 - SSIM) / 2 is Monodepth's (Godard et al.,
    2016, arXiv:1609.03677), which unsupervised flow uses.
    """
    gap = image - warped
    terms = []
    if l1:
        terms.append((l1, masked_mean(gap.abs(), seen)))
    if l2:
        terms.append((l2, masked_mean(gap.square(), seen)))
    if ssim:
        # A window is used when its middle is seen.
        middle = None if seen is None else seen[..., 1:-1, 1:-1]
        terms.append((ssim, masked_mean(((1 - structural_similarity(image, warped)) / 2).clamp(0, 1), middle)))
    return weighted_sum(terms, image.device)


def weighted_sum(terms: Sequence[tuple[float, Tensor]], device: torch.device) -> Tensor:
    """Of weights and scalars, in their order; zero of none.

    Nothing is added to zero or multiplied by one. torch.compile leaves such operations out, so that a loss becomes the
    very number that is also told without its gradient, and then has none itself (torch 2.11 to 2.15).
    """
    weighted = [value if weight == 1 else weight * value for weight, value in terms]
    return functools.reduce(torch.add, weighted) if weighted else torch.zeros((), device=device)


def structural_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of every 3 x 3 window, evenly weighted: [B, C, H, W] in [0, 1] twice -> [B, C, H - 2, W - 2].

    Source: Wang et al., 2004, doi:10.1109/TIP.2003.819861, with K1 = 0.01 and K2 = 0.03.
    """
    # Sums of shifted maps: torch's pooling takes three times as long on a CPU.
    both = torch.stack([a, b, a * a, b * b, a * b])
    both = both[..., :-2, :] + both[..., 1:-1, :] + both[..., 2:, :]
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (both[..., :-2] + both[..., 1:-1] + both[..., 2:]) / SSIM_WINDOW**2
    var_a, var_b = mean_aa - mean_a**2, mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + SSIM_C1) * (2 * covariance + SSIM_C2)
    similarity: Tensor = likeness / ((mean_a**2 + mean_b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2))
    return similarity


def smoothness(flow: Tensor, image: Tensor, edge: float) -> Tensor:
    """How much neighbouring pixels' flows [B, 2, h, w] differ, less where the image [B, C, h, w] in [0, 1] does.

    exp(-edge |dI|) |df| for both directions, |dI| the mean over channels, |df| the mean over the flow's two parts.

    Source: MC-JEPA (arXiv:2307.12698), Equation 4; UFlow (arXiv:2006.04902), section 3.2.
    """
    terms = []
    for axis in (-1, -2):
        weight = (-edge * image.diff(dim=axis).abs().mean(1, keepdim=True)).exp()
        terms.append((1.0, (weight * flow.diff(dim=axis).abs()).mean()))
    return weighted_sum(terms, flow.device)


def cycle(features: Tensor, flow: Tensor, back: Tensor) -> Tensor:
    """Squared difference of `features` and themselves sent to the other frame by `back` and home again by `flow`.

    Source: MC-JEPA (arXiv:2307.12698), Equation 5, at one level and in one direction.
    """
    return (features.float() - warp(warp(features, back), flow)).square().mean()


def variance(features: Tensor, gamma: float = 1.0, eps: float = 1e-4, repeats: int = 1) -> Tensor:
    """Mean over channels of how far the standard deviation of [B, D, h, w] over pixels is below `gamma`.

    Every pixel of every frame is a sample, of all processes' frames together, of which each is there `repeats` times.

    Source: MC-JEPA (arXiv:2307.12698), Equation 6, first term; VICReg (arXiv:2105.04906), Equation 1.
    """
    samples, num_samples = centred(features)
    squares = gather(samples.square().sum(dim=0, keepdim=True)).sum(dim=0)
    return F.relu(gamma - (squares / (num_samples - repeats) + eps).sqrt()).mean()


def covariance(features: Tensor, repeats: int = 1) -> Tensor:
    """Sum of the squared covariances of different channels of [B, D, h, w] over pixels, divided by D. Samples are those
    of `variance`.

    Source: MC-JEPA (arXiv:2307.12698), Equation 6, second term; VICReg (arXiv:2105.04906), Equations 3 and 4.
    """
    samples, num_samples = centred(features)
    with full_precision(samples):  # in half precision the two sums below are equal
        products = samples.T @ samples
        matrix = gather(products[None]).sum(dim=0) / (num_samples - repeats)
        return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)


def centred(features: Tensor) -> tuple[Tensor, int]:
    """[B, D, h, w] -> [B * h * w, D] float32 less its mean over all processes' pixels, and how many these are.

    What is summed over pixels is then gathered, not the pixels: they may be many, and D squared numbers are few.
    """
    samples = features.float().permute(0, 2, 3, 1).flatten(0, 2)
    mean = gather(samples.mean(dim=0, keepdim=True)).mean(dim=0)
    return samples - mean, len(samples) * num_processes()


def masked_mean(values: Tensor, seen: Tensor | None) -> Tensor:
    """Mean over the pixels that are `seen` [B, 1, h, w], 0 when none is; over all when None.

    With several processes it is divided by the mean of their numbers of such pixels: the mean over processes is that
    over the pixels of all.
    """
    if seen is None:
        return values.mean()
    return (values * seen).sum() / averaged(seen.sum() * float(values.shape[1])).clamp_min(1)
