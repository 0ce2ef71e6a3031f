"""The commands of docs/train_on_gpus.md."""

import importlib

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
    assert len(others) == 3 and all(importlib.import_module(name).__doc__ for name, _ in others)


def test_the_options_of_the_document_exist():
    run = load(["method=mae", "scale=smoke", "runtime.accumulate=4", "runtime.checkpoint_blocks=true"])
    assert run.runtime.accumulate == 4 and run.runtime.checkpoint_blocks
