"""Which step ended a run as diverged."""

import math

import pytest
import torch

from core.running.window import Window


@pytest.mark.parametrize(
    ("third", "limit", "broken"),
    [
        ({"loss": 2.0}, math.inf, None),
        ({"loss": math.nan}, math.inf, 3),
        ({"loss": 2.0}, 1.5, 3),
        ({"loss": 2.0, "grad_norm": math.inf}, 1e6, 3),
        ({"loss": 2.0, "grad_norm": 50.0}, 1e6, None),
    ],
)
def test_a_step_breaks_the_run_by_its_loss_or_by_its_gradient(third, limit, broken):
    window = Window(0.0, 0.0, 0.0)
    for step, values in enumerate(({"loss": 1.0}, {"loss": 1.0}, third, {"loss": math.nan}), 1):
        window.rows.append((step, {name: torch.tensor(value) for name, value in values.items()}))
    assert window.first_broken(limit) == (broken or 4)
