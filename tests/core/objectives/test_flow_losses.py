"""The flow losses against numbers known beforehand."""

import pytest
import torch
from skimage.metrics import structural_similarity as skimage_ssim
from torch import Tensor

from core.objectives import flow_losses
from core.objectives.warp import warp
from core.types import generator_for


def pictures(name: str, channels: int = 1, size: int = 12) -> Tensor:
    return torch.rand(1, channels, size, size, generator=generator_for(0, name))


def test_regression_is_the_mean_squared_difference_of_seen_pixels():
    features, warped = torch.zeros(1, 2, 1, 2), torch.tensor([[[[1.0, 5.0]], [[3.0, 7.0]]]])
    seen = torch.tensor([[[[True, False]]]])
    assert flow_losses.regression(features, warped, seen) == pytest.approx((1 + 9) / 2)
    assert flow_losses.regression(features, warped) == pytest.approx((1 + 25 + 9 + 49) / 4)
    assert flow_losses.regression(features, warped, seen & False) == 0


def test_similarity_equals_scikit_images():
    a, b = pictures("a"), pictures("b")
    _, expected = skimage_ssim(
        a[0, 0].numpy(), b[0, 0].numpy(), win_size=3, data_range=1.0, full=True, use_sample_covariance=False
    )
    ours = flow_losses.structural_similarity(a, b)[0, 0]
    torch.testing.assert_close(ours, torch.from_numpy(expected)[1:-1, 1:-1].float(), atol=1e-4, rtol=1e-4)


def test_reconstruction_is_the_weighted_sum_of_its_parts():
    a, b = pictures("a", 3), pictures("b", 3)
    assert flow_losses.reconstruction(a, b, l1=2.0, l2=0.0, ssim=0.0) == pytest.approx(2 * (a - b).abs().mean())
    assert flow_losses.reconstruction(a, b, l1=0.0, l2=3.0, ssim=0.0) == pytest.approx(3 * (a - b).square().mean())
    dissimilarity = (1 - flow_losses.structural_similarity(a, b)).mean() / 2
    assert flow_losses.reconstruction(a, b, l1=0.0, l2=0.0, ssim=1.0) == pytest.approx(float(dissimilarity))
    assert flow_losses.reconstruction(a, a, l1=1.0, l2=1.0, ssim=1.0) == pytest.approx(0, abs=1e-6)


def test_a_step_in_the_flow_costs_less_where_the_image_has_one():
    flow = torch.zeros(1, 2, 4, 4)
    flow[..., 2:] = 3.0  # one of three steps along a row
    flat, stepped = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    stepped[..., 2:] = 0.02
    assert flow_losses.smoothness(flow, flat, 75.0) == pytest.approx(3 / 3)
    # exp(-75 * 0.02) of it is left.
    assert flow_losses.smoothness(flow, stepped, 75.0) == pytest.approx(0.2231302)
    assert flow_losses.smoothness(flow, stepped, 0.0) == pytest.approx(1)
    assert flow_losses.smoothness(torch.full((1, 2, 4, 4), 5.0), flat, 75.0) == 0


def test_a_cycle_that_comes_home_costs_nothing_inside_the_frame():
    features = pictures("features", 4)
    there = torch.tensor([2.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 12, 12)
    whole = flow_losses.cycle(features, there, -there)
    edge = (features - warp(warp(features, -there), there))[..., :10].abs().max()
    assert edge < 1e-5
    assert flow_losses.cycle(features, there, there) > 4 * whole
    assert flow_losses.cycle(features, 0 * there, 0 * there) == pytest.approx(0, abs=1e-6)


def test_variance_is_the_hinge_on_the_standard_deviation_over_pixels():
    samples = torch.tensor([[0.0, 0.0], [1.0, 4.0], [2.0, 8.0]])  # std 1 and 4
    features = samples.T.reshape(1, 2, 1, 3)
    assert flow_losses.variance(features, eps=0.0) == 0
    assert flow_losses.variance(features, gamma=2.0, eps=0.0) == pytest.approx((1 + 0) / 2)
    assert flow_losses.variance(torch.zeros(2, 3, 4, 4), eps=1e-4) == pytest.approx(0.99)


def test_covariance_is_the_sum_of_squares_off_the_diagonal_over_the_channels():
    samples = torch.tensor([[0.0, 0.0], [1.0, 4.0], [2.0, 8.0]])  # covariance 4
    assert flow_losses.covariance(samples.T.reshape(1, 2, 1, 3)) == pytest.approx(2 * 16 / 2)
    uncorrelated = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert flow_losses.covariance(uncorrelated.T.reshape(1, 2, 2, 2)) == pytest.approx(0)


def test_covariance_is_float32_under_autocast():
    features = pictures("a", 8, size=32) - 0.5  # nearly uncorrelated: in bfloat16 the two sums would be equal
    with torch.autocast("cpu", torch.bfloat16):
        half = flow_losses.covariance(features)
    assert half.dtype is torch.float32 and half > 0
    torch.testing.assert_close(half, flow_losses.covariance(features))


def test_losses_are_float32_of_half_precision_features():
    half = pictures("a", 4).bfloat16()
    flow = torch.zeros(1, 2, 12, 12)
    for value in (
        flow_losses.regression(half, half),
        flow_losses.cycle(half, flow, flow),
        flow_losses.variance(half),
        flow_losses.covariance(half),
    ):
        assert value.dtype is torch.float32


def test_frames_that_are_all_there_twice_spread_as_they_do_once():
    features = 0.3 * pictures("spread", channels=5)
    for measure in (flow_losses.variance, flow_losses.covariance):
        torch.testing.assert_close(measure(torch.cat([features, features]), repeats=2), measure(features))
