"""What a grid of heads costs beside one head, and an evaluation on cached features beside one that encodes.

    python -m benchmarks.evals [--write]

The run is one of no steps (what is computed does not depend on the weights) on the data of scale cpu, moving_digits
with 8,000 and 2,000 clips. Figures are CPU-seconds in one thread, which a busy machine changes little: the least of
alternating rounds. The first part trains heads on features in memory, and says what the ratio is with encoding the data
once. One head's step is mostly calls and the features' way through the batch norm, 0.07 ms; twenty are twenty times its
arithmetic: on 96 features of 256 samples 20 MFLOP and 51,000 exponentials a step, in float32 0.15 ms of a core that
does 200 GFLOP/s. Without encoding the ratio of `linear` is therefore about 3, and grows with every saving on what the
heads share (`vissl` fits the chosen head again, alone, either way); with it, which is what a user waits for, it is
below 2. The second part opens the run, gives the answer and closes it, as `python -m core.evaluate` does in a process
that has started: without the cache, and with the features of an earlier call on disk; for the encoder of scale cpu
(3 blocks of width 96) and for ViT-Ti (12 of 192, patches of 4 px).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.lines import RESULTS, arguments_of, show
from core.configuring.config import Flat, flatten, identity, load
from core.running.asking import asked_of
from core.running.stored import Judge, open_stored

OUTPUT = RESULTS / "evals.txt"
TARGETS = {
    "linear": "at most 2 with encoding",
    "vissl (SGD)": "at most 2 with encoding",
    "scale cpu ridge": "ratio at least 10",
    "scale cpu knn": "ratio at least 10",
    "scale cpu low_shot": "ratio at least 10",
    "scale cpu linear": "ratio at least 10",
    "ViT-Ti ridge": "ratio at least 10",
    "ViT-Ti linear": "ratio at least 10",
    "ViT-Ti vissl": "ratio at least 10",
}
RUN = ["method=mae", "scale=cpu", "optim.steps=0", "evals=[ridge]"]
LRS = [round(0.001 * 1.5**number, 5) for number in range(10)]
GRIDS = {  # name: options of one head, options of twenty
    "linear": (
        ["evals=[linear]", "evals.linear.lrs=[0.02]", "evals.linear.weight_decays=[0.0]"],
        ["evals=[linear]", f"evals.linear.lrs={LRS}", "evals.linear.weight_decays=[0.0,0.0005]"],
    ),
    "vissl (SGD)": (
        ["evals.vissl.lrs=[0.1]", "evals.vissl.weight_decays=[0.0]"],
        [f"evals.vissl.lrs={LRS}", "evals.vissl.weight_decays=[0.0,0.0005]"],
    ),
}
VISSL = ["evals=[vissl]", "evals.vissl.layers=[1]", "evals.vissl.batch_norm=[true]", "evals.vissl.optimizer=sgd",
         "evals.vissl.batch_size=256"]  # fmt: skip
AGAIN = {  # name of the encoder: its options, rounds, evaluations
    "scale cpu": ([], 3, ["ridge", "knn", "low_shot", "linear"]),
    "ViT-Ti": (["encoder.width=192", "encoder.depth=12"], 1, ["ridge", "linear", "vissl"]),
}


def least(rounds: int, ways: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """CPU-seconds of each way, the least of `rounds` in turn."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - start)
    return best


def stored(*encoder: str) -> Flat:
    """The run's config as a database keeps it."""
    return identity(flatten(load([*RUN, *encoder])))


def measure(folder: Path) -> Iterator[str]:
    where = [f"runtime.cache={folder}", "runtime.threads=1", "runtime.device=cpu"]

    def judge(config: Flat, *words: str) -> tuple[Judge, Callable[[], None]]:
        """A judge of the run with this stored config, and what makes it answer."""
        (asked,) = asked_of(config, 0, [*words, *where])
        found = Judge(open_stored(asked.run, folder))
        return found, lambda: _ignore(found.answer(asked))

    for name, settings in GRIDS.items():
        shared = VISSL if name.startswith("vissl") else []
        ways, encoding = {}, 0.0
        for size, words in zip(("one", "twenty"), settings, strict=True):
            found, answer = judge(stored(), *shared, *words, "runtime.features_gib=0")
            answer()  # encodes; what is timed finds the features in memory
            ways[size], encoding = answer, found.encoding_seconds()
        best = least(3, ways)
        ratios = best["twenty"] / best["one"], (best["twenty"] + encoding) / (best["one"] + encoding)
        yield (
            f"{name:12} one head {best['one']:7.2f} s   20 heads {best['twenty']:7.2f} s   ratio {ratios[0]:5.2f}, "
            f"{ratios[1]:.2f} with encoding ({encoding:.2f} s)"
        )

    for title, (encoder, rounds, names) in AGAIN.items():
        config = stored(*encoder)
        for name in names:

            def fresh(name: str = name, config: Flat = config) -> None:
                judge(config, f"evals=[{name}]", "runtime.features_gib=0")[1]()

            def cached(name: str = name, config: Flat = config) -> None:
                judge(config, f"evals=[{name}]")[1]()

            cached()
            best = least(rounds, {"fresh": fresh, "cached": cached})
            yield (
                f"{title:9} {name:9} encoding {best['fresh']:7.2f} s   cached {best['cached']:7.2f} s   "
                f"ratio {best['fresh'] / best['cached']:6.1f}"
            )


def _ignore(answer: object) -> None:
    """An answer is timed, not looked at."""


def lines() -> Iterator[str]:
    yield "CPU-seconds in one thread"
    with tempfile.TemporaryDirectory(prefix="evals-") as folder:
        yield from measure(Path(folder))


def main(arguments: Sequence[str] | None = None) -> None:
    options = arguments_of(__doc__, OUTPUT).parse_args(arguments)
    torch.set_num_threads(1)
    output = OUTPUT if options.write else None
    show(lines(), output, benchmark=__file__, software=("torch",), targets=TARGETS, words=arguments)


if __name__ == "__main__":
    main()
