"""What a step of every method costs on a real card, and what of it the host spends.

    python -m benchmarks.gpu [--methods mae,ijepa] [--scale gpu] [--device cuda] [--compile] [--seconds 25] [--write]
    python -m benchmarks.gpu --part stack|cpu_study|gpu_study [--device cuda] [--write] [--out FOLDER]

Without --part, each method in turn, within about --seconds each: milliseconds a step (many steps, one wait at the end),
of the device in its kernels (`busy`), of the host until a step is queued (`host`) and of what comes before the model
(`inputs`: crops, masks, copies), after a step, during which threads have read and drawn ahead, as in training, and back
to back, where nothing hides them; launches and blocking copies a step, the latter with the lines that wait; memory;
rate; a step's operations, with what they would take at 400 TFLOP/s; and a ridge evaluation with its features. A method
that fails is said to have FAILED, with its traceback, and the others go on; the exit code is then 1. Data is made
small: a step costs the same.

The other parts are commands of their own, each ended after nine minutes: stacks of 1 to 64 runs (`benchmarks.stack`), a
whole study at scale cpu in stacks, and one at scale gpu (`benchmarks.card_study`, which goes on where it stopped if it
is given the same --out).
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch._dynamo.utils

from benchmarks.lines import RESULTS, ROOT, parser_of, show
from core.configuring.config import PRESETS, Run, load
from core.configuring.fitting import choose_device, load_split
from core.data.augment import normalise
from core.evals.ridge import Ridge
from core.forecast.operations import operations
from core.optim import make_optimizer
from core.running.building import build_learner, choose_precision
from core.running.judging import frozen_features, judge
from core.running.ranks.distributed import World
from core.running.stepping import Batches, Stepper, compile_step, make_stepper
from core.types import Dataset, Learner

OUTPUT = RESULTS / "gpu.txt"
METHODS = sorted(path.stem for path in PRESETS.glob("*.yaml"))
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaGraphLaunch")
STATED_TFLOPS = 400.0  # of one H100 in bf16, at its best
PART_S = 540.0
PARTS = {
    "stack": ("benchmarks.stack", "--sizes", "1,2,4,8,16,32,64"),
    "cpu_study": ("benchmarks.card_study", "--scale", "cpu", "--stack", "auto"),
    "gpu_study": ("benchmarks.card_study", "--scale", "gpu", "--stack", "1"),
}
WAITING = "called a synchronizing CUDA operation"
NUM_CLIPS = {"data.num_train": 256, "data.num_test": 128}


@dataclass
class Prepared:
    """A method in the middle of its training, where every loss is on, and its data."""

    run: Run
    learner: Learner
    stepper: Stepper
    batches: Batches
    sets: tuple[Dataset, Dataset]
    device: torch.device
    number: int  # of the last step

    def step(self) -> None:
        self.number += 1
        self.stepper.step(self.number, *self.batches.at(self.number))

    def inputs(self) -> None:
        self.number += 1
        self.stepper.inputs(self.number, *self.batches.at(self.number))


def prepared(method: str, scale: str, device: torch.device, cache: Path, *, compiled: str | None) -> Prepared:
    sizes = [f"{key}={value}" for key, value in NUM_CLIPS.items()] if scale != "smoke" else []
    words = [f"method={method}", f"scale={scale}", *sizes, f"runtime.cache={cache}"]
    run = load([*words, f"runtime.compile={str(compiled is not None).lower()}"])
    train_set, test_set = load_split(run, "train"), load_split(run, "test")
    spec = train_set.spec
    learner = build_learner(run, spec).to(device)
    learner.prepare(lambda i: normalise(train_set.fetch(i).clips, spec), len(train_set), cache, run.seed)
    if compiled is not None:
        compile_step(learner, compiled)
    batches = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World(), device)
    optimizer, precision = make_optimizer(learner, run.optim), choose_precision(run.precision, device)
    stepper = make_stepper(run, spec, learner, learner, optimizer, precision, device, World(), batches.pair_size)
    return Prepared(run, learner, stepper, batches, (train_set, test_set), device, run.optim.steps // 2)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Until `work` has returned, and until the device has done it."""
    wait(device)
    start = time.perf_counter()
    work()
    returned = time.perf_counter()
    wait(device)
    return returned - start, time.perf_counter() - start


