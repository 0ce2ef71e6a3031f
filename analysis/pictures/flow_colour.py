"""Optical flow as colour, and a frame moved by it: the wheel of the Middlebury benchmark, without torch.

The hue is the direction, the paleness how short the flow is: white where nothing moves, full colour at `largest`, and
darker beyond.

Source: Baker et al. (2011), "A Database and Evaluation Methodology for Optical Flow", IJCV 92, section 4.1; the numbers
of steps between neighbouring colours are those of its wheel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]

# Red, yellow, green, cyan, blue, magenta and red again, and the steps from each to the next.
_CORNERS = ((1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0))
_STEPS = (15, 6, 4, 11, 13, 6)
BEYOND = 0.75  # how bright is what is longer than the largest
OUTSIDE = 128  # grey of pixels that a moved frame does not have


def wheel() -> Numbers:
    """[55, 3]: the colours once around, in 255ths as the benchmark's, which rounds them down."""
    parts = [
        np.floor(255 * (np.array(here) + np.arange(steps)[:, None] / steps * (np.array(there) - np.array(here))))
        if sum(there) > sum(here)
        else np.array(here) * 255 - np.floor(255 * np.arange(steps)[:, None] / steps) * (np.array(here) - there)
        for here, there, steps in zip(_CORNERS[:-1], _CORNERS[1:], _STEPS, strict=True)
    ]
    return np.concatenate(parts)


def coloured(flow: NDArray[np.floating], largest: float) -> Pixels:
    """[H, W, 3] of `flow` [2, H, W], pixels to the right and down."""
    across, down = flow.astype(np.float64) / max(largest, 1e-9)
    length = np.hypot(across, down)
    colours = wheel()
    place = (np.arctan2(-down, -across) / np.pi + 1) / 2 * (len(colours) - 1)
    below = np.floor(place).astype(int)
    share = (place - below)[..., None]
    full = ((1 - share) * colours[below] + share * colours[(below + 1) % len(colours)]) / 255
    pale = 1 - np.minimum(length, 1)[..., None] * (1 - full)
    shown = np.where(length[..., None] <= 1 + 1e-9, pale, BEYOND * full)
    floored: Pixels = np.floor(255 * shown + 1e-9).astype(np.uint8)
    return floored


def legend(size: int) -> Pixels:
    """The wheel as a disc of `size` px: the flow of each place is its way from the middle."""
    places = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = np.meshgrid(places, places)
    disc = coloured(np.stack([across, down]), 1.0)
    disc[np.hypot(across, down) > 1] = 255
    return disc


def moved_back(frame: Pixels, flow: NDArray[np.floating]) -> Pixels:
    """The second `frame` [H, W, C] as seen from the first: each pixel is the one that `flow` [2, H, W] points to.

    Bilinear; grey where it points outside the frame.
    """
    height, width = frame.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    x, y = columns + flow[0], rows + flow[1]
    is_inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
    x, y = np.clip(np.nan_to_num(x), 0, width - 1), np.clip(np.nan_to_num(y), 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right, lower = (x - left)[..., None], (y - top)[..., None]
    pixels = frame.astype(np.float64)
    upper = (1 - right) * pixels[top, left] + right * pixels[top, left + 1]
    under = (1 - right) * pixels[top + 1, left] + right * pixels[top + 1, left + 1]
    mixed: Pixels = np.round((1 - lower) * upper + lower * under).astype(np.uint8)
    mixed[~is_inside] = OUTSIDE
    return mixed
