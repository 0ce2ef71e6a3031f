"""Pixel targets against their formulas."""

import pytest
import torch

from core.models import ViT
from core.targets import PixelTarget
from core.targets.pixels import Frames, PixelNorm, every_other_frame
from core.types import DataSpec, View, generator_for

CLIP = DataSpec(channels=3, frames=16, height=8, width=12)


def build(spec=CLIP, tubelet=2, **options):
    encoder = ViT(width=24, depth=1, heads=2, patch=4, tubelet=tubelet).build(spec, generator_for(0))
    return PixelTarget(**options).build(encoder, spec)


def clips():
    return torch.randn(2, 3, 16, 8, 12, generator=generator_for(0, "clips"))


def one_patch(index):
    return View(torch.zeros(2, 0, dtype=torch.int64), torch.full((2, 1), index))


# Grid 8 x 2 x 3: patch 10 is frames 2 and 3, rows 4 to 7, columns 4 to 7.
CUBE = (slice(None), slice(None), slice(2, 4), slice(4, 8), slice(4, 8))


def test_raw_pixels_come_as_frame_row_column_channel():
    expected = clips()[CUBE].permute(0, 2, 3, 4, 1).flatten(1)
    assert torch.equal(build(norm=PixelNorm.none)(clips(), [one_patch(10)])[0][:, 0], expected)


def test_patch_norm_pools_channels_and_frames_with_unbiased_variance():
    cube = clips()[CUBE].permute(0, 2, 3, 4, 1).flatten(1)
    expected = (cube - cube.mean(1, keepdim=True)) / (cube.var(1, keepdim=True) + 1e-6).sqrt()
    ours = build(norm=PixelNorm.patch)(clips(), [one_patch(10)])[0][:, 0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_cube_channel_norm_keeps_channels_apart():
    cube = clips()[CUBE]
    mean, std = cube.mean((2, 3, 4), keepdim=True), cube.std((2, 3, 4), keepdim=True)
    expected = ((cube - mean) / (std + 1e-6)).permute(0, 2, 3, 4, 1).flatten(1)
    ours = build(norm=PixelNorm.cube_channel)(clips(), [one_patch(10)])[0][:, 0]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_mae_st_predicts_8_of_16_frames_ending_with_the_last():
    assert every_other_frame(16) == [0, 2, 4, 6, 8, 10, 12, 15]
    for frames in (2, 4, 8, 32, 64):
        exact = torch.linspace(0, frames - 1, frames // 2, dtype=torch.float64).add(1e-9).floor().int().tolist()
        assert every_other_frame(frames) == exact


@pytest.mark.parametrize(("index", "frame"), [(10, 2), (46, 15)])
def test_mae_st_targets_are_one_frame_of_the_tubelet(index, frame):
    target = build(norm=PixelNorm.none, frames=Frames.mae_st)
    assert target.out_dim == 4 * 4 * 3
    expected = clips()[:, :, frame, 4:8, 4:8].permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(target(clips(), [one_patch(index)])[0][:, 0], expected)


def test_one_target_a_view_without_gradient_in_float32():
    view, pixels = one_patch(3), clips().bfloat16().requires_grad_()
    targets = build()(pixels, [view, view._replace(target=view.target.repeat(1, 4))])
    assert [t.shape for t in targets] == [(2, 1, 96), (2, 4, 96)]
    assert all(t.dtype is torch.float32 and not t.requires_grad for t in targets)


def test_half_the_frames_of_an_odd_tubelet_are_refused():
    with pytest.raises(ValueError, match=r"encoder.tubelet must be even, got 1: use target.frames=all"):
        build(tubelet=1, frames=Frames.mae_st)
