"""A file's tensors as the state of one of our encoders, or why they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.models.positions import Position
from core.models.vit import VisionTransformer, ViT
from core.types import DataSpec, Grid
from core.weights.layouts import LAYOUTS, Layout
from core.weights.reading import Source, WeightsError

TABLE_TOLERANCE = 1e-2  # a table stored in bfloat16 is off by 4e-3; one of another layout by about 2


@dataclass(frozen=True)
class Found:
    """What a file holds: its layout, where in it, and the encoder's options as its shapes tell them."""

    layout: Layout
    root: str
    options: dict[str, Any]  # of core.models.vit.ViT, those that can be known
    channels: int
    num_positions: int | None  # rows of a table, without the class token's
    is_image: bool  # a patch embedding without time

    @property
    def patch_names(self) -> tuple[str, str]:
        return self.name(f"{self.layout.embed}.weight"), self.name(f"{self.layout.embed}.bias")

    def name(self, name: str) -> str:
        return self.root + name


def identify(source: Source) -> Found:
    """Which layout the file has, and what its shapes say. Raises WeightsError when it is none, or not whole."""
    matches = ((layout, layout.root(source.shapes)) for layout in LAYOUTS)
    layout, root = next(((layout, root) for layout, root in matches if root is not None), (None, None))
    if layout is None or root is None:
        some = ", ".join(sorted(source.shapes)[:4]) or "nothing"
        raise WeightsError(
            f"of another architecture: its names ({some}, ...) are those of no vision transformer known here, which "
            f"are: {'; '.join(known.name for known in LAYOUTS)}"
        )
    shapes, depth = source.shapes, layout.depth(source.shapes, root)
    embed = shapes[f"{root}{layout.embed}.weight"]
    first = root + layout.block.format(i=0)
    width = embed[0]
    hidden = shapes.get(first + str(layout.parts["mlp.fc1.weight"][0]), (4 * width,))[0]
    options: dict[str, Any] = {"width": width, "depth": depth, "mlp_ratio": hidden / width}
    has_class = layout.class_token is not None and root + layout.class_token in shapes
    options["class_token"] = has_class
    is_image = len(embed) == 4
    channels = 0
    if len(embed) in (4, 5):
        channels = embed[1]
        options |= {"patch": embed[-1], "tubelet": 1 if is_image else embed[2]}
    table = shapes.get(root + layout.table) if layout.table else None
    num_positions = None
    if layout.separable and root + layout.separable[0] in shapes:
        options["position"] = "learned"
    elif table is not None:
        num_positions = table[-2] - int(has_class and math.isqrt(table[-2]) ** 2 != table[-2])
        if not is_image:
            options["position"] = "sincos"
    elif layout.implied and not (layout.implied == "rope" and is_image):
        options["position"] = layout.implied
    elif "position" not in source.encoder:
        raise WeightsError(f"it has no position embeddings ({layout.table} is missing)")
    return Found(layout, root, options | source.encoder, channels, num_positions, is_image)


def misfits(found: Found, encoder: ViT, spec: DataSpec) -> list[str]:
    """What keeps the file's weights out of this encoder, each with what would fit."""
    wrong = []
    for name, wanted in found.options.items():
        given: Any = getattr(encoder, name)
        given = given.value if isinstance(given, Position) else given
        is_close = type(wanted) is float and abs(given - wanted) < 1 / encoder.width  # MLPs are whole numbers wide
        if given != wanted and not is_close:
            wrong.append(f"encoder.{name} must be {plain(wanted)}, got {plain(given)}")
    if found.channels not in (0, spec.channels):
        wrong.append(f"data must have {found.channels} channels, has {spec.channels}")
    if found.is_image and spec.frames != 1:
        wrong.append(f"it is an encoder of images: data.frames must be 1, got {spec.frames}")
    fixed_or_learned = encoder.position in (Position.sincos, Position.learned)
    if found.num_positions is not None and "position" not in found.options and not fixed_or_learned:
        wrong.append(f"encoder.position must be sincos or learned, got {encoder.position.value}")
    return wrong


