"""What a run costs, as metrics that tables can show beside its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.measuring.phases import cost_names
from core.types import DataSpec, EncoderModule, Learner, View

COST_METRICS = (
    "cost/train_seconds",  # all steps, loading included, over all attempts; no evaluation
    "cost/data_seconds",  # of these, spent waiting for data
    "cost/compute_seconds",  # the rest
    "cost/ms_per_step",  # of computing
    "cost/samples_per_second",  # loading included
    "cost/gflop_per_step",  # 1e9 operations, forward and backward, of a step's whole batch
    "cost/forward_mmac",  # 1e6 multiply-adds of one clip's forward pass: what the papers print as FLOPs
    "cost/encoder_mmac",  # the trained encoder's part of these
    "cost/effective_epochs",  # how often each sample of the training set was seen
    "cost/samples_decoded",
)

ENCODING_COSTS = (  # of the judged data's features, which all evaluations share
    "cost/features_seconds",
    "cost/features_cpu_seconds",
    "cost/features_gpu_seconds",
    "cost/features_gflop",
)
ENCODING = ("forward", "many", "pyramid")  # an encoder's ways of encoding
RUN_COSTS = (  # beside the phase's, for pretraining
    "cost/pretrain_gflop",  # 1e9 operations of all steps
    "cost/encoder_parameters",
    "cost/trained_parameters",
)


def judging_names(evaluations: Iterable[str]) -> list[str]:
    """The costs that a run records of pretraining, of encoding the judged data and of each evaluation by itself."""
    phases = ["pretrain", *(f"eval_{name}" for name in sorted(evaluations))]
    return [*RUN_COSTS, *ENCODING_COSTS, *(name for phase in phases for name in cost_names(phase))]


class Flops(NamedTuple):
    """Floating-point operations of one step on one batch; a multiply-add is two. Only matrix products count."""

    total: float  # forward and backward
    forward: float  # of everything: encoder, predictor, target network
    encoder: float  # of the trained encoder's forward pass


def count_flops(
    learner: Learner,
    clips: Tensor,
    labels: Mapping[str, Tensor],
    views: Sequence[View],
    precision: AbstractContextManager[Any],
    pairs: Tensor | None = None,
) -> Flops:
    """Run a step's forward and backward pass under torch's counter. No parameter or gradient is changed."""
    # It imports triton, 0.2 s that commands which train nothing go without.
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=_ONEDNN)
    encoder, depth = 0, 0

    def watched(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal encoder, depth
            before, depth = counter.get_total_flops(), depth + 1
            out = method(*args, **kwargs)
            depth -= 1
            if depth == 0:  # `many` may go through `forward`
                encoder += counter.get_total_flops() - before
            return out

        return call

    for name in ENCODING:
        setattr(learner.encoder, name, watched(getattr(learner.encoder, name)))
    parameters = [p for p in learner.parameters() if p.requires_grad]
    try:
        with counter:
            with precision:
                # Not called as a module: that would run the compiled step, whose kernels the counter cannot see into.
                loss = learner.forward(clips, labels, views, pairs)["loss"]
            forward = counter.get_total_flops()
            # Not loss.backward(), which would add to .grad and wake the hooks of DistributedDataParallel.
            torch.autograd.grad(loss, parameters, allow_unused=True)
    finally:
        for name in ENCODING:
            delattr(learner.encoder, name)  # the class's method shows again
    return Flops(counter.get_total_flops(), forward, encoder)


def encoding_flops(encoder: EncoderModule, spec: DataSpec) -> float:
    """Operations of encoding every patch of one clip, as an evaluation does."""
    # It imports triton, 0.2 s that commands which train nothing go without.
    from torch.utils.flop_counter import FlopCounterMode

    device = next(encoder.parameters()).device
    clip = torch.zeros(1, spec.channels, spec.frames, spec.height, spec.width, device=device)
    counter = FlopCounterMode(display=False, custom_mapping=_ONEDNN)
    was_training = encoder.training
    encoder.eval()  # in training it would drop paths, and batch norms would learn from an empty clip
    try:
        with torch.no_grad(), counter:
            encoder.intermediate(clip, 1)
    finally:
        encoder.train(was_training)
    return counter.get_total_flops()


def _linear_flops(x: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any) -> int:
    return 2 * math.prod(x) * out_shape[-1]


# The written-out CPU block calls oneDNN's fused product directly, which torch's table does not list.
_ONEDNN: dict[Any, Any] = {torch.ops.mkldnn._linear_pointwise: _linear_flops} if torch._C._has_mkldnn else {}


def cost_metrics(
    *,
    num_steps: int,
    batch_size: int,
    repeats: int,
    set_size: int,
    seconds: float,
    waited: float,
    flops: Flops | None,
) -> dict[str, float]:
    """`COST_METRICS` of a run whose steps took `seconds`, `waited` of them for data.

    Rates and operations are left out for a run without steps. `flops` are of the whole batch.
    """
    samples = num_steps * batch_size
    metrics = {
        "train_seconds": seconds,
        "data_seconds": waited,
        "compute_seconds": seconds - waited,
        "effective_epochs": samples / set_size,
        "samples_decoded": samples / repeats,
    }
    if flops is not None:
        metrics |= {
            "ms_per_step": 1e3 * (seconds - waited) / num_steps,
            "samples_per_second": samples / seconds,
            "gflop_per_step": flops.total / 1e9,
            "forward_mmac": flops.forward / 2e6 / batch_size,
            "encoder_mmac": flops.encoder / 2e6 / batch_size,
        }
    return {f"cost/{name}": float(value) for name, value in metrics.items()}
