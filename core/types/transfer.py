"""From the host to the device without waiting for it.

A copy from ordinary memory waits until the device has done all that was asked of it before; one from pinned memory is
queued like any operation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNED = 16  # bytes: every type may start there
_MOST = 2**30  # bytes that are pinned at once: such memory is kept, and nothing else may have it


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
    memory = torch.empty(num_bytes(tensors), dtype=torch.uint8, pin_memory=True)
    for place, tensor in zip(parts(memory, tensors), tensors, strict=True):
        place.copy_(tensor)
    return parts(memory.to(device, non_blocking=True), tensors)


def num_bytes(tensors: Sequence[Tensor]) -> int:
    """What `parts` needs for all of them."""
    return sum(_room(tensor) for tensor in tensors)


def parts(memory: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the shapes and types of `like` one after the other in `memory`, uint8."""
    found, start = [], 0
    for tensor in like:
        length = tensor.numel() * tensor.element_size()
        found.append(memory[start : start + length].view(tensor.dtype).view(tensor.shape))
        start += _room(tensor)
    return found


def _room(tensor: Tensor) -> int:
    return -(-tensor.numel() * tensor.element_size() // _ALIGNED) * _ALIGNED


def pinned(tensor: Tensor) -> Tensor:
    """A host's tensor in pinned memory; itself if it is there, as a loader's batches may be, or too large.

    The memory is kept and used again once the copies from it are done: only the first steps wait for it.
    """
    if tensor.is_pinned() or tensor.nbytes > _MOST:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
