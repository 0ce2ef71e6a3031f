"""The estimate for all tables."""

from __future__ import annotations

import pytest

from benchmarks.moonshot import CORES, LAUNCHES, SEEDS, TFLOPS, Config, measure, minutes, of_a_launch


def test_a_stack_shares_launches_and_nothing_else():
    configs = [Config(600, 60_000.0, 16.0), Config(300, None, 0.0)]
    device, launched, judged = minutes(configs, 1, 5e-6)
    assert device == pytest.approx(SEEDS * 120 / TFLOPS / 60)
    assert launched == pytest.approx(SEEDS * 900 * LAUNCHES * 5e-6 / 60)
    assert judged == pytest.approx(SEEDS * 16 / CORES / 60)
    assert minutes(configs, 6, 5e-6) == pytest.approx((device, launched / 6, judged))


def test_the_committed_database_gives_one_and_says_that_nothing_was_measured():
    lines = list(measure())
    assert "configs x 6 seeds" in lines[0] and all("not measured" in line for line in lines[2:])


def test_a_launch_costs_what_the_host_took_for_each_in_the_middle_method():
    def method(host: float, launches: int) -> str:
        told = f"  host {host:8.2f} ms until queued, 9 until done   inputs 1 ms until queued\n"
        return told + f"  busy 1 ms  {launches} launches\n"

    assert of_a_launch(method(10, 1000) + method(60, 1000) + method(20, 1000)) == pytest.approx(20e-6)
