"""docs/mc_jepa.md: its commands are runs, and its table names every order."""

import pytest

from core.configuring.config import load
from core.objectives.motion_content import Order
from core.running.trainer import train
from tests.core.running.test_trainer import Notebook
from tests.docs.blocks import DOCS, commands

RUNS = [arguments for module, arguments in commands("mc_jepa.md") if module == "core.train"]


@pytest.mark.parametrize("arguments", RUNS, ids=" ".join)
def test_each_command_trains(arguments, tmp_path):
    settings = ["optim.steps=2", "evals=[]", "precision=fp32", f"runtime.dir={tmp_path}", f"runtime.cache={tmp_path}/c"]
    record = Notebook(tmp_path)
    train(load([*arguments, *settings]), record)
    assert record.outcome == "done"


def test_there_are_three_commands_and_every_order_is_explained():
    text = (DOCS / "mc_jepa.md").read_text(encoding="utf-8")
    assert len(RUNS) == 3

    assert all(f"| `{order.name}` |" in text for order in Order)
