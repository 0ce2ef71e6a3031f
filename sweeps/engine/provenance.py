"""Where and with what an attempt ran, and what it used: the columns of `sw_attempt`."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sweeps.engine.queue import Usage

ROOT = Path(__file__).parents[2]
CODE = ("core", "sweeps")  # what makes the numbers; a results database that changed is no dirty code


class Environment(NamedTuple):
    """The installed packages and the interpreter, by name, and their hash (`sw_environment`)."""

    hash: str
    packages: dict[str, str]


def device_name(device: str = "auto") -> str:
    """The model name of what `runtime.device` stands for here."""
    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return _cpu_name()


def is_gpu(device: str = "auto") -> bool:
    return device != "cpu" and torch.cuda.is_available()


@functools.cache
def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


@functools.cache
def environment() -> Environment:
    packages = {str(found.name): str(found.version) for found in metadata.distributions()}
    packages["python"] = platform.python_version()
    ordered = dict(sorted(packages.items()))
    return Environment(hashlib.sha256(json.dumps(ordered).encode()).hexdigest(), ordered)


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """The checkout's commit, and whether its code differs from it; (None, None) for an installed package."""
    try:
        top = _git("rev-parse", "--show-toplevel")
        # Installed below some other project's checkout, its commit says nothing about our code.
        if Path(top).resolve() != ROOT.resolve():
            return None, None
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.SubprocessError):
        return None, None


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def attempt_columns(device: str = "auto") -> dict[str, Any]:
    """What `sweeps.engine.queue.claim` stores beside the attempt: host, slurm_job, device, git_sha, dirty, env_hash."""
    git_sha, dirty = git_state()
    return {
        "host": socket.gethostname(),
        "slurm_job": slurm_job(),
        "device": device_name(device),
        "git_sha": git_sha,
        "dirty": dirty,
        "env_hash": environment().hash,
    }


def slurm_job() -> str | None:
    """The job this process is in, an array's task as Slurm's commands name it: `1234_7`."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ.get("SLURM_JOB_ID")


class Meter:
    """What this process uses from now on: CPU seconds, seconds on the GPU, peak memory of host and GPU.

    With several processes a run the seconds of all their GPUs, and the CPU seconds of those that have ended.
    """

    def __init__(self, device: str = "auto", num_processes: int = 1) -> None:
        # Asked for here: the current card is a thread's own, and `usage` is called from another thread.
        self.gpu = torch.cuda.current_device() if is_gpu(device) else None
        self.num_processes = num_processes
        self.clock, self.cpu = time.monotonic(), _cpu_seconds()
        reset_peak_memory()
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)

    def usage(self, step: int | None = None) -> Usage:
        return Usage(
            step=step,
            cpu_seconds=_cpu_seconds() - self.cpu,
            gpu_seconds=self.num_processes * (time.monotonic() - self.clock) if self.gpu is not None else 0.0,
            peak_memory=peak_memory(),
            peak_gpu_memory=torch.cuda.max_memory_allocated(self.gpu) if self.gpu is not None else None,
        )


def _cpu_seconds() -> float:
    """Of this process and of its loader processes that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def reset_peak_memory() -> None:
    """Let `peak_memory` start over, so that a warm worker's second run is not charged for its first. Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return  # another system, or a container that forbids it: the peak is then the process's, not the run's


def peak_memory() -> int:
    """The most host memory this process held since `reset_peak_memory`, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
