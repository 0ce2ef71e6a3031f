"""What a phase of a run uses: wall-clock and processor seconds, and the most memory it held.

A run's phases (pretraining, encoding the judged data, each evaluation) share a process, whose own record of its peak
does not forget the phase before. Where a phase sets a new record, the record is its peak; otherwise its peak is the
largest of samples taken while it ran.
"""

from __future__ import annotations

import resource
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch

SAMPLE_S = 0.02  # between two looks at the memory in use
GIB = 2**30


class Costs(NamedTuple):
    """What a phase used. Of loader processes only those count that have ended."""

    seconds: float  # wall-clock
    cpu_seconds: float
    gpu_seconds: float  # that a GPU was held, busy or not
    peak_memory: int  # bytes of host memory
    peak_gpu_memory: int  # bytes; 0 without a GPU

    def without(self, seconds: float, cpu_seconds: float) -> Costs:
        """Less what another phase used in the middle of this one; a peak cannot be divided."""
        gpu_seconds = max(0.0, self.gpu_seconds - seconds) if self.gpu_seconds else 0.0
        return self._replace(
            seconds=max(0.0, self.seconds - seconds),
            cpu_seconds=max(0.0, self.cpu_seconds - cpu_seconds),
            gpu_seconds=gpu_seconds,
        )

    def metrics(self, phase: str) -> dict[str, float]:
        """As a table shows them: ``cost/<phase>_seconds``, and so on (`cost_names`)."""
        values = (
            self.seconds, self.cpu_seconds, self.gpu_seconds, self.peak_memory / GIB, self.peak_gpu_memory / GIB,
        )  # fmt: skip
        return dict(zip(cost_names(phase), map(float, values), strict=True))


def cost_names(phase: str) -> list[str]:
    """The metrics that `Costs.metrics` gives."""
    return [
        f"cost/{phase}_{name}"
        for name in ("seconds", "cpu_seconds", "gpu_seconds", "peak_memory_gib", "peak_gpu_memory_gib")
    ]


class Phase:
    """Measures what happens inside ``with Phase(device) as phase``; `phase.costs` afterwards."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.costs: Costs | None = None
        self._is_over = threading.Event()
        self._sampler = threading.Thread(target=self._watch, name="memory of a phase", daemon=True)

    def __enter__(self) -> Self:
        self._start, self._cpu = time.perf_counter(), cpu_seconds()
        self._record, self._gpu_record = peak_memory(), self._gpu_peak()
        self._most, self._most_gpu = memory(), self._gpu_memory()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda" and kind is None:
            torch.cuda.synchronize(self.device)  # its kernels may still be running
        seconds = time.perf_counter() - self._start
        self._is_over.set()
        self._sampler.join()
        self._look()
        record, gpu_record = peak_memory(), self._gpu_peak()
        self.costs = Costs(
            seconds,
            cpu_seconds() - self._cpu,
            seconds if self.device.type == "cuda" else 0.0,
            record if record > self._record else self._most,
            gpu_record if gpu_record > self._gpu_record else self._most_gpu,
        )

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_S):
            self._look()

    def _look(self) -> None:
        self._most, self._most_gpu = max(self._most, memory()), max(self._most_gpu, self._gpu_memory())

    def _gpu_memory(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0

    def _gpu_peak(self) -> int:
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0


def cpu_seconds() -> float:
    """Of this process since it started, and of its child processes that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def memory() -> int:
    """Bytes of host memory this process holds now (its peak on systems without /proc)."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory()
    return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def peak_memory() -> int:
    """The most bytes of host memory this process has held since the system last began to count."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
