"""Image files to uint8 arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from core.types import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels in [0, 1]: the usual choice for photographs
IMAGENET_STD = (0.229, 0.224, 0.225)
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@contextmanager
def named_faults(file: Path) -> Iterator[None]:
    """What Pillow raises for a file that is missing or damaged, as DataError that names it."""
    try:
        yield
    except DataError:
        raise
    # It depends on the format and on what is wrong: OSError, SyntaxError (bad PNG), ValueError, ...
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(f"data.path: {file} cannot be read as an image ({error})") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Three 8-bit channels, upright. Transparency is dropped; of an animation, the first frame."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip instead of scaling
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about a transparent palette
    return image.convert("RGB")


def squared(image: Image.Image, size: int, crop: float) -> np.ndarray:
    """The middle of an RGB image: short side resized to `size` / `crop`, then cut to [3, size, size] uint8."""
    side = max(round(size / crop), size)
    scale = side / min(image.size)
    width, height = max(round(image.width * scale), side), max(round(image.height * scale), side)
    if (width, height) != image.size:
        # Pillow's bilinear filter widens with the shrinkage, that is, it is antialiased.
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def read_picture(path: Path, size: int, crop: float) -> np.ndarray:
    """[3, size, size] uint8. Raises OSError or SyntaxError, among others, when the file is not a whole image."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * round(size / crop), 2 * round(size / crop)))  # JPEG: decode at a half, quarter, eighth
        return squared(to_rgb(image), size, crop)


def read_or_reason(path: Path, size: int, crop: float) -> np.ndarray | str:
    """The picture, or why it cannot be read."""
    try:
        return read_picture(path, size, crop)
    # What Pillow raises depends on the format and on what is wrong: OSError, SyntaxError (bad PNG), ValueError, ...
    # Nothing is hidden: the caller names the file and the reason.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"


def read_all(paths: Sequence[Path], size: int, crop: float) -> Iterator[np.ndarray | str]:
    """`read_or_reason` of each path, in order, by a few threads (decoding releases the interpreter lock)."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for first in range(0, len(paths), 512):  # in pieces: what waits to be taken is held in memory
            yield from pool.map(lambda path: read_or_reason(path, size, crop), paths[first : first + 512])
