"""The commands of docs/evaluate.md, on a database with a small masking_ratio in it."""

from pathlib import Path

import pytest

from core.configuring.config import load
from core.evaluate import main
from core.measuring.cost import judging_names
from core.running.trainer import train
from sweeps import query
from sweeps.launch import main as launch
from tests.core.running.test_trainer import TINY, Notebook
from tests.docs.blocks import DOCS, MAX_LINES, commands

COMMANDS = commands("evaluate.md")
STUDY = """
title: Ratio
question: How much?
base: {method: mae, evals: [ridge], optim.steps: 2}
rows:
  - {key: half, set: {mask.ratio: 0.5}}
  - {key: most, set: {mask.ratio: 0.75}}
metrics: [ridge/digit_top1]
random_init: false
seeds: [0]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in a database, and a third of core.train."""
    here = tmp_path_factory.mktemp("documented")
    (here / "masking_ratio.yaml").write_text(STUDY, encoding="utf-8")
    words = [
        f"study={here / 'masking_ratio.yaml'}",
        "scale=smoke",
        "executor=inline",
        f"runtime.cache={here / 'cache'}",
    ]
    assert launch([*words, f"db=sqlite:///{here / 'a.sqlite'}", f"results_dir={here / 'results'}"]) == 0
    train(load([*TINY, f"runtime.cache={here / 'cache'}"]), Notebook(here / "runs/first"))
    return here


def test_its_commands_run_in_order(folder, capsys):
    database = f"db=sqlite:///{folder / 'a.sqlite'}"
    replaced = {
        "runtime.dir=runs/first": f"runtime.dir={folder / 'runs/first'}",
        "study=masking_ratio": "study=masking_ratio@smoke",
    }
    seen = ""
    assert [module for module, _ in COMMANDS] == ["core.evaluate"] * 6 + ["sweeps.query"]
    for module, words in COMMANDS:
        words = [replaced.get(word, word) for word in words]
        if module == "sweeps.query":
            assert query.main([*words, "format=csv", database]) == 0
            continue
        by_id = (
            []
            if any(word.startswith("runtime.dir=") for word in words)
            else [database, f"results_dir={folder / 'results'}"]
        )
        assert main([*words, *by_id, f"runtime.cache={folder / 'cache'}", "runtime.threads=1"]) == 0, words
    seen = capsys.readouterr().out
    for metric in (
        "linear/digit_top1", "linear@num_layers=2/digit_top1", "low_shot@tenth/digit_top1",
        "attentive@later/digit_top1", "ridge@data=moving_digits,data.size=48/digit_top1",
        "cost/eval_linear_features_seconds",
    ):  # fmt: skip
        assert metric in seen


def test_the_page_names_the_costs_that_are_recorded():
    text = (DOCS / "evaluate.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    for name in judging_names(["ridge"]):
        name = name.replace("eval_ridge", "eval_<name>")
        phase = next((p for p in ("pretrain", "eval_<name>", "features") if name.startswith(f"cost/{p}_")), None)
        assert (name if phase is None else name.removeprefix(f"cost/{phase}")) in text, name