def plain(value: Any) -> str:
    """An option's value as it is written on a command line."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def names_of(found: Found, depth: int) -> dict[str, list[str | None]]:
    """Our parameters but for the positions -> the file's tensors that make them."""
    layout = found.layout
    table: dict[str, list[str | None]] = {}
    for kind, name in zip(("weight", "bias"), found.patch_names, strict=True):
        table[f"embed.{kind}"] = [name]
        table[f"norm.{kind}"] = [found.name(f"{layout.norm}.{kind}")]
    if found.options["class_token"]:
        assert layout.class_token is not None
        table["class_token"] = [found.name(layout.class_token)]
    for i in range(depth):
        for ours, theirs in layout.parts.items():
            table[f"blocks.{i}.{ours}"] = [n and found.name(layout.block.format(i=i) + n) for n in theirs]
    return table


def refuse_missing_and_unexpected(source: Source, found: Found, depth: int) -> None:
    wanted = {name for names in names_of(found, depth).values() for name in names if name}
    if missing := sorted(wanted - source.shapes.keys()):
        norm = found.name(f"{found.layout.norm}.weight")
        hint = ""
        if norm in missing:
            hint = (
                "; models fine-tuned on the mean of their patches have no norm of every patch: take the pretrained one"
            )
        raise WeightsError(f"{_some(missing)} {_is(missing)} missing{hint}")
    positions = [n for n in (found.layout.table, *(found.layout.separable or ())) if n]
    wanted |= {found.name(name) for name in positions}
    if extra := sorted(n for n in source.shapes.keys() - wanted if not found.layout.is_ignored(n)):
        raise WeightsError(f"{_some(extra)} {_is(extra)} unexpected: encoder=vit has no such part")


def refuse_other_grid(source: Source, found: Found, encoder: ViT, grid: Grid, *, resample: bool) -> None:
    """Raise WeightsError when the positions are of another grid and cannot, or may not, be interpolated to this one."""
    layout, area = found.layout, grid.h * grid.w
    rows, slices = found.num_positions, 1
    if layout.separable and (name := found.name(layout.separable[0])) in source.shapes:
        rows = source.shapes[name][-2]
        slices = source.shapes.get(found.name(layout.separable[1]), (1, 1))[-2]
        if slices != grid.t:
            raise WeightsError(
                f"its positions are of {slices} time slices, this run's grid {_shown(grid)} has {grid.t}: choose "
                "data.frames to fit"
            )
    elif not found.is_image:
        area = grid.num_patches
    if rows is None or rows == area:
        return
    size = f"its positions are of {rows} patches, this run's grid {_shown(grid)} has {area}"
    if encoder.position is not Position.learned:
        advice = ", or interpolate them with encoder.position=learned weights.resample=true" if found.is_image else ""
        raise WeightsError(f"{size}: choose the data's size (and frames) to fit{advice}")
    if not resample:
        raise WeightsError(f"{size}: choose data.size to fit, or interpolate them with weights.resample=true")
    if math.isqrt(rows) ** 2 != rows:
        raise WeightsError(f"{size}: weights.resample=true interpolates square grids, and {rows} is no square")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def fill(module: VisionTransformer, source: Source, found: Found) -> None:
    """Give `module` the file's weights, all of them or, with a WeightsError, none."""
    own = module.state_dict()
    state: dict[str, Tensor] = {}
    for ours, theirs in names_of(found, len(module.blocks)).items():
        tensors = [source.read(name).float() if name else None for name in theirs]
        like = next(tensor for tensor in tensors if tensor is not None)
        if len(tensors) > 1 and own[ours].shape[0] == len(tensors) * like.shape[0]:
            like = torch.cat([torch.zeros_like(like) if tensor is None else tensor for tensor in tensors])
        if like.numel() != own[ours].numel() or (
            ours != "embed.weight" and like.squeeze().shape != own[ours].squeeze().shape
        ):
            raise WeightsError(
                f"{theirs[0]} has the shape {list(like.shape)}, encoder=vit takes {list(own[ours].shape)}"
            )
        state[ours] = like.reshape(own[ours].shape)
    state |= _positions(module, source, found, state)
    if broken := sorted(name for name, tensor in state.items() if not tensor.isfinite().all()):
        raise WeightsError(f"{_some(broken)} {_is(broken)} not finite: the file is damaged, or its run had diverged")
    # A dense encoder's mask token is its predictor's affair, and no released encoder has one.
    assert own.keys() - state.keys() <= {"mask_token"}, own.keys() ^ state.keys()
    module.load_state_dict(own | state)


