"""Pictures as data: tiles of pixels in lines, each line with its label. Pure functions of what runs kept.

A hidden patch is grey with a light edge, so that patches can be counted; one that is neither context nor target is
lighter. Time runs along the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.pictures.kept import DecodedPictures, Flags, Kept, Pixels, RunPictures
from sweeps.console.errors import UserError

HIDDEN, NEITHER, EDGE = (150, 150, 150), (214, 214, 214), (176, 176, 176)
MAX_COLUMNS = 8
MAX_EXAMPLES = 6


@dataclass(frozen=True)
class Outline:
    """The border of some patches, in the palette's colour number `color`."""

    patches: Flags  # [h, w]
    color: int


@dataclass(frozen=True)
class Tile:
    """One picture; `frame` is the colour number of its own border, None without one."""

    pixels: Pixels  # [H, W, 3]
    outlines: tuple[Outline, ...] = ()
    frame: int | None = None


@dataclass(frozen=True)
class Line:
    """Tiles side by side. `starts_group`: with more room above."""

    label: str
    tiles: tuple[Tile, ...]
    starts_group: bool = False


@dataclass(frozen=True)
class Sheet:
    """All that is drawn."""

    name: str
    columns: tuple[str, ...]  # a header for each tile of a line
    lines: tuple[Line, ...]
    note: str


# ---- the four pictures -----------------------------------------------------------------------------------------------


def samplings(name: str, runs: Sequence[RunPictures], clips: Sequence[int]) -> Sheet:
    """A clip, and what each run's masks leave of it: one line for each mask of a sample, one column a time slice."""
    _same_clips(name, runs)
    lines = []
    for clip in clips:
        places = shown_slices(runs[0])
        frames = runs[0].clips[clip, [place * runs[0].frames_per_slice for place in places]]
        lines.append(Line("clip", tuple(Tile(rgb(frame)) for frame in frames), starts_group=clip != clips[0]))
        for run in runs:
            views = run.contexts()
            for view in views:
                hidden = 1 - run.context[clip, view].mean()
                part = f" (mask {view + 1})" if len(views) > 1 else ""
                tiles = tuple(
                    Tile(masked(frame, *at(run, clip, view, place)))
                    for frame, place in zip(frames, places, strict=True)
                )
                lines.append(Line(f"{run.label}{part}\n{percent(hidden)} hidden", tiles))
    span = runs[0].frames_per_slice
    columns = tuple(f"t = {place * span + 1}" for place in places) if runs[0].grid[0] > 1 else ("",)
    return Sheet(name, columns, tuple(lines), note(runs, "Colour: context; grey: hidden" + _neither(runs)))


def blocks(name: str, runs: Sequence[RunPictures], clips: Sequence[int]) -> Sheet:
    """For each example: the image with its target blocks outlined, the context, and each target by itself."""
    lines = []
    for run in runs:
        num_targets = len(run.kind)
        for clip in clips:
            frame = rgb(run.clips[clip, 0])
            targets = [grid_of(run.target[clip, view], run)[0] for view in range(num_targets)]
            outlines = tuple(Outline(target, color) for color, target in enumerate(targets))
            context = grid_of(run.context[clip, 0], run)[0]
            tiles = [Tile(frame, outlines), Tile(masked(frame, context, ~context))]
            tiles += [Tile(masked(frame, target, ~target), frame=color) for color, target in enumerate(targets)]
            label = run.label if clip == clips[0] and len(runs) > 1 else ""
            lines.append(Line(label, tuple(tiles), starts_group=bool(label) and run is not runs[0]))
    most = max(len(run.kind) for run in runs)
    columns = ("original", "context", *(f"target {number + 1}" for number in range(most)))
    return Sheet(name, columns, tuple(lines), note(runs, "Grey: not part of the block"))


