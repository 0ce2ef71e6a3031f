"""Check V-JEPA's appendix D in numbers: what an L1 predictor converges to, and what gradient it leaves its encoder.

    python -m benchmarks.vjepa_ema_l1 [--write]

Two laws with known answers, our own losses (`core.losses`) and autograd; some seconds on one core. `--write` puts the
tables into docs/vjepa_ema_l1.md and draws docs/vjepa_ema_l1.svg; a test holds the page to what is computed.

Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), appendix D.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor

from analysis.figures.theme import MARKERS, PALETTE, REFERENCE, settings, svg
from benchmarks.lines import parser_of
from core.losses import LOSSES
from core.losses.distances import L1
from core.types import generator_for

DOCS = Path(__file__).parents[1] / "docs"
PAGE, FIGURE = DOCS / "vjepa_ema_l1.md", DOCS / "vjepa_ema_l1.svg"
LOSS_NAMES = ("l1", "smooth_l1", "mse")

# The first law: X given the context is exponential, so its median (0.69 scales) is not its mean (1 scale).
NUM_CONTEXTS, NUM_FEATURES, NUM_DRAWS = 6, 3, 1001
FIT_STEPS, FIT_LR = 800, 0.1

# The second: what each feature of X has of the predictable part of the context, and its own noise.
WEIGHTS, NOISES = (1.0, 0.8, -0.6, 0.4), (0.2, 0.4, 0.6, 0.8)
DEGREES = (10, 25, 40, 55, 70, 85)
NUM_SAMPLES = 2**16
PREDICTOR_STEPS, PREDICTOR_LR = (2, 8, 32, 128), 0.03
STALE_DEGREES = 135  # the encoder for which a stale predictor was right


# ---- the optimal predictor is the conditional median -----------------------------------------------------------------


@dataclass(frozen=True)
class Fit:
    """How far from two points a loss leaves a free predictor, in scales of the noise; the worst context and feature."""

    loss: str
    to_median: float
    to_mean: float


def fit_predictors() -> list[Fit]:
    """A free vector a context, fitted under each loss to `NUM_DRAWS` targets of that context."""
    generator = generator_for(0, "vjepa_ema_l1", 1)
    shape = (NUM_CONTEXTS, 1, NUM_FEATURES)
    shift = torch.randn(shape, generator=generator)
    scale = 0.5 + torch.rand(shape, generator=generator)
    uniform = torch.rand(NUM_CONTEXTS, NUM_DRAWS, NUM_FEATURES, generator=generator)
    targets = shift - scale * torch.log1p(-uniform)  # [contexts, draws, features]
    medians, means = targets.median(1, keepdim=True).values, targets.mean(1, keepdim=True)
    found = []
    for name in LOSS_NAMES:
        fitted = _fit(name, targets)
        distances = [((fitted - point) / scale).abs().max().item() for point in (medians, means)]
        found.append(Fit(name, *distances))
    return found


def _fit(name: str, targets: Tensor) -> Tensor:
    prediction = torch.zeros_like(targets[:, :1]).requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=FIT_LR)
    # A subgradient does not shrink near the minimum: the step has to.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1e-4, FIT_STEPS)
    loss = LOSSES[name]()
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        loss(prediction.expand_as(targets), targets)["loss"].backward()
        optimizer.step()
        schedule.step()
    return prediction.detach()


# ---- the encoder's gradient is that of the deviation -----------------------------------------------------------------


@dataclass(frozen=True)
class Gradients:
    """d/d(angle) at one encoder. The encoder sees u and v and keeps z = cos(angle) u + sin(angle) v; only u is in X."""

    degrees: int
    through_optimal: float  # autograd through our L1 with the optimal predictor held fixed
    mean_deviation: float  # of the sum over features of E|X_l - median(X_l|z)|
    median_deviation: float  # of the sum of median|X_l - median(X_l|z)|, which "MAD" usually abbreviates
    through_trained: tuple[float, ...]  # as the first, after `PREDICTOR_STEPS` steps of the predictor from zero
    through_stale: float  # with the predictor that was optimal for `STALE_DEGREES`


def encoder_gradients(degrees: Sequence[int] = DEGREES) -> list[Gradients]:
    """u, v and the noises e_l are standard normal, X_l = w_l u + s_l e_l.

    So X_l given z is normal with mean (and median) w_l cos(angle) z and variance w_l^2 sin(angle)^2 + s_l^2, and its
    deviation is a constant times the root of that: E|.| = sqrt(2/pi) sd, the median of |.| = 0.674 sd.
    """
    generator = generator_for(0, "vjepa_ema_l1", 2)
    context = torch.randn(NUM_SAMPLES, 2, generator=generator)
    noise = torch.randn(NUM_SAMPLES, len(NOISES), generator=generator)
    targets = context[:, :1] * torch.tensor(WEIGHTS) + noise * torch.tensor(NOISES)
    found = []
    for degree in degrees:
        angle = math.radians(degree)
        slope = _deviation_slope(angle)
        found.append(
            Gradients(
                degrees=degree,
                through_optimal=_through(angle, _optimal(degree), context, targets),
                mean_deviation=math.sqrt(2 / math.pi) * slope,
                median_deviation=float(stats.norm.ppf(0.75)) * slope,
                through_trained=tuple(
                    _through(angle, predictor, context, targets) for predictor in _trained(angle, context, targets)
                ),
                through_stale=_through(angle, _optimal(STALE_DEGREES), context, targets),
            )
        )
    return found


def _deviation_slope(angle: float) -> float:
    """d/d(angle) of the sum over features of the standard deviation of X_l given z."""
    variances = [weight**2 * math.sin(angle) ** 2 + noise**2 for weight, noise in zip(WEIGHTS, NOISES, strict=True)]
    return sum(
        weight**2 * math.sin(angle) * math.cos(angle) / math.sqrt(variance)
        for weight, variance in zip(WEIGHTS, variances, strict=True)
    )


def _optimal(degrees: float) -> Tensor:
    return math.cos(math.radians(degrees)) * torch.tensor(WEIGHTS)


def _encode(angle: Tensor, context: Tensor) -> Tensor:
    return angle.cos() * context[:, :1] + angle.sin() * context[:, 1:]  # [n, 1]


def _loss(predictor: Tensor, angle: Tensor, context: Tensor, targets: Tensor) -> Tensor:
    prediction = _encode(angle, context) * predictor
    # Ours averages over the features, the appendix sums.
    return len(WEIGHTS) * L1()(prediction[:, None], targets[:, None])["loss"]


def _through(angle: float, predictor: Tensor, context: Tensor, targets: Tensor) -> float:
    at = torch.tensor(angle, requires_grad=True)
    _loss(predictor, at, context, targets).backward()
    assert at.grad is not None
    return at.grad.item()


def _trained(angle: float, context: Tensor, targets: Tensor) -> list[Tensor]:
    """Linear predictors after each of `PREDICTOR_STEPS`, of an encoder that stands still."""
    predictor = torch.zeros(len(WEIGHTS), requires_grad=True)
    optimizer = torch.optim.Adam([predictor], lr=PREDICTOR_LR)
    kept, encoder = [], torch.tensor(angle)
    for step in range(1, max(PREDICTOR_STEPS) + 1):
        optimizer.zero_grad()
        _loss(predictor, encoder, context, targets).backward()
        optimizer.step()
        if step in PREDICTOR_STEPS:
            kept.append(predictor.detach().clone())
    return kept


# ---- shown -----------------------------------------------------------------------------------------------------------


def fits_table(fits: Sequence[Fit]) -> str:
    lines = ["| loss | farthest from the median | farthest from the mean |", "|:--|--:|--:|"]
    lines += [f"| `{fit.loss}` | {fit.to_median:.3f} | {fit.to_mean:.3f} |" for fit in fits]
    return "\n".join(lines)


def gradients_table(gradients: Sequence[Gradients]) -> str:
    steps = " | ".join(f"after {steps} steps" for steps in PREDICTOR_STEPS)
    lines = [
        "| angle | optimal predictor | ∇ mean deviation | ∇ median deviation | "
        f"{steps} | optimal at {STALE_DEGREES}° |",
        "|" + "--:|" * (5 + len(PREDICTOR_STEPS)),
    ]
    for found in gradients:
        values = (
            found.through_optimal, found.mean_deviation, found.median_deviation, *found.through_trained,
            found.through_stale,
        )  # fmt: skip
        cells = " | ".join(f"{value:.3f}".replace("-", "−") for value in values)
        lines.append(f"| {found.degrees}° | {cells} |")
    return "\n".join(lines)


def draw(gradients: Sequence[Gradients]) -> bytes:
    with mpl.rc_context(settings()):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        fine = np.linspace(0.5, 89.5, 179)
        slopes = np.array([_deviation_slope(math.radians(degree)) for degree in fine])
        axes.plot(fine, math.sqrt(2 / math.pi) * slopes, color=REFERENCE, label="∇ mean deviation (exact)")
        median = stats.norm.ppf(0.75) * slopes
        axes.plot(fine, median, color=REFERENCE, linestyle=":", label="∇ median deviation (exact)")
        degrees = [found.degrees for found in gradients]
        lines = {"optimal predictor": [found.through_optimal for found in gradients]}
        for place, steps in enumerate(PREDICTOR_STEPS):
            lines[f"predictor after {steps} steps"] = [found.through_trained[place] for found in gradients]
        lines[f"predictor of the encoder at {STALE_DEGREES}°"] = [found.through_stale for found in gradients]
        for place, (label, values) in enumerate(lines.items()):
            axes.plot(
                degrees, values, linestyle="none", marker=MARKERS[place], color=PALETTE[place], label=label,
                markerfacecolor=PALETTE[place] if place == 0 else "white",
            )  # fmt: skip
        axes.axhline(0, color=REFERENCE, linewidth=0.8)
        axes.set(xlabel="encoder's angle in degrees (0: all that is predictable)", ylabel="gradient on the encoder")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return svg(figure)


def with_table(page: str, name: str, table: str) -> str:
    """`page` with what is between the two comments of `name` replaced."""
    found, count = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda match: f"{match[1]}{table}\n{match[2]}", page, flags=re.DOTALL
    )
    assert count == 1, f"{PAGE} has {count} places for {name}"
    return found


def main() -> None:
    parser = parser_of(__doc__, __file__)
    parser.add_argument("--write", action="store_true", help="also write docs/vjepa_ema_l1.md and .svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    fits, gradients = fit_predictors(), encoder_gradients()
    tables = {"fits": fits_table(fits), "gradients": gradients_table(gradients)}
    print("\n\n".join(tables.values()))
    if options.write:
        page = PAGE.read_text(encoding="utf-8")
        for name, table in tables.items():
            page = with_table(page, name, table)
        PAGE.write_text(page, encoding="utf-8")
        FIGURE.write_bytes(draw(gradients))


if __name__ == "__main__":
    main()
