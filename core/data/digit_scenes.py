"""Drawing digits over photographs: glyphs, backgrounds, poses and what follows exactly from them (flow, masks)."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Generator, Tensor

MOTIONS = (
    "translate_left",
    "translate_right",
    "translate_up",
    "translate_down",
    "rotate_left",
    "rotate_right",
    "zoom_in",
    "zoom_out",
    "shake",
    "still",
)
# No photograph is in both splits.
PHOTOS = {
    "train": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "coffee.png",
        "coins.png",
        "gravel.png",
        "motorcycle_left.png",
    ),
    "test": ("chelsea.png", "grass.png", "rocket.jpg"),
}
NUM_TRAIN_GLYPHS = 1437  # of 1,797, in file order: a writer's digits stand together, so few writers are in both parts
_ZOOMS = (1.25, 2.0, 3.0)  # short side of the photograph, in sides of the clip
_GLYPH_CELLS = 10  # 8 cells of ink and one empty cell on each side, so that sampling fades to nothing
_CELL_PX = 4


def package_file(package: str, relative: str) -> Path:
    """A data file inside an installed package, found without importing it (scikit-learn takes a second to import)."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"data=moving_digits needs the package {package}, which is not installed")
    path = Path(spec.submodule_search_locations[0]) / relative
    if not path.is_file():
        raise RuntimeError(f"data=moving_digits needs {relative} of the package {package}; this version lacks it")
    return path


@cache
def load_glyphs(split: str) -> tuple[Tensor, Tensor]:
    """Opacity of each digit [G, 40, 40] float32 in [0, 1], smoothly enlarged from 8 x 8, and its class [G] int64."""
    table = np.loadtxt(package_file("sklearn", "datasets/data/digits.csv.gz"), delimiter=",", dtype=np.float32)
    table = table[:NUM_TRAIN_GLYPHS] if split == "train" else table[NUM_TRAIN_GLYPHS:]
    small = torch.from_numpy(table[:, :-1]).reshape(-1, 1, 8, 8) / 16
    side = _GLYPH_CELLS * _CELL_PX
    large = F.interpolate(F.pad(small, (1, 1, 1, 1)), size=(side, side), mode="bicubic", align_corners=False)
    return large.squeeze(1).clamp(0, 1), torch.from_numpy(table[:, -1]).long()


@cache
def load_backgrounds(split: str, size: int) -> list[Tensor]:
    """Each photograph of the split at several zooms: uint8 [3, h, w] with short side over `size`."""
    backgrounds = []
    for name in PHOTOS[split]:
        with Image.open(package_file("skimage", f"data/{name}")) as file:
            photo = file.convert("RGB")
        for zoom in _ZOOMS:
            scale = zoom * size / min(photo.size)
            shape = (round(photo.width * scale), round(photo.height * scale))
            pixels = np.asarray(photo.resize(shape, Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR))
            backgrounds.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
    return backgrounds


def crop_backgrounds(backgrounds: list[Tensor], batch_size: int, size: int, generator: Generator) -> Tensor:
    """A random `size` x `size` piece for each clip: float32 [B, 3, size, size] in [0, 1]."""
    choice = torch.randint(len(backgrounds), (batch_size,), generator=generator)
    place = torch.rand(batch_size, 2, generator=generator)
    crops = torch.empty(batch_size, 3, size, size)
    for number, photo in enumerate(backgrounds):
        chosen = (choice == number).nonzero().squeeze(1)
        if len(chosen) == 0:
            continue
        pieces = photo.unfold(1, size, 1).unfold(2, size, 1)  # a view [3, h', w', size, size]
        row = (place[chosen, 0] * pieces.shape[1]).long()
        column = (place[chosen, 1] * pieces.shape[2]).long()
        crops[chosen] = pieces[:, row, column].transpose(0, 1) / 255
    return crops


def panned(photos: Tensor, velocity: Tensor, frames: int, size: int) -> Tensor:
    """Clips [B, 3, frames, size, size] of photographs [B, 3, s, s] that move by `velocity` [B, 2] px a frame.

    In the middle of the clip the photograph's centre is in the middle of the frame. Bilinear between pixels.
    """
    time = torch.arange(frames) - (frames - 1) / 2
    place = pixel_centres(size) + (photos.shape[-1] - size) / 2  # [size, size, 2]
    shift = time[None, :, None] * velocity[:, None]  # [B, T, 2]
    place = place - shift[:, :, None, None]  # where in the photograph each pixel of the frame is
    grid = (2 * place / photos.shape[-1] - 1).flatten(0, 1)  # [B * T, size, size, 2]
    source = photos.repeat_interleave(frames, dim=0)
    clips = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return clips.view(-1, frames, *clips.shape[1:]).transpose(1, 2)


def _fold(phase: Tensor) -> Tensor:
    """[0, 1) by reflection at the ends; uniform if the phase is uniform on a circle of length 2."""
    return 1 - (phase % 2 - 1).abs()


