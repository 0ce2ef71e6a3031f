"""torch.compile takes a method's whole loss as one graph, where nothing is drawn within it."""

from __future__ import annotations

import pytest
import torch

from core.config import load
from core.distributed import World
from core.fitting import load_split
from core.optim import make_optimizer
from core.stepping import Batches, Stepper
from core.trainer import build_learner


@pytest.mark.parametrize("method", ["mae", "mae_st", "ijepa", "supervised"])
def test_a_loss_is_one_graph(tmp_path, monkeypatch, method):
    monkeypatch.setattr("core.models.cpu_block.fits", lambda *_: False)  # as on a GPU
    run = load([f"method={method}", "scale=smoke", "optim.batch_size=4", f"runtime.cache={tmp_path}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    optimizer, device = make_optimizer(learner, run.optim), torch.device("cpu")
    stepper = Stepper(run, train_set.spec, learner, learner, optimizer, None, device, World())
    stepper.seed(1)
    inputs = stepper.inputs(1, *Batches(run, train_set, None, 0, World()).at(1))
    torch._dynamo.reset()
    assert torch._dynamo.explain(learner)(*inputs).graph_count == 1
