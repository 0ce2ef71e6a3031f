"""The script for a card, tried out without one."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu
from benchmarks.moonshot import of_a_launch

DRY = ["--device", "cpu", "--scale", "smoke", "--seconds", "0.1"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_dry_run_says_what_a_step_of_the_method_costs(tmp_path, capsys):
    status = gpu.main([*DRY, "--methods", "ijepa", "--write", str(tmp_path / "gpu.txt")])
    told = (tmp_path / "gpu.txt").read_text()
    assert status == 0 and told == capsys.readouterr().out
    assert told.startswith("command: python -m benchmarks.gpu --device cpu --scale smoke ")
    assert f"torch {torch.__version__}\n\nscale smoke\nijepa: batch 8, " in told
    for word in ("TFLOP/s", "until queued", "inputs after a step", "back to back", "features of 160 clips"):
        assert word in told


def test_inputs_are_measured_after_steps_and_back_to_back():
    done, one = [], SimpleNamespace(device=torch.device("cpu"))
    one.step, one.inputs = (lambda: done.append("step")), (lambda: done.append("inputs"))
    told = list(gpu.both_inputs(one, 0.0))
    assert done == ["step", "inputs"] * 3 + ["inputs"] * 3
    assert re.fullmatch(r"  inputs after a step +[\d.]+ ms until queued, .*   back to back +[\d.]+ ms .*", *told)


def test_the_estimate_for_all_tables_reads_what_is_written():
    told = f"  host {gpu.both([(0.02, 0.03)])}\n  inputs after a step {gpu.both([(0.001, 0.002)])}\n"
    assert of_a_launch(told + "  busy     1.00 ms   1000 launches   copies: none\n") == pytest.approx(20e-6)


def test_a_method_that_fails_is_reported_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    def failing(*_):
        raise RuntimeError("no kernel for that")

    monkeypatch.setattr(gpu, "operations", failing)
    assert gpu.main([*DRY, "--methods", "mae,ijepa"]) == 1
    told = capsys.readouterr().out
    assert "mae: FAILED\nTraceback" in told and "ijepa: FAILED\nTraceback" in told
    assert told.count("RuntimeError: no kernel for that") == 2


def test_an_unknown_method_is_refused_by_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", "cpu", "--methods", "mea"])
    assert "--methods mea: there are ijepa, m_jepa, mae" in capsys.readouterr().err
