"""Clips are read in order, by a thread or without one."""

from __future__ import annotations

import pytest
import torch

from core.evals.frozen.encoding import read_ahead
from core.types import Batch


class Numbers:
    """Clip i is i; the last cannot be read."""

    def fetch(self, indices):
        if 9 in indices:
            raise ValueError("clip 9 is broken")
        return Batch(indices.clone(), {})


@pytest.mark.parametrize("in_thread", [False, True])
def test_clips_come_in_the_order_that_they_were_asked_for(in_thread):
    asked = list(torch.arange(9).split(2))
    with read_ahead(Numbers(), asked, in_thread=in_thread) as read:
        assert [clips.tolist() for clips in read] == [each.tolist() for each in asked]


@pytest.mark.parametrize("in_thread", [False, True])
def test_what_cannot_be_read_is_said_where_it_is_asked_for(in_thread):
    with read_ahead(Numbers(), list(torch.arange(10).split(2)), in_thread=in_thread) as read:
        assert sum(len(next(read)) for _ in range(4)) == 8
        with pytest.raises(ValueError, match="clip 9 is broken"):
            next(read)


def test_clips_that_nobody_asks_for_any_more_keep_nobody_waiting():
    with read_ahead(Numbers(), list(torch.arange(9).split(2)), in_thread=True) as read:
        next(read)
