"""One run by several processes: whoever calls is the first of them, starts the others and ends with them.

The others are `core.running.ranks.one_rank`. Each is told its run as a line on its standard input, which stays open as
long as the first process lives: its end ends them, on whichever machine they are. They tell that they are ready, and
what they failed of, as lines on their standard output.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from core.configuring.config import ConfigError, Run, flatten
from core.configuring.fitting import check_device
from core.data.loader import can_share
from core.running.checkpoint import CheckpointError
from core.running.trainer import train
from core.types import Recorder

log = logging.getLogger(__name__)
START_S = 600.0  # for the others to import what they need
END_S = 30.0  # for the others to leave once the first has ended, or to say what they failed of
COMMAND = (sys.executable, "-m", "core.running.ranks.one_rank")


class Together(NamedTuple):
    """How many processes train a run, and where they are."""

    size: int = 1
    first_gpu: int = 0  # of this machine: process i has the i-th from there
    # A command that starts all `size` on their machines and says in SLURM_PROCID which is which; () starts them here.
    starter: tuple[str, ...] = ()
    address: str = "127.0.0.1"  # of this machine, as the others know it


class RankError(RuntimeError):
    """Another process of the run failed."""


def refuse(run: Run, size: int) -> None:
    """Raises ConfigError, naming the option, where a step cannot be shared out to `size` processes."""
    if run.optim.steps == 0:
        return
    if run.optim.batch_size % size:
        raise ConfigError(
            f"gpus_per_run={size}: optim.batch_size={run.optim.batch_size} cannot be shared out evenly: give a multiple"
        )
    if (pairs := run.objective.num_pairs()) and not can_share(pairs, size):
        raise ConfigError(
            f"gpus_per_run={size}: objective.flow_batch={pairs} cannot be shared out evenly: give a multiple or "
            "a divisor"
        )
    if (share := run.optim.batch_size // size) % run.runtime.accumulate:
        raise ConfigError(
            f"runtime.accumulate={run.runtime.accumulate} must divide each process's share of optim.batch_size, "
            f"{share} with gpus_per_run={size}"
        )


def refuse_machine(device: str, size: int) -> None:
    """Raises ConfigError where this machine has fewer GPUs than processes that want one."""
    check_device(device)
    if device != "cpu" and (there := torch.cuda.device_count()) < size:
        raise ConfigError(
            f"gpus_per_run={size}: torch sees {there} on this machine; ask for fewer, "
            "or for that many processes of the CPU with runtime.device=cpu"
        )


def train_together(run: Run, record: Recorder, together: Together) -> None:
    """`train` by `together.size` processes; this one alone tells `record`, and all end when it does."""
    if run.optim.steps == 0:  # nothing to share out: only the first process judges
        train(run, record)
        return
    refuse(run, together.size)
    port = free_port()
    others = Others(run, record, together, port)
    try:
        others.wait_until_ready()
        with announced(together, port):
            train(run, record)
    except Exception as error:
        if not is_of_others(error):
            raise
        reason = others.reason() or error
        if not record.should_stop():
            raise reason from error
        # Whoever ends this process has ended another first: no fault of the run, which goes on from its checkpoint.
        log.info("stopped: %s", reason)
        record.finish("preempted", {}, {})
    finally:
        others.end()


@contextmanager
def announced(together: Together, port: int) -> Iterator[None]:
    """The environment as torchrun has it for the first process."""
    words = environment(0, together.first_gpu, together.size, together.address, port)
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def environment(rank: int, local_rank: int, size: int, address: str, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank), "LOCAL_RANK": str(local_rank), "WORLD_SIZE": str(size), "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("", 0))
        return int(trial.getsockname()[1])


def is_of_others(error: Exception) -> bool:
    """Whether an error says no more than that another process of the run is gone."""
    return isinstance(error, RankError | dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in ("gloo", "Gloo", "NCCL", "onnection"))
    )


class Others:
    """The processes of a run besides this one."""

    def __init__(self, run: Run, record: Recorder, together: Together, port: int) -> None:
        self._size = together.size
        self._told: queue.Queue[dict[str, Any]] = queue.Queue()
        self._errors: list[dict[str, Any]] = []
        told = {
            "config": flatten(run), "seed": run.seed, "runtime": dataclasses.asdict(run.runtime),
            "folder": str(record.folder), "size": together.size, "address": together.address, "port": port,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        self._processes: list[subprocess.Popen[str]] = []
        if together.starter:
            self._start([*together.starter, *COMMAND], told, of_slurm(os.environ))
        else:
            for rank in range(1, together.size):
                place = {"rank": rank, "local_rank": together.first_gpu + rank}
                self._start(COMMAND, told | place, dict(os.environ))

    def _start(self, command: Sequence[str], told: Mapping[str, Any], environment: dict[str, str]) -> None:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, encoding="utf-8"
        )
        self._processes.append(process)
        with suppress(BrokenPipeError):  # it has died; its end will be told
            assert process.stdin is not None
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()
        # A thread that waits for it, so that its processor seconds are this one's children's as soon as it has ended.
        threading.Thread(target=self._listen, args=(process, told.get("rank")), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str], rank: int | None) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                self._told.put(json.loads(line))
        if code := process.wait():
            self._told.put({"rank": rank, "kind": "died", "error": ended_by(code)})

    def wait_until_ready(self) -> None:
        """Until all have imported what they need and have a device: from then on each waits for all."""
        ready, deadline = 1, time.monotonic() + START_S
        while ready < self._size:
            try:
                told = self._told.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise RankError(f"{self._size - ready} of {self._size} processes did not start") from None
            if told["kind"] == "ready":
                ready += 1
            else:
                self._errors.append(told)
                raise RankError("a process of the run ended before training")

    def reason(self) -> Exception | None:
        """What the first of the others to fail failed of, if one says so within a while."""
        deadline = time.monotonic() + END_S
        while not any(told["kind"] not in ("lost_others", "died") for told in self._errors):
            try:
                # One that says what is wrong says so before it ends, another may say it after.
                wait_s = 2.0 if self._errors else END_S
                told = self._told.get(timeout=max(0.0, min(wait_s, deadline - time.monotonic())))
            except queue.Empty:
                break
            if told["kind"] != "ready":
                self._errors.append(told)
        if not self._errors:
            return None
        order = ("lost_others", "died")
        told = max(self._errors, key=lambda each: order.index(each["kind"]) if each["kind"] in order else len(order))
        who = "a process" if told["rank"] is None else f"process {told['rank']}"
        return KINDS.get(told["kind"], RankError)(f"{who} of {self._size}: {told['error']}")

    def end(self) -> None:
        """See them off: those that trained to the end leave by themselves, the others when their input ends."""
        for process in self._processes:
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        deadline = time.monotonic() + END_S
        for process in self._processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# Errors of another process that mean the same as one's own, by name.
KINDS: dict[str, type[Exception]] = {
    "OutOfMemoryError": torch.OutOfMemoryError,
    "MemoryError": MemoryError,
    "ConfigError": ConfigError,
    "CheckpointError": CheckpointError,
}


def ended_by(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"


def of_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what Slurm told of this very step, which srun would take for options of the next."""
    kept = ("SLURM_CONF", "SLURM_JOB_ID", "SLURM_JOBID")
    return {name: value for name, value in environment.items() if name in kept or not name.startswith("SLURM_")}
