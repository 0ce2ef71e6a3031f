"""Copies from pinned memory arrive as they were."""

from __future__ import annotations

import torch

from core.types.transfer import moved, moved_together
from tests.core.test_transfer import TENSORS
from tests.gpu.cuda import DEVICE, needs_a_card

pytestmark = needs_a_card


def test_what_is_moved_together_arrives_as_it_was():
    for there, here in zip(moved_together(DEVICE, *TENSORS), TENSORS, strict=True):
        assert there.device.type == DEVICE and there.dtype is here.dtype and torch.equal(there.cpu(), here)


def test_memory_that_is_used_again_has_been_copied_before():
    """Many copies are queued behind work, each from memory that the next ones would like to have."""
    busy = torch.rand(4000, 4000, device=DEVICE)
    arrived = []
    for number in range(20):
        busy = busy @ busy.clamp(0, 1e-3)
        arrived.append(moved(torch.full((1000,), number), DEVICE))
    assert [int(each.float().mean()) for each in arrived] == list(range(20))


def test_expanded_clips_arrive_as_they_were():
    clips = torch.randint(0, 256, (4, 1, 2, 6, 6), dtype=torch.uint8).expand(-1, 3, -1, -1, -1)
    assert torch.equal(moved(clips, DEVICE).cpu(), clips)
