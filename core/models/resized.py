"""A copy of an encoder for single frames of another size than it was built for."""

from __future__ import annotations

import dataclasses

import torch

from core.models.adapted import adapted, enlarged
from core.models.positions import Position
from core.models.vit import VisionTransformer, ViT
from core.types import DataSpec, Encoder, EncoderModule, generator_for


@torch.no_grad()
def for_frames(encoder: EncoderModule, options: Encoder, spec: DataSpec) -> EncoderModule:
    """`encoder`, which was built by `options`, for frames of the size of `spec`; its own weights, nothing is drawn.

    A convolutional encoder takes frames of any size that its stride divides: it is returned as it is. A transformer of
    clips sees a frame as it saw a clip of equal frames (`core.models.adapted`). Embeddings of places are enlarged
    bicubically, so that they stay among those that it was trained with; rotations tell distances and go on.

    Raises ValueError for other encoders.

    Source: DINO (Caron et al., 2021, arXiv:2104.14294), section 3.1, after ViT (Dosovitskiy et al., 2020,
    arXiv:2010.11929), section 3.2.
    """
    if options.has_pyramid:
        return encoder
    if not isinstance(options, ViT) or not isinstance(encoder, VisionTransformer):
        raise ValueError("evals.vos: this encoder cannot be made one of frames of another size")
    small = dataclasses.replace(
        spec, frames=1, height=encoder.grid.h * encoder.patch, width=encoder.grid.w * encoder.patch
    )
    image: EncoderModule = adapted(encoder, options, small, drop_path=0.0, tubelet=1)
    assert isinstance(image, VisionTransformer)
    options = dataclasses.replace(options, drop_path=0.0, tubelet=1)
    copy = VisionTransformer(options, dataclasses.replace(spec, frames=1), generator_for(0, "overwritten"))
    state, grid = image.state_dict(), image.grid
    if options.position is Position.learned:
        state["positions.space"] = enlarged(state["positions.space"], grid[1:], copy.grid[1:])
    elif options.position is not Position.rope:
        copy.positions.table.copy_(enlarged(image.positions.table, grid[1:], copy.grid[1:]))
    copy.load_state_dict(state)
    for parameter in copy.parameters():
        parameter.requires_grad_(False)
    return copy.to(encoder.norm.weight.device).eval()
