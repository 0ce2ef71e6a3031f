"""How frames of one size become frames of another, and what is known of each pixel with them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from core.types import DataError


class Fit(Enum):
    """What becomes of a frame that is not `height` x `width`."""

    resize = "resize"  # the whole frame, its proportions not kept
    cover = "cover"  # scaled until it covers, then its middle
    crop = "crop"  # its middle, pixel for pixel; a smaller frame is refused
    pad = "pad"  # the whole frame, pixel for pixel, its edges repeated around it; a larger frame is refused


class Placing(NamedTuple):
    """A frame [h, w] scaled to `scaled` and then cut, or padded, to `size`."""

    frame: tuple[int, int]
    scaled: tuple[int, int]
    size: tuple[int, int]

    def picture(self, image: Image.Image) -> np.ndarray:
        """An RGB image as [3, H, W] uint8; scaled by Pillow's bilinear filter, which is antialiased."""
        if self.scaled != self.frame:
            image = image.resize(self.scaled[::-1], Image.Resampling.BILINEAR)
        pixels: np.ndarray = np.asarray(image)
        rows, columns = (self._places(axis).clip(0, self.scaled[axis] - 1) for axis in (0, 1))
        placed: np.ndarray = pixels[rows][:, columns].transpose(2, 0, 1)
        return placed

    def nearest(self, values: np.ndarray) -> np.ndarray:
        """[..., h, w] -> [..., H, W]: each pixel takes the value that was nearest to its centre, none is mixed."""
        rows, columns = (
            ((self._places(axis) + 0.5) * self.frame[axis] / self.scaled[axis]).astype(np.int64) for axis in (0, 1)
        )
        rows, columns = rows.clip(0, self.frame[0] - 1), columns.clip(0, self.frame[1] - 1)
        found: np.ndarray = values[..., rows, :][..., columns]
        return found

    def inside(self) -> np.ndarray:
        """Which pixels show the frame, not its padding: [H, W] bool."""
        rows, columns = ((self._places(axis) >= 0) & (self._places(axis) < self.scaled[axis]) for axis in (0, 1))
        both: np.ndarray = rows[:, None] & columns
        return both

    def flow(self, flow: np.ndarray) -> np.ndarray:
        """Displacements [2, h, w] in px (right, down) of the frame as px of the placed one, [2, H, W]."""
        scale = np.array([self.scaled[1] / self.frame[1], self.scaled[0] / self.frame[0]], np.float32)
        placed: np.ndarray = self.nearest(flow) * scale[:, None, None]
        return placed

    def _places(self, axis: int) -> np.ndarray:
        """Where each row (or column) lies in the scaled frame; outside it in padding."""
        return np.arange(self.size[axis]) + (self.scaled[axis] - self.size[axis]) // 2


def placing(frame: tuple[int, int], size: tuple[int, int], fit: Fit, file: Path) -> Placing:
    """`file`, a frame of [h, w] px, as `size` [H, W]. Raises DataError where it is too small or too large for `fit`."""
    if fit is Fit.resize:
        return Placing(frame, size, size)
    if fit is Fit.cover:
        scale = max(size[0] / frame[0], size[1] / frame[1])
        return Placing(frame, (max(round(frame[0] * scale), size[0]), max(round(frame[1] * scale), size[1])), size)
    fits = min if fit is Fit.crop else max
    if (fits(frame[0], size[0]), fits(frame[1], size[1])) != size:
        raise DataError(
            f"data.fit={fit.name}: {file} has {frame[0]} x {frame[1]} px, {'less' if fit is Fit.crop else 'more'} than "
            f"data.height x data.width = {size[0]} x {size[1]}; change these, or take data.fit=resize"
        )
    return Placing(frame, frame, size)


def require_mask_size(
    mask: Path, found: tuple[int, int], frame: Path, wanted: tuple[int, int], *, resize: bool
) -> None:
    """Raise DataError for a mask of [h, w] px that is not of its frame's size, unless it may be and has its shape."""
    if found == wanted:
        return
    sizes = f"data.path: {mask} is of {found[0]} x {found[1]} px, its image {frame.name} of {wanted[0]} x {wanted[1]}"
    if not resize:
        raise DataError(f"{sizes}; data.resize_masks=true resizes such masks to the nearest pixel")
    if not 0.9 < found[0] * wanted[1] / (found[1] * wanted[0]) < 1.1:
        raise DataError(f"{sizes}: of another shape, which data.resize_masks=true does not resize")


def to_nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w] -> `size`: each pixel takes the value that was nearest to its centre."""
    frame = (values.shape[0], values.shape[1])
    return values if frame == size else Placing(frame, size, size).nearest(values)
