"""The commands of docs/detection.md, at scale smoke."""

import re
from pathlib import Path

import pytest
import torch

from core.configuring.config import load, metric_names
from core.evaluate import main as evaluate
from core.train import main as train
from tests.docs.blocks import commands

MAIN = {"core.train": train, "core.evaluate": evaluate}
SMALL = {
    "core.train": ["scale=smoke", "optim.steps=2", "data.num_train=160", "runtime.tensorboard=false"],
    "core.evaluate": [],
}
OF_KIND = {
    "evals=[detect]": ["evals.detect.epochs=2", "evals.detect.lrs=[0.01]"],
    "evals=[detect_tuned]": ["evals.detect_tuned.steps=2", "evals.detect_tuned.batch_size=8"],
}


def test_its_commands_detect_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    before = torch.get_num_threads()
    try:
        for module, words in commands("detection.md"):
            kind = next(options for word, options in OF_KIND.items() if word in words)
            small = SMALL[module] + (kind if module == "core.evaluate" else [])
            assert MAIN[module]([*words, *small, "runtime.threads=1"]) == 0
    finally:
        torch.set_num_threads(before)
    shown = capsys.readouterr().out
    assert re.search(r"^detect +map \d", shown, re.MULTILINE) and "detect@" in shown and "detect_tuned@" in shown


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu"])
def test_its_run_is_accepted_at_every_scale(scale: str) -> None:
    [words] = [words for module, words in commands("detection.md") if module == "core.train"]
    assert "detect/map" in metric_names(load([*words, f"scale={scale}"]))
