"""Train and evaluate one run from the command line, without a database.

    python -m core.train method=ijepa mask.num_targets=2 seed=1 scale=smoke runtime.dir=runs/first

Numbers go to the console, to TensorBoard events and to ``result.json`` in `runtime.dir`. Running the same command
again resumes at the last checkpoint; a run that has ended prints its result.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import OutOfMemoryError
from torch.utils.tensorboard import SummaryWriter

from core import terminal
from core.configuring.config import (
    GROUPS,
    SECTIONS,
    ConfigError,
    Run,
    Runtime,
    check_here,
    fingerprints,
    flatten,
    identity,
    load,
    parse,
)
from core.configuring.layers import collected, refuse, unknown
from core.configuring.plugins import loaded
from core.configuring.stop import Stop
from core.data.augment import Augment
from core.evals import EVALS
from core.evaluate import parsed
from core.optim import Optim
from core.running.checkpoint import CheckpointError, other_data
from core.running.ending import short, whole
from core.running.trainer import train
from core.terminal import FULL, blamed
from core.types import DataError, taken

USAGE = """usage: python -m core.train [method=...] [scale=...] [seed=...] [key=value ...]

Trains and evaluates one run. Every option is a dotted key; `python -m core.train help=mask` lists the variants of a
component and their options (also: help=optim, help=augment, help=stop, help=runtime, help=evals).

  method=ijepa|mae|mae_st|...     a preset; any key after it overrides the preset
  scale=smoke|cpu|lab|gpu|paper   how large (default: cpu)
  judge=last|best                 which weights are judged: the last step's, or those that a probe of held-out
                                  training clips liked best
  runtime.dir=runs/last           checkpoints, TensorBoard events, result.json; the same command again resumes
  verbose=true                    print all numbers at the end, not ten lines
  plugins=[my_lab.masks]          modules out of this tree that register components: docs/plugins.md

