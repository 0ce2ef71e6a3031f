"""Losses whose parts are told beside them keep their gradient under torch.compile."""

from __future__ import annotations

import pytest
import torch

from core.configuring.config import load
from core.configuring.fitting import load_split
from core.objectives.flow_losses import weighted_sum
from core.running.building import build_learner
from core.running.ranks.distributed import World
from core.running.stepping import Batches
from core.types import generator_for

SMALL = ["scale=smoke", "optim.batch_size=4", "data.num_train=16", "data.num_test=8"]
CASES = [
    ("mc_jepa", 1),  # content alone
    ("mc_jepa", 8),
    ("mc_jepa objective.var_cov_warmup=0.2", 1),  # variance and covariance alone
    ("mc_jepa objective.order=finetune objective.var_cov=none objective.balance=1", 8),  # flow alone
    ("m_jepa", 8),
    ("m_jepa objective.var_cov=none", 8),
    ("m_jepa objective.var_cov_warmup=0.2", 1),
    ("vicreg", 1),
]


def summands(node):
    """The nodes that are added up to a loss; None is what has no gradient, such as zero."""
    if node is None or not node.name().startswith("AddBackward"):
        return [node]
    return [each for next_node, _ in node.next_functions for each in summands(next_node)]


@pytest.mark.parametrize(("words", "step"), CASES)
def test_nothing_without_a_gradient_is_added_to_a_loss(tmp_path, words, step):
    """Inductor leaves the addition of zero out: the loss is the part that is told without a gradient then."""
    method, *overrides = words.split()
    run = load([*SMALL, f"method={method}", *overrides, f"runtime.cache={tmp_path}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    batch, pairs = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World()).at(step)
    clips = batch.clips.float()
    learner.seed_step(lambda purpose: generator_for(0, purpose, step), step, run.optim.steps, clips)
    frames = None if pairs is None else pairs.clips[:, :, :2].float()
    loss = learner(clips, batch.labels, [], frames)["loss"]
    assert loss.requires_grad and None not in summands(loss.grad_fn)


def test_a_weighted_sum_is_that_of_its_terms_and_zero_of_none():
    one, two = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0)
    assert weighted_sum([(1.0, one), (0.5, two)], one.device).item() == 3.5
    assert weighted_sum([(1.0, one)], one.device) is one
    assert float(weighted_sum([], one.device)) == 0
