"""Whether a study's training steps fit into GPUs' memory, and what to set if not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        key = repr([getattr(run, part) for part in DECIDING] + [run.optim.batch_size, run.optim.steps > 0])
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
