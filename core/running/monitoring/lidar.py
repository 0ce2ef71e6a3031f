"""How many directions tell samples apart and not the views of one sample: LiDAR, along a run that compares views."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from core.configuring.config import Run
from core.data.augment import normalise
from core.evals.frozen.encoding import evaluating
from core.running.stepping import autocast, of_rows
from core.types import DataSpec, Learner, generator_for

CLIPS = 128  # samples, each a class of its own
VIEWS = 4  # of each sample, at least
AT_ONCE = 32  # clips: what a training step holds, or less


def lidar(embeddings: Tensor, *, delta: float = 1e-4, eps: float = 1e-7) -> float:
    """exp of the entropy of the shares of the eigenvalues of S_w^-1/2 S_b S_w^-1/2, for views [n, q, D] of n samples.

    S_b is the scatter of the samples' means about their common mean, S_w that of views about their sample's mean, plus
    `delta` on the diagonal: linear discriminant analysis with each sample a class. From 1 to min(n - 1, D).

    Source: LiDAR (Thilak et al., 2023, arXiv:2312.04000), written from the paper's words.
    """
    views = embeddings.double()
    means = views.mean(dim=1)
    between, within = means - means.mean(dim=0), (views - means[:, None]).flatten(0, 1)
    if between.shape[1] > len(between) + len(within):
        # Both scatters lie in what these rows span; an expander may have 8192 features.
        basis = torch.linalg.qr(torch.cat([between, within]).T).Q
        between, within = between @ basis, within @ basis
    scatter = within.T @ within / len(within) + delta * torch.eye(within.shape[1], dtype=within.dtype).to(within)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), between.T, upper=False)
    values = torch.linalg.svdvals(whitened).square()
    # Views that are all alike have no shares to speak of; with eps alone they give rank 1, the full collapse.
    share = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny) + eps
    return max(1.0, math.exp(-(share * share.log()).sum().item()))


@torch.no_grad()
def look(
    run: Run, learner: Learner, clips: Tensor, spec: DataSpec, device: torch.device, precision: torch.dtype | None
) -> float | None:
    """LiDAR of uint8 clips [n, C, T, H, W] as the run's own views have them; None where it compares none now.

    Views are drawn anew at every look from the same numbers, and no generator of the run is moved.
    """
    found: list[Tensor] = []
    grid, steps = learner.encoder.grid, run.optim.steps
    with evaluating(learner):
        while sum(len(part) for part in found) < VIEWS:
            number, parts = len(found), list[Tensor]()
            drawn = run.mask.sample(grid, len(clips), generator_for(0, "lidar", number)) if run.mask else []
            for start in range(0, len(clips), AT_ONCE):
                rows = slice(start, start + AT_ONCE)
                shown = normalise(clips[rows], spec, device=device)
                # The last step's schedule: by then every part of an objective that has several is learned.
                learner.seed_step(_draws(number, start), steps, steps, shown)
                with autocast(device, precision):
                    part = learner.embeddings(shown, of_rows(drawn, rows, device))
                if part is None:
                    return None
                parts.append(part.float().cpu())
            found.append(torch.cat(parts, dim=1))
    embeddings = torch.cat(found).transpose(0, 1)
    if not embeddings.isfinite().all():
        raise FloatingPointError("the embeddings of views are not finite")
    return lidar(embeddings)


def _draws(*at: int) -> Callable[[str], Generator]:
    return lambda purpose: generator_for(0, "lidar", purpose, *at)
