"""Whether a study's training steps fit into GPUs' memory, and what to set if not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from sweeps.cells.expand import words
from sweeps.cells.request import Request

# Parts of a config that decide what a step keeps.
DECIDING = ("objective", "data", "flow_data", "encoder", "mask", "target", "predictor", "loss")


def advice(requests: Sequence[Request], *, gpus: int, gpu_memory: float) -> Iterator[tuple[str, str, int]]:
    """Study, what is said of a step and of how many of its cells; nothing is trained, and data need not be here."""
    # core imports torch, 3 s that other plans go without where everything is known.
    from core.configuring.config import ConfigError, load
    from core.forecast.memory import room

    known: dict[str, str] = {}

    def said(run: Any) -> str:
        key = _deciding(run)
        if key not in known:
            try:
                known[key] = room(run).advice(gpus, gpu_memory) if run.optim.steps else "trains nothing"
            # What cannot be built without its data or a file is told as such, and the other cells are.
            except (ConfigError, ValueError, RuntimeError, TypeError, OSError) as error:
                known[key] = f"not counted: {str(error).splitlines()[0]}"
        return known[key]

    for request in track(requests, "counting memory", console=Console(stderr=True)):
        counts: dict[str, int] = {}
        for cell in request.study.cells(request.scale):
            try:
                text = said(load(words(cell.overrides, request), checked=False))
            except ConfigError as error:
                text = f"not counted: {str(error).splitlines()[0]}"
            counts[text] = counts.get(text, 0) + 1
        yield from ((request.instance, text, count) for text, count in counts.items())


def most_needed(configs: Sequence[Mapping[str, Any]], data_root: str) -> float | None:
    """GiB that the largest step among these takes of a GPU; None where one of them cannot be counted here."""
    # core imports torch, 3 s that launches go without where no GPU is.
    from core.configuring.config import ConfigError, from_flat
    from core.forecast.memory import room

    known: dict[str, float] = {}
    for flat in configs:
        try:
            run = from_flat(flat, seed=0, runtime={"data_root": data_root})
            key = _deciding(run)
            if key not in known:
                known[key] = room(run).needed(1)
        # It may be larger than all others; whoever asks then does without.
        except (ConfigError, ValueError, RuntimeError, TypeError, OSError):
            return None
    return max(known.values(), default=None)


def _deciding(run: Any) -> str:
    return repr([getattr(run, part) for part in DECIDING] + [run.optim.batch_size, run.optim.steps > 0])


def as_table(found: Sequence[tuple[str, str, int]], *, gpus: int, gpu_memory: float) -> Table:
    where = f"each of {gpus} GPUs" if gpus > 1 else "a GPU"
    table = Table(title=f"Memory of a training step on {where} of {gpu_memory:g} GiB")
    table.add_column("study", no_wrap=True)
    table.add_column("cells", justify="right")
    table.add_column("memory")
    before = ""
    for study, text, count in found:
        table.add_row("" if study == before else escape(study), str(count), escape(text))
        before = study
    return table
