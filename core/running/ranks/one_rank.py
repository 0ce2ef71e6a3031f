"""One of the processes that train a run, but the first: `core.running.ranks.processes` starts it, never a person."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch

from core.configuring.config import from_flat
from core.configuring.fitting import choose_device
from core.running.ranks.processes import environment, is_of_others, refuse_machine
from core.running.trainer import train


class Silent:
    """A recorder that only knows where checkpoints are, and whether this process was asked to stop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_asked = False

    def ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True

    def saw(self, data: Mapping[str, str]) -> None:
        """The first process tells."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The first process logs."""

    def checkpointed(self, step: int, path: Path) -> None:
        """The first process saves."""

    def should_stop(self) -> bool:
        return self.is_asked

    def keep(self, name: str, kind: str, content: bytes) -> None:
        """The first process keeps."""

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """The first process ends the run."""


def main() -> int:
    tell, sys.stdout = sys.stdout, sys.stderr  # what others print must not be taken for what this process tells
    told = json.loads(sys.stdin.readline())
    rank = int(told.get("rank", os.environ.get("SLURM_PROCID", "0")))
    if rank == 0:
        return 0  # that is whoever started us
    record = Silent(Path(told["folder"]))
    # Ctrl-C reaches the first process too, which asks all to stop after one step.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, record.ask)
    threading.Thread(target=end_with_input, daemon=True).start()
    try:
        take_part(told, rank, record, tell)
    except BaseException as error:
        kind = "lost_others" if isinstance(error, Exception) and is_of_others(error) else type(error).__name__
        logging.getLogger(__name__).debug("process %d", rank, exc_info=error)
        say(tell, rank, kind, " ".join(f"{type(error).__name__}: {error}".split())[:500])
        os._exit(1)  # the others wait for this process: nothing on the way out may hold them up
    return 0


def take_part(told: Mapping[str, Any], rank: int, record: Silent, tell: TextIO) -> None:
    local_rank = int(told.get("local_rank", os.environ.get("SLURM_LOCALID", "0")))
    words = environment(rank, local_rank, told["size"], told["address"], told["port"])
    os.environ.update(words)
    torch.set_num_threads(told["threads"])
    run = from_flat(told["config"], seed=told["seed"], runtime=told["runtime"])
    if choose_device(run.runtime.device).type == "cuda":
        refuse_machine("cuda", local_rank + 1)
    say(tell, rank, "ready", "")
    train(run, record)


def say(tell: TextIO, rank: int, kind: str, error: str) -> None:
    print(json.dumps({"rank": rank, "kind": kind, "error": error}), file=tell, flush=True)


def end_with_input() -> None:
    """Nobody may train on once the first process is gone, which has the lease."""
    while sys.stdin.readline():
        continue
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
