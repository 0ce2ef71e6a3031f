"""How many workers a launch starts on the GPUs that the driver's tool tells of."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.configuring.config import flatten, identity, load
from core.forecast.memory import room
from sweeps.cells.gpu_memory import most_needed
from sweeps.database import registering
from sweeps.engine import cards
from sweeps.engine.cards import Card, chosen_workers, workers_of
from sweeps.engine.executors import Job, default_workers


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Says what the driver's tool prints: index, MiB that are free, % in use."""

    def tell(*lines: str) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
        tool.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tell


@pytest.mark.parametrize(
    ("found", "gpus_per_run", "needed", "cores", "workers"),
    [
        ([Card(80, 0)], 1, 10.0, 16, 8),
        ([Card(80, 0)], 1, 10.0, 4, 4),
        ([Card(80, 0)], 1, 100.0, 16, 1),
        ([Card(80, 0)] * 2, 1, 30.0, 16, 4),
        ([Card(80, 0), Card(20, 0)], 1, 10.0, 16, 4),
        ([Card(80, 90)], 1, 10.0, 16, 1),
        ([Card(80, 0)] * 4, 2, 10.0, 16, 2),
    ],
)
def test_workers_are_as_many_as_memory_and_cores_allow_and_one_where_others_are_busy(
    found: list[Card], gpus_per_run: int, needed: float, cores: int, workers: int
) -> None:
    assert workers_of(found, gpus_per_run, needed, cores) == workers


def test_what_the_drivers_tool_tells_is_read(told, monkeypatch: pytest.MonkeyPatch) -> None:
    told("0, 81559, 3", "1, 1024, 97")
    assert cards.cards() == [Card(81559 / 1024, 3), Card(1, 97)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert cards.cards() == [Card(1, 97)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert cards.cards() == []


def test_a_tool_that_fails_tells_of_none(told) -> None:
    told("Failed to initialize NVML")
    assert cards.cards() == []


def test_without_cards_workers_are_one_a_core(engine: Engine, url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cards, "cards", list)
    assert chosen_workers(engine, Job(url, tmp_path), 10_000) == default_workers(10_000)


def test_runs_that_are_to_train_on_the_cpu_or_elsewhere_do_not_ask_for_cards(
    engine: Engine, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cards, "cards", lambda: [Card(80, 90)] * 64)
    assert chosen_workers(engine, Job(url, tmp_path, runtime={"device": "cpu"}), 10_000) == default_workers(10_000)
    assert chosen_workers(engine, Job(url, tmp_path), 10_000, "slurm") == default_workers(10_000)
    assert chosen_workers(engine, Job(url, tmp_path), 10_000) == 64
    assert chosen_workers(engine, Job(url, tmp_path), 3) == 3


def test_the_largest_of_the_waiting_runs_decides() -> None:
    runs = [load(["method=mae", "scale=smoke", f"optim.batch_size={size}"]) for size in (8, 512)]
    needed = most_needed([identity(flatten(run)) for run in runs], ".")
    assert needed == pytest.approx(room(runs[1]).needed(1)) and needed > room(runs[0]).needed(1)


def test_a_run_that_cannot_be_counted_leaves_it_open() -> None:
    flat = identity(flatten(load(["method=mae", "scale=smoke"])))
    assert most_needed([flat, {**flat, "data": "image_folder", "data.path": "nowhere"}], ".") is None
    assert most_needed([], ".") is None


def test_runs_that_wait_are_looked_at(engine: Engine, url: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cards, "cards", lambda: [Card(11, 0)])
    monkeypatch.setattr(cards, "threads_per_worker", lambda _: 16)
    run = load(["method=mae", "scale=smoke"])
    with engine.begin() as connection:
        registering.register(connection, [(identity(flatten(run)), seed) for seed in range(20)])
    assert chosen_workers(engine, Job(url, tmp_path), 20) == int(11 / room(run).needed(1)) > 1
    assert chosen_workers(engine, Job(url, tmp_path, stack=4), 20) == 1
