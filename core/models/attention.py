"""Multi-head self-attention that takes the path measured to be fastest on its device."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Drop-in for timm's attention layer, with the same parameters.

    On CPU the backward of `scaled_dot_product_attention` dominates a step on short sequences, so there the product,
    the softmax and the second product are written out.
    """

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = True, proj_bias: bool = True, **_: Any) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        skip: int = 0,
        rotation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attend to every token of `x` [B, N, D] from those after the first `skip`: [B, N - skip, D].

        `attn_mask` [B, 1, 1, N] is added to the scores: 0 where a token may be seen, -inf where not. `rotation` is
        the cosine and sine that queries and keys are rotated by, [N, d] or [B, 1, N, d] with d = D / heads.
        """
        assert not is_causal
        out: Tensor = self.proj(attend(self.qkv(x), self.num_heads, attn_mask, skip, rotation))
        return out


def attend(
    qkv: Tensor,
    num_heads: int,
    attn_mask: Tensor | None = None,
    skip: int = 0,
    rotation: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mix the values of packed `qkv` [B, N, 3 D] for the tokens after the first `skip`: [B, N - skip, D]."""
    b, n, d = qkv.shape
    q, k, v = qkv.view(b, n, 3, num_heads, d // 3 // num_heads).permute(2, 0, 3, 1, 4).unbind(0)
    if rotation is not None:
        q, k = rotate(q, *rotation), rotate(k, *rotation)
    q = q[:, :, skip:]
    # The flash kernel for CPU is the faster one forward, and several times the slower one backward.
    if qkv.device.type == "cpu" and qkv.requires_grad:
        mixed = explicit_attention(q, k, v, attn_mask)
    else:
        mask = None if attn_mask is None else attn_mask.to(q.dtype)  # of the residual stream's type
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(b, n - skip, d // 3)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [B, H, N, d] with each pair of neighbouring features (a, b) turned: (a cos - b sin, b cos + a sin)."""
    a, b = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    turned = torch.stack([-b, a], dim=-1).flatten(-2)
    # The tables are float32: angles rounded to bfloat16 would be off by whole patches.
    return (x * cos + turned * sin).to(x.dtype)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d) + mask) v for [B, H, N, d] tensors, written out."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    if attn_mask is not None:
        scores = scores + attn_mask
    out: Tensor = scores.softmax(-1) @ v
    return out


def key_mask(valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask [B, 1, 1, N] that hides the tokens that are not `valid` [B, N]."""
    hidden = torch.zeros(valid.shape, dtype=dtype, device=valid.device).masked_fill(~valid, float("-inf"))
    return hidden[:, None, None]
