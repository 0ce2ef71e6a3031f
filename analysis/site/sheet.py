"""A run's pictures as one small image: clips, what its encoder sees of them, and what it makes of the rest."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from sqlalchemy import Connection

from analysis.pictures.kept import Pixels, RunPictures, of_runs
from analysis.pictures.sheets import at, masked, percent, rgb, spread
from sweeps.console.tables import counted

MOST_COLUMNS = 6
GAP, GAP_COLOR = 2, 128
COLORS = 96  # of the palette: a quarter of the bytes
WIDTH = 620  # shown, at most


@dataclass(frozen=True)
class Sheet:
    """A PNG and the words for who cannot see it; `width` and `height` as shown."""

    content: bytes
    words: str
    width: int
    height: int


def sheet(connection: Connection, run_id: int) -> Sheet:
    """Of what the database holds; raises NoPictures where that is nothing."""
    run = of_runs(connection, [run_id], Path(), RunPictures)[0]
    lines, words = _lines(run)
    pixels = _stack(lines)
    scale = max(1, WIDTH // pixels.shape[1])
    image = Image.fromarray(pixels).quantize(COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return Sheet(buffer.getvalue(), words, pixels.shape[1] * scale, pixels.shape[0] * scale)


def _lines(run: RunPictures) -> tuple[list[list[Pixels]], str]:
    """Tiles line by line: time runs along a line of a clip, several images stand beside each other."""
    span = run.frames_per_slice
    is_video = run.grid[0] > 1
    kept = len(run.reconstruction) or len(run.clips)
    if is_video and len(run.reconstruction):
        places = [(0, frame) for frame in spread(run.frames, MOST_COLUMNS)]
    elif is_video:
        places = [(0, place * span) for place in spread(range(run.grid[0]), MOST_COLUMNS)]
    else:
        places = [(clip, 0) for clip in range(min(kept, MOST_COLUMNS))]
    what = "a clip over time" if is_video else counted(len(places), "image")
    lines = [[rgb(run.clips[clip, frame]) for clip, frame in places]]
    words = [what]
    contexts = run.contexts()[:2]
    for number, view in enumerate(contexts, start=1):
        hidden = float(1 - run.context[: len(run.clips), view].mean())
        which = f" through mask {number}" if len(contexts) > 1 else ""
        lines.append([masked(rgb(run.clips[clip, f]), *at(run, clip, view, f // span)) for clip, f in places])
        words.append(f"what the encoder sees of it{which} ({percent(hidden)} hidden)")
    if len(run.reconstruction):
        lines.append([rgb(run.reconstruction[clip, 0, frame]) for clip, frame in places])
        words.append("what it makes of the rest")
    rest = "; light grey: neither seen nor predicted" if not (run.context | run.target).all() else ""
    return lines, f"From the top: {'; '.join(words)}. Grey: hidden{rest}."


def _stack(lines: list[list[Pixels]]) -> Pixels:
    """[H, W, 3] with gaps between the tiles."""
    height, width = lines[0][0].shape[:2]
    shape = len(lines) * (height + GAP) - GAP, len(lines[0]) * (width + GAP) - GAP, 3
    canvas = np.full(shape, GAP_COLOR, dtype=np.uint8)
    for i, line in enumerate(lines):
        for j, tile in enumerate(line):
            top, left = i * (height + GAP), j * (width + GAP)
            canvas[top : top + height, left : left + width] = tile
    return canvas
