"""Every loss against its formula written plainly."""

import pytest
import torch

from core.losses import LOSSES, SmoothL1
from core.types import generator_for


def vectors():
    prediction, target = 2 * torch.randn(2, 3, 5, 7, generator=generator_for(0))
    return prediction, target


def smooth(difference):
    small = difference.abs() < 1
    return torch.where(small, 0.5 * difference**2, difference.abs() - 0.5)


DISTANCES = [name for name, variant in LOSSES.items() if not variant.takes_classes]
FORMULAS = {
    "mse": lambda p, t: ((p - t) ** 2).mean(-1),
    "l1": lambda p, t: (p - t).abs().mean(-1),
    "l2": lambda p, t: ((p - t) ** 2).sum(-1),
    "smooth_l1": lambda p, t: smooth(p - t).mean(-1),
    "cosine": lambda p, t: 1 - (p * t).sum(-1) / (p.norm(dim=-1) * t.norm(dim=-1)),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_the_loss_equals_its_formula(name):
    prediction, target = vectors()
    expected = FORMULAS[name](prediction, target).mean()
    torch.testing.assert_close(LOSSES[name]()(prediction, target)["loss"], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_only_valid_places_count(name):
    prediction, target = vectors()
    valid = torch.rand(3, 5, generator=generator_for(1)) < 0.6
    expected = FORMULAS[name](prediction, target)[valid].mean()
    torch.testing.assert_close(LOSSES[name]()(prediction, target, valid)["loss"], expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_the_loss_is_float32_under_bfloat16_autocast(name):
    prediction, target = (x.bfloat16() for x in vectors())
    expected = FORMULAS[name](prediction.float(), target.float()).mean()
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name]()(prediction, target)["loss"]
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", DISTANCES)
def test_a_perfect_prediction_costs_nothing(name):
    _, target = vectors()
    assert LOSSES[name]()(target, target)["loss"].item() == pytest.approx(0, abs=1e-6)


def test_smooth_l1_beta_moves_the_corner():
    prediction, target = torch.tensor([[[0.5]]]), torch.tensor([[[0.0]]])
    assert SmoothL1(beta=0.25)(prediction, target)["loss"].item() == pytest.approx(0.5 - 0.125)
    with pytest.raises(ValueError, match=r"loss.beta must be positive, got 0"):
        SmoothL1(beta=0)
