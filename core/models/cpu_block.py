"""One transformer block in bfloat16 on a CPU, forward and backward written out.

Same arithmetic as the generic path under autocast. What it saves, measured on a Xeon with AMX (torch 2.15):

- The bias and the residual are added inside the product: `F.linear` first copies the bias into the output, a fifth of
  its time at width 192.
- One copy brings the packed q, k and v into the layout of a batched product, not three, and none is scaled.
- The softmax kernel is ten times slower on rows shorter than its vector; those rows take another way.
- A block is one node of the graph instead of thirty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

VECTOR = 32  # bfloat16 numbers in a register of 512 bits

product: Any = torch.ops.mkldnn._linear_pointwise


def fits(block: Any, x: Tensor, attn_mask: Tensor | None) -> bool:
    """Whether `apply` may stand in for the generic path: bfloat16 autocast on CPU, no mask, no drop path."""
    return (
        x.device.type == "cpu"
        and attn_mask is None
        and torch._C._has_mkldnn
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and not torch.compiler.is_compiling()
        and isinstance(block.drop_path1, nn.Identity)
        and isinstance(block.drop_path2, nn.Identity)
    )


def apply(block: Any, x: Tensor, skip: int) -> Tensor:
    """The block's output for the tokens after the first `skip`: [B, N, D] -> [B, N - skip, D] bfloat16."""
    attn, mlp = block.attn, block.mlp
    parameters = []
    for layer in (block.norm1, attn.qkv, attn.proj, block.norm2, mlp.fc1, mlp.fc2):
        parameters += [layer.weight, layer.bias]
    with torch.autocast("cpu", enabled=False):
        if torch.is_grad_enabled():
            out: Tensor = _Block.apply(x.bfloat16(), attn.num_heads, block.norm1.eps, skip, *parameters)
            return out
        return _forward(x.bfloat16(), attn.num_heads, block.norm1.eps, skip, parameters, keep=False)[0]


def _add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """x weight' + bias + residual, for tensors of two dimensions."""
    out: Tensor = product.binary(x, residual, weight, bias, "add")
    return out


