"""Image files to uint8 arrays."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from core.types import DataError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of pixels in [0, 1]: the usual choice for photographs
IMAGENET_STD = (0.229, 0.224, 0.225)

# Names of Pillow's formats of pictures made of pixels, whatever its build here can open: a folder has the same pictures
# and fingerprint on every machine, and what cannot be opened is left out by name. Its other formats (PDF, EPS, HDF5,
# icons, MPEG) are no pictures of a data set; .pfm is how flow and depth are stored, and .icb, .vda and .vst are TGA's
# names that other programs use.
SUFFIXES = (
    *(".apng", ".avif", ".avifs", ".bmp", ".dib", ".gif", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff"),
    ".webp",
)


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
    """Three 8-bit channels, upright. Transparency is dropped; of an animation or a stack, the first picture.

    Raises ValueError where the values do not tell their scale (`scaled`).
    """
    depth = depth_of(image)  # of the file: a turned copy has no format
    is_wide = image.format == "TIFF" and any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    image = ImageOps.exif_transpose(image)
    is_grey = image.mode.startswith("I") or image.mode == "F"
    if is_grey:  # wider than 8 bits, which `convert` would clip instead of scaling
        image = Image.fromarray(scaled(np.asarray(image), image.mode, depth))
    if image.mode == "P":
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about a transparent palette
    image = image.convert("RGB")
    # Pillow keeps the upper byte of 16-bit colours, which in a TIFF may be 8 to 12 bits, then nearly black.
    if is_wide and not is_grey and np.asarray(image).max() < 16:
        raise ValueError("none of its 16-bit values reaches 4096: store them as 8 bits, or scaled to 65535")
    return image


def depth_of(image: Image.Image) -> int | None:
    """How many bits a grey value has by the file's format; None where it may be any part of what the type can hold.

    White is the highest value of PNG, PGM and JPEG 2000. A TIFF of 16 bits may hold the 8, 10 or 12 of a camera.
    """
    if image.format == "TIFF":
        bits = image.tag_v2.get(258, (1,))  # type: ignore[attr-defined]  # BitsPerSample
        return 12 if tuple(np.atleast_1d(bits)) == (12,) else None
    return 16 if image.format in ("PNG", "PPM", "JPEG2000") else None


def scaled(values: np.ndarray, mode: str, depth: int | None) -> np.ndarray:
    """Grey values of more than 8 bits, or real ones, as uint8, by `depth` bits or by what they can only be.

    Whole numbers: up to 255 as they are (of 32 bits), 4096 to 65535 as 16 bits. Real ones: up to 1, 16 to 255, and 4096
    to 65535. All zeros are black.

    Raises ValueError, to leave the file out by name, for any other range: it might be several things, and would be
    nearly black as some of them.
    """
    kind = "real numbers" if mode == "F" else "16-bit grey values" if mode.startswith("I;16") else "grey values"
    if not np.isfinite(values).all():
        raise ValueError(f"its {kind} are not all finite: replace NaN and infinity")
    low, high = values.min(), values.max()
    if low < 0:
        raise ValueError(f"its {kind} go from {low:g} to {high:g}: move and scale them to 0..255 or 0..65535")
    if high == 0:
        return np.zeros(values.shape, np.uint8)
    if depth is not None and 256 <= high < 2**depth:
        shown = values.astype(np.int64) >> (depth - 8)
    elif mode == "F" and high <= 1:
        shown = np.rint(values * 255.0)
    elif 16 <= high <= 255 and depth is None and not mode.startswith("I;16"):
        shown = np.rint(values)
    elif 4096 <= high <= 65535:
        shown = values.astype(np.int64) >> 8
    else:
        raise ValueError(
            f"its {kind} go up to {high:g}, of which the scale is not known: store them as 8 bits, or scaled to 65535"
        )
    eight: np.ndarray = shown.astype(np.uint8)
    return eight


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


def read_picture(path: Path | BytesIO, size: int, crop: float) -> np.ndarray:
    """[3, size, size] uint8. Raises OSError or SyntaxError, among others, when the file is not a whole image."""
    with Image.open(path) as image:
        image.draft("RGB", (2 * round(size / crop), 2 * round(size / crop)))  # JPEG: decode at a half, quarter, eighth
        return squared(to_rgb(image), size, crop)


def read_or_reason(path: Path | BytesIO, size: int, crop: float) -> np.ndarray | str:
    """The picture, or why it cannot be read."""
    try:
        return read_picture(path, size, crop)
    # What Pillow raises depends on the format and on what is wrong: OSError, SyntaxError (bad PNG), ValueError, ...
    # Nothing is hidden: the caller names the file and the reason.
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"


def read_all(files: Iterable[Path | BytesIO], size: int, crop: float) -> Iterator[np.ndarray | str]:
    """`read_or_reason` of each file, in order, by a few threads (decoding releases the interpreter lock)."""
    pending = iter(files)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        while part := list(itertools.islice(pending, 512)):  # in pieces: what waits to be taken is held in memory
            yield from pool.map(lambda file: read_or_reason(file, size, crop), part)
