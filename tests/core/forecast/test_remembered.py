"""Operations on the meta device that are remembered have the outcomes that torch works out anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from core.forecast.remembered import Remembered

META = torch.device("meta")


def net() -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    return nn.Sequential(layer, nn.LayerNorm(16), nn.Linear(16, 3)).to(META)


def counted(rows: int) -> tuple[int, torch.Size]:
    model, x = net(), torch.empty(rows, 5, 16, device=META)
    with FlopCounterMode(display=False) as counter:
        out = model(x).transpose(1, 2)
        torch.autograd.grad(out.float().square().mean(), list(model.parameters()))
    return counter.get_total_flops(), out.shape


@pytest.mark.parametrize("rows", [4, 7])
def test_as_many_operations_are_counted_the_first_time_and_again(rows: int) -> None:
    plain = counted(rows)
    with Remembered():
        assert counted(rows) == counted(rows) == plain


def test_shapes_strides_and_types_are_those_of_torch() -> None:
    def outcomes() -> list[torch.Tensor]:
        x = torch.empty(4, 6, 8, device=META).transpose(0, 2)
        y = torch.ones(6, 4, dtype=torch.int64, device=META)
        pieces = torch.topk(x, 2, dim=1)
        return [
            x + y,
            x * 2.5,
            x > 0,
            torch.cat([x, x], 1),
            x.flatten(),
            x.sum(0),
            *pieces,
            x.add_(1),
            x.to(torch.half),
        ]

    plain = outcomes()
    with Remembered():
        outcomes()
        again = outcomes()
    assert [(x.shape, x.stride(), x.dtype) for x in again] == [(x.shape, x.stride(), x.dtype) for x in plain]


def test_a_tensor_with_content_is_computed_and_a_view_shares_what_it_is_of() -> None:
    with Remembered():
        for value in (1.0, 2.0):
            x = torch.full((3,), value)
            x.view(3, 1).add_(1)
            assert (x * 2).tolist() == [2 * (value + 1)] * 3
