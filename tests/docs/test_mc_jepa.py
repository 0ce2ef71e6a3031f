"""docs/mc_jepa.md: its commands are runs, and its table names every order."""

import csv

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


def test_the_numbers_that_it_tells_are_those_of_the_study_s_table():
    with (DOCS.parent / "results/tables/mc_jepa_main.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["row_key"]: row for row in csv.DictReader(file)}
    text = " ".join((DOCS / "mc_jepa.md").read_text(encoding="utf-8").split())
    epe, miou = (
        [float(rows[key][f"{name}.mean"]) for key in ("mc_jepa", "random_init")] for name in ("flow/epe", "seg/miou")
    )
    assert f"`flow/epe` of {epe[0]:.2f} px and a `seg/miou` of {miou[0]:.1f} %" in text
    assert f"before training {epe[1]:.2f} px and {miou[1]:.1f} %" in text


def test_there_are_three_commands_and_every_order_is_explained():
    text = (DOCS / "mc_jepa.md").read_text(encoding="utf-8")
    assert len(RUNS) == 3

    assert all(f"| `{order.name}` |" in text for order in Order)
