"""The commands of docs/probe_features.md, one after the other."""

import json

import torch

from core.evaluate import main as evaluate
from core.train import main as train
from tests.docs.blocks import commands

COMMANDS = commands("probe_features.md")


def test_its_commands_train_a_run_and_judge_it_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    try:
        for module, words in COMMANDS:
            command = {"core.train": train, "core.evaluate": evaluate}[module]
            assert command([*words, "runtime.threads=1"]) == 0, words
    finally:
        torch.set_num_threads(before)
    told = json.loads((tmp_path / "runs/probed/evaluations.json").read_text())
    names = json.dumps(told)
    for metric in ("digit_25pct_top1", "digit_4shot_top1_best_on_test", "count_top1", "dist_top1"):
        assert metric in names
