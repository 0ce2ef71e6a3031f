"""A step's memory counted before it runs, beside what a card's allocator said."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from core.configuring.config import load
from core.forecast.memory import SPARE_GIB, STREAM, Room, room

MEASURED = Path(__file__).parents[3] / "benchmarks/results/gpu.txt"
METHODS = ["mae", "ijepa", "mae_st", "vjepa", "supervised", "vicreg", "m_jepa", "mc_jepa"]


def measured(method):
    """GiB at the peak of a step at scale gpu."""
    section = MEASURED.read_text().split(f"\n{method}: ")[1]
    return float(re.search(r"peak ([\d.]+) GiB", section)[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_counted_to_take_what_it_took_on_a_card(method):
    run = load([f"method={method}", "scale=gpu"])
    found = room(run)
    more = 1.0 if run.encoder.has_pyramid else STREAM  # residuals were bfloat16 then
    assert found.state + (found.needed(1) - SPARE_GIB - found.state) / more == pytest.approx(measured(method), rel=0.12)


def test_blocks_that_are_computed_again_keep_little():
    found = room(load(["method=vjepa", "scale=gpu"]))
    assert found.clip_again < found.clip / 3


def test_a_configuration_whose_data_is_elsewhere_is_counted():
    found = room(load(["method=mae", "scale=paper"], checked=False))
    assert 1.5 < found.state < 2.5 and found.can_accumulate  # 112 million weights


def counted(depth, *words):
    sizes = ["encoder.width=48", "encoder.heads=3", f"encoder.depth={depth}", "optim.batch_size=4"]
    return room(load(["scale=smoke", *words, *sizes]))


@pytest.mark.parametrize("words", [["method=mae"], ["method=ijepa"], ["method=vjepa", "encoder.position=rope"]])
def test_a_block_more_keeps_as_much_whether_it_is_run_or_like_others_that_were(words):
    rooms = [counted(depth, *words) for depth in (1, 2, 3, 6)]  # from the third on they are like the second
    one, two, three, six = (each.clip for each in rooms)
    assert three - two == pytest.approx(two - one, rel=1e-6)
    assert six - three == pytest.approx(3 * (two - one), rel=1e-6)


def test_pairs_whose_files_are_elsewhere_are_counted_by_their_options():
    words = ["method=mc_jepa", "scale=smoke", "flow_data=kitti_flow", "flow_data.path=/nowhere"]
    small, large = (
        room(load([*words, f"flow_data.height={height}", "flow_data.width=128"], checked=False)) for height in (64, 128)
    )
    assert small.pair < large.pair


def test_a_step_with_many_clips_for_each_pair_keeps_no_more_pairs_than_it_has():
    one, many = (
        room(load(["method=mc_jepa", "scale=smoke", "objective.flow_batch=4", f"optim.batch_size={size}"]))
        for size in (16, 512)
    )
    assert many.pair == pytest.approx(one.pair)
    assert many.needed(1) == pytest.approx(many.state + SPARE_GIB + 512 * one.clip + 4 * one.pair)


def test_a_mixture_whose_files_are_elsewhere_is_counted_by_its_largest_set():
    words = ["method=mc_jepa", "scale=smoke", "flow_data=flow_mixture"]
    small, large = "'kitti_flow:path=k:height=64:width=128'", "'sintel:path=s:height=128:width=128'"
    mixed, alone = (
        room(load([*words, f"flow_data.sets=[{sets}]"], checked=False)) for sets in (f"{small},{large}", large)
    )
    assert mixed == alone


LARGE = Room(4.0, 0.5, 0.1, 256, can_accumulate=True, num_pairs=0)


@pytest.mark.parametrize(
    ("wanted", "gpus", "memory", "text"),
    [
        (LARGE, 8, 80, "fits: 22 GiB"),
        (LARGE, 2, 50, "70 GiB; set runtime.accumulate=2: 38 GiB"),
        (LARGE._replace(can_accumulate=False), 2, 50, "70 GiB; set runtime.checkpoint_blocks=true: 19 GiB"),
        (LARGE, 2, 6.3, "70 GiB; set runtime.accumulate=64 runtime.checkpoint_blocks=true: 6 GiB"),
        (
            LARGE._replace(can_accumulate=False),
            1,
            10,
            "134 GiB; needs 8 GPUs with runtime.checkpoint_blocks=true: 9 GiB",
        ),
        (LARGE._replace(clip_again=0.5, can_accumulate=False), 1, 80, "134 GiB; needs 2 GPUs: 70 GiB"),
        (LARGE, 3, 80, "cannot be shared: optim.batch_size=256 over 3 GPUs; over 2 or 4 it can"),
        (LARGE, 10**9, 80, "cannot be shared: optim.batch_size=256 over 1000000000 GPUs; over 256 it can"),
        (LARGE._replace(num_pairs=8), 16, 80, "fits: 14 GiB"),
        (LARGE._replace(num_pairs=6), 4, 80, "cannot be shared: objective.flow_batch=6 over 4 GPUs; over 2 it can"),
        (LARGE, 1, 5, "134 GiB; fits on no number of such GPUs"),
    ],
)
def test_what_to_set_is_said_cheapest_first(wanted, gpus, memory, text):
    assert wanted.advice(gpus, memory) == text
