"""The attention paths agree with each other, forward and backward, in float32 and bfloat16."""

import pytest
import torch
import torch.nn.functional as F

from core.models.attention import attend, key_mask
from core.types import generator_for


def sdpa(qkv, heads, mask=None, skip=0):
    b, n, d = qkv.shape
    q, k, v = qkv.view(b, n, 3, heads, d // 3 // heads).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q[:, :, skip:], k, v, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("tokens", [5, 24, 64, 150])
@pytest.mark.parametrize("skip", [0, 2])
def test_the_cpu_path_equals_sdpa_in_float32(tokens, skip):
    qkv = torch.randn(3, tokens, 3 * 32, generator=generator_for(0), dtype=torch.float32)
    one, two = qkv.clone().requires_grad_(), qkv.clone().requires_grad_()
    a, b = attend(one, 2, skip=skip), sdpa(two, 2, skip=skip)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    weight = torch.randn(a.shape, generator=generator_for(1))
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(attend(qkv, 2, skip=skip), b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [5, 24, 64, 150])
@pytest.mark.parametrize("skip", [0, 2])
def test_bfloat16_agrees_with_float32_to_its_own_precision(tokens, skip):
    qkv = torch.randn(3, tokens, 3 * 32, generator=generator_for(0))
    exact, rough = qkv.bfloat16().float().requires_grad_(), qkv.bfloat16().requires_grad_()
    a, b = attend(exact, 2, skip=skip), attend(rough, 2, skip=skip)
    assert b.dtype is torch.bfloat16
    torch.testing.assert_close(b.float(), a, atol=0.03, rtol=0.03)
    a.square().sum().backward()
    b.float().square().sum().backward()
    error = (rough.grad.float() - exact.grad).norm() / exact.grad.norm()
    assert error < 0.02


def test_a_masked_key_is_not_seen():
    qkv = torch.randn(2, 6, 3 * 16, generator=generator_for(0))
    valid = torch.tensor([[True] * 4 + [False] * 2] * 2)
    masked = attend(qkv, 2, key_mask(valid, qkv.dtype))
    torch.testing.assert_close(masked[:, :4], attend(qkv[:, :4].contiguous(), 2), atol=1e-6, rtol=1e-5)


def test_large_scores_do_not_overflow():
    qkv = 100 * torch.randn(2, 24, 3 * 32, generator=generator_for(0))
    for dtype in (torch.float32, torch.bfloat16):
        one = qkv.clone().to(dtype).detach().requires_grad_()
        out = attend(one, 2)
        out.float().sum().backward()
        assert out.isfinite().all()
        assert one.grad.isfinite().all()
