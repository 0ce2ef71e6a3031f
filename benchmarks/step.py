"""Time training steps on random clips, beside the plain reference steps when their file is given.

    python benchmarks/step.py [ijepa|mae_st|vjepa|all] [--steps 10] [--threads 2] [--reference PATH]

The configurations are those of the reference: ViT-Ti; I-JEPA at 32 px / patch 4, MAE-ST and V-JEPA at 16 x 112 px /
2 x 16 x 16. A step draws its clips and masks, and ends with the optimiser and the moving average. With --reference the
two alternate in one process, because the speed of a shared machine drifts; the ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from core.losses import L1, MSE, SmoothL1
from core.models import Decoder, Narrow, ViT
from core.models.positions import Position
from core.targets import EmaTarget, PixelTarget
from core.targets.pixels import Frames
from core.types import DataSpec, View, generator_for

IMAGES = DataSpec(channels=3, frames=1, height=32, width=32)
CLIPS = DataSpec(channels=3, frames=16, height=112, width=112)


def draw(batch: int, tokens: int, length: int) -> Tensor:
    return torch.rand(batch, tokens).argsort(1)[:, :length]


def adamw(*modules: nn.Module, **options: object) -> torch.optim.AdamW:
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, fused=True, **options)


def ijepa(batch: int = 128) -> Callable[[], None]:
    """4 targets of 12 tokens from a context of 12; predictor 3 x 96."""
    generator = generator_for(0, "init")
    encoder = ViT(width=192, depth=12, heads=3, patch=4).build(IMAGES, generator)
    target = EmaTarget().build(encoder, IMAGES)
    predictor = Narrow(depth=3, width=96, heads=3).build(encoder, target.out_dim, 1, generator)
    optimizer, loss = adamw(encoder, predictor), SmoothL1()

    def step() -> None:
        clips, context = torch.randn(batch, 3, 1, 32, 32), draw(batch, 64, 12)
        views = [View(context, draw(batch, 64, 12)) for _ in range(4)]
        with torch.autocast("cpu", torch.bfloat16):
            wanted = torch.cat(target(clips, views))
            stacked = View(context.repeat(4, 1), torch.cat([view.target for view in views]))
            total = loss(predictor(encoder(clips, context), stacked), wanted)["loss"]
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        target.update(encoder, 1, 100)

    return step


def vjepa(batch: int = 8) -> Callable[[], None]:
    """Contexts of 120 and 56 tokens, targets of 184 and 280; predictor 4 x 96."""
    generator = generator_for(0, "init")
    encoder = ViT(width=192, depth=12, heads=3, patch=16, tubelet=2).build(CLIPS, generator)
    target = EmaTarget(decay_start=0.998).build(encoder, CLIPS)
    predictor = Narrow(depth=4, width=96, heads=3).build(encoder, target.out_dim, 2, generator)
    optimizer, loss = adamw(encoder, predictor), L1()

    def step() -> None:
        clips = torch.randn(batch, 3, 16, 112, 112)
        sizes = ((120, 184), (56, 280))
        views = [View(draw(batch, 392, nc), draw(batch, 392, nt), kind=i) for i, (nc, nt) in enumerate(sizes)]
        with torch.autocast("cpu", torch.bfloat16):
            total = torch.zeros(())
            for view, wanted in zip(views, target(clips, views), strict=True):
                total = total + loss(predictor(encoder(clips, view.context), view), wanted)["loss"] / 2
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        target.update(encoder, 1, 100)

    return step


def mae_st(batch: int = 8) -> Callable[[], None]:
    """90 % hidden; decoder 4 x 128 over all tokens; pixels of one frame of each tubelet."""
    generator = generator_for(0, "init")
    encoder = ViT(width=192, depth=12, heads=3, patch=16, tubelet=2, position=Position.learned).build(CLIPS, generator)
    target = PixelTarget(frames=Frames.mae_st).build(encoder, CLIPS)
    decoder = Decoder(depth=4, width=128, heads=4, position=Position.learned)
    predictor = decoder.build(encoder, target.out_dim, 1, generator)
    optimizer, loss = adamw(encoder, predictor, betas=(0.9, 0.95), weight_decay=0.05), MSE()
    parameters = [*encoder.parameters(), *predictor.parameters()]

    def step() -> None:
        clips, order = torch.randn(batch, 3, 16, 112, 112), draw(batch, 392, 392)
        view = View(order[:, :39], order[:, 39:])
        with torch.autocast("cpu", torch.bfloat16):
            total = loss(predictor(encoder(clips, view.context), view), target(clips, [view])[0])["loss"]
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 0.02, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    return step


STEPS = {"ijepa": (ijepa, 128), "mae_st": (mae_st, 8), "vjepa": (vjepa, 8)}


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", nargs="?", choices=[*STEPS, "all"], default="all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reference", type=Path, help="a file with plain steps of the same names")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    reference = None
    if args.reference is not None:
        spec = importlib.util.spec_from_file_location("reference_steps", args.reference)
        if spec is None or spec.loader is None:
            parser.error(f"--reference {args.reference}: not a Python file")
        reference = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(reference)

    for method in STEPS if args.method == "all" else [args.method]:
        build, batch = STEPS[method]
        steps = [build()] if reference is None else [build(), getattr(reference, method)()]
        for step in steps * 2:  # warm-up
            step()
        rounds = [[seconds(step) for step in steps] for _ in range(args.steps)]
        ours, *others = (statistics.median(times) for times in zip(*rounds, strict=True))
        line = f"{method}: {ours * 1e3:.0f} ms/step, {batch / ours:.0f} samples/s"
        for other in others:
            ratio = statistics.median(times[0] / times[1] for times in rounds)
            line += f"; reference {other * 1e3:.0f} ms, ratio {ratio:.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