def repeated(work: Callable[[], Any], most: float, least: int = 3) -> Iterator[None]:
    """Do `work` for about `most` seconds, and at least `least` times."""
    start, count = time.perf_counter(), 0
    while count < least or (time.perf_counter() - start < most and count < 200):
        work()
        count += 1
        yield


def measure(one: Prepared, most: float) -> Iterator[str]:
    """The lines of one method; each is there before the next is measured."""
    device, batch = one.device, one.run.optim.batch_size
    first = seconds(one.step, device)[1]
    for _ in range(2):
        one.step()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start, count = time.perf_counter(), sum(1 for _ in repeated(one.step, most / 3))
    wait(device)
    step = (time.perf_counter() - start) / count
    counted = operations(one.run)
    flops = 1e9 * counted.training / one.run.optim.steps
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else float("nan")
    yield (
        f"  step {1e3 * step:8.2f} ms ({count} steps, the first {first:.1f} s)   {batch / step:9.0f} clips/s   "
        f"{flops / 1e12:7.3f} TFLOP, {flops / STATED_TFLOPS / 1e9:.2f} ms at {STATED_TFLOPS:.0f} TFLOP/s   "
        f"{flops / step / 1e12:7.2f} TFLOP/s   peak {peak:.2f} GiB"
    )
    hosts = [seconds(one.step, device) for _ in repeated(lambda: None, most / 12)]
    yield f"  host {both(hosts)}"
    yield from both_inputs(one, most / 12)
    if device.type == "cuda":
        yield from launches(one)
        yield from waits(one)
    train_set, test_set = one.sets
    precision = one.stepper.precision
    features = frozen_features(one.run, one.learner, train_set, test_set, train_set.spec, device, precision)
    _, took = seconds(lambda: judge(Ridge(), features, 0), device)
    clips = len(train_set) + len(test_set)
    yield f"  ridge {took:7.2f} s, of these {features.used.seconds:.2f} s features of {clips} clips"


def both_inputs(one: Prepared, most: float) -> Iterator[str]:
    """What comes before the model, as a step waits for it and with nothing to hide behind, within twice `most`."""
    after = [seconds(one.inputs, one.device) for _ in repeated(one.step, most)]
    alone = [seconds(one.inputs, one.device) for _ in repeated(lambda: None, most)]
    yield f"  inputs after a step {both(after)}   back to back {both(alone)}"


def both(pairs: Sequence[tuple[float, float]]) -> str:
    """The middle of what `seconds` found."""
    queued, done = (1e3 * statistics.median(values) for values in zip(*pairs, strict=True))
    return f"{queued:8.2f} ms until queued, {done:.2f} until done"


def launches(one: Prepared, num: int = 3) -> Iterator[str]:
    """Kernel launches, copies and the time in kernels, of a step, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    wait(one.device)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        for _ in range(num):
            one.step()
        wait(one.device)
    calls: Counter[str] = Counter()
    busy, slowest = 0.0, Counter[str]()
    for event in profiler.events():
        calls[event.name] += 1
        if event.device_type == torch.autograd.DeviceType.CUDA:
            passed = event.time_range.elapsed_us()
            busy += passed
            slowest[event.name[:60]] += passed
    copies = {name: count for name, count in calls.items() if name.startswith("Memcpy")}
    shown = ", ".join(f"{name.removeprefix('Memcpy ')} {count / num:.1f}" for name, count in sorted(copies.items()))
    synchronised = (calls["cudaStreamSynchronize"] + calls["cudaEventSynchronize"]) / num
    yield (
        f"  busy {busy / num / 1e3:8.2f} ms   {sum(calls[name] for name in LAUNCHES) / num:.0f} launches   "
        f"copies: {shown or 'none'}   {synchronised:.1f} stream synchronisations"
    )
    for name, passed in slowest.most_common(4):
        yield f"       {passed / num / 1e3:8.3f} ms in {name}"


def waits(one: Prepared) -> Iterator[str]:
    """Operations of a step in which the host waits for the device, and where they are."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            one.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places = Counter(
        f"{warning.filename.removeprefix(f'{ROOT}/')}:{warning.lineno}"
        for warning in seen
        if WAITING in str(warning.message)
    )
    yield f"  blocking {places.total()} a step" + "".join(f"\n       {n} x {at}" for at, n in places.most_common())


