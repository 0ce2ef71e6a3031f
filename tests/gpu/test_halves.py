"""Weights that are cast at once on a card give what autocast gives there."""

from __future__ import annotations

import pytest
import torch

from tests.core.running.test_halves import loss_and_gradients
from tests.gpu.cuda import DEVICE, METHODS, needs_a_card

pytestmark = needs_a_card


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_and_the_gradients_are_those_of_autocast(cache, method):
    device = torch.device(DEVICE)
    (loss, gradients), (same_loss, same_gradients) = (
        loss_and_gradients(cache, method, halves=halves, device=device) for halves in (True, False)
    )
    assert loss == pytest.approx(same_loss, rel=1e-3)
    for name, gradient in gradients.items():
        assert (gradient is None) == (same_gradients[name] is None), name
        if gradient is not None:  # sums of a scatter come in another order each time
            distance = (gradient - same_gradients[name]).norm()
            assert distance <= 0.02 * same_gradients[name].norm() + 1e-6, name
