"""How much faster fine-tuning is that hides patches at its beginning: MAE-ST Table 11.

    python -m benchmarks.finetune [--steps 16] [--rounds 3] [--threads 2] [--write]

ViT-Ti on clips of 16 x 112 px in patches of 2 x 16 x 16 (392 tokens), batches of 8, as in `benchmarks.step`; scale
cpu's fine-tuning, without mixup and RandAugment. The share of hidden patches falls along a cosine from what is named to
none, so a fine-tuning of few steps has the mean speed of a long one. The weights do not matter: the run is one of no
steps. Wall-clock of the steps alone, without testing and saving; the ratios take turns, and the median over rounds is
shown. A first fine-tuning of each is not counted.

Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), appendix B.3, Table 11: 1.2x and 1.3x (ViT-L, on GPUs
that also wait for videos to be decoded and augmented).
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import flatten, identity, load
from core.running.asking import Presets, asked_of
from core.running.stored import Judge, open_stored

OUTPUT = RESULTS / "finetune.txt"
RUN = [
    "method=mae_st", "scale=cpu", "optim.steps=0", "encoder.width=192", "encoder.depth=12", "encoder.heads=3",
    "encoder.patch=16", "encoder.tubelet=2", "data.size=112", "data.frames=16", "data.num_train=64",
    "data.num_test=10", "evals=[]",
]  # fmt: skip
PRINTED = {0.0: 1.0, 0.5: 1.2, 0.75: 1.3}


def fine_tuned(folder: Path, ratio: float, *, steps: int, threads: int) -> tuple[float, float]:
    """Seconds a step, and the share of the tokens that were encoded. `folder` is new, or its checkpoint answers."""
    words = [f"steps={steps}", "batch_size=8", "labels=[digit]", f"mask_ratio={ratio}"]
    here = [f"runtime.cache={folder.parent / 'cache'}", f"runtime.threads={threads}", "runtime.checkpoint_every=100000"]
    asked_for = ["evals=[finetune]", *(f"evals.finetune.{word}" for word in words), *here]
    (asked,) = asked_of(identity(flatten(load(RUN))), 0, asked_for, presets=Presets("mae_st", "cpu"))
    results = Judge(open_stored(asked.run, folder)).answer(asked).results
    return results[asked.metric("finetune/seconds_per_step")], results[asked.metric("finetune/tokens_share")]


def measure(folder: Path, *, steps: int, rounds: int, threads: int) -> Iterator[str]:
    seconds: dict[float, list[float]] = {ratio: [] for ratio in PRINTED}
    shares = dict.fromkeys(PRINTED, 0.0)
    for number in range(rounds + 1):
        for ratio, found in seconds.items():
            place = folder / f"{number}-{ratio}"
            taken, shares[ratio] = fine_tuned(place, ratio, steps=steps, threads=threads)
            shutil.rmtree(place)
            if number:
                found.append(taken)
    whole = statistics.median(seconds[0.0])
    for ratio, found in seconds.items():
        taken = statistics.median(found)
        yield (
            f"hidden at the first step {ratio:4.0%}   tokens encoded {shares[ratio]:4.0%}   {1 / taken:6.3f} steps/s"
            f"   ratio {whole / taken:5.2f} ({min(found):.3f} to {max(found):.3f} s a step)"
            f"   printed {PRINTED[ratio]:.1f}"
        )


def lines(*, steps: int, rounds: int, threads: int) -> Iterator[str]:
    yield f"ViT-Ti fine-tuned on 16 x 112 px, {steps} steps of 8 clips, {rounds} rounds; {threads} threads"
    with tempfile.TemporaryDirectory(prefix="finetune-") as folder:
        yield from measure(Path(folder), steps=steps, rounds=rounds, threads=threads)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = arguments_of(__doc__, OUTPUT)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    found = lines(steps=options.steps, rounds=options.rounds, threads=options.threads)
    output, card = OUTPUT if options.write else None, torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    show(found, output, benchmark=__file__, software=("torch",), device=card, words=arguments)


if __name__ == "__main__":
    main()
