"""One transformer block of several models of one shape at once: each product is batched over the models.

`torch.func.vmap` over a whole learner finds its way here (`apply` is what the block does for one of the models): its
own rules would take thirty small steps a block, and on a CPU miss what `cpu_block` saves. There norms are folded into
the Linear after them, because torch has no layer norm with a scale for each model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.models.attention import attend
from core.models.fast import cpu_block
from core.models.positions import Rotation


def fits(block: Any, x: Tensor) -> bool:
    """Whether `x` is one of several models' under vmap, and the block one that `apply` knows."""
    return (
        torch._C._functorch.is_batchedtensor(x)
        and isinstance(block.drop_path1, nn.Identity)
        and isinstance(block.drop_path2, nn.Identity)
    )


def apply(block: Any, x: Tensor, attn_mask: Tensor | None, skip: int, rotation: Rotation | None) -> Tensor:
    """The block's output for the tokens after the first `skip`, under vmap: [B, N, D] -> [B, N - skip, D]."""
    attn, mlp = block.attn, block.mlp
    layers = (block.norm1, attn.qkv, attn.proj, block.norm2, mlp.fc1, mlp.fc2)
    parameters = [value for layer in layers for value in (layer.weight, layer.bias)]
    cos, sin = (None, None) if rotation is None else rotation
    out: Tensor = _OneOfMany.apply(x, attn_mask, cos, sin, skip, attn.num_heads, block.norm1.eps, *parameters)
    return out


class _OneOfMany(torch.autograd.Function):
    """A way out of vmap: its rule sees the models' tensors together, and what it does is differentiated as usual."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise AssertionError("a stacked block is for tensors under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("a stacked block is for tensors under vmap")

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, attn_mask: Tensor | None, cos: Any, sin: Any, *rest: Any) -> Any:
        size = info.batch_size
        skip, heads, eps, *parameters = rest
        x, *parameters = (
            _first(each, dim, size) for each, dim in zip((x, *parameters), (in_dims[0], *in_dims[7:]), strict=True)
        )
        b = x.shape[1]
        mask, cos, sin = (
            None if each is None else _rows(each, dim, size, b)
            for each, dim in zip((attn_mask, cos, sin), in_dims[1:4], strict=True)
        )
        rotation = None if cos is None else (cos, sin)
        return stacked(x, mask, skip, rotation, heads, eps, parameters), 0


def _first(value: Tensor, dim: int | None, size: int) -> Tensor:
    """With the models as the first dimension."""
    return value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)


def _rows(value: Tensor, dim: int | None, size: int, b: int) -> Tensor:
    """One row for each sequence of all models: what is one for all of a batch ([N, d]) stays so."""
    if dim is None and value.ndim == 2:
        return value
    return _first(value, dim, size).expand(size, b, *value.shape[-3:]).flatten(0, 1)


def stacked(
    x: Tensor,
    mask: Tensor | None,
    skip: int,
    rotation: Rotation | None,
    heads: int,
    eps: float,
    parameters: Sequence[Tensor],
) -> Tensor:
    """[S, B, N, D] -> [S, B, N - skip, D], with parameters [S, ...] and a mask [S * B, 1, 1, N]."""
    s, b, n, d = x.shape
    flat = x.reshape(s, b * n, d)
    if x.device.type == "cpu" and rotation is None and _is_half() and cpu_block.has_kernels():
        shape, mask = (b, n, skip), None if mask is None else mask.bfloat16()
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                out: Tensor = _StackedBlock.apply(flat.bfloat16(), mask, heads, eps, shape, *parameters)
            else:
                out = _forward(flat.bfloat16(), mask, heads, eps, shape, parameters, keep=False)[0]
        return out.view(s, b, n - skip, d)
    norm1, shift1, w_qkv, b_qkv, w_proj, b_proj, norm2, shift2, w_fc1, b_fc1, w_fc2, b_fc2 = parameters
    qkv = _linear(_norm(flat, norm1, shift1, eps), w_qkv, b_qkv)
    mixed = attend(qkv.view(s * b, n, 3 * d), heads, mask, skip, rotation)
    rest = (x[:, :, skip:] if skip else x).reshape(s, -1, d)
    rest = rest + _linear(mixed.reshape(s, -1, d), w_proj, b_proj)
    rest = rest + _linear(F.gelu(_linear(_norm(rest, norm2, shift2, eps), w_fc1, b_fc1)), w_fc2, b_fc2)
    return rest.view(s, b, n - skip, d)


def _is_half() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[S, M, I] with weights [S, O, I] and biases [S, O]."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _norm(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    y = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return torch.addcmul(shift.unsqueeze(1), y, scale.unsqueeze(1))


# ---- bfloat16 on a CPU, forward and backward written out as in cpu_block ---------------------------------------------

Shape = tuple[int, int, int]  # of a model's sequences: how many, tokens each, tokens only read


def _updated(x: Tensor, shape: Shape) -> Tensor:
    """The rows of `x` [S, B N, D] that are not only read: [S, B (N - skip), D]."""
    b, n, skip = shape
    return x.view(len(x), b, n, -1)[:, :, skip:].reshape(len(x), b * (n - skip), -1) if skip else x


def _norm_linear(x: Tensor, eps: float, parameters: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A norm and the Linear after it: output, normed input, mean, 1 / std and the folded weight in bfloat16."""
    norm, shift, weight, bias = parameters
    y, mean, rstd = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
    folded = (weight * norm.unsqueeze(1)).bfloat16()
    # A row times a matrix: the product with a column is eight times slower.
    full = torch.baddbmm(bias.unsqueeze(1), shift.unsqueeze(1), weight.transpose(1, 2)).bfloat16()
    return torch.baddbmm(full, y, folded.transpose(1, 2)), y, mean, rstd, folded


