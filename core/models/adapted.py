"""A copy of a vision transformer for clips of another length or size than it was trained on."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from core.models.positions import Position, Positions
from core.models.vit import VisionTransformer, ViT
from core.types import DataSpec, Encoder, EncoderModule, Grid, generator_for


def adapted(
    encoder: EncoderModule, options: Encoder, spec: DataSpec, *, drop_path: float, tubelet: int
) -> EncoderModule:
    """A copy of `encoder`, which was built by `options`, for clips like `spec`, with its own `drop_path` rate.

    An encoder of images is inflated for clips: its patch embedding is repeated over `tubelet` frames and divided by
    their number, and a learned embedding of time starts at zero (rotations turn with time at once). An encoder of clips
    is deflated for images: its patch embedding is summed over the frames of a tubelet, and every image is at the first
    moment. What is new is zero, so that nothing is drawn. A convolutional encoder sees frames one by one as ever.
    Embeddings of places are enlarged bicubically for clips of another size; rotations tell distances and go on.

    Raises ValueError when the clips differ in more than their length and size.

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), appendix A (inflation) and section 5.5 (deflation);
    ViT (Dosovitskiy et al., 2020, arXiv:2010.11929), section 3.2 (size).
    """
    if options.has_pyramid:
        return _rebuilt(encoder, options, spec, drop_path)
    if not isinstance(options, ViT) or not isinstance(encoder, VisionTransformer):
        raise ValueError("evals.finetune: this encoder cannot be copied for fine-tuning")
    frames = encoder.grid.t * encoder.tubelet
    check_length(frames, spec.frames, tubelet)
    encoder = _of_size(encoder, options, spec)
    options = dataclasses.replace(options, drop_path=drop_path)
    if frames == spec.frames:
        copy = _copy(encoder, options, spec, encoder.state_dict())
        _take_places(copy, encoder)
        return copy
    state = {name: value for name, value in encoder.state_dict().items() if not name.startswith("positions.")}
    if frames == 1:
        # A rotation knows time without having learned it.
        kind = Position.rope if options.position is Position.rope else Position.learned
        options = dataclasses.replace(options, tubelet=tubelet, position=kind)
        state["embed.weight"] = inflated(state["embed.weight"], spec.channels, tubelet)
        copy = _copy(encoder, options, spec, state | _positions_over_time(encoder.positions, spec.frames // tubelet))
    else:
        options = dataclasses.replace(options, tubelet=1)
        state["embed.weight"] = deflated(state["embed.weight"], spec.channels, encoder.tubelet)
        kept = {"positions." + name: value for name, value in encoder.positions.state_dict().items()}
        if "positions.time" in kept:
            kept["positions.time"] = kept["positions.time"][:1]
        copy = _copy(encoder, options, spec, state | kept)
        if encoder.positions.kind is Position.sincos:  # laid out for clips: the table of images is another one
            copy.positions.table.copy_(encoder.positions.table[: encoder.positions.area])
    return copy


def check_length(frames: int, new_frames: int, tubelet: int) -> None:
    """Raise ValueError unless an encoder of clips of `frames` can be copied for clips of `new_frames`."""
    if frames == 1 < new_frames and new_frames % tubelet:
        raise ValueError(f"evals.finetune.tubelet must divide the {new_frames} frames of a clip, got {tubelet}")
    if frames != new_frames and 1 not in (frames, new_frames):
        raise ValueError(
            f"evals.finetune: the encoder takes clips of {frames} frames and the data gives {new_frames}: "
            "choose equal ones, or images on one side"
        )


def inflated(weight: Tensor, channels: int, tubelet: int) -> Tensor:
    """[D, C * p * p] of an image's patch -> [D, C * tubelet * p * p] that gives the same on a still clip."""
    kernel = weight.view(len(weight), channels, 1, -1)
    return (kernel / tubelet).expand(-1, -1, tubelet, -1).flatten(1)


def deflated(weight: Tensor, channels: int, tubelet: int) -> Tensor:
    """[D, C * tubelet * p * p] -> [D, C * p * p] that gives for an image what it gave for a still clip of it."""
    return weight.view(len(weight), channels, tubelet, -1).sum(2).flatten(1)


def _positions_over_time(positions: Positions, num_slices: int) -> dict[str, Tensor]:
    """The image's positions for each of `num_slices`, and nothing yet for the time."""
    if positions.kind is Position.rope:
        return {}
    if positions.kind is not Position.learned:
        space, prefix = positions.table, None
    else:
        space, prefix = (positions.space + positions.time).detach(), positions.prefix
    state = {"positions.space": space, "positions.time": torch.zeros(num_slices, space.shape[1], device=space.device)}
    if prefix is not None:
        state["positions.prefix"] = prefix.detach()
    return state


def enlarged(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Embeddings of the places of a grid, [h * w, D], for another grid."""
    if old == new:
        return table
    maps = table.T.reshape(1, -1, *old)
    return F.interpolate(maps, size=new, mode="bicubic", align_corners=False)[0].flatten(1).T


@torch.no_grad()
def _of_size(encoder: VisionTransformer, options: ViT, spec: DataSpec) -> VisionTransformer:
    """`encoder` for frames of the size of `spec`: itself where they are of its own."""
    grid = Grid(encoder.grid.t, spec.height // encoder.patch, spec.width // encoder.patch)
    if grid == encoder.grid:
        return encoder
    own = dataclasses.replace(spec, frames=grid.t * encoder.tubelet)
    state, old, new = encoder.state_dict(), encoder.grid[1:], grid[1:]
    if "positions.space" in state:
        state["positions.space"] = enlarged(state["positions.space"], old, new)
    copy = _copy(encoder, dataclasses.replace(options, tubelet=encoder.tubelet), own, state)
    if encoder.positions.kind not in (Position.learned, Position.rope):
        slices = torch.split(encoder.positions.table, encoder.positions.area)
        copy.positions.table.copy_(torch.cat([enlarged(places, old, new) for places in slices]))
    return copy


def _take_places(copy: VisionTransformer, encoder: VisionTransformer) -> None:
    """Fixed embeddings of places: those of an encoder that was resized are not what its options would make."""
    kind = encoder.positions.kind
    if copy.positions.kind is kind and kind not in (Position.learned, Position.rope):
        copy.positions.table.copy_(encoder.positions.table)


@torch.no_grad()
def _rebuilt(encoder: EncoderModule, options: Encoder, spec: DataSpec, drop_path: float) -> EncoderModule:
    names = {field.name for field in dataclasses.fields(options)}
    options = dataclasses.replace(options, **{"drop_path": drop_path} if "drop_path" in names else {})
    copy = options.build(spec, generator_for(0, "overwritten"))
    copy.load_state_dict(encoder.state_dict())
    for parameter in copy.parameters():
        parameter.requires_grad_(True)
    return copy.to(next(encoder.parameters()).device)


@torch.no_grad()
def _copy(encoder: VisionTransformer, options: ViT, spec: DataSpec, state: dict[str, Tensor]) -> VisionTransformer:
    copy = VisionTransformer(options, spec, generator_for(0, "overwritten"))
    if encoder.mask_token is not None:  # of a dense encoder; fine-tuning hides nothing behind it
        state = {name: value for name, value in state.items() if name != "mask_token"}
    if copy.num_prefix and options.position is Position.learned and "positions.prefix" not in state:
        state["positions.prefix"] = torch.zeros(copy.num_prefix, copy.width)
    copy.load_state_dict(state)
    for parameter in copy.parameters():
        parameter.requires_grad_(True)  # a target encoder's are frozen
    return copy.to(encoder.norm.weight.device)
