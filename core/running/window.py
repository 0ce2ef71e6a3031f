"""Losses since the last log, and where the time of all steps went."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from core.measuring.phases import Costs, cpu_seconds, peak_memory
from core.running.checkpoint import CheckpointError as CheckpointError
from core.running.ranks.distributed import World, mean_over_ranks
from core.types import Recorder


class Window:
    """Losses since the last log, kept on the device so that no step waits for a number, and where the time went.

    Every step's own value is logged, not a mean over the window: a resumed run then logs what an uninterrupted one did.
    """

    def __init__(self, spent: float, waited: float, cpu: float) -> None:
        self.spent, self.waited = spent, waited  # seconds over all attempts: of training, of these waiting for data
        self.cpu = cpu  # processor seconds of training, over all attempts
        self.clock, self.cpu_clock = time.perf_counter(), cpu_seconds()
        self.rows: list[tuple[int, dict[str, Tensor | float]]] = []
        self.spent_at_open = spent

    def tick(self) -> float:
        """Count the seconds since the last tick as training time; returns them."""
        now, cpu = time.perf_counter(), cpu_seconds()
        passed, self.clock = now - self.clock, now
        self.spent += passed
        self.cpu += cpu - self.cpu_clock
        self.cpu_clock = cpu
        return passed

    def skip(self) -> None:
        """What passed since the last tick was not training (an evaluation in between)."""
        self.clock, self.cpu_clock = time.perf_counter(), cpu_seconds()

    def take(self, seconds: float, cpu: float) -> None:
        """Count these as training time, in place of what passed since the last tick."""
        self.skip()
        self.spent += seconds
        self.cpu += cpu

    def costs(self, device: torch.device, num_processes: int = 1) -> Costs:
        """Of all steps so far, by as many processes, which do equal shares; peaks are this process's."""
        on_gpu = device.type == "cuda"
        most = torch.cuda.max_memory_allocated(device) if on_gpu else 0
        gpu = num_processes * self.spent if on_gpu else 0.0
        return Costs(self.spent, num_processes * self.cpu, gpu, peak_memory(), most)

    def average_over(self, where: World) -> None:
        """Make each loss the mean over the ranks' shares of the batch, as one process would have computed it."""
        if where.size == 1:
            return
        # Every rank has the same names, though not every step need have.
        places = [(values, name) for _, values in self.rows for name in values if isinstance(values[name], Tensor)]
        means = mean_over_ranks(torch.stack([torch.as_tensor(values[name]) for values, name in places]))
        for (values, name), mean in zip(places, means, strict=True):
            values[name] = mean

    def first_broken(self, limit: float) -> int | None:
        """The first step whose loss is not finite or above `limit`, or whose gradient is not finite."""
        losses = torch.stack([torch.as_tensor(values["loss"]).float() for _, values in self.rows])
        norms = torch.stack([torch.as_tensor(values.get("grad_norm", 0.0)).to(losses) for _, values in self.rows])
        broken = (~losses.isfinite() | (losses > limit) | ~norms.isfinite()).cpu().nonzero()
        return self.rows[int(broken[0])][0] if len(broken) else None

    def flush(self, record: Recorder, batch_size: int) -> None:
        """Log every row of the window, the last one with the speed, and open the next window."""
        seconds = self.spent - self.spent_at_open
        for step, values in self.rows:
            numbers = {name: float(value) for name, value in values.items()}
            if step == self.rows[-1][0] and seconds > 0:
                numbers["samples_per_second"] = len(self.rows) * batch_size / seconds
            record.log(step, numbers)
        self.clear()

    def clear(self) -> None:
        self.rows, self.spent_at_open = [], self.spent
