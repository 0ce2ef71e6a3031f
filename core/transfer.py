"""From the host to the device without waiting for it.

A copy from ordinary memory waits until the device has done all that was asked of it before; one from pinned memory is
queued like any operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ALIGNED = 16  # bytes: every type may start there


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; itself if it is there."""
    device = torch.device(device)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return pinned(tensor).to(device, non_blocking=True)


def moved_together(device: torch.device | str, *tensors: Tensor) -> list[Tensor]:
    """Small `tensors` of the host on `device`, in one copy; themselves where that is the host."""
    device = torch.device(device)
    if device.type != "cuda" or not tensors:
        return [tensor.to(device) for tensor in tensors]
    starts, total = [], 0
    for tensor in tensors:
        starts.append(total)
        total += -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED
    packed = torch.empty(total, dtype=torch.uint8, pin_memory=True)
    for start, tensor in zip(starts, tensors, strict=True):
        part(packed, start, tensor).copy_(tensor)
    there = packed.to(device, non_blocking=True)
    return [part(there, start, tensor) for start, tensor in zip(starts, tensors, strict=True)]


def part(packed: Tensor, start: int, like: Tensor) -> Tensor:
    """The bytes of `packed` from `start` on as a tensor of the shape and type of `like`."""
    length = like.numel() * like.element_size()
    return packed[start : start + length].view(like.dtype).view(like.shape)


def pinned(tensor: Tensor) -> Tensor:
    """A host's tensor in pinned memory; itself if it is there, as a loader's batches may be.

    The memory is kept and used again once the copies from it are done: only the first steps wait for it.
    """
    if tensor.is_pinned():
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
