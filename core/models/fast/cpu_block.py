"""One transformer block in bfloat16 on a CPU, forward and backward written out.

Same arithmetic as the generic path under autocast. What it saves, measured on a Xeon with AMX (torch 2.15):

- The bias and the residual are added inside the product: `F.linear` first copies the bias into the output, a fifth of
  its time at width 192.
- One copy brings the packed q, k and v into the layout of a batched product, not three, and none is scaled.
- The softmax kernel is ten times slower on rows shorter than its vector; those rows take another way.
- With many tokens a norm is folded into the Linear after it, whose weight's gradient then gives the norm's.
- A block is one node of the graph instead of thirty.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

VECTOR = 32  # bfloat16 numbers in a register of 512 bits
CACHE_BYTES = 5 * 2**19  # larger attention weights than this are worked through in parts: half the time at 392 tokens


@functools.cache
def has_kernels() -> bool:
    """Whether oneDNN multiplies bfloat16 here: not below AVX512, nor where ONEDNN_MAX_CPU_ISA keeps it below."""
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def fits(block: Any, x: Tensor, attn_mask: Tensor | None) -> bool:
    """Whether `apply` may stand in for the generic path: bfloat16 autocast on CPU, no mask, no drop path."""
    return (
        x.device.type == "cpu"
        and attn_mask is None
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not torch.compiler.is_compiling()
        and has_kernels()
        and isinstance(block.drop_path1, nn.Identity)
        and isinstance(block.drop_path2, nn.Identity)
    )


Segments = tuple[tuple[int, int, int], ...]  # sequences of one length: how many, tokens each, tokens only read


def apply(block: Any, x: Tensor, skip: int) -> Tensor:
    """The block's output for the tokens after the first `skip`: [B, N, D] -> [B, N - skip, D] bfloat16."""
    b, n, d = x.shape
    return apply_flat(block, x.reshape(-1, d), ((b, n, skip),)).view(b, n - skip, d)


def apply_flat(block: Any, x: Tensor, segments: Segments) -> Tensor:
    """The same for sequences of several lengths, one after the other: [sum of B N, D] -> [sum of B (N - skip), D].

    Only attention knows where a sequence ends; the rest is one product each for all of them.
    """
    attn, mlp = block.attn, block.mlp
    parameters = []
    for layer in (block.norm1, attn.qkv, attn.proj, block.norm2, mlp.fc1, mlp.fc2):
        parameters += [layer.weight, layer.bias]
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            out: Tensor = _Block.apply(x.bfloat16(), attn.num_heads, block.norm1.eps, segments, *parameters)
            return out
        return _forward(x.bfloat16(), attn.num_heads, block.norm1.eps, segments, parameters, keep=False)[0]


def _read(x: Tensor, segments: Segments) -> list[Tensor]:
    """`x` [sum of B N, D] cut into its segments, [B, N, D] each."""
    parts = torch.split(x, [b * n for b, n, _ in segments])
    return [part.view(b, n, -1) for part, (b, n, _) in zip(parts, segments, strict=True)]


def _updated(x: Tensor, segments: Segments) -> Tensor:
    """The rows of `x` [sum of B N, D] that are not only read."""
    if not any(skip for _, _, skip in segments):
        return x
    parts = _read(x, segments)
    return torch.cat([p[:, s:].reshape(-1, x.shape[1]) for p, (_, _, s) in zip(parts, segments, strict=True)])


def _product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x weight' + bias, for tensors of two dimensions."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return out


def _add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x weight' + bias + residual, for tensors of two dimensions."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return out


