"""A training step as on a GPU, without one: what would be copied between host and device, and what would wait.

Tensors of the device are fake (a device, a shape, no memory), those of the host are real. Nothing is computed on the
device, so a loss is only a shape; gradients are made up, as torch's engine does not start without a card.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections import Counter
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from core.configuring.fitting import load_split
from core.models.attention import explicit_attention
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.ranks.distributed import World
from core.running.stepping import Batches, make_stepper

CARD = torch.device("cuda", 0)
READS = {"_local_scalar_dense", "item", "is_nonzero", "equal"}
SIZED_BY_VALUES = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}


class FakeCard(TorchDispatchMode):
    """While it is entered, `waits` counts by place what a card would make the host wait for, `copies` what is copied
    from pinned memory; both by the line of core that asks for it."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.pinned: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func._schema.name.split("::")[1]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name == "is_pinned":
            return not isinstance(args[0], FakeTensor) and args[0].untyped_storage() in self.pinned
        if kwargs.get("pin_memory"):
            with unset_fake_temporarily():
                made = func(*args, **kwargs | {"pin_memory": False})
            self.pinned.add(made.untyped_storage())
            return made
        of_card = [tensor for tensor in given if isinstance(tensor, FakeTensor)]
        if not of_card and "cuda" not in str(kwargs.get("device")):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        self.note(name, args, kwargs, of_card)
        return func(*args, **kwargs)

    def note(self, name, args, kwargs, of_card) -> None:
        if of_card and (name in READS or name in SIZED_BY_VALUES):
            self.waits[f"{name} at {place()}"] += 1
        if name in INDEXING:
            indices = [index for index in args[1] if isinstance(index, Tensor)]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.waits[f"boolean index at {place()}"] += 1
            if any(not isinstance(index, FakeTensor) and index.ndim for index in indices):
                self.waits[f"index of the host at {place()}"] += 1
        if name == "_to_copy":
            source, to_card = args[0], "cuda" in str(kwargs.get("device", args[0].device))
        elif name == "copy_":
            source, to_card = args[1], args[0].device.type == "cuda"
        else:
            return
        if not to_card and isinstance(source, FakeTensor):
            self.waits[f"copy to the host at {place()}"] += 1
        if to_card and not isinstance(source, FakeTensor):
            asked = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
            if asked and source.untyped_storage() in self.pinned:
                self.copies[place()] += 1
            else:
                self.waits[f"copy from the host at {place()}"] += 1


class Peak(TorchDispatchMode):
    """`most` is how many bytes of the card were taken at once by tensors that came of what ran while it was entered."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, FakeTensor) and leaf.device.type == "cuda":
                self.add(leaf.untyped_storage())
        return made

    def add(self, storage) -> None:
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.free, size)

    def free(self, size: int) -> None:
        self.now -= size


def place() -> str:
    """The innermost line of core that is being executed."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "/core/" in name and "/tests/" not in name and "/site-packages/" not in name:
            return f"core/{name.rsplit('/core/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"


class Taken(NamedTuple):
    """One step on a fake card."""

    waits: Counter[str]
    copies: Counter[str]
    losses: dict[str, Tensor | float]


def take_step(run, monkeypatch) -> Taken:
    """In the middle of the run, when every loss is on."""
    card = FakeCard()
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    learner.prepare(lambda i: train_set.fetch(i).clips.float(), len(train_set), run.runtime.cache, run.seed)
    with card.fake:
        to_card(learner)
    as_if_there_were_one(monkeypatch, learner)
    batches = Batches(run, train_set, train_set if run.objective.num_pairs() else None, 0, World())
    step = max(1, run.optim.steps // 2)
    batch, pairs = batches.at(step)
    with contextlib.ExitStack() as stack:
        stack.enter_context(card.fake)  # torch does not look for a card while one is on
        stack.enter_context(card)
        optimizer = make_optimizer(learner, run.optim)
        size = batches.pair_size
        stepper = make_stepper(run, train_set.spec, learner, learner, optimizer, torch.bfloat16, CARD, World(), size)
        losses = stepper.step(step, batch, pairs)
    return Taken(card.waits, card.copies, losses)


def to_card(learner: nn.Module) -> None:
    """Parameters and buffers of the same shapes on the card, within a fake mode."""

    def there(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=CARD)

    for module in learner.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(there(parameter), parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = there(buffer)


def as_if_there_were_one(monkeypatch, learner: nn.Module) -> None:
    """What asks for the card itself: autocast, the choice of an attention kernel and the engine's threads."""

    def made_up(loss: Tensor) -> None:
        assert loss.requires_grad
        for parameter in learner.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", explicit_attention)
    monkeypatch.setattr(Tensor, "backward", made_up)
