"""CPU seconds of a run's step when S runs are trained as one stack, beside the same run alone; and operations a step.

    python -m benchmarks.stack [mae_st|ijepa|all] [--batch 16] [--sizes 1,2,4,8,16] [--rounds 10] [--threads 1]
        [--device cuda] [--write]

The runs are seeds of a method at scale cpu, on its data; S = 1 is the stack's own program with one run, "alone" the
trainer's. All sizes alternate, because the speed of a shared machine drifts, and processor seconds are counted, not the
clock (on a card, whose own time it is then, the clock: --device cuda --sizes 1,4,16,64); a gain is the median over
rounds of alone / stacked. Operations are what torch dispatches in one step, as its profiler counts them: those of the
model and its optimiser do not depend on S, but that a CPU's attention takes its heads in parts that fit the cache
together (more parts, the same work); those of drawing masks and crops and of reading batches are the runs' own.
What a card would be asked for is counted on a fake one, in tests/core/running/test_stacked_launches.py.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu import card
from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import Run, load
from core.configuring.fitting import load_split
from core.data.loader import StepLoader
from core.measuring.kept_memory import keep_freed_memory
from core.optim import make_optimizer
from core.running.building import build_learner, choose_precision
from core.running.ranks.distributed import World
from core.running.stacking import Stack
from core.running.stepping import Stepper
from core.types import Dataset

CPU = torch.device("cpu")
METHODS = ("mae_st", "ijepa")
OUTPUT = RESULTS / "stack.txt"
TARGETS = {
    "mae_st, batch 16, cpu, S=8": "at least 1.6 times as fast",
    "ijepa, batch 16, cpu, S=8": "at least 1.35 times as fast",
}
OF_MODEL = ("aten::bmm", "aten::baddbmm", "aten::mm", "aten::addmm", "mkldnn::", "aten::gelu", "aten::_fused_adamw_")


@dataclass
class Program:
    """What takes step after step of `size` runs."""

    size: int
    inputs: Callable[[int], Any]
    step: Callable[[int, Any], Any]

    def __call__(self, number: int) -> None:
        self.step(number, self.inputs(number))


def programs(
    method: str, batch_size: int, sizes: list[int], cache: Path, scale: str, device: torch.device = CPU
) -> dict[str, Program]:
    """The run alone, and stacks of it."""
    words = [f"method={method}", f"scale={scale}", f"optim.batch_size={batch_size}", "optim.steps=100000", "evals=[]"]
    train_set = load_split(load([*words, f"runtime.cache={cache}"]), "train")

    def seeds(number: int) -> list[tuple[Stepper, StepLoader]]:
        runs = [load([*words, f"seed={seed}", f"runtime.cache={cache}"]) for seed in range(number)]
        return [member(run, train_set, device) for run in runs]

    ((stepper, loader),) = seeds(1)
    found = {"alone": Program(1, loader.batch, stepper.step)}
    for size in sizes:
        found[f"S={size}"] = stacked(seeds(size))
    return found


def member(run: Run, train_set: Dataset, device: torch.device) -> tuple[Stepper, StepLoader]:
    learner, precision = build_learner(run, train_set.spec).to(device), choose_precision(run.precision, device)
    stepper = Stepper(
        run, train_set.spec, learner, learner, make_optimizer(learner, run.optim), precision, device, World()
    )
    batch_size, repeats = run.optim.batch_size, run.augment.repeats
    loader = StepLoader(train_set, batch_size=batch_size, seed=run.seed, num_steps=run.optim.steps, repeats=repeats)
    return stepper, loader


def stacked(members: list[tuple[Stepper, StepLoader]]) -> Program:
    stack, loaders = Stack([stepper for stepper, _ in members]), [loader for _, loader in members]
    return Program(
        len(members),
        lambda number: [loader.batch(number) for loader in loaders],
        lambda number, batches: stack.step([number] * len(batches), batches),
    )


def num_operations(program: Program, number: int) -> tuple[int, int]:
    """Operations dispatched in one step: all, and the products, activations and updates among them."""
    inputs = program.inputs(number)
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        program.step(number, inputs)
    names = [event.name for event in watched.events()]
    return sum("::" in name for name in names), sum(name.startswith(OF_MODEL) for name in names)


def measured(found: dict[str, Program], rounds: int, device: torch.device = CPU) -> dict[str, list[float]]:
    """Processor seconds of a run's step, by program and round; on a card seconds until it has done it."""

    def now() -> float:
        if device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    seconds: dict[str, list[float]] = {name: [] for name in found}
    for number in range(1, rounds + 3):
        for name, program in found.items():
            start = now()
            program(number)
            if number > 2:  # warm by then
                seconds[name].append((now() - start) / program.size)
    return seconds


def main() -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("method", nargs="?", choices=[*METHODS, "all"], default="all")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--sizes", default="1,2,4,8,16")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--cache", type=Path, help="decoded data, kept; a temporary folder without it")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here; --device cpu tries the script out")
    device = torch.device(args.device)
    unit = "CPU ms" if device.type == "cpu" else "ms"
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    sizes = [int(size) for size in args.sizes.split(",")]
    figures = {}

    def lines(cache: Path) -> Iterator[str]:
        for method in METHODS if args.method == "all" else [args.method]:
            found = programs(method, args.batch, sizes, cache, args.scale, device)
            seconds = measured(found, args.rounds, device)
            for name, program in found.items():
                gain = statistics.median(a / b for a, b in zip(seconds["alone"], seconds[name], strict=True))
                operations, of_model = num_operations(program, args.rounds + 3)
                milliseconds = 1e3 * statistics.median(seconds[name])
                figures[f"{method} {name}"] = {
                    "cpu_ms": milliseconds, "gain": gain, "operations": operations, "of_model": of_model,
                }  # fmt: skip
                yield (
                    f"{method}, batch {args.batch}, {args.scale}, {name}: {milliseconds:6.1f} {unit} a run's step, "
                    f"{gain:.2f} times as fast; {operations} operations a step, {of_model} of the model"
                )

            counts = [figures[f"{method} S={size}"]["of_model"] for size in sizes]
            yield f"{method}: {min(counts)} to {max(counts)} operations of the model a step for S = {args.sizes}"

    with tempfile.TemporaryDirectory() as folder:
        found = lines(args.cache or Path(folder))
        output = (OUTPUT if device.type == "cpu" else RESULTS / "stack_gpu.txt") if args.write else None
        targets = TARGETS if device.type == "cpu" else None
        show(found, output, benchmark=__file__, software=("torch",), targets=targets, device=card(device))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
