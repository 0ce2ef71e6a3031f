"""A step's memory counted before it runs, beside what a card's allocator said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.config import load
from core.room import Room, room

MEASURED = Path(__file__).parents[2] / "benchmarks/results/gpu.txt"
METHODS = ["mae", "ijepa", "mae_st", "vjepa", "supervised", "vicreg", "m_jepa", "mc_jepa"]


def measured(method):
    """GiB at the peak of a step at scale gpu."""
    section = MEASURED.read_text().split(f"\n{method}: ")[1]
    return float(re.search(r"peak ([\d.]+) GiB", section)[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_counted_to_take_what_it_took_on_a_card(method):
    found = room(load([f"method={method}", "scale=gpu"]))
    assert found.state + found.batch_size * found.clip == pytest.approx(measured(method), rel=0.12)


def test_blocks_that_are_computed_again_keep_little():
    found = room(load(["method=vjepa", "scale=gpu"]))
    assert found.clip_again < found.clip / 3


def test_a_configuration_whose_data_is_elsewhere_is_counted():
    found = room(load(["method=mae", "scale=paper"], checked=False))
    assert 1.5 < found.state < 2.5 and found.can_accumulate  # 112 million weights


LARGE = Room(4.0, 0.5, 0.1, 256, can_accumulate=True, most_gpus=0)


@pytest.mark.parametrize(
    ("wanted", "gpus", "memory", "text"),
    [
        (LARGE, 8, 80, "fits: 22 GiB"),
        (LARGE, 2, 50, "70 GiB; set runtime.accumulate=2: 38 GiB"),
        (LARGE._replace(can_accumulate=False), 2, 50, "70 GiB; set runtime.checkpoint_blocks=true: 19 GiB"),
        (LARGE, 2, 6.3, "70 GiB; set runtime.accumulate=64 runtime.checkpoint_blocks=true: 6 GiB"),
        (LARGE._replace(can_accumulate=False), 1, 10, "134 GiB; needs 8 GPUs"),
        (LARGE, 3, 80, "cannot be shared: optim.batch_size=256 over 3 GPUs"),
        (LARGE._replace(most_gpus=8), 16, 80, "cannot be shared: objective.flow_batch=8 over 16 GPUs"),
        (LARGE, 1, 5, "134 GiB; fits on no number of such GPUs"),
    ],
)
def test_what_to_set_is_said_cheapest_first(wanted, gpus, memory, text):
    assert wanted.advice(gpus, memory) == text
