"""A step on a GPU copies its inputs there without waiting, and reads nothing back (on fake tensors: no card needed)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from core.configuring.config import load
from core.models.blocks import LayerNorm
from core.models.vit import ViT
from core.running.stepping import tensor_float32
from tests.core.fake_card import CARD, FakeCard, take_step

METHODS = ["mae", "mae_st", "ijepa", "vjepa", "supervised", "vicreg", "m_jepa", "mc_jepa"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("scale", ["smoke", "gpu"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_waits_for_nothing_and_copies_from_pinned_memory_alone(cache, monkeypatch, method, scale):
    sizes = ["data.num_train=32", "data.num_test=8"] if scale == "gpu" else []
    words = [f"method={method}", f"scale={scale}", f"runtime.cache={cache}", *sizes]
    # Two blocks copy what twelve do.
    words += ["encoder.depth=2"] if isinstance(load(words).encoder, ViT) else []
    taken = take_step(load(words), monkeypatch)
    assert not taken.waits
    assert {place.split(":")[0] for place in taken.copies} == {"core/types/transfer.py"}
    # The clips and their crops, and masks, labels or views; of pairs as much again.
    assert taken.copies.total() <= (5 if method == "mc_jepa" else 4 if method == "m_jepa" else 3)
    assert all(value.device == CARD for value in taken.losses.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize(
    "words",
    [
        "method=mae augment.color=0.5 augment.flip=true",
        "method=mae augment.scale_min=1 augment.flip=true",
        "method=mae_st target=hog",
        "method=ijepa target.norm=batch",
        "method=supervised encoder.drop_path=0.5",
        "method=vicreg objective.content_frame=drawn data.frames=4",
    ],
)
def test_options_of_a_step_wait_for_nothing_either(cache, monkeypatch, words):
    taken = take_step(load(["scale=smoke", f"runtime.cache={cache}", *words.split()]), monkeypatch)
    assert not taken.waits


@pytest.mark.parametrize("words", ["mae", "ijepa mask.ragged=pad", "vjepa encoder.position=rope", "mae_st"])
def test_residuals_are_added_in_float32_whatever_autocast_makes_of_the_products(cache, monkeypatch, words):
    method, *rest = words.split()
    seen = []

    def block_sees(module, inputs):
        if isinstance(module, LayerNorm) and inputs[0].device == CARD:
            seen.append(inputs[0].dtype)

    with register_module_forward_pre_hook(block_sees):
        take_step(load([f"method={method}", "scale=smoke", f"runtime.cache={cache}", *rest]), monkeypatch)
    assert set(seen) == {torch.float32}


def test_float32_products_of_a_step_are_short_on_a_card_and_nowhere_else():
    units = torch.backends.cuda.matmul
    seen = []
    for device, precision in ((CARD, torch.bfloat16), (CARD, None), (torch.device("cpu"), torch.bfloat16)):
        with tensor_float32(device, precision):
            seen.append(units.allow_tf32)
    assert seen == [True, False, False] and not units.allow_tf32


def test_what_the_host_waits_for_is_seen():
    card = FakeCard()
    with card.fake, card:
        there = torch.zeros(4, device=CARD)
        there.to(CARD) + torch.tensor([1.0, 2.0, 3.0, 4.0], device=CARD)
        there.sum().cpu()
        there[torch.tensor([0, 1])]
        torch.zeros(4).to(CARD, non_blocking=True)
    kinds = sorted(what.split(" at ")[0] for what in card.waits.elements())
    assert kinds == ["copy from the host", "copy from the host", "copy to the host", "index of the host"]
