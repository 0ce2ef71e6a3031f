"""Marks and helpers of the tests that need a card: ``python -m pytest tests/gpu``."""

from __future__ import annotations

import pytest
import torch

DEVICE = "cuda"
METHODS = ["mae", "mae_st", "ijepa", "vjepa", "vicreg", "m_jepa", "mc_jepa", "supervised"]

needs_a_card = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none here"),
]


def losses(record):
    """Of every step that was logged."""
    return [point["loss"] for step, point in sorted(record.points.items()) if "loss" in point]