def _fold(norm: Tensor, shift: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias of the Linear that equals this norm's scale and shift followed by the given Linear."""
    return (weight * norm).bfloat16(), torch.addmv(bias, weight, shift).bfloat16()


def _unfold(
    folded: Tensor, bias: Tensor, norm: Tensor, shift: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of norm, shift, weight and bias from those of the folded weight and bias.

    torch's own layer-norm backward sums the first two over the tokens in bfloat16: with 12,288 of them the shift's
    gradient is 72 % off. Here they are sums over the rows of a small float32 matrix.
    """
    return (
        (folded * weight).sum(0),
        weight.t().mv(bias),
        torch.addr(folded * norm, bias, shift),
        bias,
    )


def _forward(
    x: Tensor, heads: int, eps: float, skip: int, parameters: Sequence[Tensor], keep: bool
) -> tuple[Tensor, ...]:
    """The output and, with `keep`, what the backward pass needs."""
    w_qkv, b_qkv = _fold(*parameters[:4])
    w_fc1, b_fc1 = _fold(*parameters[6:10])
    w_proj, b_proj, w_fc2, b_fc2 = (parameters[i].bfloat16() for i in (4, 5, 10, 11))
    b, n, d = x.shape

    y, mean1, rstd1 = torch.native_layer_norm(x, (d,), None, None, eps)
    qkv = product(y.view(-1, d), w_qkv, b_qkv, "none", [], "").view(b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    if keep:
        qkv = qkv.contiguous()
        mixed, weights = _mix(qkv, skip)
    else:
        mixed = F.scaled_dot_product_attention(qkv[0][:, :, skip:], qkv[1], qkv[2])
    mixed = mixed.transpose(1, 2).reshape(-1, d)
    x1 = _add(mixed, w_proj, b_proj, x[:, skip:].reshape(-1, d))

    z, mean2, rstd2 = torch.native_layer_norm(x1, (d,), None, None, eps)
    if not keep:
        # In place and not inside the product, where oneDNN's own gelu takes twice as long.
        active = torch.ops.aten.gelu_(product(z, w_fc1, b_fc1, "none", [], ""))
        return (_add(active, w_fc2, b_fc2, x1).view(b, n - skip, d),)
    hidden = product(z, w_fc1, b_fc1, "none", [], "")
    active = F.gelu(hidden)
    out = _add(active, w_fc2, b_fc2, x1).view(b, n - skip, d)
    saved = (x, y, mean1, rstd1, qkv, weights, mixed, x1, z, mean2, rstd2, hidden, active)
    return out, *saved, w_qkv, w_proj, w_fc1, w_fc2


def _mix(qkv: Tensor, skip: int) -> tuple[Tensor, Tensor]:
    """Attention over packed [3, B, H, N, d]: mixed values [B, H, N - skip, d] and the weights that mixed them."""
    _, b, heads, n, d = qkv.shape
    q, k, v = qkv.flatten(1, 2)
    scores = torch.baddbmm(qkv.new_empty(1, 1, 1), q[:, skip:], k.transpose(1, 2), beta=0, alpha=d**-0.5)
    if n % VECTOR and VECTOR // 2 <= n < 4 * VECTOR:
        weights = scores.softmax(-1, dtype=torch.float32).bfloat16()
    else:
        weights = scores.softmax(-1)
    return torch.bmm(weights, v).view(b, heads, n - skip, d), weights


def _mix_backward(grad: Tensor, qkv: Tensor, weights: Tensor, mixed: Tensor, skip: int) -> Tensor:
    """Gradient with respect to the packed q, k, v, [B * N, 3 D]; `grad` and `mixed` are [B * (N - skip), D]."""
    _, b, heads, n, d = qkv.shape
    q, k, v = qkv.flatten(1, 2)

    def by_head(x: Tensor) -> Tensor:
        return x.view(b, n - skip, heads, d).transpose(1, 2).reshape(b * heads, n - skip, d)

    out = torch.empty_like(qkv)
    grad_q, grad_k, grad_v = out.flatten(1, 2)
    each = by_head(grad)
    torch.bmm(weights.transpose(1, 2), each, out=grad_v)
    if n < VECTOR:
        # Rows too short for the softmax kernel: its backward is weights * (grad_weights - sum(grad * mixed)).
        along = (grad * mixed).view(b, n - skip, heads, d).sum(-1).transpose(1, 2).reshape(b * heads, n - skip, 1)
        grad_scores = torch.baddbmm(along, each, v.transpose(1, 2), beta=-1).mul_(weights)
    else:
        grad_weights = torch.bmm(each, v.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    scale, nothing = d**-0.5, qkv.new_empty(1, 1, 1)
    grad_q[:, :skip] = 0
    grad_q[:, skip:] = torch.baddbmm(nothing, grad_scores, k, beta=0, alpha=scale)
    torch.baddbmm(nothing, grad_scores.transpose(1, 2), q[:, skip:], beta=0, alpha=scale, out=grad_k)
    return out.permute(1, 3, 0, 2, 4).reshape(b * n, 3 * heads * d)


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, heads: int, eps: float, skip: int, *parameters: Tensor) -> Tensor:
        out, *saved = _forward(x, heads, eps, skip, parameters, keep=True)
        ctx.save_for_backward(*saved, *parameters[:3], *parameters[6:9])
        ctx.skip = skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, y, mean1, rstd1, qkv, weights, mixed, x1, z, mean2, rstd2, hidden, active, *rest) = ctx.saved_tensors
        w_qkv, w_proj, w_fc1, w_fc2, *affine = rest
        b, n, d = x.shape
        grad = grad.reshape(-1, d)

        grad_hidden = torch.ops.aten.gelu_backward(grad @ w_fc2, hidden)
        grad_x1 = _norm_backward(grad_hidden @ w_fc1, x1, mean2, rstd2)
        grad_x1 += grad

        grad_qkv = _mix_backward(grad_x1 @ w_proj, qkv, weights, mixed, ctx.skip)
        grad_x = _norm_backward((grad_qkv @ w_qkv).view(b, n, d), x, mean1, rstd1)
        grad_x[:, ctx.skip :] += grad_x1.view(b, n - ctx.skip, d)

        return (
            grad_x,
            None,
            None,
            None,
            *_unfold(*_linear_backward(grad_qkv, y.view(-1, d)), *affine[:3]),
            *_linear_backward(grad_x1, mixed),
            *_unfold(*_linear_backward(grad_hidden, z), *affine[3:]),
            *_linear_backward(grad, active),
        )


def _norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Through a norm without scale and shift."""
    out: Tensor = torch.ops.aten.native_layer_norm_backward(
        grad, x, x.shape[-1:], mean, rstd, None, None, [True, False, False]
    )[0]
    return out


def _linear_backward(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, float32."""
    return (grad.t() @ x).float(), grad.sum(0).float()