def reconstructions(name: str, runs: Sequence[RunPictures], clips: Sequence[int]) -> Sheet:
    """Original, what the model sees, and what it makes of it; visible patches of the last are the original's."""
    lines: list[Line] = []
    for run in runs:
        if not len(run.reconstruction):
            raise UserError(f"run={run.run_id} predicts no pixels, so there is no reconstruction; choose other runs")
        for clip in clips:
            if clip >= len(run.reconstruction):
                raise UserError(
                    f"clips={clip}: run {run.run_id} kept reconstructions of clips 0 to {len(run.reconstruction) - 1}"
                )
            chosen = spread(run.frames, MAX_COLUMNS)
            span = run.frames_per_slice
            original = [rgb(run.clips[clip, frame]) for frame in chosen]
            seen = [masked(rgb(run.clips[clip, f]), *at(run, clip, 0, f // span)) for f in chosen]
            made = [rgb(run.reconstruction[clip, 0, frame]) for frame in chosen]
            hidden = 1 - run.context[clip, 0].mean()
            names = ("original", f"{percent(hidden)} masked", "reconstruction")
            for label, frames in zip(names, (original, seen, made), strict=True):
                tiles = tuple(Tile(frame) for frame in frames)
                lines.append(Line(label, tiles, starts_group=bool(lines) and label == names[0]))
    columns = tuple(f"t = {frame + 1}" for frame in chosen) if len(runs[0].frames) > 1 else ("",)
    steps = ", ".join(dict.fromkeys(f"{run.steps:,} steps" for run in runs))
    return Sheet(name, columns, tuple(lines), note(runs, f"Grey: hidden; {steps}"))


def decodings(name: str, runs: Sequence[DecodedPictures], clips: Sequence[int]) -> Sheet:
    """Of each image one target block as the predictor's output decodes, and the whole image as each encoder's does."""
    lines: list[Line] = []
    for clip in clips:
        starts_group = bool(lines)
        for run in runs:
            name_of = f"{run.label}\n" if len(runs) > 1 else ""
            frame = rgb(run.originals[clip])
            if len(run.blocks):
                target, context = run.target[clip], run.context[clip]
                outline, seen = (Outline(target, 0),), masked(frame, context, ~context)
                blocks = [Tile(filled(seen, target, rgb(sample)), outline) for sample in run.blocks[clip]]
                tiles = (Tile(frame, outline), Tile(seen), *blocks)
                lines.append(Line(f"{name_of}predictor", tiles, starts_group=starts_group))
                starts_group = False
            whole = [Tile(enlarged(rgb(sample), frame.shape[:2])) for sample in run.whole[clip]]
            tiles = (Tile(frame), Tile(np.full_like(frame, 255)), *whole)
            lines.append(Line(f"{name_of}encoder", tiles, starts_group=starts_group))
            starts_group = False
    shares = [_told(run, name=len(runs) > 1) for run in runs]
    columns = ("original", "context", *(f"sample {number + 1}" for number in range(runs[0].whole.shape[1])))
    return Sheet(name, columns, tuple(lines), note(runs, "; ".join(shares)))


def _told(run: DecodedPictures, *, name: bool) -> str:
    whose = f"{run.label}'s" if name else "The"
    blocks = f" and {percent(run.explained[0])} of a block's" if len(run.blocks) else ""
    return f"{whose} representation tells {percent(run.explained[1])} of the variance of a test image's pixels{blocks}"


# ---- parts -----------------------------------------------------------------------------------------------------------


def masked(frame: Pixels, context: Flags, target: Flags) -> Pixels:
    """`frame` [H, W, 3] with its context patches [h, w] only; targets grey, what is neither lighter."""
    rows, columns = frame.shape[0] // context.shape[0], frame.shape[1] // context.shape[1]

    def stretched(flags: Flags) -> Flags:
        return flags.repeat(rows, 0).repeat(columns, 1)

    shown = frame.copy()
    shown[stretched(~context)] = NEITHER
    shown[stretched(~context & target)] = HIDDEN
    edge = np.zeros(frame.shape[:2], dtype=bool)
    edge[::rows], edge[:, ::columns] = True, True
    shown[edge & stretched(~context & target)] = EDGE
    return shown


def filled(frame: Pixels, patches: Flags, sample: Pixels) -> Pixels:
    """`frame` [H, W, 3] with `sample` [S, S, 3] stretched over the smallest box around `patches` [h, w]."""
    height, width = frame.shape[0] // patches.shape[0], frame.shape[1] // patches.shape[1]
    rows, columns = np.flatnonzero(patches.any(1)), np.flatnonzero(patches.any(0))
    box = np.s_[rows[0] * height : (rows[-1] + 1) * height, columns[0] * width : (columns[-1] + 1) * width]
    shown = frame.copy()
    shown[box] = enlarged(sample, shown[box].shape[:2])
    return shown


def enlarged(image: Pixels, size: tuple[int, ...]) -> Pixels:
    """[S, S', 3] at another size, each place with its nearest pixel's colour."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, image.shape[:2], strict=True))
    found: Pixels = image[rows[:, None], columns]
    return found


def at(run: RunPictures, clip: int, view: int, place: int) -> tuple[Flags, Flags]:
    """Context and target patches [h, w] of one time slice."""
    return grid_of(run.context[clip, view], run)[place], grid_of(run.target[clip, view], run)[place]


def grid_of(flags: Flags, run: RunPictures) -> NDArray[np.bool_]:
    return flags.reshape(run.grid)


def rgb(frame: Pixels) -> Pixels:
    """[H, W, C] with three channels: the first three, or one as grey."""
    return frame[..., :3] if frame.shape[-1] >= 3 else frame[..., :1].repeat(3, axis=-1)


def shown_slices(run: RunPictures) -> list[int]:
    return spread(range(run.grid[0]), MAX_COLUMNS)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def spread(values: Sequence[int], most: int) -> list[int]:
    """At most `most` of `values`, evenly apart, the first among them."""
    count = min(len(values), most)
    return [values[number * len(values) // count] for number in range(count)]


def note(runs: Sequence[Kept], legend: str) -> str:
    numbers = ", ".join(map(str, sorted({run.run_id for run in runs})))
    seeds = ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))
    return f"{legend}. Run{'s' if len(runs) > 1 else ''} {numbers}, seed {seeds}."


def _neither(runs: Sequence[RunPictures]) -> str:
    return "; light grey: neither context nor target" if any(not (r.context | r.target).all() for r in runs) else ""


def _same_clips(name: str, runs: Sequence[RunPictures]) -> None:
    """Raises UserError where the lines of one picture would show different clips."""
    for run in runs[1:]:
        if run.clips.shape != runs[0].clips.shape or not np.array_equal(run.clips, runs[0].clips):
            raise UserError(f"name={name}: runs {runs[0].run_id} and {run.run_id} are not on the same clips")
        if run.grid[0] != runs[0].grid[0]:
            raise UserError(f"name={name}: runs {runs[0].run_id} and {run.run_id} differ in time slices")
