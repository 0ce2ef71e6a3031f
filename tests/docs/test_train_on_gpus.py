"""The commands of docs/train_on_gpus.md."""

import importlib
import re

import pytest

from benchmarks import gpu
from benchmarks.lines import RESULTS, read
from core.configuring.config import load
from sweeps import launch, plan
from tests.docs.blocks import commands


def test_the_plan_of_the_document_says_that_the_study_fits(capsys, tmp_path):
    (module, words), *_ = commands("train_on_gpus.md")
    assert module == "sweeps.plan"
    smaller = [{"scale=paper": "scale=smoke"}.get(word, word) for word in words]
    assert plan.main([*smaller, f"db=sqlite:///{tmp_path}/a.sqlite"]) == 0
    assert "fits" in capsys.readouterr().out


def test_the_launch_of_the_document_takes_processes_of_the_cpu_where_it_is_told_to(tmp_path):
    (module, words) = commands("train_on_gpus.md")[1]
    assert module == "sweeps.launch"
    asked = launch.parse([*words, "runtime.device=cpu", f"results_dir={tmp_path}"])
    assert asked.job.gpus_per_run == 2


def test_the_other_commands_of_the_document_are_modules():
    _, _, *others = commands("train_on_gpus.md")
    assert len(others) == 5 and all(importlib.import_module(name).__doc__ for name, _ in others)
    parts = [words[words.index("--part") + 1] for _, words in others if "--part" in words]
    assert parts == list(gpu.PARTS)


def test_the_options_of_the_document_exist():
    run = load(["method=mae", "scale=smoke", "runtime.accumulate=4", "runtime.checkpoint_blocks=true"])
    assert run.runtime.accumulate == 4 and run.runtime.checkpoint_blocks


@pytest.mark.parametrize("device", ["cpu", "cuda", "auto"])
def test_no_device_compiles_unless_it_is_asked_to(device):
    assert not load(["method=mae", "scale=gpu", f"runtime.device={device}"]).runtime.compile
    assert load(["method=mae", "scale=gpu", f"runtime.device={device}", "runtime.compile=true"]).runtime.compile


def test_what_the_document_says_of_compiling_is_what_the_card_gave():
    lines = read(RESULTS / "gpu_compiled.txt").lines
    failed = {found[1] for line in lines if (found := re.match(r"FAILED .*\[(\w+)\]|$", line)) and found[1]}
    begin = lines.index(next(line for line in lines if line.endswith("compiled: default")))
    plain, compiled = steps(lines[:begin]), steps(lines[begin:])
    assert all(compiled[method] < plain[method] for method in ("mae", "mae_st"))
    assert failed == {"mc_jepa"} and "ijepa: FAILED" in lines[begin:] and "ijepa" not in compiled


def steps(lines: list[str]) -> dict[str, float]:
    """Milliseconds a step, by method."""
    found, method = {}, ""
    for line in lines:
        method = begun[1] if (begun := re.match(r"(\w+): batch", line)) else method
        if took := re.match(r"  step +([\d.]+) ms", line):
            found[method] = float(took[1])
    return found
