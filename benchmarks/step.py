"""Time the trainer's own steps on random clips, beside the plain reference steps when their file is given.

    python -m benchmarks.step [ijepa|mae_st|vjepa|all] [--steps 10] [--threads 2] [--compile] [--reference PATH]
        [--write]

The configurations are those of the reference: ViT-Ti; I-JEPA at 32 px / patch 4, MAE-ST and V-JEPA at 16 x 112 px /
2 x 16 x 16, with its numbers of context and target patches. A step is everything between two batches: fetching uint8
clips from memory, normalising, drawing masks, schedules, forward, backward, clipping, optimiser, moving average. With
--reference the two alternate, each in a process of its own, because the speed of a shared machine drifts; the ratio is
the median over rounds. The reference draws its clips as noise (4 to 8 % of its step); ours are stored, as in training.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import Run, load
from core.data.arrays import ArrayDataset
from core.data.augment import augment
from core.data.loader import StepLoader
from core.measuring.kept_memory import keep_freed_memory
from core.optim import make_adamw, set_schedule
from core.running.building import build_learner, choose_precision
from core.running.ranks.distributed import World
from core.running.stepping import Stepper, draw_views
from core.types import DataSpec, Grid, Mask, View, generator_for

OUTPUT = RESULTS / "step.txt"
TARGETS = {"ijepa": "ratio at most 0.70", "mae_st": "ratio at most 0.40", "vjepa": "ratio at most 0.65"}
CPU = torch.device("cpu")


@dataclass
class Counts(Mask):
    """As many context and target patches as the reference, drawn like its own: uniformly, for each view."""

    context: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    shared: bool = False  # all views have one context (I-JEPA)

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        def draw(length: int) -> Tensor:
            return torch.rand(batch_size, grid.num_patches, generator=generator).argsort(1)[:, :length]

        contexts = [draw(length) for length in self.context] * (len(self.target) if self.shared else 1)
        kinds = [0] * len(contexts) if self.shared else range(len(contexts))
        targets = [draw(length) for length in self.target]
        return [View(c, t, kind=kind) for c, t, kind in zip(contexts, targets, kinds, strict=True)]


COMMON = "encoder.width=192 encoder.depth=12 encoder.heads=3 augment.scale_min=1 augment.flip=false evals=[]"
CLIP = "data.size=112 data.frames=16 encoder.patch=16 encoder.tubelet=2 optim.batch_size=8"
CONFIGS: dict[str, tuple[str, Mask | None]] = {
    # 4 targets of 12 tokens from a context of 12; predictor 3 x 96.
    "ijepa": (
        "data.size=32 encoder.patch=4 optim.batch_size=128 target.norm=layer loss=smooth_l1"
        " predictor.depth=3 predictor.width=96 predictor.heads=3",
        Counts([12], [12] * 4, shared=True),
    ),
    # 90 % hidden; decoder 4 x 128 over all tokens; normalised pixels of one frame of each tubelet.
    "mae_st": (
        f"{CLIP} encoder.position=learned predictor.position=learned target.norm=patch target.frames=mae_st"
        " predictor.depth=4 predictor.width=128 predictor.heads=4 optim.clip=0.02",
        None,
    ),
    # Contexts of 120 and 56 tokens, targets of 184 and 280; predictor 4 x 96.
    "vjepa": (
        f"{CLIP} target.norm=layer predictor.depth=4 predictor.width=96 predictor.heads=3",
        Counts([120, 56], [184, 280]),
    ),
}


def steps_of(method: str, threads: int, *, compiled: bool) -> tuple[Callable[[], None], Callable[[], None], int]:
    """One step, the part of it that is outside the model and its optimiser, and the batch size."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    overrides, mask = CONFIGS[method]
    run: Run = load([f"method={method}", "scale=cpu", "optim.steps=100000", *COMMON.split(), *overrides.split()])
    run.mask = mask or run.mask
    spec = DataSpec(channels=3, frames=run.data.frames, height=run.data.size, width=run.data.size)
    batch_size = run.optim.batch_size
    noise = np.random.default_rng(0).integers(0, 256, (4 * batch_size, 3, spec.frames, spec.height, spec.width))
    loader = StepLoader(
        ArrayDataset(spec, noise.astype(np.uint8), {}), batch_size=batch_size, seed=0, num_steps=run.optim.steps
    )
    learner: Any = build_learner(run, spec)
    optimizer, precision = make_adamw(learner, run.optim), choose_precision(run.precision, CPU)
    if compiled:
        learner.compile()
    stepper = Stepper(run, spec, learner, learner, optimizer, precision, CPU, World())
    count = [0]

    def step() -> None:
        count[0] += 1
        stepper.step(count[0], loader.batch(count[0]))

    def outside() -> None:
        clips = loader.batch(count[0]).clips
        augment(clips, run.augment, spec, generator=generator_for(0, "augment", count[0]), device=CPU)
        draw_views(run, learner.encoder.grid, count[0], slice(0, batch_size), CPU)
        set_schedule(optimizer, run.optim, count[0])

    return step, outside, batch_size


def serve(connection: Connection, path: Path, method: str, threads: int) -> None:
    """Run a reference step for each message, answering with its seconds."""
    spec = importlib.util.spec_from_file_location("reference_steps", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    step = getattr(module, method)()
    while connection.recv():
        connection.send(seconds(step))


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def lines(methods: Sequence[str], *, steps: int, threads: int, compiled: bool, reference: Path | None) -> Iterator[str]:
    for method in methods:
        step, outside, batch_size = steps_of(method, threads, compiled=compiled)
        timers = [lambda step=step: seconds(step), lambda outside=outside: seconds(outside)]
        if reference is not None:
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            context.Process(target=serve, args=(there, reference, method, threads), daemon=True).start()

            def asked(here: Connection = here) -> float:
                here.send(True)
                return float(here.recv())

            timers.append(asked)
        for _ in range(3):  # warm-up
            for timer in timers:
                timer()
        rounds = [[timer() for timer in timers] for _ in range(steps)]
        ours, aside, *others = (statistics.median(times) for times in zip(*rounds, strict=True))
        line = f"{method}: {ours * 1e3:.0f} ms/step, {batch_size / ours:.0f} samples/s"
        line += f", {aside / ours:.0%} outside the model"
        for other in others:
            ratio = statistics.median(times[0] / times[2] for times in rounds)
            line += f"; reference {other * 1e3:.0f} ms, ratio {ratio:.2f}"
            here.send(False)
        yield line


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("method", nargs="?", choices=[*CONFIGS, "all"], default="all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="ours under torch.compile (runtime.compile=true)")
    parser.add_argument("--reference", type=Path, help="a file with plain steps of the same names")
    args = parser.parse_args()
    if args.reference is not None and not (args.reference.suffix == ".py" and args.reference.is_file()):
        parser.error(f"--reference {args.reference}: not a Python file")
    methods = list(CONFIGS) if args.method == "all" else [args.method]
    found = lines(methods, steps=args.steps, threads=args.threads, compiled=args.compile, reference=args.reference)
    show(found, OUTPUT if args.write else None, benchmark=__file__, software=("torch",), targets=TARGETS)


if __name__ == "__main__":
    main()
