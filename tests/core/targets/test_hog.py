"""Histograms of oriented gradients against scikit-image, where conventions coincide."""

import pytest
import torch
from skimage.feature import hog

from core.configuring.config import load
from core.models import ViT
from core.targets import HogTarget
from core.targets.hog import histograms
from core.targets.pixels import Frames
from core.types import DataSpec, View, generator_for

CLIP = DataSpec(channels=3, frames=16, height=16, width=24)


def build(spec=CLIP, tubelet=2, **options):
    encoder = ViT(width=24, depth=1, heads=2, patch=8, tubelet=tubelet).build(spec, generator_for(0))
    return HogTarget(**options).build(encoder, spec)


def clips():
    return torch.randn(2, 3, 16, 16, 24, generator=generator_for(0, "clips"))


def view_of(*patches):
    return View(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([patches, patches]))


@pytest.mark.parametrize(("bins", "cell"), [(9, 8), (9, 4), (6, 2)])
def test_histograms_equal_scikit_images(bins, cell):
    ours = histograms(clips(), 16 // cell, 24 // cell, bins)
    for channel in range(3):
        theirs = hog(
            clips()[1, channel, 5].double().numpy(),
            orientations=bins,
            pixels_per_cell=(cell, cell),
            cells_per_block=(1, 1),
            block_norm="L2",
            feature_vector=False,
        )[:, :, 0, 0]
        mine = ours[1, channel * bins : (channel + 1) * bins, 5].permute(1, 2, 0)
        torch.testing.assert_close(mine, torch.from_numpy(theirs).float(), atol=1e-4, rtol=1e-4)


def test_a_target_is_the_cells_of_its_patch_in_order():
    patch = 3 * 2 + 1 + 6 * 2  # t = 3 of 8, row 0, column 1 of a 2 x 3 grid: 19 = (3 * 2 + 0) * 3 + 1
    target = build(cells=2)
    assert target.out_dim == 2 * 2 * 2 * 3 * 9
    ours = target(clips(), [view_of(patch)])[0][0, 0].view(2, 2, 2, 3, 9)
    maps = histograms(clips(), 4, 6, 9)[0].view(3, 9, 16, 4, 6)
    assert torch.equal(ours, maps[:, :, 6:8, 0:2, 2:4].permute(2, 3, 4, 0, 1))


def test_a_straight_edge_falls_into_one_bin_and_a_flat_patch_into_none():
    step = torch.zeros(1, 1, 1, 8, 16)
    step[..., 2:] = 1.0  # brightness changes from left to right: 0 degrees
    vertical, flat = histograms(step, 1, 2, 9)[0, :, 0, 0].unbind(1)
    assert vertical.tolist() == [1.0, *[0.0] * 8]
    assert flat.tolist() == [0.0] * 9
    assert histograms(step.transpose(3, 4), 2, 1, 9)[0, :, 0, 0, 0].argmax() == 4  # 90 degrees


def test_contrast_does_not_matter_and_its_sign_neither():
    view = view_of(0, 7)
    target = build()
    expected = target(clips(), [view])[0]
    torch.testing.assert_close(target(0.1 * clips() + 3, [view])[0], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(target(-clips(), [view])[0], expected, atol=1e-4, rtol=1e-4)


def test_the_predicted_frames_are_those_of_pixels():
    target = build(frames=Frames.mae_st)
    ours = target(clips(), [view_of(7 * 6)])[0][0, 0].view(1, 2, 2, 3, 9)
    last = histograms(clips(), 4, 6, 9)[0].view(3, 9, 16, 4, 6)[:, :, 15, 0:2, 0:2]
    assert torch.equal(ours[0], last.permute(2, 3, 0, 1))


def test_cells_that_do_not_divide_the_patch_are_refused():
    with pytest.raises(ValueError, match=r"target.cells must divide the patch, 8 x 8 pixels, got 3"):
        build(cells=3)
    with pytest.raises(ValueError, match=r"target.bins must be at least 1, got 0"):
        HogTarget(bins=0)


def test_hog_takes_the_place_of_pixels_in_a_config():
    assert load(["method=mae_st", "scale=smoke", "target=hog"]).target == HogTarget()