def _positions(module: VisionTransformer, source: Source, found: Found, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The learned positions; a class token that has one where ours cannot takes it up into itself."""
    layout, grid = found.layout, module.grid
    kind = module.positions.kind
    if layout.separable and found.name(layout.separable[0]) in source.shapes:
        space, time, prefix = (_rows(source, found.name(name)) for name in layout.separable)
        assert space is not None
        time = torch.zeros(1, space.shape[1]) if time is None else time
        return _learned(_resampled(space, grid), time, prefix, module.num_prefix)
    if found.num_positions is None:
        return {}
    assert layout.table is not None
    rows = _rows(source, found.name(layout.table))
    assert rows is not None
    prefix, rows = rows[: len(rows) - found.num_positions], rows[len(rows) - found.num_positions :]
    if kind is Position.learned:
        return _learned(_resampled(rows, grid), torch.zeros(1, rows.shape[1]), prefix, module.num_prefix)
    off = (rows - module.positions.table.cpu()).abs().max().item()
    if off > TABLE_TOLERANCE:
        advice = "set encoder.position=learned" if found.is_image else "no encoder here has such positions"
        raise WeightsError(f"its positions are not those of encoder.position={kind.value} (off by {off:.2g}): {advice}")
    if len(prefix) and "class_token" in state:
        return {"class_token": state["class_token"] + prefix}
    return {}


def _rows(source: Source, name: str) -> Tensor | None:
    """A table of positions [1, n, D] or [n, D] as [n, D] float32, None where the file has none."""
    if name not in source.shapes:
        return None
    rows = source.read(name).float()
    return rows.reshape(-1, rows.shape[-1])


def _learned(space: Tensor, time: Tensor, prefix: Tensor | None, num_prefix: int) -> dict[str, Tensor]:
    state = {"positions.space": space, "positions.time": time}
    if num_prefix:
        state["positions.prefix"] = (
            torch.zeros(num_prefix, space.shape[1]) if prefix is None or not len(prefix) else prefix
        )
    return state


def _resampled(rows: Tensor, grid: Grid) -> Tensor:
    """Positions of one frame's patches [n, D] on `grid`'s rows and columns."""
    if len(rows) == grid.h * grid.w:
        return rows
    side = math.isqrt(len(rows))
    # timm registers every model it has when imported, 6 s; only this rare path needs it.
    from timm.layers.pos_embed import resample_abs_pos_embed

    made: Tensor = resample_abs_pos_embed(
        rows[None], new_size=[grid.h, grid.w], old_size=[side, side], num_prefix_tokens=0
    )
    return made[0]


def _shown(grid: Grid) -> str:
    return f"{grid.t} x {grid.h} x {grid.w}"


def load(module: Any, source: Source, encoder: Any, spec: DataSpec, *, resample: bool) -> Found:
    """`fill` after every check that can be made of names and shapes."""
    found = checked(source, encoder, spec, resample=resample)
    assert isinstance(module, VisionTransformer)
    fill(module, source, found)
    return found


def checked(source: Source, encoder: Any, spec: DataSpec, *, resample: bool) -> Found:
    """What the file holds, if by names and shapes it fits an `encoder` on data like `spec`. Raises WeightsError."""
    if not isinstance(encoder, ViT):
        raise WeightsError("released weights go into encoder=vit only")
    found = identify(source)
    if wrong := misfits(found, encoder, spec):
        raise WeightsError("; ".join(wrong))
    refuse_missing_and_unexpected(source, found, encoder.depth)
    refuse_other_grid(source, found, encoder, encoder.grid(spec), resample=resample)
    return found