def lines(
    methods: Sequence[str], scale: str, device: torch.device, most: float, *, compiled: str | None
) -> Iterator[str]:
    yield f"scale {scale}" + (f", compiled: {compiled}" if compiled else "")
    with tempfile.TemporaryDirectory(prefix="gpu-") as cache:
        for method in methods:
            start = time.perf_counter()
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            try:
                one = prepared(method, scale, device, Path(cache), compiled=compiled)
                number = sum(p.numel() for p in one.learner.parameters()) / 1e6
                yield f"{method}: batch {one.run.optim.batch_size}, {number:.1f} M parameters, {precision_of(one)}"
                yield from measure(one, most)
                if compiled is not None:
                    yield graphs()
            # Whatever one method fails of, the others' numbers are worth their time on a card; the report says so.
            except Exception:
                yield f"{method}: FAILED\n" + traceback.format_exc().rstrip()
            yield f"  in all {time.perf_counter() - start:.1f} s"
            if device.type == "cuda":
                torch.cuda.empty_cache()


def graphs() -> str:
    """How many graphs were compiled for a method's steps, and why one ended before the loss did."""
    counters = torch._dynamo.utils.counters
    breaks = "".join(f"\n       {n} x {why.splitlines()[0]}" for why, n in counters["graph_break"].items())
    num_breaks = sum(counters["graph_break"].values())
    return f"  compiled {counters['stats']['unique_graphs']} graphs, {num_breaks} breaks{breaks}"


def precision_of(one: Prepared) -> str:
    return "fp32" if one.stepper.precision is None else "bf16"


def card(device: torch.device) -> str:
    """The card and its driver; nothing for a CPU."""
    if device.type != "cuda":
        return ""
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        driver = "unknown"
    return f"{torch.cuda.get_device_name(device)}, driver {driver}"


def without(words: Sequence[str], *options: str) -> list[str]:
    """`words` without these options and their values."""
    left, kept = iter(words), list[str]()
    for word in left:
        if word in options:
            next(left, None)
        elif not word.startswith(tuple(f"{option}=" for option in options)):
            kept.append(word)
    return kept


def part(name: str, device: str, more: Sequence[str]) -> int:
    """Run a part for at most nine minutes; its exit code, 1 where it had to be ended."""
    module, *words = PARTS[name]
    try:
        return subprocess.run(
            [sys.executable, "-m", module, "--device", device, *words, *more], cwd=ROOT, timeout=PART_S
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"{name}: ENDED after {PART_S:.0f} s", flush=True)
        return 1


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__, __file__)
    parser.add_argument("--part", choices=["steps", *PARTS], default="steps")
    parser.add_argument("--methods", default=",".join(METHODS), help="of: " + ", ".join(METHODS))
    parser.add_argument("--scale", default="gpu")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--seconds", type=float, default=25.0, help="that a method takes, about")
    parser.add_argument(
        "--compile", nargs="?", const="default", metavar="MODE", help="under torch.compile (runtime.compile=true)"
    )
    parser.add_argument(
        "--write", type=Path, nargs="?", const=OUTPUT, help=f"also into a file (default {OUTPUT.relative_to(ROOT)})"
    )
    options, more = parser.parse_known_args(arguments)
    if options.part != "steps":
        given = list(sys.argv[1:] if arguments is None else arguments)
        return part(options.part, options.device, without(given, "--part", "--device"))
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    methods = options.methods.split(",")
    if unknown := set(methods) - set(METHODS):
        parser.error(f"--methods {', '.join(sorted(unknown))}: there are {', '.join(METHODS)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none here; --device cpu --scale smoke tries the script out")
    failed, device = False, choose_device(options.device)

    def watched() -> Iterator[str]:
        nonlocal failed
        for line in lines(methods, options.scale, device, options.seconds, compiled=options.compile):
            failed = failed or ": FAILED\n" in line
            yield line

    show(watched(), options.write, benchmark=__file__, software=("torch",), device=card(device), words=arguments)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
