"""What a stack asks a GPU for does not grow with its runs (on fake tensors: no card needed)."""

from __future__ import annotations

import contextlib
from collections import Counter

import pytest
import torch

from core.configuring.config import load
from core.configuring.fitting import load_split
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.ranks.distributed import World
from core.running.stacking import Stack
from core.running.stepping import Batches, make_stepper
from tests.core.fake_card import CARD, FakeCard, as_if_there_were_one, to_card

LAUNCH_NOTHING = {"device", "detach", "view", "slice", "select", "expand", "unsqueeze", "permute", "transpose", "split"}


class Counting(FakeCard):
    """`asked` counts operations on the card by name."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def note(self, name, args, kwargs, of_card) -> None:
        if name not in LAUNCH_NOTHING:
            self.asked[name] += 1
        super().note(name, args, kwargs, of_card)


def stacked_step(cache, monkeypatch, method: str, num_runs: int) -> Counting:
    """The third step of so many seeds together."""
    card = Counting()
    words = [f"method={method}", "scale=smoke", f"runtime.cache={cache}"]
    runs = [load([*words, f"seed={seed}"]) for seed in range(num_runs)]
    train_set = load_split(runs[0], "train")
    learners = [build_learner(run, train_set.spec) for run in runs]
    with card.fake:
        for learner in learners:
            to_card(learner)
    as_if_there_were_one(monkeypatch, learners[0])
    monkeypatch.setattr(torch, "equal", lambda one, other: True)  # whether buffers differ, asked before the first step
    batches = [Batches(run, train_set, None, 0, World()).at(3)[0] for run in runs]
    with contextlib.ExitStack() as entered:
        entered.enter_context(card.fake)
        entered.enter_context(card)
        optimizers = [make_optimizer(learner, run.optim) for run, learner in zip(runs, learners, strict=True)]
        steppers = [
            make_stepper(run, train_set.spec, learner, learner, optimizer, torch.bfloat16, CARD, World(), None)
            for run, learner, optimizer in zip(runs, learners, optimizers, strict=True)
        ]
        stack = Stack(steppers)

        def made_up(_loss: torch.Tensor) -> None:
            for name in stack.trained:
                stack.parameters[name].grad = torch.zeros_like(stack.parameters[name])

        monkeypatch.setattr(torch.autograd, "backward", made_up)
        for counted in (card.asked, card.copies, card.waits):
            counted.clear()
        stack.step([3] * num_runs, batches)
    return card


@pytest.mark.parametrize("method", ["mae_st", "ijepa", "vjepa"])
def test_six_runs_ask_a_card_for_as_much_as_two_and_wait_for_nothing(tmp_path, monkeypatch, method):
    two, six = (stacked_step(tmp_path, monkeypatch, method, num_runs) for num_runs in (2, 6))
    assert six.asked == two.asked and six.asked["_fused_adamw_"] > 0
    assert six.copies == two.copies and not six.waits
