"""What is asked of Slurm for a job, as `slurm.KEY=VALUE` says it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from core import terminal
from sweeps.console.errors import UserError, close_matches

PILOTS = 4  # at once, where slurm.array does not say

COMMANDS = ("sbatch", "srun", "squeue", "scontrol")

# What we set ourselves, and the option that is meant for it.
TAKEN = {
    "partition": "slurm.partition", "time": "slurm.time_min", "gpus": "slurm.gpus", "gpus-per-node": "slurm.gpus",
    "cpus-per-task": "slurm.cpus", "array": "slurm.array", "signal": "slurm.warn_s", "job-name": "", "output": "",
    "error": "", "open-mode": "", "requeue": "", "nodes": "slurm.nodes", "ntasks": "", "ntasks-per-node": "",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What is asked of Slurm for one pilot; how many there are is the executor's `workers`."""

    partition: str = ""  # empty: the cluster's default
    time_min: int = 60
    gpus: int = 0  # each trains a run of its own
    gpus_per_run: int = 1  # instead: so many train one run, spread evenly over `nodes`
    nodes: int = 1
    cpus: int = 0  # for each run; 0: the cluster's default
    warn_s: int = 120  # SIGUSR2 comes that long before the time is over: a step and a checkpoint must fit
    extra: dict[str, str] = field(default_factory=dict)  # any other option of sbatch, by its long name

    @property
    def num_tasks(self) -> int:
        """Worker processes in a pilot."""
        return max(1, self.gpus)

    def starter(self) -> tuple[str, ...]:
        """The command that starts the processes of a run inside its job; empty where it has only the worker's."""
        if self.gpus_per_run == 1:
            return ()
        share = self.gpus_per_run // self.nodes
        return (
            "srun", "--overlap", "--unbuffered", "--kill-on-bad-exit=1", f"--nodes={self.nodes}",
            f"--ntasks={self.gpus_per_run}", f"--ntasks-per-node={share}", f"--gpus-per-node={share}",
            "--distribution=block", *([f"--cpus-per-task={self.cpus}"] if self.cpus else []),
        )  # fmt: skip

    def parameters(self, name: str) -> dict[str, Any]:
        """As submitit calls them."""
        asked: dict[str, Any] = {
            "job_name": name,
            "time": self.time_min,
            "ntasks_per_node": self.num_tasks,
            "signal_delay_s": self.warn_s,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **self.extra},
        }
        if self.partition:
            asked["partition"] = self.partition
        srun = []
        if self.gpus:
            asked["gpus_per_node"] = self.gpus
        if self.gpus_per_run > 1:
            # One worker, on the first node; it starts the other processes of its runs in a step of their own.
            share = self.gpus_per_run // self.nodes
            asked |= {"nodes": self.nodes, "ntasks_per_node": share, "gpus_per_node": share}
            srun += ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1"]
        if self.cpus:
            # Since Slurm 22.05 srun no longer takes this over from the job.
            asked["cpus_per_task"] = self.cpus
            srun.append(f"--cpus-per-task={self.cpus}")
        if srun:
            asked["srun_args"] = srun
        return asked


def parse(words: Sequence[str]) -> tuple[Options, int]:
    """The words ``slurm.key=value`` as options, and the number of pilots. Raises UserError."""
    if (repeated := terminal.given_twice(words)) is not None:
        raise UserError(repeated)
    given: dict[str, str] = {}
    allowed = ("partition", "time_min", "gpus", "gpus_per_run", "nodes", "cpus", "array", "warn_s", "extra")
    for word in words:
        name, equals, value = word.removeprefix("slurm.").partition("=")
        if name not in allowed:
            known = ", ".join(f"slurm.{other}" for other in allowed)
            raise UserError(f"slurm.{name}: unknown option{close_matches(name, allowed)}; options: {known}")
        if not equals or not value:
            raise UserError(f"slurm.{name} needs a value: slurm.{name}=...")
        given[name] = value
    numbers = {"time_min": 1, "gpus": 0, "gpus_per_run": 1, "nodes": 1, "cpus": 1, "array": 1, "warn_s": 1}
    for name, least in numbers.items():
        if name in given and (not given[name].isdecimal() or int(given[name]) < least):
            raise UserError(f"slurm.{name} must be a whole number of at least {least}, got {given[name]!r}")
    whole = {name: int(given[name]) for name in numbers if name in given}
    pilots = whole.pop("array", PILOTS)
    options = Options(partition=given.get("partition", ""), extra=_extra(given.get("extra", "{}")), **whole)
    if options.warn_s >= 60 * options.time_min:
        raise UserError(f"slurm.warn_s must be below slurm.time_min ({options.time_min} min), got {options.warn_s} s")
    if options.gpus and options.gpus_per_run > 1:
        raise UserError(
            f"slurm.gpus={options.gpus} gives each GPU a run of its own, slurm.gpus_per_run={options.gpus_per_run} "
            "takes them together: give one of them"
        )
    if options.gpus_per_run % options.nodes:
        raise UserError(
            f"slurm.gpus_per_run={options.gpus_per_run} cannot be spread evenly over slurm.nodes={options.nodes}: it "
            "counts the GPUs of a run on all its nodes, so give a multiple of them"
        )
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"executor=slurm: {missing[0]} is not on the PATH of {os.uname().nodename}: "
            "launch on a login node of the cluster, or use executor=local"
        )
    return options, pilots


def _extra(text: str) -> dict[str, str]:
    try:
        extra = yaml.safe_load(text)
    except yaml.YAMLError:
        extra = None
    if not isinstance(extra, dict):
        raise UserError(f"slurm.extra must be a mapping such as '{{account: vision, mem: 16G}}', got {text!r}")
    named = {str(key).replace("_", "-"): value for key, value in extra.items()}
    for key, value in named.items():
        if re.fullmatch(r"[a-z][a-z0-9-]+", key) is None:
            raise UserError(f"slurm.extra: {key!r} is no long option of sbatch, such as account or mem")
        if key in TAKEN:
            raise UserError(f"slurm.extra: {key} " + (f"is {TAKEN[key]}" if TAKEN[key] else "is set by the launcher"))
        if value is not True and not isinstance(value, str | int | float):
            raise UserError(f"slurm.extra: {key} must be text, a number or true, got {value!r}")
    return named


PLAIN = Options()  # nothing but what everybody asks