def draw_phases(motion: Tensor, frames: int, num_digits: int, speed: float, generator: Generator) -> Tensor:
    """(x, y, angle, size) of every digit in every frame, as shares of their ranges: [B, T, K, 4] in [0, 1].

    Every share is uniform in every frame whatever the motion, and independent of the other three, so a single frame
    says nothing of the motion. A thing that only ever moves right cannot do that without coming back: its place in
    frame t would be its place in frame 0 shifted. So a share runs like a clock: it starts anywhere, goes on at a
    constant rate and jumps from the end of its range back to the start (in about six of ten clips, once).
    """
    batch_size = len(motion)
    start = torch.rand(batch_size, 1, num_digits, 4, generator=generator)
    time = torch.arange(frames).view(1, frames, 1, 1)
    rate = (
        torch.empty(batch_size, 1, num_digits, 1).uniform_(0.5, 1.0, generator=generator) * speed / max(frames - 1, 1)
    )
    direction = torch.zeros(len(MOTIONS), 4)
    for number, name in enumerate(MOTIONS[:8]):
        direction[number, {"left": 0, "right": 0, "up": 1, "down": 1, "in": 3, "out": 3}[name.split("_")[1]]] = (
            -1.0 if name.split("_")[1] in ("left", "up", "out") else 1.0
        )
    rotate = torch.tensor([name.startswith("rotate") for name in MOTIONS])
    direction[rotate] = direction[rotate].roll(2, dims=1)  # rotations turn the angle, not the place
    steady = (start + time * rate * direction[motion][:, None, None, :]) % 1

    # Every frame the other way, by one to two tenths of the range, along both axes.
    jolt = torch.empty(batch_size, frames, num_digits, 2).uniform_(0.1, 0.2, generator=generator)
    sign = torch.randint(2, (batch_size, 1, num_digits, 2), generator=generator) * 2 - 1
    jolt = jolt * sign * (1 - 2 * (time % 2))
    # The fold needs a start on a circle of length 2: a coin says which half.
    half = torch.randint(2, (batch_size, 1, num_digits, 2), generator=generator)
    shaken = steady.clone()
    shaken[..., :2] = _fold(start[..., :2] + half + jolt)
    return torch.where((motion == MOTIONS.index("shake"))[:, None, None, None], shaken, steady)


def opacity(glyphs: Tensor, poses: Tensor, size: int) -> Tensor:
    """How much of each pixel a digit covers: [M, size, size] in [0, 1].

    `glyphs` [M, 40, 40]; `poses` [M, 4] = (x, y) of the centre in pixels from the frame's top-left corner, angle in
    radians, side in pixels of the digit's 8 x 8 box. Bilinear sampling of the glyph at each pixel's centre.
    """
    return opacity_at(glyphs, poses, pixel_centres(size).to(poses))


def opacity_at(glyphs: Tensor, poses: Tensor, points: Tensor) -> Tensor:
    """`opacity` [M, h, w] at `points` (x, y) in pixels: [h, w, 2] for all digits, or [M, h, w, 2]."""
    local = _to_glyph(points, poses[:, None, None, :])
    return F.grid_sample(glyphs[:, None], local * (8 / _GLYPH_CELLS), mode="bilinear", align_corners=False).squeeze(1)


def pixel_centres(size: int) -> Tensor:
    """(x, y) of every pixel's centre: [size, size, 2]."""
    place = torch.arange(size) + 0.5
    return torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1)


def _to_glyph(points: Tensor, poses: Tensor) -> Tensor:
    """Frame points (x, y) in pixels -> the digit's own coordinates, its box being [-1, 1]."""
    offset = (points - poses[..., :2]) / (poses[..., 3:4] / 2)
    cos, sin = poses[..., 2].cos(), poses[..., 2].sin()
    return torch.stack(
        (cos * offset[..., 0] + sin * offset[..., 1], cos * offset[..., 1] - sin * offset[..., 0]), dim=-1
    )


def _from_glyph(points: Tensor, poses: Tensor) -> Tensor:
    """The inverse of `_to_glyph`."""
    cos, sin = poses[..., 2].cos(), poses[..., 2].sin()
    turned = torch.stack(
        (cos * points[..., 0] - sin * points[..., 1], sin * points[..., 0] + cos * points[..., 1]), dim=-1
    )
    return turned * (poses[..., 3:4] / 2) + poses[..., :2]


def point_flow(now: Tensor, then: Tensor, size: int) -> Tensor:
    """Where each pixel would go if it belonged to the digit: [M, 2, size, size] pixels, (right, down)."""
    points = pixel_centres(size).to(now)
    moved = _from_glyph(_to_glyph(points, now[:, None, None, :]), then[:, None, None, :])
    return (moved - points).permute(0, 3, 1, 2)