example: python -m core.train method=ijepa mask.num_targets=2 seed=1 scale=smoke runtime.dir=runs/first"""


class ConsoleRecorder:
    """A progress bar for the person watching, TensorBoard events and ``result.json`` for later."""

    def __init__(self, run: Run, console: Console, *, is_main: bool) -> None:
        self.folder = Path(run.runtime.dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.stop_asked = False
        self.outcome = "unfinished"
        self.rankme = ""  # of the last look at the features
        self.loss: float | None = None
        self.data: dict[str, str] = {}
        self.config = {**flatten(run), **{f"runtime.{key}": value for key, value in vars(run.runtime).items()}}
        self.events = SummaryWriter(str(self.folder / "events")) if run.runtime.tensorboard and is_main else None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not is_main)
        self.bar = self.progress.add_task(f"{run.method} seed {run.seed}", total=run.optim.steps, numbers="")

    def saw(self, data: Mapping[str, str]) -> None:
        self.data = dict(data)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.events is not None:
            for name, value in metrics.items():
                self.events.add_scalar(name, value, step)
        self.loss = metrics.get("loss", self.loss)
        if "monitor/rankme" in metrics:
            self.rankme = f"  RankMe {metrics['monitor/rankme']:.1f}"
        if "samples_per_second" in metrics:
            numbers = f"loss {metrics['loss']:.4f}{self.rankme}  {metrics['samples_per_second']:,.0f} samples/s"
            self.progress.update(self.bar, completed=step, numbers=numbers)

    def checkpointed(self, step: int, path: Path) -> None:
        if self.events is not None:
            self.events.flush()

    def should_stop(self) -> bool:
        return self.stop_asked

    def ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_asked = True

    def keep(self, name: str, kind: str, content: bytes) -> None:
        (self.folder / name).write_bytes(content)

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        self.outcome = outcome
        if self.events is not None:
            self.events.close()
        if outcome == "preempted":
            return
        record: dict[str, Any] = {
            "outcome": outcome,
            "results": dict(results),
            "facts": dict(facts),
            "config": self.config,
        }
        record["data"] = self.data
        record["loss"] = self.loss
        temporary = self.folder / ".result.json.tmp"
        temporary.write_text(json.dumps(record, indent=1, sort_keys=True), encoding="utf-8")
        temporary.replace(self.folder / "result.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the run is done, 1 when it diverged or collapsed, 2 for a mistake in the command, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return terminal.answered(lambda: command(words))


def command(arguments: Sequence[str]) -> int:
    console = Console(stderr=True)

    def refused(reason: object) -> int:
        # One line, however narrow the terminal: logs are searched by line.
        console.print(
            f"error: {terminal.without_passwords(str(reason))}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        return terminal.USER_ERROR

    if any(word in ("-h", "--help", "help") for word in arguments):
        print(USAGE)
        return 0
    wrong = [repeated] if (repeated := terminal.given_twice(arguments)) is not None else []
    is_verbose, arguments = told_all(arguments, wrong)
    topic = next((word.removeprefix("help=") for word in arguments if word.startswith("help=")), None)
    try:
        if topic is not None:
            load_plugins_of(arguments)
            print(describe(topic))
            return 0
        is_main = announced_rank() == 0
        with collected(wrong):
            run = load(terminal.given_once(arguments))
        refuse(wrong)
        if (done := finished(run)) is not None:
            print_results(done, run.runtime.dir, is_verbose=is_verbose)
            return 0 if done["outcome"] == "done" else 1
        check_here(run)
    except ConfigError as error:
        return refused(error)
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    places = {"runtime.dir": Path(run.runtime.dir), "runtime.cache": Path(run.runtime.cache)}
    try:
        recorder = ConsoleRecorder(run, console, is_main=is_main)
    except OSError as error:
        return refused(blamed(error, places) or error)
    # SIGUSR2 is what clusters are asked to send before they stop a job (#SBATCH --signal).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, recorder.ask_to_stop)
    try:
        with recorder.progress:
            train(run, recorder)
    except (ConfigError, CheckpointError, DataError) as error:
        return refused(error)
    except OutOfMemoryError as error:
        logging.getLogger(__name__).debug("out of memory", exc_info=error)
        return refused(out_of_memory(run, error))
    except OSError as error:
        # A full disk names no file: it is the checkpoint's, which is written last.
        if (at_fault := blamed(error, places)) is None and error.errno not in FULL:
            raise
        return refused(at_fault or f"runtime.dir={run.runtime.dir}: {error.strerror}; make room or give another")
    if not is_main:
        return 0
    if recorder.outcome == "preempted":
        console.print(f"stopped at a checkpoint in {recorder.folder}; the same command goes on from there")
        return 130
    ended = json.loads((recorder.folder / "result.json").read_text(encoding="utf-8"))
    print_results(ended, run.runtime.dir, is_verbose=is_verbose)
    return 1 if recorder.outcome in ("diverged", "collapsed") else 0


def told_all(words: Sequence[str], wrong: list[str]) -> tuple[bool, list[str]]:
    """Whether ``verbose=true`` is among `words`, and the others; another value of it is added to `wrong`."""
    said = [word.partition("=")[2] for word in words if word.startswith("verbose=")]
    wrong += [f"verbose={value}: must be true or false" for value in said if value not in ("true", "false")]
    return said == ["true"], [word for word in words if not word.startswith("verbose=")]


def out_of_memory(run: Run, error: OutOfMemoryError) -> str:
    asked = str(error).splitlines()[0].partition(". GPU")[0].rstrip(".")
    return (
        f"out of memory on the GPU: {asked}; take a step's batch in parts (runtime.accumulate=2), compute blocks again "
        f"(runtime.checkpoint_blocks=true), set a smaller optim.batch_size than {run.optim.batch_size}, or share the "
        "batch out to more processes (torchrun). Checkpoints are intact"
    )


def finished(run: Run) -> dict[str, Any] | None:
    """The stored result of this very run in its folder, or None where it has not ended.

    Raises ConfigError when the folder holds the result of another run.
    """
    path = Path(run.runtime.dir) / "result.json"
    if not path.exists():
        return None
    record = parsed(path)
    if not isinstance(record, dict) or not {"config", "outcome", "results"} <= record.keys():
        raise ConfigError(f"{path} is no result of a run: move it away, or choose another runtime.dir")
    wanted = json.loads(json.dumps(identity(flatten(run)) | {"seed": run.seed}))
    stored = identity(record["config"]) | {"seed": record["config"]["seed"]}
    differing = sorted(key for key in wanted.keys() | stored.keys() if wanted.get(key) != stored.get(key))
    if differing:
        key = differing[0]
        raise ConfigError(
            f"runtime.dir={run.runtime.dir} holds the result of another run ({key}={stored.get(key)}, asked for"
            f" {wanted.get(key)}); choose another folder"
        )
    now = fingerprints(run)
    for group, before in record.get("data", {}).items():
        if now.get(group, before) != before:
            raise ConfigError(
                other_data(f"runtime.dir={run.runtime.dir} has the result of a run", group, before, now[group])
            )
    return record


def announced_rank() -> int:
    """This process's number among those that torchrun started; 0 without it.

    Raises ConfigError where the environment says that there are several, and not how they find each other.
    """
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise ConfigError(
                f"the environment has {name}={value}, which is no number: unset it, or start with torchrun"
            )
    size = os.environ.get("WORLD_SIZE", "1")
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if int(size) > 1 and missing:
        raise ConfigError(
            f"the environment has WORLD_SIZE={size} and no {missing[0]}: start with torchrun, which sets both"
        )
    return int(os.environ.get("RANK", "0"))


def print_results(record: Mapping[str, Any], folder: str, *, is_verbose: bool) -> None:
    print("\n".join(whole(record) if is_verbose else short(record, folder)))


def load_plugins_of(arguments: Sequence[str]) -> None:
    """Those that are installed, and those of ``plugins=[...]``. Raises ConfigError for one that cannot be had."""
    loaded(parse([word for word in arguments if word.startswith("plugins=")]))


def describe(topic: str) -> str:
    """The variants of a component kind with their options and defaults, or the options of a section."""
    sections = {"optim": Optim, "augment": Augment, "stop": Stop, "runtime": Runtime}
    if topic in SECTIONS:
        return option_lines(topic, topic, sections[topic])
    groups = {**GROUPS, "evals": EVALS}
    if topic not in groups:
        raise ConfigError(unknown("help", topic, [*groups, *SECTIONS]))
    return "\n\n".join(
        option_lines(f"{topic}={name}", f"evals.{name}" if topic == "evals" else topic, variant)
        for name, variant in groups[topic].items()
    )


def option_lines(title: str, prefix: str, variant: type) -> str:
    summary = (variant.__doc__ or "").strip().splitlines()[0]
    lines = [f"    {prefix}.{name}={shown(value, taken(variant, name))}" for name, value in vars(variant()).items()]
    return "\n".join([f"{title}: {summary}", *lines])


def shown(value: Any, allowed: Sequence[Enum] = ()) -> str:
    """An option's value as it is typed, and the others of a named choice: those `allowed`, or all."""
    if isinstance(value, Enum):
        return f"{value.name}  (or {', '.join(other.name for other in allowed or type(value) if other is not value)})"
    return "null" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())
