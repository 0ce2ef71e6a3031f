from __future__ import annotations

import pytest
import torch

from core.evals.frozen.samples import draw_per_class, hold_out, top1
from core.types import generator_for

LABELS = torch.tensor([0] * 50 + [1] * 10 + [2] * 2 + [3])[torch.randperm(63, generator=generator_for(0, "labels"))]


def test_the_asked_number_of_each_class_is_drawn():
    drawn, rest = draw_per_class(LABELS, torch.tensor([5, 0, 2, 1]), generator_for(0))
    assert LABELS[drawn].bincount(minlength=4).tolist() == [5, 0, 2, 1]
    assert torch.equal(torch.cat([drawn, rest]).sort().values, torch.arange(63))


def test_which_samples_of_a_class_are_drawn_is_uniform():
    counts = torch.zeros(63)
    for draw in range(400):
        counts[draw_per_class(LABELS, torch.tensor([0, 5, 0, 0]), generator_for(0, draw))[0]] += 1
    assert counts[LABELS != 1].sum() == 0
    assert counts[LABELS == 1].min() > 150 and counts[LABELS == 1].max() < 250  # 200 ± 10 each


def test_a_share_of_each_class_is_held_out_but_never_its_last_sample():
    fit, heldout = hold_out(LABELS, 0.2, generator_for(0), key="evals.ridge.heldout")
    assert LABELS[heldout].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.equal(torch.cat([fit, heldout]).sort().values, torch.arange(63))


def test_one_sample_a_class_leaves_nothing_to_hold_out():
    with pytest.raises(ValueError, match=r"evals\.ridge\.heldout: nothing can be held out"):
        hold_out(torch.arange(5), 0.2, generator_for(0), key="evals.ridge.heldout")


def test_top1_is_in_percent():
    assert top1(torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]]), torch.tensor([1, 0, 0, 0])) == 75.0
