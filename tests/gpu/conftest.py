from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def full_float32(monkeypatch):
    """Convolutions take TF32 unless told otherwise: ten bits, which no tolerance for rounding allows."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")
