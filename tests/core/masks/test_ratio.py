import pytest
import torch

from core.masks import MASKS
from core.masks.block import BlockMask, CubeMask
from core.masks.random import RandomMask
from core.masks.rasterized import RasterizedMask
from core.masks.space import SpaceMask
from core.masks.time import TimeMask
from core.types import Grid, View, generator_for

CLIP = Grid(8, 14, 14)


def draw(mask, grid: Grid, batch_size: int = 16) -> list[View]:
    return mask.sample(grid, batch_size, generator_for(3, "mask"))


@pytest.mark.parametrize(
    ("mask", "grid", "kept"),
    [
        (RandomMask(0.75), Grid(1, 14, 14), 49),  # MAE
        (RandomMask(0.9), CLIP, 156),  # MAE-ST
        (RandomMask(0.9), Grid(1, 39, 40), 156),  # 1560 * (1 - 0.9) is 155.99999999999997 in floating point
        (RandomMask(0.001), Grid(1, 8, 8), 63),  # at least one is hidden
        (SpaceMask(0.9), CLIP, 8 * 19),
        (TimeMask(0.75), CLIP, 2 * 196),
        (TimeMask(0.875), CLIP, 196),
        (BlockMask(0.6), Grid(1, 14, 14), 196 - 121),
        (BlockMask(0.6), CLIP, 8 * (196 - 121)),
        (CubeMask(0.85, 0.875), CLIP, 1568 - 7 * 13 * 13),
        (RasterizedMask(), Grid(1, 14, 14), 49),
    ],
)
def test_the_context_has_exactly_the_patches_that_the_ratio_leaves(mask, grid: Grid, kept: int) -> None:
    (view, *_) = views = draw(mask, grid)
    assert view.context.shape == (16, kept)
    assert sum(other.target.shape[1] for other in views) == grid.num_patches - kept


def test_random_hides_every_patch_equally_often() -> None:
    (view,) = draw(RandomMask(0.75), Grid(1, 8, 8), batch_size=4000)
    seen = view.context.flatten().bincount(minlength=64) / 4000
    assert (seen - 0.25).abs().max() < 0.03  # 4.4 standard errors


def test_space_hides_the_same_positions_in_every_frame() -> None:
    (view,) = draw(SpaceMask(0.9), CLIP)
    positions = (view.context % 196).unflatten(1, (8, -1))
    assert (positions == positions[:, :1]).all()
    assert (view.context // 196).unique(return_counts=True)[1].unique().numel() == 1


def test_time_hides_whole_slices() -> None:
    (view,) = draw(TimeMask(0.75), CLIP)
    for row in view.context:
        assert (row // 196).unique(return_counts=True)[1].tolist() == [196, 196]


def test_block_hides_one_rectangle_through_all_frames() -> None:
    grid = Grid(2, 8, 8)
    (view,) = draw(BlockMask(0.6), grid)
    hidden = torch.zeros(16, grid.num_patches, dtype=torch.bool).scatter_(1, view.target, True).view(16, *grid)
    assert (hidden[:, 0] == hidden[:, 1]).all()
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert (hidden[:, 0] == rows[:, :, None] & columns[:, None, :]).all()
    assert (rows.sum(1) == 6).all()


def test_cube_hides_one_box() -> None:
    grid = Grid(4, 8, 8)
    (view,) = draw(CubeMask(0.6, 0.5), grid)
    hidden = torch.zeros(16, grid.num_patches, dtype=torch.bool).scatter_(1, view.target, True).view(16, *grid)
    sides = [hidden.any(3).any(2), hidden.any(3).any(1), hidden.any(2).any(1)]  # along t, h, w: [B, size]
    assert (hidden == sides[0][:, :, None, None] & sides[1][:, None, :, None] & sides[2][:, None, None, :]).all()
    assert [int(side.sum(1).unique()) for side in sides] == [2, 6, 6]


def test_rasterized_predicts_three_quadrants_from_one_shared_context() -> None:
    views = draw(RasterizedMask(), Grid(1, 8, 8))
    assert len(views) == 3
    assert all(view.context is views[0].context for view in views)
    for indices in (views[0].context, *(view.target for view in views)):
        quadrants = indices // 8 // 4 * 2 + indices % 8 // 4
        assert (quadrants == quadrants[:, :1]).all()
    assert len((views[0].context[:, 0]).unique()) == 4  # each quadrant is sometimes the context


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomMask(1.2), r"mask.ratio must be in \(0, 1\), got 1.2"),
        (lambda: SpaceMask(0.0), r"mask.ratio must be in \(0, 1\), got 0.0"),
        (lambda: TimeMask(-1), r"mask.ratio must be in \(0, 1\), got -1"),
        (lambda: BlockMask(scale=1.0), r"mask.scale must be in \(0, 1\), got 1.0"),
        (lambda: BlockMask(aspect=0), "mask.aspect must be positive, got 0"),
        (lambda: CubeMask(spatial_scale=1.5), r"mask.spatial_scale must be in \(0, 1\], got 1.5"),
        (lambda: CubeMask(temporal_scale=0), r"mask.temporal_scale must be in \(0, 1\], got 0"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("mask", "grid", "message"),
    [
        (RandomMask(0.99), Grid(1, 8, 8), "mask.ratio=0.99 leaves no context on grid 1x8x8.* at most 0.9844"),
        (SpaceMask(0.99), Grid(4, 8, 8), "grid 4x8x8: of 64 positions"),
        (TimeMask(0.9), Grid(8, 14, 14), "grid 8x14x14: of 8 time slices .* at most 0.875"),
        (TimeMask(), Grid(1, 8, 8), "mask=time needs at least 2 time slices, and grid 1x8x8 has 1"),
        (BlockMask(0.98), Grid(1, 8, 8), "mask.scale=0.98 hides all of grid 1x8x8"),
        (CubeMask(1.0, 1.0), Grid(4, 8, 8), "hide all of grid 4x8x8"),
        (RasterizedMask(), Grid(1, 7, 8), "even number of rows and columns .* got grid 1x7x8"),
    ],
)
def test_a_mask_that_cannot_be_drawn_is_refused_with_its_grid(mask, grid: Grid, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask.check(grid)


def test_every_mask_is_documented_with_its_source() -> None:
    assert all("Source:" in (mask.__doc__ or "") for mask in MASKS.values())
