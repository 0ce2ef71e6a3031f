"""Warping, correlation and occlusion against what they must be."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.objectives.warp import correlate, inside, resize_flow, visible, warp
from core.types import generator_for


def maps(*shape: int, name: str = "maps", dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=generator_for(0, name), dtype=dtype)


def constant(flow: tuple[float, float], height: int = 9, width: int = 12) -> Tensor:
    return torch.tensor(flow).view(1, 2, 1, 1).expand(1, 2, height, width).clone()


def test_a_whole_number_of_pixels_moves_the_picture_by_so_many():
    picture = maps(1, 3, 9, 12)
    warped = warp(picture, constant((2.0, -1.0)))  # looks 2 to the right and 1 up
    torch.testing.assert_close(warped[..., 1:, :10], picture[..., :8, 2:], atol=1e-5, rtol=1e-5)


def test_half_a_pixel_is_the_mean_of_two():
    picture = maps(1, 3, 9, 12)
    expected = (picture[..., :11] + picture[..., 1:]) / 2
    torch.testing.assert_close(warp(picture, constant((0.5, 0.0)))[..., :11], expected, atol=1e-5, rtol=1e-5)


def test_no_flow_leaves_a_picture_as_it_is_and_beyond_the_frame_is_its_edge():
    picture = maps(1, 3, 9, 12)
    torch.testing.assert_close(warp(picture, constant((0.0, 0.0))), picture, atol=1e-5, rtol=1e-5)
    edge = picture[..., -1:].expand(-1, -1, -1, 12)
    torch.testing.assert_close(warp(picture, constant((40.0, 0.0))), edge, atol=1e-5, rtol=1e-5)


def test_inside_counts_the_pixels_that_end_in_the_frame():
    assert inside(constant((3.0, 0.0))).sum() == 9 * (12 - 3)
    assert inside(constant((0.0, -2.5))).sum() == 12 * (9 - 3)


def test_flows_that_undo_each_other_are_visible_where_they_end_inside():
    there, back = constant((3.0, 1.0)), constant((-3.0, -1.0))
    assert torch.equal(visible(there, back), inside(there))


def test_flows_that_contradict_each_other_hide_their_pixels():
    there, back = constant((3.0, 0.0)), constant((-3.0, 0.0))
    back[..., 6:] = 3.0  # what lands there would come from elsewhere
    seen = visible(there, back)[0, 0, 0]
    assert seen.tolist() == [True] * 3 + [False] * 9


def test_a_flow_on_a_larger_grid_has_larger_numbers():
    large = resize_flow(constant((1.0, 2.0), 3, 4), 9, 8)
    torch.testing.assert_close(large, constant((2.0, 6.0), 9, 8))


def one_by_one(first: Tensor, second: Tensor, radius: int) -> Tensor:
    """`correlate`, one displacement after the other."""
    height, width = first.shape[-2:]
    padded = F.pad(second, (radius,) * 4)
    shifts = [(dy, dx) for dy in range(2 * radius + 1) for dx in range(2 * radius + 1)]
    return torch.stack([(first * padded[..., y : y + height, x : x + width]).mean(1) for y, x in shifts], dim=1)


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("size", [(8, 16), (5, 3), (11, 17)])
def test_correlation_equals_one_displacement_after_the_other(radius, size):
    first, second = maps(2, 5, *size, name="first"), maps(2, 5, *size, name="second")
    expected = one_by_one(first, second, radius)
    torch.testing.assert_close(correlate(first, second, radius), expected, atol=1e-5, rtol=1e-5)


def test_correlation_has_the_gradients_of_one_displacement_after_the_other():
    inputs = [maps(2, 4, 9, 7, name=name) for name in ("first", "second")]
    weight = maps(2, 25, 9, 7, name="weight")
    grads = []
    for method in (correlate, one_by_one):
        first, second = (x.clone().requires_grad_() for x in inputs)
        (method(first, second, 2) * weight).sum().backward()
        grads.append((first.grad, second.grad))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-5, rtol=1e-5)


def test_the_best_match_of_a_shifted_picture_is_at_the_shift():
    picture = maps(1, 64, 12, 12)
    volume = correlate(picture, picture.roll((1, -2), dims=(2, 3)), 3)[0, :, 4:8, 4:8]
    assert (volume.argmax(0) == (1 + 3) * 7 + (-2 + 3)).all()
