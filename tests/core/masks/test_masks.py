"""What every mask must do, whatever its idea."""

import numpy as np
import pytest
import torch
from torch import Tensor

from core.masks import MASKS
from core.masks.multiblock import MultiBlockMask
from core.masks.multiblock3d import MultiBlock3dMask
from core.masks.ragged import Ragged
from core.types import Grid, Mask, View, generator_for

GRIDS = [Grid(1, 8, 8), Grid(1, 14, 14), Grid(1, 16, 16), Grid(4, 8, 8), Grid(8, 14, 14)]
VARIANTS: dict[str, Mask] = {
    **{name: mask() for name, mask in MASKS.items()},
    **{f"multiblock-{ragged.value}": MultiBlockMask(ragged=ragged) for ragged in Ragged},
    **{f"multiblock3d-{ragged.value}": MultiBlock3dMask(ragged=ragged) for ragged in Ragged},
    "multiblock-released": MultiBlockMask(ragged=Ragged.truncate, exclusive_corners=True, shared_draw=True),
    "multiblock3d-short": MultiBlock3dMask([4], [0.4], [0.5], context_share_max=0.25),
}
CASES = [
    pytest.param(mask, grid, id=f"{name}-{grid.t}x{grid.h}x{grid.w}")
    for name, mask in VARIANTS.items()
    for grid in GRIDS
    if grid.t > 1 or name not in {"time"}
]
FIXED_CASES = [case for case in CASES if getattr(case.values[0], "ragged", Ragged.fixed) is Ragged.fixed]


def draw(mask: Mask, grid: Grid, batch_size: int = 6, seed: int = 0) -> list[View]:
    return mask.sample(grid, batch_size, generator_for(seed, "mask"))


def tensors(views: list[View]) -> list[Tensor]:
    return [part for view in views for part in view if isinstance(part, Tensor)]


def real(indices: Tensor, valid: Tensor | None, row: int) -> list[int]:
    chosen = indices[row] if valid is None else indices[row][valid[row]]
    return [int(index) for index in chosen]


@pytest.mark.parametrize(("mask", "grid"), CASES)
def test_the_same_seed_gives_the_same_mask_and_another_seed_another(mask: Mask, grid: Grid) -> None:
    first, again, other = draw(mask, grid), draw(mask, grid), draw(mask, grid, seed=1)
    assert all(torch.equal(one, two) for one, two in zip(tensors(first), tensors(again), strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(tensors(first), tensors(other), strict=True))


@pytest.mark.parametrize(("mask", "grid"), CASES)
def test_the_global_generators_are_neither_read_nor_moved(mask: Mask, grid: Grid) -> None:
    torch.manual_seed(1)
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 - the global generator is what is being tested
    before, state = draw(mask, grid), torch.get_rng_state()
    assert torch.equal(state, torch.manual_seed(1).get_state())
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    torch.manual_seed(2)
    assert all(torch.equal(one, two) for one, two in zip(tensors(before), tensors(draw(mask, grid)), strict=True))


@pytest.mark.parametrize(("mask", "grid"), CASES)
def test_context_and_target_are_disjoint_distinct_patches_of_the_grid(mask: Mask, grid: Grid) -> None:
    mask.check(grid)
    for view in draw(mask, grid):
        for row in range(len(view.context)):
            context = real(view.context, view.context_valid, row)
            target = real(view.target, view.target_valid, row)
            assert len({*context, *target}) == len(context) + len(target)
            assert context and target
            assert min(context + target) >= 0
            assert max(context + target) < grid.num_patches


@pytest.mark.parametrize(("mask", "grid"), CASES)
def test_index_sets_are_int64_rows_in_raster_order_and_valid_is_bool(mask: Mask, grid: Grid) -> None:
    for view in draw(mask, grid):
        for indices, valid in ((view.context, view.context_valid), (view.target, view.target_valid)):
            assert indices.dtype == torch.int64
            assert indices.shape[0] == 6
            if valid is None:
                assert (indices.diff(dim=1) > 0).all()
            else:
                assert valid.dtype == torch.bool
                assert valid.shape == indices.shape
                assert valid.any(1).all()
                assert (indices >= 0).all()
                assert (indices < grid.num_patches).all()


@pytest.mark.parametrize(("mask", "grid"), FIXED_CASES)
def test_lengths_depend_on_neither_batch_size_nor_step_unless_asked_for(mask: Mask, grid: Grid) -> None:
    contexts = {
        tuple(view.context.shape[1] for view in draw(mask, grid, batch_size=size, seed=size)) for size in (1, 7, 40)
    }
    assert len(contexts) == 1


@pytest.mark.parametrize(("mask", "grid"), CASES)
def test_samples_of_a_batch_differ(mask: Mask, grid: Grid) -> None:
    views = draw(mask, grid, batch_size=40)
    assert any(len(part.unique(dim=0)) > 1 for view in views for part in (view.context, view.target))


@pytest.mark.parametrize("name", MASKS)
def test_the_last_row_and_column_are_sometimes_hidden_and_sometimes_seen(name: str) -> None:
    grid = Grid(4, 8, 8)
    views = draw(MASKS[name](), grid, batch_size=200)
    last = grid.num_patches - 1
    assert any((view.target == last).any() for view in views)
    assert any((view.context == last).any() for view in views)
