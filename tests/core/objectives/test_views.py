"""Two views of every picture, made for all at once."""

import colorsys
import math

import pytest
import torch
import torch.nn.functional as F

from core.objectives.views import ViewOptions, draw_changes, two_views
from core.types import generator_for

PLAIN = {"crop_min": 1.0, "flip": False, "jitter": 0.0, "grey": 0.0, "blur": [0.0], "solarize": [0.0]}


def views(pictures, seed=0, **options):
    return drawn_views(pictures, ViewOptions(**PLAIN | options), seed)


def drawn_views(pictures, options, seed):
    return two_views(pictures, options, draw_changes(options, generator_for(seed), pictures))


@pytest.fixture
def pictures():
    return torch.rand(64, 3, 2, 16, 16, generator=generator_for(9))


def test_without_any_change_both_views_are_the_picture(pictures):
    assert torch.equal(views(pictures), torch.stack([pictures, pictures]))


@pytest.mark.parametrize("options", [{"crop_min": 0.2}, {"jitter": 1.0}, {"flip": True}])
def test_the_two_views_of_a_picture_differ_and_stay_in_range(pictures, options):
    one, other = views(pictures, **options)
    assert (one != other).flatten(1).any(1).float().mean() > 0.3
    assert one.min() >= 0 and one.max() <= 1


def test_all_frames_of_a_clip_change_alike(pictures):
    still = pictures[:, :, :1].expand_as(pictures)
    changed = drawn_views(still, ViewOptions(), 1)
    assert torch.allclose(changed[:, :, :, 0], changed[:, :, :, 1], atol=1e-6)


def test_a_mirrored_view_is_the_picture_from_right_to_left(pictures):
    one = views(pictures, flip=True)[0]
    turned = (one - pictures.flip(-1)).abs().flatten(1).max(1).values < 1e-5
    kept = (one - pictures).abs().flatten(1).max(1).values < 1e-5
    assert (turned | kept).all() and 15 < turned.sum() < 49


def test_a_crop_shows_a_part_of_the_picture_enlarged(pictures):
    """On a ramp a crop is a ramp again, from its left edge to its right one."""
    ramp = ((torch.arange(16) + 0.5) / 16).expand(64, 3, 1, 16, 16)
    cropped = views(ramp, crop_min=0.25, crop_max=0.25)[0][:, 0, 0]  # [B, H, W]
    assert torch.allclose(cropped, cropped[:, :1].expand_as(cropped), atol=1e-5)
    width = (cropped[:, 0, -2] - cropped[:, 0, 1]) * 16 / 13
    assert width.min() > math.sqrt(0.25 * 3 / 4) - 0.01 and width.max() < math.sqrt(0.25 * 4 / 3) + 0.01


def test_a_grey_view_has_the_luma_of_the_picture_in_every_channel(pictures):
    grey = views(pictures, grey=1.0)[0]
    luma = torch.einsum("c,bcthw->bthw", torch.tensor([0.299, 0.587, 0.114]), pictures)
    assert torch.allclose(grey, luma[:, None].expand_as(grey), atol=2e-3)


def test_hue_turns_and_leaves_a_grey_picture_alone():
    grey = torch.full((32, 3, 1, 8, 8), 0.5)
    assert torch.allclose(views(grey, jitter=1.0)[0].std(dim=1), torch.zeros(32, 1, 8, 8), atol=1e-3)
    red = torch.tensor([0.6, 0.3, 0.3]).view(1, 3, 1, 1, 1).expand(32, 3, 1, 8, 8)
    hues = [colorsys.rgb_to_hsv(*view[:, 0, 0, 0].tolist())[0] for view in views(red, jitter=1.0, jitter_share=1.0)[0]]
    turned = [min(hue, 1 - hue) for hue in hues]
    assert 0.03 < max(turned) < 0.16


def test_blur_is_a_gaussian_of_the_drawn_width():
    """Of a vertical line, compared with torch's own convolution for the width that fits best."""
    line = torch.zeros(8, 3, 1, 64, 64)
    line[..., 32] = 1
    blurred = views(line, blur=[1.0])[0][:, 0, 0, 32]  # [B, W]
    place = torch.arange(-12.0, 13.0)
    for profile in blurred:
        sigma = (profile * (torch.arange(64) - 32.0) ** 2).sum().sqrt()
        kernel = (-0.5 * (place / sigma.clamp(min=1e-3)) ** 2).exp()
        expected = F.conv1d(line[0, 0, 0, 32][None, None], (kernel / kernel.sum())[None, None], padding=12)[0, 0]
        if sigma > 0.4:  # below that a pixel is too coarse to measure a width with
            assert torch.allclose(profile, expected, atol=0.02)
    assert blurred.sum(1) == pytest.approx(torch.ones(8), abs=1e-4)


def test_the_two_views_have_their_own_shares_of_blur_and_solarisation(pictures):
    one, other = views(pictures, blur=[1.0, 0.0], solarize=[0.0, 1.0])
    assert torch.equal(other, torch.where(pictures >= 0.5, 1 - pictures, pictures))
    assert other.max() <= 0.5 < one.max()


def test_the_same_generator_gives_the_same_views(pictures):
    options = ViewOptions()
    first, again, other = (drawn_views(pictures, options, seed) for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_min": 0.0}, r"objective\.crop_min must be in \(0, objective\.crop_max = 1\], got 0\.0"),
        ({"crop_max": 1.5}, r"objective\.crop_max must be in \(0, 1\], got 1\.5"),
        ({"jitter": -1.0}, r"objective\.jitter must be in \[0, 2\]"),
        ({"grey": 1.2}, r"objective\.grey must be in \[0, 1\], got 1\.2"),
        ({"blur": [0.1, 0.2, 0.3]}, r"objective\.blur must be one or two numbers in \[0, 1\]"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        ViewOptions(**options)
