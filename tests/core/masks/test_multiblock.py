import math

import pytest
import torch

from core.masks.multiblock import MultiBlockMask
from core.masks.ragged import Ragged
from core.types import Grid, View, generator_for

IMAGE = Grid(1, 14, 14)
RELEASED = MultiBlockMask(ragged=Ragged.truncate, exclusive_corners=True, shared_draw=True, min_keep=10)


def draw(mask: MultiBlockMask, grid: Grid = IMAGE, batch_size: int = 64, step: int = 0) -> list[View]:
    return mask.sample(grid, batch_size, generator_for(0, "mask", step))


def flags(views: list[View], grid: Grid = IMAGE) -> torch.Tensor:
    """Patches in any of a sample's targets: [B, N]."""
    union = torch.zeros(len(views[0].target), grid.num_patches, dtype=torch.bool)
    return union.scatter_(1, torch.cat([view.target for view in views], dim=1), True)


# ---- the released sampler's figures (methods.md sections 0.1 and 1) ------------------------------


@pytest.fixture(scope="module")
def released() -> dict[int, list[list[View]]]:
    return {size: [draw(RELEASED, batch_size=size, step=step) for step in range(150)] for size in (32, 64, 128)}


def test_target_blocks_and_their_union_have_the_released_sizes(released) -> None:
    sizes = [views[0].target.shape[1] for views in released[64]]
    assert sum(sizes) / len(sizes) == pytest.approx(33, abs=1)
    assert (min(sizes), max(sizes)) == (30, 40)
    union = sum(flags(views).sum(1).float().mean() for views in released[64]) / 150
    assert union == pytest.approx(87, abs=1.5)


def test_the_context_before_truncation_has_the_released_size() -> None:
    mask = MultiBlockMask(ragged=Ragged.pad, exclusive_corners=True, shared_draw=True, min_keep=10)
    views = [draw(mask, step=step)[0] for step in range(150)]
    counts = torch.cat([view.context_valid.sum(1) for view in views]).float()
    assert counts.mean() == pytest.approx(82, abs=1.5)
    assert counts.min() < 45
    assert counts.max() > 118


@pytest.mark.parametrize(("batch_size", "measured"), [(32, 61), (64, 55), (128, 53)])
def test_truncation_leaves_the_released_context(released, batch_size: int, measured: float) -> None:
    # The figures are means over few batches of the released collator, whose lengths spread by 6.5 between batches.
    lengths = [views[0].context.shape[1] for views in released[batch_size]]
    assert sum(lengths) / len(lengths) == pytest.approx(measured, abs=5.5)


def test_truncation_leaves_what_a_plain_loop_leaves(released) -> None:
    lengths = torch.tensor([float(views[0].context.shape[1]) for views in released[32]])
    generator, plain = generator_for(0, "loop"), []
    for _ in range(150):
        draws = torch.rand(1, generator=generator).item()
        patches, aspect = int(196 * (0.15 + 0.05 * draws)), 0.75 + 0.75 * draws
        h, w = round(math.sqrt(patches * aspect)), round(math.sqrt(patches / aspect))
        shortest = 196
        for _ in range(32):
            free = torch.zeros(14, 14)
            free[:13, :13] = 1
            for _ in range(4):
                top = int(torch.randint(0, 14 - h, (1,), generator=generator))
                left = int(torch.randint(0, 14 - w, (1,), generator=generator))
                free[top : top + h, left : left + w] = 0
            shortest = min(shortest, int(free.sum()))
        plain.append(float(shortest))
    loop = torch.tensor(plain)
    assert (lengths.mean() - loop.mean()).abs() < 4 * (lengths.var() / 150 + loop.var() / 150).sqrt()


def test_truncation_keeps_much_of_the_first_row_and_none_of_the_last(released) -> None:
    context = torch.cat([views[0].context.flatten() for views in released[64]])
    assert (context < 14).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (context < 13 * 14).all()


def test_the_figures_on_16x16_are_the_released_ones() -> None:
    grid = Grid(1, 16, 16)
    drawn = [draw(RELEASED, grid, step=step) for step in range(100)]
    sizes = [views[0].target.shape[1] for views in drawn]
    assert sum(sizes) / len(sizes) == pytest.approx(44, abs=2)
    assert (min(sizes), max(sizes)) == (35, 54)
    assert sum(flags(views, grid).sum(1).float().mean() for views in drawn) / 100 == pytest.approx(113, abs=4)
    assert sum(views[0].context.shape[1] for views in drawn) / 100 == pytest.approx(73, abs=5)


# ---- options -------------------------------------------------------------------------------------


def test_there_is_one_view_a_target_and_all_share_the_context_tensor() -> None:
    views = draw(MultiBlockMask(num_targets=3))
    assert len(views) == 3
    assert all(view.context is views[0].context for view in views)


def test_targets_are_rectangles_of_one_size_a_batch() -> None:
    for view in draw(MultiBlockMask()):
        rows, columns = view.target // 14, view.target % 14
        height, width = rows.amax(1) - rows.amin(1) + 1, columns.amax(1) - columns.amin(1) + 1
        assert (height * width == view.target.shape[1]).all()
        assert len(height.unique()) == len(width.unique()) == 1


def test_no_target_of_a_sample_overlaps_its_context() -> None:
    views = draw(MultiBlockMask(ragged=Ragged.pad), batch_size=200)
    assert not flags(views).gather(1, views[0].context).any()


def test_padding_loses_nothing_and_repeats_a_valid_patch() -> None:
    mask = MultiBlockMask(ragged=Ragged.pad, context_scale_min=1.0)
    views = draw(mask)
    context, valid = views[0].context, views[0].context_valid
    assert torch.equal(valid.sum(1), (~flags(views)).sum(1))
    assert valid.all(1).any()
    for row, is_valid in zip(context, valid, strict=True):
        assert set(row[~is_valid].tolist()) <= set(row[is_valid].tolist())


def test_the_fixed_context_is_a_subset_from_all_over_the_frame() -> None:
    context = draw(MultiBlockMask(), batch_size=2000)[0].context
    seen = context.flatten().bincount(minlength=196).view(14, 14).float() / 2000
    # Symmetric up and down, left and right: no raster bias, and the last row as often as the first.
    assert (seen - seen.flip(0)).abs().max() < 0.08
    assert (seen - seen.flip(1)).abs().max() < 0.08


def test_context_share_sets_the_fixed_length() -> None:
    assert draw(MultiBlockMask(context_share=0.25))[0].context.shape == (64, 49)


def test_exclusive_corners_never_touch_the_last_row_and_column() -> None:
    views = [view for step in range(20) for view in draw(MultiBlockMask(exclusive_corners=True), step=step)]
    for indices in (view.target for view in views):
        assert (indices // 14).max() < 13
        assert (indices % 14).max() < 13
    assert max(int((view.context // 14).max()) for view in views) < 13


def test_a_shared_draw_makes_big_blocks_tall_and_independent_draws_do_not() -> None:
    def sides(shared: bool) -> torch.Tensor:  # area and height / width of 200 steps
        mask = MultiBlockMask(shared_draw=shared)
        sizes = [mask._sizes(Grid(1, 40, 40), generator_for(0, step))[0] for step in range(200)]
        return torch.tensor([[size.area, size.h / size.w] for size in sizes]).T

    assert torch.corrcoef(sides(True))[0, 1] > 0.95
    assert torch.corrcoef(sides(False))[0, 1].abs() < 0.25


def test_in_a_clip_every_block_spans_all_frames() -> None:
    for view in draw(MultiBlockMask(), Grid(4, 8, 8), batch_size=8):
        for indices in (view.context, view.target):
            frames = (indices % 64).unflatten(1, (4, -1))
            assert (frames == frames[:, :1]).all()


def test_samples_short_of_context_are_drawn_again_and_then_stacked() -> None:
    # Ten targets of a third of the frame: raw contexts go down to nothing, the median is the bound.
    mask = MultiBlockMask(num_targets=10, target_scale_min=0.3, target_scale_max=0.34, min_keep=8, ragged=Ragged.pad)
    mask.check(IMAGE)
    for step in range(30):
        view = draw(mask, batch_size=50, step=step)[0]
        assert (view.context_valid.sum(1) > 8).all()


def test_stacked_targets_lie_on_one_another() -> None:
    mask = MultiBlockMask()
    sizes = mask._sizes(IMAGE, generator_for(0))
    starts, _ = mask._candidates(IMAGE, sizes, 5, generator_for(1), stacked=True)
    assert starts.shape == (5, 4)
    assert (starts == starts[:, :1]).all()


# ---- refusals ------------------------------------------------------------------------------------


def test_the_released_min_keep_is_refused_on_8x8_where_it_would_loop_for_ever() -> None:
    mask = MultiBlockMask(min_keep=10)
    with pytest.raises(ValueError, match=r"mask.min_keep=10 cannot be kept on grid 1x8x8: target blocks .* 8 to 12"):
        mask.check(Grid(1, 8, 8))
    with pytest.raises(ValueError, match="grid 1x8x8"):
        draw(mask, Grid(1, 8, 8))


def test_the_bound_on_min_keep_knows_that_a_shared_draw_has_fewer_sizes() -> None:
    MultiBlockMask(min_keep=8, shared_draw=True).check(Grid(1, 8, 8))  # 9 to 12 patches
    with pytest.raises(ValueError, match=r"8 to 12 patches .* at most 7"):
        MultiBlockMask(min_keep=8).check(Grid(1, 8, 8))


def test_a_context_that_targets_cannot_leave_is_refused() -> None:
    with pytest.raises(ValueError, match=r"mask.context_share=0.8 asks for 157 .* on grid 1x14x14.* at most \d+"):
        MultiBlockMask(context_share=0.8).check(IMAGE)
    with pytest.raises(ValueError, match=r"mask.min_keep=4 asks for more than 4 context patches"):
        MultiBlockMask(target_scale_min=0.8, target_scale_max=0.9).check(Grid(1, 8, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_targets": 0}, "mask.num_targets must be at least 1, got 0"),
        ({"target_scale_min": 0.3}, "mask.target_scale_min and mask.target_scale_max .* got 0.3 and 0.2"),
        ({"context_scale_max": 1.1}, "mask.context_scale_min and .* got 0.85 and 1.1"),
        ({"target_aspect_min": 0}, "mask.target_aspect_min and .* got 0 and 1.5"),
        ({"min_keep": -1}, "mask.min_keep must be at least 0, got -1"),
        ({"context_share": 1.5}, r"mask.context_share must be in \(0, 1\) or null, got 1.5"),
        ({"context_share": 0.3, "ragged": Ragged.pad}, "mask.context_share=0.3 .* no meaning with mask.ragged=pad"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiBlockMask(**options)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("grid", [Grid(1, 8, 8), IMAGE])
def test_possible_sizes_are_the_drawn_sizes(shared: bool, grid: Grid) -> None:
    mask = MultiBlockMask(shared_draw=shared)
    drawn = {mask._sizes(grid, generator_for(0, step))[0] for step in range(3000)}
    possible = set(mask.target_sizes(grid))
    assert drawn <= possible
    assert len(possible - drawn) <= 1  # a size at the very end of the range comes up once in thousands of steps
