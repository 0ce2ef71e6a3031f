"""How much of a GPU's memory a training step takes, before any runs: counted on torch's meta device.

What autograd keeps for the backward pass is counted in float32, with attention that keeps no scores. What a card then
needs in bfloat16 autocast is a share of it that was measured: the peaks in benchmarks/results/gpu.txt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.config import Run
from core.fitting import spec_of, spec_of_pairs
from core.models.blocks import Blocks
from core.operations import META, counted_inputs, with_drawn_masks
from core.trainer import build_learner
from core.types import DataSpec, Learner

GIB = 2**30
ROWS = 16  # clips that are counted; what they keep grows evenly
AUTOCAST = {False: 0.63, True: 0.71}  # of what is kept in float32: transformers; convolutions, whose losses are float32
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
    most_gpus: int  # that can share out a step's pairs of frames; 0: as many as there are

    def needed(self, gpus: int, parts: int = 1, *, again: bool = False) -> float:
        clips = -(-self.batch_size // (gpus * parts))
        return self.state + SPARE_GIB + clips * (self.clip_again if again else self.clip)

    def advice(self, gpus: int, gpu_memory: float) -> str:
        """Whether a step fits on so many GPUs of so many GiB, and what to set, dearest last, if not."""
        share, rest = divmod(self.batch_size, gpus)
        if rest or (self.most_gpus and self.most_gpus % gpus):
            of = "objective.flow_batch" if not rest else "optim.batch_size"
            return f"cannot be shared: {of}={self.most_gpus if not rest else self.batch_size} over {gpus} GPUs"
        plain = self.needed(gpus)
        if plain <= gpu_memory:
            return f"fits: {plain:.0f} GiB"
        divisors = [n for n in range(1, MOST_PARTS + 1) if share % n == 0 and (n == 1 or self.can_accumulate)]
        for again in (False, True) if self.clip_again < self.clip else (False,):
            for parts in divisors:
                if (need := self.needed(gpus, parts, again=again)) <= gpu_memory:
                    told = [f"runtime.accumulate={parts}"] if parts > 1 else []
                    told += ["runtime.checkpoint_blocks=true"] if again else []
                    return f"{plain:.0f} GiB; set {' '.join(told)}: {need:.0f} GiB"
        for more in range(gpus + 1, self.batch_size + 1):
            fits = self.needed(more, again=True) <= gpu_memory
            if fits and self.batch_size % more == 0 and not (self.most_gpus and self.most_gpus % more):
                return f"{plain:.0f} GiB; needs {more} GPUs"
        return f"{plain:.0f} GiB; fits on no number of such GPUs"


def room(run: Run) -> Room:
    spec, of_pairs = shape_of(run), None
    if run.objective.num_pairs():
        of_pairs = shape_of(run, "flow_data" if run.flow_data is not None else "data")
    rows = min(run.optim.batch_size, ROWS)
    with META:
        learner = build_learner(with_drawn_masks(run), spec).to(META)
        state = sum(p.numel() * (TRAINED if p.requires_grad else FROZEN) for p in learner.parameters())
        inputs = counted_inputs(run, learner, spec, of_pairs, rows, max(1, run.optim.steps))
        outside, in_blocks = kept(learner, inputs)
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
        most_gpus=run.objective.num_pairs(),
    )


def shape_of(run: Run, group: str = "data") -> DataSpec:
    """What the data gives; where it is not here, what its options say of its clips."""
    try:
        return spec_of(run) if group == "data" else spec_of_pairs(run)
    except (ValueError, OSError):
        data = getattr(run, group)
        frames = getattr(data, "frames", 2 if group == "flow_data" else 1)
        return DataSpec(3, frames, data.size, data.size, {"class": 1000})


def kept(learner: Learner, inputs: Sequence[Any]) -> tuple[int, list[tuple[int, int]]]:
    """Bytes that a loss keeps for its backward pass outside transformer blocks; and of each block its input's, and all
    that is kept within it."""
    weights = {p.untyped_storage()._cdata for p in learner.parameters()}
    seen: dict[int, Tensor] = {}  # they are held, so that no storage takes another's name

    def note(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights:
            seen.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    def total() -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())

    in_blocks: list[tuple[int, int]] = []

    def watched(apply: Callable[..., Tensor], block: Any, x: Tensor, *rest: Any) -> Tensor:
        before = total()
        out = apply(block, x, *rest)
        if torch.is_grad_enabled():
            in_blocks.append((x.nbytes, total() - before))
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
    return total() - sum(inside for _, inside in in_blocks), in_blocks


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
