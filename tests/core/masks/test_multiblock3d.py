import pytest
import torch

from core.masks.multiblock3d import MultiBlock3dMask
from core.masks.ragged import Ragged
from core.masks.realised import realised
from core.types import Grid, View, generator_for

CLIP = Grid(8, 14, 14)  # 224 px, 16 frames


def draw(mask: MultiBlock3dMask, grid: Grid = CLIP, batch_size: int = 24, step: int = 0) -> list[View]:
    return mask.sample(grid, batch_size, generator_for(0, "mask", step))


def mean_realised(mask: MultiBlock3dMask, batch_size: int, num_steps: int = 40) -> dict[str, float]:
    rows = [realised(draw(mask, batch_size=batch_size, step=step), CLIP) for step in range(num_steps)]
    return {name: sum(row[name] for row in rows) / num_steps for name in rows[0]}


def test_the_released_figures_of_16_frames_in_batches_of_24() -> None:
    raw = mean_realised(MultiBlock3dMask(ragged=Ragged.pad), 24)
    cut = mean_realised(MultiBlock3dMask(ragged=Ragged.truncate), 24)
    assert raw["kind0/context_share"] == pytest.approx(0.38, abs=0.02)
    assert raw["kind0/target_share"] == pytest.approx(0.62, abs=0.02)
    assert raw["kind1/context_share"] == pytest.approx(0.19, abs=0.02)
    assert cut["kind0/context_share"] == pytest.approx(0.24, abs=0.03)
    assert cut["kind0/target_share"] == pytest.approx(0.48, abs=0.02)
    assert cut["kind1/context_share"] == pytest.approx(0.067, abs=0.015)
    assert cut["kind1/target_share"] == pytest.approx(0.70, abs=0.02)
    assert cut["kind1/context_time"] * 8 == pytest.approx(3.9, abs=0.6)
    assert cut["kind1/target_time"] * 8 == pytest.approx(7.4, abs=0.2)


def test_the_released_figures_in_batches_of_4() -> None:
    cut = mean_realised(MultiBlock3dMask(ragged=Ragged.truncate), 4, num_steps=100)
    assert cut["kind0/context_share"] == pytest.approx(0.30, abs=0.02)
    assert cut["kind1/context_share"] == pytest.approx(0.11, abs=0.02)


def test_fixed_lengths_keep_every_time_slice() -> None:
    shares = mean_realised(MultiBlock3dMask(), 24, num_steps=5)
    assert shares["context_time"] == shares["target_time"] == 1


def test_each_entry_of_the_lists_is_a_view_with_its_own_kind_and_context() -> None:
    views = draw(MultiBlock3dMask([8, 2, 1], [0.15, 0.7, 0.5], [1.0, 1.0, 0.5]))
    assert [view.kind for view in views] == [0, 1, 2]
    assert views[0].context is not views[1].context


def test_full_temporal_scale_gives_tubes_and_half_gives_blocks_of_half_the_slices() -> None:
    def covered(scale: float) -> torch.Tensor:  # [B, T, H * W]
        (view,) = draw(MultiBlock3dMask([1], [0.5], [scale], ragged=Ragged.pad))
        flags = torch.zeros(24, CLIP.num_patches, dtype=torch.bool)
        return flags.scatter_(1, view.target, True).unflatten(1, (8, -1))

    tubes = covered(1.0)
    assert (tubes == tubes[:, :1]).all()
    half = covered(0.5).any(2)
    assert (half.sum(1) == 4).all()
    assert len(half.int().argmax(1).unique()) > 1


def test_context_can_be_limited_in_length_and_in_time() -> None:
    (short, _) = draw(MultiBlock3dMask(context_share_max=0.1, ragged=Ragged.truncate))
    assert short.context.shape[1] == 156
    (early, _) = draw(MultiBlock3dMask(context_time_max=0.5))
    assert (early.context // 196).max() == 3
    assert (early.target // 196).max() == 7


@pytest.mark.parametrize("grid", [CLIP, Grid(4, 6, 6), Grid(8, 8, 8)])
@pytest.mark.parametrize("depth", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("ratio, blocks, scale", [(0.25, 1, 0.25), (0.5, 1, 0.51), (0.9, 2, 0.62), (0.95, 2, 0.73)])
def test_the_share_of_the_frames_with_a_target_that_is_hidden_is_what_was_asked(
    grid, depth, ratio, blocks, scale
) -> None:
    (view,) = draw(MultiBlock3dMask([blocks], [scale], [depth], spatial_ratio=ratio), grid)
    found = realised([view], grid)
    assert found["spatial_ratio"] == pytest.approx(ratio, abs=0.5 / (depth * grid.num_patches) + 1e-6)
    assert found["target_time"] == depth
    assert found["context_share"] == pytest.approx(1 - ratio * depth, abs=0.5 / grid.num_patches + 1e-6)
    assert not any(set(c.tolist()) & set(t.tolist()) for c, t in zip(view.context, view.target, strict=True))
    assert all(len(set(row.tolist())) == len(row) for row in (*view.context, *view.target))


def test_a_ratio_that_the_blocks_exceed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask\.spatial_ratio=0\.3 is less than 2 blocks of .*=0\.7 hide of a frame"):
        MultiBlock3dMask([2], [0.7], [1.0], spatial_ratio=0.3).check(CLIP)
    with pytest.raises(ValueError, match=r"mask\.spatial_ratio=1\.0 leaves no context on grid 8x14x14"):
        MultiBlock3dMask([2], [0.7], [1.0], spatial_ratio=1.0).check(CLIP)


def test_a_row_that_cannot_be_drawn_within_bounds_borrows_single_patches() -> None:
    mask = MultiBlock3dMask([1], [0.5], [1.0])
    flags = mask._draw(CLIP, 3, 0, 1000, 1000, generator_for(0))  # one block of 9x11 leaves 784 or so, never 1000
    assert flags.sum(1).tolist() == [1000, 1000, 1000]


def test_blocks_that_cover_everything_are_refused_with_the_grid() -> None:
    with pytest.raises(ValueError, match=r"mask.num_blocks\[0\]=40 .* leave no context .* grid 4x8x8"):
        MultiBlock3dMask([40], [0.7], [1.0]).check(Grid(4, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": [8]}, "must have one entry for each mask of a clip"),
        ({"num_blocks": [0, 2]}, r"mask.num_blocks must be at least 1 each, got \[0, 2\]"),
        ({"spatial_scale": [0.15, 1.7]}, r"mask.spatial_scale must be in \(0, 1\] each, got \[0.15, 1.7\]"),
        ({"temporal_scale": [0.0, 1.0]}, r"mask.temporal_scale must be in \(0, 1\] each"),
        ({"context_share_max": 0}, r"mask.context_share_max must be in \(0, 1\], got 0"),
        ({"spatial_ratio": 0.0}, r"mask.spatial_ratio must be in \(0, 1\] or null, got 0.0"),
        (
            {"spatial_ratio": 0.9, "context_share_max": 0.1},
            r"mask.spatial_ratio=0.9 decides how much is context: .*0.1",
        ),
        ({"aspect_min": 2.0}, "mask.aspect_min and mask.aspect_max .* got 2.0 and 1.5"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiBlock3dMask(**options)