def _forward(
    x: Tensor, heads: int, eps: float, segments: Segments, parameters: Sequence[Tensor], keep: bool
) -> tuple[Tensor, ...]:
    """The output and, with `keep`, what the backward pass needs; the attention's part comes last."""
    w_proj, b_proj, w_fc2, b_fc2 = (parameters[i].bfloat16() for i in (4, 5, 10, 11))
    d, fold = x.shape[1], keep and _is_long(x)

    qkv, *saved1 = _norm_linear(x, eps, parameters[:4], fold)
    mixed = x.new_empty(sum(b * (n - skip) for b, n, skip in segments), d)
    kept: list[Tensor] = []
    outputs = torch.split(mixed, [b * (n - skip) for b, n, skip in segments])
    for packed, out, (b, n, skip) in zip(_read(qkv, segments), outputs, segments, strict=True):
        by_head = packed.view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        if keep:
            by_head = by_head.contiguous()
            values, weights = _mix(by_head, skip)
            kept += [by_head, weights]
        else:
            values = F.scaled_dot_product_attention(by_head[0][:, :, skip:], by_head[1], by_head[2])
        out.view(b, n - skip, heads, d // heads).copy_(values.transpose(1, 2))
    x1 = _add(mixed, w_proj, b_proj, _updated(x, segments))

    hidden, *saved2 = _norm_linear(x1, eps, parameters[6:10], fold)
    if not keep:
        # In place and not inside the product, where oneDNN's own gelu takes twice as long.
        return (_add(torch.ops.aten.gelu_(hidden), w_fc2, b_fc2, x1),)
    active = F.gelu(hidden)
    out = _add(active, w_fc2, b_fc2, x1)
    return out, x, *saved1, mixed, w_proj, x1, *saved2, hidden, active, w_fc2, *kept


def _is_long(x: Tensor) -> bool:
    """Whether there are so many tokens that folding norms into weights costs less than their own gradients."""
    return x.shape[0] > 16 * x.shape[1]


def _norm_linear(x: Tensor, eps: float, parameters: Sequence[Tensor], fold: bool) -> tuple[Tensor, ...]:
    """A norm and the Linear after it: output, normed input, mean, 1 / std and the weight in bfloat16.

    With `fold` the norm's scale and shift are multiplied into the weight and bias, which is the same map.
    """
    norm, shift, weight, bias = parameters
    if fold:
        y, mean, rstd = torch.native_layer_norm(x, norm.shape, None, None, eps)
        weight, bias = weight * norm, torch.addmv(bias, weight, shift)
    else:
        y, mean, rstd = torch.native_layer_norm(x, norm.shape, norm, shift, eps)
    weight = weight.bfloat16()
    return _product(y, weight, bias.bfloat16()), y, mean, rstd, weight


def _norm_linear_backward(
    grad: Tensor, x: Tensor, saved: Sequence[Tensor], affine: Sequence[Tensor], fold: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (bfloat16), norm, shift, weight and bias (float32).

    On bfloat16, torch's layer-norm backward also sums the gradients of scale and shift over the tokens in bfloat16:
    after 12,288 tokens the latter is 72 % off. So it is given float32, or they come from the folded weight's.
    """
    (y, mean, rstd, used), (norm, shift, weight) = saved, affine
    back = torch.ops.aten.native_layer_norm_backward
    grad_y, grad_bias = grad @ used, grad.sum(0).float()
    grad_weight = grad.t() @ y
    if fold:
        grad_x = back(grad_y, x, norm.shape, mean, rstd, None, None, [True, False, False])[0]
        grad_norm, grad_shift = (grad_weight * weight).sum(0), weight.t().mv(grad_bias)
        return grad_x, grad_norm, grad_shift, torch.addr(grad_weight * norm, grad_bias, shift), grad_bias
    grad_x, grad_norm, grad_shift = back(
        grad_y.float(), x.float(), norm.shape, mean, rstd, norm, shift, [True, True, True]
    )
    return grad_x.bfloat16(), grad_norm, grad_shift, grad_weight.float(), grad_bias


def _mix(qkv: Tensor, skip: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention over packed [3, B, H, N, d]: mixed values [B, H, N - skip, d] and the weights that mixed them.

    `mask` [B, 1, 1, N], bfloat16, is added to the scores.
    """
    _, b, heads, n, d = qkv.shape
    q, k, v = qkv.flatten(1, 2)
    q = q[:, skip:]
    mixed, weights = torch.empty_like(q), q.new_empty(b * heads, n - skip, n)
    added = q.new_empty(1, 1, 1) if mask is None else mask.expand(b, heads, 1, n).reshape(b * heads, 1, n)
    for part in _parts(weights):
        row, beta = (added, 0) if mask is None else (added[part], 1)
        scores = torch.baddbmm(row, q[part], k[part].transpose(1, 2), beta=beta, alpha=d**-0.5)
        if n % VECTOR and VECTOR // 2 <= n < 4 * VECTOR:
            weights[part] = scores.softmax(-1, dtype=torch.float32)
        else:
            torch.softmax(scores, -1, out=weights[part])
        torch.bmm(weights[part], v[part], out=mixed[part])
    return mixed.view(b, heads, n - skip, d), weights


def _mix_backward(grad: Tensor, qkv: Tensor, weights: Tensor, mixed: Tensor, skip: int) -> Tensor:
    """Gradient with respect to the packed q, k, v, [3, B, H, N, d]; `grad` and `mixed` are [B * (N - skip), D]."""
    _, b, heads, n, d = qkv.shape
    q, k, v = qkv.flatten(1, 2)
    q = q[:, skip:]

    def by_head(x: Tensor, width: int) -> Tensor:
        return x.view(b, n - skip, heads, width).transpose(1, 2).reshape(b * heads, n - skip, width)

    out = torch.empty_like(qkv)
    grad_q, grad_k, grad_v = out.flatten(1, 2)
    grad_q[:, :skip] = 0
    each, scale, nothing = by_head(grad, d), d**-0.5, q.new_empty(1, 1, 1)
    # Rows too short for the softmax kernel: its backward is weights * (grad_weights - sum(grad * mixed)).
    along = by_head((grad * mixed).view(-1, d).sum(-1), 1) if n < VECTOR else None
    for part in _parts(weights):
        torch.bmm(weights[part].transpose(1, 2), each[part], out=grad_v[part])
        if along is not None:
            grad_scores = torch.baddbmm(along[part], each[part], v[part].transpose(1, 2), beta=-1).mul_(weights[part])
        else:
            grad_weights = torch.bmm(each[part], v[part].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weights, weights[part], -1, weights.dtype)
        grad_q[part, skip:] = torch.baddbmm(nothing, grad_scores, k[part], beta=0, alpha=scale)
        torch.baddbmm(nothing, grad_scores.transpose(1, 2), q[part], beta=0, alpha=scale, out=grad_k[part])
    return out


def _parts(weights: Tensor) -> list[slice]:
    """Slices of the heads whose attention weights fit the cache together."""
    size = max(1, CACHE_BYTES // (weights[0].numel() * weights.element_size()))
    return [slice(start, start + size) for start in range(0, len(weights), size)]


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, eps: float, segments: Segments, *parameters: Tensor) -> Tensor:
        out, *saved = _forward(x, heads, eps, segments, parameters, keep=True)
        ctx.save_for_backward(*parameters[:3], *parameters[6:9], *saved)
        ctx.segments = segments
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        segments: Segments = ctx.segments
        saved = ctx.saved_tensors  # read once: a checkpointed block makes them when they are read
        affine1, affine2 = saved[:3], saved[3:6]
        x, *rest = saved[6:]
        saved1, (mixed, w_proj, x1), rest = rest[:4], rest[4:7], rest[7:]
        saved2, (hidden, active, w_fc2), kept = rest[:4], rest[4:7], rest[7:]
        fold = _is_long(x)

        grad_hidden = torch.ops.aten.gelu_backward(grad @ w_fc2, hidden)
        grad_x1, *grads2 = _norm_linear_backward(grad_hidden, x1, saved2, affine2, fold)
        grad_x1 += grad
        grad_mixed = grad_x1 @ w_proj
        grad_qkv = x.new_empty(len(x), 3 * x.shape[1])
        rows = [b * (n - skip) for b, n, skip in segments]
        for i, (out, part, values) in enumerate(
            zip(_read(grad_qkv, segments), torch.split(grad_mixed, rows), torch.split(mixed, rows), strict=True)
        ):
            by_head = _mix_backward(part, kept[2 * i], kept[2 * i + 1], values, segments[i][2])
            _, b, heads, n, d = by_head.shape
            out.view(b, n, 3, heads, d).copy_(by_head.permute(1, 3, 0, 2, 4))
        grad_x, *grads1 = _norm_linear_backward(grad_qkv, x, saved1, affine1, fold)
        for out, part, (b, n, skip) in zip(_read(grad_x, segments), torch.split(grad_x1, rows), segments, strict=True):
            out[:, skip:] += part.view(b, n - skip, -1)

        proj, fc2 = _linear_backward(grad_x1, mixed), _linear_backward(grad, active)
        return grad_x, None, None, None, *grads1, *proj, *grads2, *fc2


def _linear_backward(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, float32."""
    return (grad.t() @ x).float(), grad.sum(0).float()
