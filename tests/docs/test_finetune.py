"""The commands of docs/finetune.md, as somebody would type them."""

from __future__ import annotations

import json

import pytest

from core.evals.tuned.finetune import FineTune
from core.evaluate import main as evaluate
from core.train import main as train
from tests.docs.blocks import DOCS, commands

MAINS = {"core.train": train, "core.evaluate": evaluate}


@pytest.mark.slow
def test_the_commands_run_and_both_fine_tunings_are_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for module, words in commands("finetune.md"):
        assert MAINS[module](words) == 0, words
    assert "evals.finetune.layer_decay" in capsys.readouterr().out
    first = json.loads((tmp_path / "runs/tuned/result.json").read_text())["results"]
    (again,) = json.loads((tmp_path / "runs/tuned/evaluations.json").read_text())
    assert 0 <= first["finetune/digit_top1"] <= 100
    assert 0 <= again["results"]["finetune@steeper/digit_top1"] <= 100
    assert again["settings"]["evals.finetune.layer_decay"] == 0.65


def test_every_option_of_the_table_exists():
    rows = [line for line in (DOCS / "finetune.md").read_text().splitlines() if line.startswith("| `")]
    named = [name.strip("` ") for row in rows for name in row.split("|")[1].split(",")]
    assert set(named) <= set(vars(FineTune()))
