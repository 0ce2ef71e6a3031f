"""Draw a sheet of pictures: every tile a whole multiple of its own pixels, words around them.

The tiles are put on one canvas of pixels (`canvas`), which is all that decides how the picture looks; matplotlib adds
labels and outlines and writes the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from analysis.figures.theme import PALETTE, REFERENCE, png, settings, svg
from analysis.pictures.kept import Flags, Pixels
from analysis.pictures.sheets import Outline, Sheet
from sweeps.console.errors import UserError

DPI = 160  # of analysis.figures.theme.png: one canvas pixel is one pixel of the file
GUTTER, GROUP_GAP, MARGIN = 6, 22, 10  # px
MIN_TILE = 96  # px: smaller pictures are enlarged, each pixel to a square
LETTER, LINE_HEIGHT = 9.6, 19  # px of the words' size, 8 points
CAPITAL = 1.25  # letters
WORDS = 8.0  # points


@dataclass(frozen=True)
class Layout:
    """Where the tiles lie on the canvas: px from the top left."""

    lefts: list[int]
    tops: list[int]
    tile: tuple[int, int]  # height, width
    size: tuple[int, int]  # of the whole canvas
    zoom: int


def images(sheet: Sheet) -> dict[str, bytes]:
    """{"svg": ..., "png": ...}; the same sheet gives the same bytes."""
    with mpl.rc_context(cast(Any, settings())):
        figure = draw(sheet)
        return {"svg": svg(figure), "png": png(figure)}


def layout(sheet: Sheet) -> Layout:
    height, width = sheet.lines[0].tiles[0].pixels.shape[:2]
    zoom = max(1, -(-MIN_TILE // max(height, width)))
    height, width = height * zoom, width * zoom
    longest = max(_letters(part) for line in sheet.lines for part in line.label.split("\n"))
    left = MARGIN + (round(longest * LETTER) + GUTTER if longest else 0)
    lefts = [left + number * (width + GUTTER) for number in range(len(sheet.columns))]
    top, tops = MARGIN + (LINE_HEIGHT + 4 if any(sheet.columns) else 0), []
    for line in sheet.lines:
        top += GROUP_GAP - GUTTER if line.starts_group else 0
        tops.append(top)
        top += height + GUTTER
    right = max(lefts[-1] + width, left + 420)
    bottom = top + LINE_HEIGHT * len(note_lines(sheet, right - left)) + MARGIN
    return Layout(lefts, tops, (height, width), (bottom, right + MARGIN), zoom)


def _letters(text: str) -> float:
    """How wide words are, in letters: capitals are wider."""
    return sum(CAPITAL if letter.isupper() else 1 for letter in text)


def note_lines(sheet: Sheet, width: int) -> list[str]:
    """The note in lines that fit, its words a little smaller than the others."""
    most, lines = int(width / (LETTER * 0.8)), [""]
    for word in sheet.note.split():
        if len(lines[-1]) + len(word) >= most:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def canvas(sheet: Sheet, where: Layout) -> Pixels:
    """All tiles on white: [H, W, 3] uint8."""
    page = np.full((*where.size, 3), 255, np.uint8)
    height, width = where.tile
    for line, top in zip(sheet.lines, where.tops, strict=True):
        for tile, left in zip(line.tiles, where.lefts, strict=False):
            zoomed = tile.pixels.repeat(where.zoom, 0).repeat(where.zoom, 1)
            if zoomed.shape[:2] != where.tile:
                raise UserError(
                    f"name={sheet.name}: its runs' clips differ in size ({tile.pixels.shape[0]} and "
                    f"{height // where.zoom} px); draw them apart with run="
                )
            page[top : top + height, left : left + width] = zoomed
    return page


def draw(sheet: Sheet) -> Figure:
    """Call it within `theme.settings()`."""
    where = layout(sheet)
    height, width = where.size
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas(sheet, where), extent=(0, width, height, 0), interpolation="none", aspect="auto")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for line, top in zip(sheet.lines, where.tops, strict=True):
        _words(axes, where.lefts[0] - GUTTER - 2, top + where.tile[0] / 2, line.label, ha="right", va="center")
        for tile, left in zip(line.tiles, where.lefts, strict=False):
            for outline in tile.outlines:
                _outline(axes, outline, left, top, where.tile)
            if tile.frame is not None:
                whole = Outline(np.ones((1, 1), dtype=bool), tile.frame)
                _outline(axes, whole, left, top, where.tile)
    for header, left in zip(sheet.columns, where.lefts, strict=True):
        _words(axes, left + where.tile[1] / 2, where.tops[0] - 6, header, ha="center", va="bottom")
    under = where.tops[-1] + where.tile[0] + GUTTER
    lines = "\n".join(note_lines(sheet, width - MARGIN - where.lefts[0]))
    axes.text(where.lefts[0], under + 2, lines, fontsize=WORDS * 0.8, color="#777777", ha="left", va="top")
    return figure


def _words(axes: Axes, x: float, y: float, text: str, **place: Any) -> None:
    axes.text(x, y, text, fontsize=WORDS, color=REFERENCE, linespacing=1.25, **place)


def _outline(axes: Axes, outline: Outline, left: int, top: int, tile: tuple[int, int]) -> None:
    """White under the colour, so that it shows on any picture."""
    rows, columns = outline.patches.shape
    scale = np.array([tile[1] / columns, tile[0] / rows])
    lines = [segment * scale + (left, top) for segment in border(outline.patches)]
    color = PALETTE[outline.color % len(PALETTE)]
    for width, paint in ((2.4, "white"), (1.3, color)):
        axes.add_collection(LineCollection(lines, colors=paint, linewidths=width, capstyle="projecting"))


def border(patches: Flags) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    """The sides between a patch and what is not one: pairs of (x, y) corners, in patches."""
    padded = np.pad(patches, 1).astype(np.int8)
    upright = np.argwhere(np.diff(padded[1:-1], axis=1))  # [row, side]
    level = np.argwhere(np.diff(padded[:, 1:-1], axis=0))  # [side, column]
    sides = [np.array([[x, y], [x, y + 1]], dtype=np.float64) for y, x in upright]
    return sides + [np.array([[x, y], [x + 1, y]], dtype=np.float64) for y, x in level]
