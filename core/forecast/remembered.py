"""Tensors without content, as torch's meta device has them, an operation's outcome worked out once for equal shapes.

On the meta device torch works most shapes out in Python, 1 ms for each operation of a step; a step repeats the same few
over its blocks, and other runs of a study repeat the step.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_Form = tuple[torch.Size, tuple[int, ...], torch.dtype]
_KNOWN: dict[Any, _Form | tuple[_Form, ...]] = {}  # what came of an operation, by all that decides its shapes


class Remembered(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's base class says no types
    """Answers an operation on tensors of the meta device that was asked for before with new tensors of its shapes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        is_in_place = _is_in_place(func)
        if is_in_place is None:
            return func(*args, **kwargs)
        try:
            key = (func, _form(tuple(args)), _form(tuple(kwargs.items())))
            known = _KNOWN.get(key)
        except (_Elsewhere, TypeError):
            return func(*args, **kwargs)
        if known is None:
            found = func(*args, **kwargs)
            if isinstance(found, Tensor) and found.device.type == "meta":
                _KNOWN[key] = _of(found)
            elif isinstance(found, tuple) and all(isinstance(x, Tensor) and x.device.type == "meta" for x in found):
                _KNOWN[key] = tuple(_of(one) for one in found)
            return found
        if is_in_place:
            return args[0]
        return _empty(known) if isinstance(known[0], torch.Size) else tuple(_empty(one) for one in known)


class _Elsewhere(Exception):
    """A tensor with content, or what is no plain value: what comes of it may depend on more than shapes."""


@functools.cache
def _is_in_place(func: Any) -> bool | None:
    """Whether the operation changes its first argument and returns it; None: it is not to be remembered."""
    schema = func._schema
    changed = [argument.alias_info is not None for argument in schema.arguments]
    returned = [one.alias_info is not None for one in schema.returns]
    if not any(changed) and not any(returned):
        return False
    # A tensor that is a part of another (a view) must be made of it.
    is_own = (
        changed[:1] == [True]
        and not any(changed[1:])
        and returned == [True]
        and schema.arguments[0].alias_info.is_write
    )
    return True if is_own and schema.name.split(".")[0].endswith("_") and "resize" not in schema.name else None


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type != "meta":
            raise _Elsewhere
        return _of(value)
    if isinstance(value, tuple | list):
        return tuple(map(_form, value))
    if value is None or isinstance(
        value, bool | int | float | str | torch.dtype | torch.device | torch.layout | torch.memory_format
    ):
        return type(value), value
    if isinstance(value, torch.Generator):  # nothing is drawn
        return torch.Generator
    raise _Elsewhere


def _of(tensor: Tensor) -> _Form:
    return tensor.shape, tensor.stride(), tensor.dtype


def _empty(form: Any) -> Tensor:
    shape, stride, dtype = form
    return torch.empty_strided(shape, stride, dtype=dtype, device="meta")
