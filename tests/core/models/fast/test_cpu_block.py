"""The block written out for bfloat16 on CPU against timm's block in float32."""

import pytest
import torch
from timm.models.vision_transformer import Block
from torch import nn

from core.models import ViT
from core.models.blocks import LayerNorm, apply_block
from core.models.fast import cpu_block
from core.types import DataSpec, generator_for
from tests.core.models.test_vit import shake

pytestmark = pytest.mark.skipif(not cpu_block.has_kernels(), reason="needs oneDNN's kernels for bfloat16")


def relative(a, b):
    return ((a.float() - b).norm() / b.norm()).item()


def blocks(width):
    spec = DataSpec(channels=3, frames=1, height=8, width=8)
    ours = ViT(width=width, depth=1, heads=2, patch=4).build(spec, generator_for(0)).blocks[0]
    shake(ours)
    theirs = Block(width, 2, qkv_bias=True, norm_layer=lambda dim, **_: nn.LayerNorm(dim, eps=1e-6))
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


# Few tokens for the width, many, and sequences on both sides of each switch in the attention.
@pytest.mark.parametrize(
    ("width", "batch", "tokens"), [(64, 2, 5), (64, 3, 24), (64, 3, 150), (16, 40, 12), (16, 20, 40), (16, 2, 1200)]
)
@pytest.mark.parametrize("skip", [0, 4])
def test_outputs_and_gradients_equal_timms_to_the_precision_of_bfloat16(width, batch, tokens, skip):
    ours, theirs = blocks(width)
    x = torch.randn(batch, tokens, width, generator=generator_for(1)).bfloat16()
    x1, x2 = x.clone().requires_grad_(), x.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        assert cpu_block.fits(ours, x1, None)
        a = apply_block(ours, x1, None, skip)
    b = theirs(x2)[:, skip:]
    assert a.dtype is torch.bfloat16
    assert relative(a, b) < 0.01
    weight = torch.randn(b.shape, generator=generator_for(2)) + 0.3
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    assert relative(x1.grad, x2.grad) < 0.025
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert relative(p.grad, q.grad) < 0.03, name


def test_without_gradients_the_output_is_the_same():
    ours, theirs = blocks(64)
    x = torch.randn(3, 40, 64, generator=generator_for(1))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert relative(apply_block(ours, x, None, 4), theirs(x)[:, 4:].float()) < 0.01


@pytest.mark.parametrize("skips", [(0, 0), (2, 6)])
def test_sequences_of_different_lengths_go_through_together_as_they_would_alone(skips):
    spec = DataSpec(channels=3, frames=1, height=8, width=8)
    stack = ViT(width=64, depth=2, heads=2, patch=4).build(spec, generator_for(0)).blocks
    shake(stack)
    xs = [torch.randn(b, n, 64, generator=generator_for(b)).bfloat16().requires_grad_() for b, n in ((3, 40), (5, 9))]
    weights = [
        torch.randn(len(x), x.shape[1] - s, 64, generator=generator_for(9)) for x, s in zip(xs, skips, strict=True)
    ]

    def outputs_and_gradients(together):
        with torch.autocast("cpu", torch.bfloat16):
            outs = stack.many(xs, skips) if together else [stack(x, skip=s) for x, s in zip(xs, skips, strict=True)]
        loss = sum((out * weight).sum() for out, weight in zip(outs, weights, strict=True))
        return [*outs, *torch.autograd.grad(loss, [*xs, *stack.parameters()])]

    for together, alone in zip(outputs_and_gradients(True), outputs_and_gradients(False), strict=True):
        assert together.shape == alone.shape
        assert relative(together, alone.float()) < 0.01


def test_float32_runs_do_not_take_it():
    ours, _ = blocks(64)
    assert not cpu_block.fits(ours, torch.zeros(1, 2, 64), None)


def test_the_gradient_of_a_shift_survives_many_tokens_in_bfloat16():
    norm, exact = LayerNorm(16), nn.LayerNorm(16, eps=1e-6)
    x = torch.randn(12288, 16, generator=generator_for(0)).bfloat16()
    weight = torch.randn(12288, 16, generator=generator_for(1)) + 0.3
    (norm(x) * weight).sum().backward()
    (exact(x.float()) * weight).sum().backward()
    assert relative(norm.bias.grad, exact.bias.grad) < 0.01
    assert relative(norm.weight.grad, exact.weight.grad) < 0.02