def _norm_linear_backward(
    grad: Tensor, x: Tensor, saved: Sequence[Tensor], affine: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x (bfloat16), norm, shift, weight and bias (float32)."""
    (y, mean, rstd, folded), (norm, shift, weight) = saved, affine
    grad_x = torch.ops.aten.native_layer_norm_backward(
        torch.bmm(grad, folded), x, x.shape[-1:], mean, rstd, None, None, [True, False, False]
    )[0]
    grad_bias = grad.sum(1).float()
    grad_weight = torch.bmm(grad.transpose(1, 2), y).float()
    grad_norm = (grad_weight * weight).sum(1)
    grad_shift = torch.bmm(grad_bias.unsqueeze(1), weight).squeeze(1)
    grad_weight.mul_(norm.unsqueeze(1)).addcmul_(grad_bias.unsqueeze(2), shift.unsqueeze(1))
    return grad_x, grad_norm, grad_shift, grad_weight, grad_bias


def _linear_backward(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias, float32."""
    return torch.bmm(grad.transpose(1, 2), x).float(), grad.sum(1).float()


def _forward(
    x: Tensor, mask: Tensor | None, heads: int, eps: float, shape: Shape, parameters: Sequence[Tensor], keep: bool
) -> tuple[Tensor, ...]:
    """The output and, with `keep`, what the backward pass needs."""
    w_proj, b_proj, w_fc2, b_fc2 = (parameters[i].bfloat16() for i in (4, 5, 10, 11))
    (s, _, d), (b, n, skip) = x.shape, shape
    qkv, *saved1 = _norm_linear(x, eps, parameters[:4])
    by_head = qkv.view(s * b, n, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    if keep:
        by_head = by_head.contiguous()
        values, weights = cpu_block._mix(by_head, skip, mask)
    else:
        values = F.scaled_dot_product_attention(by_head[0][:, :, skip:], by_head[1], by_head[2], attn_mask=mask)
    mixed = values.transpose(1, 2).reshape(s, b * (n - skip), d)
    x1 = torch.baddbmm(b_proj.unsqueeze(1), mixed, w_proj.transpose(1, 2)).add_(_updated(x, shape))

    hidden, *saved2 = _norm_linear(x1, eps, parameters[6:10])
    if not keep:
        active = torch.ops.aten.gelu_(hidden)
        return (torch.baddbmm(b_fc2.unsqueeze(1), active, w_fc2.transpose(1, 2)).add_(x1),)
    active = F.gelu(hidden)
    out = torch.baddbmm(b_fc2.unsqueeze(1), active, w_fc2.transpose(1, 2)).add_(x1)
    return out, x, *saved1, mixed, w_proj, x1, *saved2, hidden, active, w_fc2, by_head, weights


class _StackedBlock(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor | None, heads: int, eps: float, shape: Shape, *parameters: Tensor
    ) -> Tensor:
        out, *saved = _forward(x, mask, heads, eps, shape, parameters, keep=True)
        ctx.save_for_backward(*parameters[:3], *parameters[6:9], *saved)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        affine1, affine2 = ctx.saved_tensors[:3], ctx.saved_tensors[3:6]
        x, *rest = ctx.saved_tensors[6:]
        saved1, (mixed, w_proj, x1), rest = rest[:4], rest[4:7], rest[7:]
        saved2, (hidden, active, w_fc2, by_head, weights) = rest[:4], rest[4:]
        b, n, skip = ctx.shape
        s, _, d = x.shape

        grad_hidden = torch.ops.aten.gelu_backward(torch.bmm(grad, w_fc2), hidden)
        grad_x1, *grads2 = _norm_linear_backward(grad_hidden, x1, saved2, affine2)
        grad_x1 += grad
        grad_mixed = torch.bmm(grad_x1, w_proj)
        grad_by_head = cpu_block._mix_backward(grad_mixed.view(-1, d), by_head, weights, mixed.view(-1, d), skip)
        grad_qkv = grad_by_head.permute(1, 3, 0, 2, 4).reshape(s, b * n, 3 * d)
        grad_x, *grads1 = _norm_linear_backward(grad_qkv, x, saved1, affine1)
        if skip:
            grad_x.view(s, b, n, d)[:, :, skip:] += grad_x1.view(s, b, n - skip, d)
        else:
            grad_x += grad_x1
        proj, fc2 = _linear_backward(grad_x1, mixed), _linear_backward(grad, active)
        return grad_x, None, None, None, None, *grads1, *proj, *grads2, *fc2
