"""The commands of docs/train_on_gpus.md."""

import importlib

from core.config import load
from sweeps import plan
from tests.docs.blocks import commands


def test_the_plan_of_the_document_says_that_the_study_fits(capsys, tmp_path):
    (module, words), *_ = commands("train_on_gpus.md")
    assert module == "sweeps.plan"
    smaller = [{"scale=paper": "scale=smoke"}.get(word, word) for word in words]
    assert plan.main([*smaller, f"db=sqlite:///{tmp_path}/a.sqlite"]) == 0
    assert "fits" in capsys.readouterr().out


def test_the_other_commands_of_the_document_are_modules():
    _, *others = commands("train_on_gpus.md")
    assert [importlib.import_module(name).__doc__ is not None for name, _ in others] == [True, True]


def test_the_options_of_the_document_exist():
    run = load(["method=mae", "scale=smoke", "runtime.accumulate=4", "runtime.checkpoint_blocks=true"])
    assert run.runtime.accumulate == 4 and run.runtime.checkpoint_blocks
