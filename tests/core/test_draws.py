import pytest
import torch

from core.types import generator_for
from core.types.draws import truncated_normal_


def test_far_from_its_limits_a_truncated_normal_is_a_normal():
    drawn = truncated_normal_(torch.empty(50, 40), 0.02, generator_for(0))
    assert torch.equal(drawn, torch.empty(50, 40).normal_(0, 0.02, generator=generator_for(0)))


def test_what_is_beyond_the_limit_is_drawn_again_and_the_rest_kept():
    drawn = truncated_normal_(torch.empty(4000), 1.0, generator_for(0), limit=1.0)
    plain = torch.empty(4000).normal_(0, 1.0, generator=generator_for(0))
    assert drawn.abs().max() <= 1
    assert torch.equal(drawn[plain.abs() <= 1], plain[plain.abs() <= 1])
    assert drawn.std() == pytest.approx(0.540, abs=0.02)  # of a standard normal within one deviation


def test_a_shape_without_values_is_left_alone():
    assert truncated_normal_(torch.empty(3, device="meta"), 0.02, generator_for(0)).is_meta
