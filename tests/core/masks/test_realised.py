import pytest
import torch

from core.masks.realised import realised
from core.types import Grid, View


def indices(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_shares_are_counted_by_hand_on_a_tiny_clip() -> None:
    # 2 slices of 2x2: context is one patch of slice 0; the two targets overlap in patch 5.
    context = indices([0])
    views = [View(context, indices([4, 5])), View(context, indices([5, 6]))]
    assert realised(views, Grid(2, 2, 2)) == {
        "context_share": 1 / 8,
        "target_share": 3 / 8,
        "hidden_share": 7 / 8,
        "context_time": 0.5,
        "target_time": 0.5,
    }


def test_padding_does_not_count() -> None:
    valid = torch.tensor([[True, True], [True, False]])
    view = View(indices([0, 1], [2, 2]), indices([3], [3]), context_valid=valid)
    assert realised([view], Grid(1, 2, 2))["context_share"] == pytest.approx(3 / 8)


def test_kinds_with_their_own_context_are_also_given_one_by_one() -> None:
    views = [View(indices([0]), indices([1, 2, 3]), kind=0), View(indices([0, 1]), indices([2]), kind=1)]
    shares = realised(views, Grid(1, 2, 2))
    assert shares["context_share"] == pytest.approx(3 / 8)
    assert shares["kind0/context_share"] == 1 / 4
    assert shares["kind1/target_share"] == 1 / 4
