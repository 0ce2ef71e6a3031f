"""A run's learner, built and filled, and the arithmetic that it is trained in."""

from __future__ import annotations

from pathlib import Path

import torch

from core.configuring.config import ConfigError, Precision, Run, located
from core.models.blocks import checkpoint_blocks
from core.models.fast.cpu_block import has_kernels
from core.running.checkpoint import CheckpointError as CheckpointError
from core.types import DataSpec, EncoderModule, Learner, Parts


def build_learner(run: Run, spec: DataSpec) -> Learner:
    """The run's objective with its parts, every parameter a function of `run.seed`."""
    parts = Parts(run.encoder, run.mask, located(run).target, run.predictor, run.loss)
    learner: Learner = run.objective.build(parts, spec, run.seed)
    if run.runtime.checkpoint_blocks:
        checkpoint_blocks(learner)
    return learner


def seen(run: Run, spec: DataSpec) -> DataSpec:
    """`spec` with the mean and std that the run's encoder is used to: its weights', where it starts from some."""
    if run.weights is None:
        return spec
    normalised: DataSpec = run.weights.seen(spec, Path(run.runtime.data_root))
    return normalised


def start_from_weights(run: Run, learner: Learner, spec: DataSpec) -> None:
    """Fill the encoder and its moving average from the run's weights, if it has any."""
    if run.weights is None:
        return
    modules = {id(module): module for module in (learner.encoder, learner.judged_encoder)}
    try:
        run.weights.load(modules.values(), run.encoder, spec, Path(run.runtime.data_root))
    except ValueError as error:  # what only the values tell, such as positions of another kind
        raise ConfigError(str(error)) from error


def untrained_encoder(run: Run, spec: DataSpec, device: torch.device) -> EncoderModule:
    """The judged encoder that the run's training begins with, built again from its seed and weights."""
    start = build_learner(run, spec)
    start_from_weights(run, start, spec)
    return start.judged_encoder.to(device)


def choose_precision(wanted: Precision, device: torch.device) -> torch.dtype | None:
    """bf16 where asked for or fast: on the CPU that takes AMX or AVX512-BF16 (ten times float32 on AMX, see docs)."""
    if wanted is Precision.auto:
        has_units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        fast = device.type == "cuda" or (has_units and has_kernels())
        return torch.bfloat16 if fast else None
    return torch.bfloat16 if wanted is Precision.bf16 else None
