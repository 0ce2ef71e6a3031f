"""How much of a GPU's memory a training step takes, before any runs: counted on torch's meta device.

What autograd keeps for the backward pass is counted in float32, with attention that keeps no scores. What a card then
needs in bfloat16 autocast is a share of it that was measured: the peaks in benchmarks/results/gpu.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from core.configuring.config import Run
from core.configuring.fitting import spec_of, spec_of_pairs
from core.data.flow.flow_mixture import FlowMixture
from core.data.loader import can_share
from core.forecast.operations import META, counted_inputs, shapes_of_views, with_drawn_masks
from core.models.blocks import Blocks
from core.running.building import build_learner
from core.types import DataSpec, Learner

GIB = 2**30
ROWS = 16  # clips that are counted; what they keep grows evenly
FEW_PAIRS = 2  # of frames
STREAM = 36 / 32  # bytes a token and feature that a block keeps with float32 residuals over those with bfloat16 ones
# Of what is kept in float32: transformers, measured with bfloat16 residuals; convolutions, whose losses are float32.
AUTOCAST = {False: 0.63 * STREAM, True: 0.71}
TRAINED, FROZEN = 16, 4  # bytes a weight: itself, its gradient and the optimiser's two averages; itself
SPARE_GIB = 2.0  # CUDA's own, and what lies between blocks of memory
MOST_PARTS = 64


class Room(NamedTuple):
    """GiB of a step on one GPU."""

    state: float  # weights, gradients, averages
    clip: float  # of each clip, all that is kept
    clip_again: float  # with the insides of blocks computed again; equal where there are no transformer blocks
    batch_size: int
    can_accumulate: bool
    num_pairs: int  # of frames a step; 0: there are none
    pair: float = 0.0  # of each pair of frames

    def needed(self, gpus: int, parts: int = 1, *, again: bool = False) -> float:
        clips, pairs = -(-self.batch_size // (gpus * parts)), -(-self.num_pairs // gpus)
        return self.state + SPARE_GIB + clips * (self.clip_again if again else self.clip) + pairs * self.pair

    def can_share(self, gpus: int) -> bool:
        return self.batch_size % gpus == 0 and (not self.num_pairs or can_share(self.num_pairs, gpus))

    def advice(self, gpus: int, gpu_memory: float) -> str:
        """Whether a step fits on so many GPUs of so many GiB, and what to set, dearest last, if not."""
        if not self.can_share(gpus):
            is_batch = self.batch_size % gpus > 0
            of, num = ("optim.batch_size", self.batch_size) if is_batch else ("objective.flow_batch", self.num_pairs)
            fewer = next(n for n in range(min(gpus, self.batch_size), 0, -1) if self.can_share(n))
            more = next((n for n in range(gpus + 1, self.batch_size + 1) if self.can_share(n)), None)
            return f"cannot be shared: {of}={num} over {gpus} GPUs; over {fewer}{f' or {more}' if more else ''} it can"
        plain = self.needed(gpus)
        if plain <= gpu_memory:
            return f"fits: {plain:.0f} GiB"
        if (found := self._settings(gpus, gpu_memory)) is not None:
            return f"{plain:.0f} GiB; set {found}"
        for more in range(gpus + 1, self.batch_size + 1):
            if self.can_share(more) and (found := self._settings(more, gpu_memory)) is not None:
                return f"{plain:.0f} GiB; needs {more} GPUs{' with ' if found[0] != ':' else ''}{found}"
        return f"{plain:.0f} GiB; fits on no number of such GPUs"

    def _settings(self, gpus: int, gpu_memory: float) -> str | None:
        """The cheapest options with which a step fits and what it then takes, "runtime.accumulate=2: 38 GiB"."""
        share = self.batch_size // gpus
        divisors = [n for n in range(1, MOST_PARTS + 1) if share % n == 0 and (n == 1 or self.can_accumulate)]
        for again in (False, True) if self.clip_again < self.clip else (False,):
            for parts in divisors:
                if (need := self.needed(gpus, parts, again=again)) <= gpu_memory:
                    told = [f"runtime.accumulate={parts}"] if parts > 1 else []
                    told += ["runtime.checkpoint_blocks=true"] if again else []
                    return f"{' '.join(told)}: {need:.0f} GiB"
        return None


def room(run: Run) -> Room:
    spec, of_pairs = shape_of(run), None
    if run.objective.num_pairs():
        of_pairs = shape_of(run, "flow_data" if run.flow_data is not None else "data")
    rows, num_pairs, pair = min(run.optim.batch_size, ROWS), 0, 0.0
    if of_pairs is not None:  # a step has a few for many clips: what one keeps is told by two more
        num_pairs = FEW_PAIRS
        fewer, more = (_kept_in_all(_counted(run, spec, of_pairs, rows, num)) for num in (num_pairs, num_pairs + 2))
        pair = (more - fewer) / 2
    state, outside, in_blocks = _counted(run, spec, of_pairs, rows, num_pairs)
    outside -= round(num_pairs * pair)
    autocast = AUTOCAST[run.encoder.has_pyramid]
    seen = [each for each, _ in in_blocks]
    again = outside + sum(seen) + max((inside for _, inside in in_blocks), default=0)
    whole = outside + sum(inside for _, inside in in_blocks)
    parts = [getattr(run, group) for group in ("objective", "encoder", "target")]
    is_padded = getattr(getattr(run.mask, "ragged", None), "value", "") == "pad"
    return Room(
        state / GIB,
        autocast * whole / rows / GIB,
        autocast * again / rows / GIB if in_blocks else autocast * whole / rows / GIB,
        run.optim.batch_size,
        can_accumulate=not is_padded and not any(part is not None and part.over_batch for part in parts),
        num_pairs=run.objective.num_pairs(),
        pair=autocast * pair / GIB,
    )


Counted = tuple[int, int, list[tuple[int, int]]]  # bytes of weights and what trains them, and what is `kept`
_COUNTED: dict[tuple[Any, ...], Counted] = {}  # by everything that decides it


def _kept_in_all(counted: Counted) -> int:
    _, outside, in_blocks = counted
    return outside + sum(inside for _, inside in in_blocks)


def _counted(run: Run, spec: DataSpec, of_pairs: DataSpec | None, rows: int, num_pairs: int) -> Counted:
    """Counted once for all runs of the same shapes."""
    step = max(1, run.optim.steps)
    # All that the learner is given but the mask, whose part is what it draws.
    parts = (run.objective, run.encoder, run.target, run.predictor, run.loss)
    key = (repr(parts), repr(spec), rows, repr(of_pairs), num_pairs, shapes_of_views(run, spec, rows, step))
    if key not in _COUNTED:
        with META:
            learner = build_learner(with_drawn_masks(run), spec).to(META)
            state = sum(p.numel() * (TRAINED if p.requires_grad else FROZEN) for p in learner.parameters())
            inputs = counted_inputs(run, learner, spec, of_pairs, rows, step, num_pairs)
            _COUNTED[key] = (state, *kept(learner, inputs))
    return _COUNTED[key]


def shape_of(run: Run, group: str = "data") -> DataSpec:
    """What the data gives; where it is not here, what its options say of its clips, of a mixture's largest.

    Raises ValueError where only files tell.
    """
    try:
        return spec_of(run) if group == "data" else spec_of_pairs(run)
    except (ValueError, OSError) as error:
        data = getattr(run, group)
        members = [member for member, _ in data.members()] if isinstance(data, FlowMixture) else [data]
        shapes = [shape for member in members if (shape := member.shape()) is not None]
        if not shapes:
            raise ValueError(f"{group}: only its files tell the size of its clips ({error})") from error
        largest = max(shapes, key=lambda shape: shape.frames * shape.height * shape.width)
        return replace(largest, classes=largest.classes or {"class": 1000})


def kept(learner: Learner, inputs: Sequence[Any]) -> tuple[int, list[tuple[int, int]]]:
    """Bytes that a loss keeps for its backward pass outside transformer blocks; and of each block its input's, and all
    that is kept within it.

    Of blocks that are alike, in a layer or in another pass, two are run: the first may keep what the others share with
    it, such as a mask, and those that follow keep what the second does.
    """
    weights = {p.untyped_storage()._cdata for p in learner.parameters()}
    seen: dict[int, Tensor] = {}  # they are held, so that no storage takes another's name
    total = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal total
        name = tensor.untyped_storage()._cdata
        if name not in weights and name not in seen:
            seen[name] = tensor
            total += tensor.untyped_storage().nbytes()
        return tensor

    in_blocks: list[tuple[int, int]] = []
    alike: dict[tuple[Any, ...], list[tuple[int, Tensor]]] = {}  # what each of those that were run kept and gave

    def watched(apply: Callable[..., Tensor], block: nn.Module, x: Tensor, *rest: Any) -> Tensor:
        nonlocal total
        given = [leaf for leaf in tree_leaves(rest) if isinstance(leaf, Tensor)]
        is_new = not all(tensor.untyped_storage()._cdata in seen for tensor in given)
        key = (
            *((tuple(p.shape), p.requires_grad) for p in block.parameters()),
            (tuple(x.shape), x.dtype, x.requires_grad, x.untyped_storage()._cdata in seen),
            *(tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(rest)),
            torch.is_grad_enabled(),
            is_new,
        )
        earlier = alike.setdefault(key, [])
        if len(earlier) > 1 and not (is_new and torch.is_grad_enabled()):
            inside, like = earlier[1]
            out = torch.empty_like(like, requires_grad=like.requires_grad)
            if torch.is_grad_enabled():
                seen.setdefault(x.untyped_storage()._cdata, x)  # `inside` has it
                total += inside
        else:
            before = total
            out = apply(block, x, *rest)
            inside = total - before
            earlier.append((inside, out))
        if torch.is_grad_enabled():
            in_blocks.append((x.nbytes, inside))
        return out

    stacks = [module for module in learner.modules() if isinstance(module, Blocks)]
    for stack in stacks:
        stack.__dict__["_kept_small"] = watched
    try:
        with attention_without_scores(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            learner.forward(*inputs)
    finally:
        for stack in stacks:
            del stack.__dict__["_kept_small"]
    return total - sum(inside for _, inside in in_blocks), in_blocks


@contextmanager
def attention_without_scores() -> Iterator[None]:
    """As a GPU has it: on the meta device torch would take the kernel that keeps them."""
    plain = F.scaled_dot_product_attention

    def flash(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        if attn_mask is not None:
            return plain(q, k, v, attn_mask=attn_mask)
        out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
        return out

    functional: Any = F
    functional.scaled_dot_product_attention = flash
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain
