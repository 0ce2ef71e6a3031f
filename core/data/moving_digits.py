"""Handwritten digits moving over photographs, drawn on the spot, with exact labels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from core.data.arrays import ArrayDataset, cache_key, cached_folder, check_split, reserve
from core.data.digit_scenes import (
    MOTIONS,
    crop_backgrounds,
    draw_phases,
    load_backgrounds,
    load_glyphs,
    opacity,
    opacity_at,
    panned,
    pixel_centres,
    point_flow,
)
from core.types import Data, DataSpec, FlowTruth, Regions, TrackedVideo, generator_for

_VERSION = 1  # raise it when the same options would give other pixels
_CHUNK = 128  # clips drawn from one generator
_NUM_DEPTHS = 4
_MANY = 20_000  # clips: of more, drawing what is in them takes seconds


@dataclass
class MovingDigits(Data):
    """Real handwriting over real photographs: clips, or single images with `frames` = 1.

    scikit-learn's 8 x 8 digits, enlarged, move over pieces of scikit-image's photographs; nothing is downloaded. Train
    and test share no handwritten sample and no photograph. The defaults (a digit of 20-26 px in 32, the photograph at
    0.3 of its contrast) are easy enough for MAE and I-JEPA alike to learn on a CPU: at full contrast with digits of
    14-20 px the background takes a small model's whole capacity.

    Labels: `digit`, the class of the nearest digit; `motion` (10 kinds, clips only), the same for all digits of a clip;
    `count` and `dist` when there may be several digits, `dist` being the quarter of the size range that the nearest
    digit's side falls in, in the middle frame (0 = farthest). No single frame tells the motion.

    The first n clips of a split are the same whatever its length, so a smaller set is part of a larger one.
    """

    size: int = 32  # px
    frames: int = 1
    num_train: int = 8000
    num_test: int = 2000
    digit_min: float | None = None  # px, side of the digit's box; by default 20/32 and 26/32 of its cell, the whole
    digit_max: float | None = None  # frame for one digit, a quarter of it for up to four, a ninth for up to nine
    num_digits_min: int = 1
    num_digits_max: int = 1
    background: float = 0.3  # contrast of the photograph; 1 = as taken, 0 = black
    angle: float = 20.0  # degrees; digits are turned by up to this much, either way
    speed: float = 1.0  # share of its range that a clip's movement covers at most
    pan: float = 0.0  # px a frame that all of the scene moves along each axis at most, as if a camera turned
    noise: float = 0.0  # standard deviation of each pixel's noise, of the range [0, 1]
    gen_seed: int = 0

    recipe: ClassVar[str] = f"moving_digits {_VERSION}"

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, allowed: str) -> None:
            if not holds:
                raise ValueError(f"data.{name} must be {allowed}, got {getattr(self, name)}")

        require(8 <= self.size <= 512, "size", "in [8, 512] px")
        require(1 <= self.frames <= 256, "frames", "in [1, 256]")
        require(1 <= self.num_train <= 10_000_000, "num_train", "in [1, 10000000]")
        require(1 <= self.num_test <= 10_000_000, "num_test", "in [1, 10000000]")
        require(1 <= self.num_digits_max <= 25, "num_digits_max", "in [1, 25]")
        require(1 <= self.num_digits_min <= self.num_digits_max, "num_digits_min", "in [1, data.num_digits_max]")
        require(0 <= self.background <= 1, "background", "in [0, 1]")
        require(0 <= self.angle <= 180, "angle", "in [0, 180] degrees")
        require(0 < self.speed <= 2, "speed", "in (0, 2]")
        require(0 <= self.noise <= 1, "noise", "in [0, 1]")
        most = self.size / 4 / max(self.frames - 1, 1)  # the smallest photograph is a quarter larger than the frame
        require(0 <= self.pan <= most, "pan", f"in [0, data.size / 4 / (data.frames - 1) = {most:g}] px")
        smallest, largest = self.digit_range
        require(4 <= smallest <= largest, "digit_min", f"in [4, data.digit_max = {largest:g}] px")
        require(largest <= self.size, "digit_max", f"in [data.digit_min, data.size = {self.size}] px")

    @property
    def _cells(self) -> int:
        """The frame is this many cells a side, at most one digit in each, so that a digit is rarely hidden."""
        return int(np.ceil(np.sqrt(self.num_digits_max)))

    @property
    def digit_range(self) -> tuple[float, float]:
        """Smallest and largest side of a digit's box, px."""
        cell = self.size / self._cells
        smallest = cell * 20 / 32 if self.digit_min is None else self.digit_min
        largest = max(cell * 26 / 32, smallest) if self.digit_max is None else self.digit_max
        return smallest, largest

    def spec(self) -> DataSpec:
        """Shape and labels; `load` replaces mean and std by those of the drawn train pixels."""
        classes = {"digit": 10}
        if self.frames > 1:
            classes["motion"] = len(MOTIONS)
        if self.num_digits_max > self.num_digits_min:
            classes["count"] = self.num_digits_max - self.num_digits_min + 1
        smallest, largest = self.digit_range
        if self.num_digits_max > 1 and largest > smallest:
            classes["dist"] = _NUM_DEPTHS
        return DataSpec(
            channels=3,
            frames=self.frames,
            height=self.size,
            width=self.size,
            classes=classes,
            box_classes=10,
            segment_classes=11,  # the photograph is 0, digit d is d + 1
            has_flow=self.frames > 1,
            has_occlusion=self.frames > 1,
            has_objects=self.frames > 1,
        )

    def load(self, split: str, cache: Path) -> MovingDigitsDataset:
        check_split(split)
        # What the person calls the set (`self.version`) decides no pixel.
        facts = asdict(self) | {"version": _VERSION, "digit_range": self.digit_range}
        # A split's pixels depend on its own length only.
        length = facts.pop(f"num_{split}")
        del facts["num_test" if split == "train" else "num_train"], facts["digit_min"], facts["digit_max"]
        if self.pan == 0:
            del facts["pan"]  # the folders of before there was one hold the same pixels
        folder = cache / "moving_digits" / f"{split}-{cache_key(facts | {'length': length})}"
        with _one_thread():
            cached_folder(folder, lambda draft: self._write(split, length, draft))
        return MovingDigitsDataset(self, split, folder)

    def _write(self, split: str, length: int, folder: Path) -> None:
        shape = (length, 3, self.frames, self.size, self.size)
        clips = np.lib.format.open_memmap(folder / "clips.npy", mode="w+", dtype=np.uint8, shape=shape)
        reserve(folder / "clips.npy")
        scenes = []
        for first in range(0, length, _CHUNK):
            pixels, scene = self._draw(split, first // _CHUNK)
            clips[first : first + _CHUNK] = pixels[: length - first].numpy()
            scenes.append({name: values[: length - first] for name, values in scene.items()})
        clips.flush()
        arrays: dict[str, Any] = {name: torch.cat([s[name] for s in scenes]).numpy() for name in scenes[0]}
        np.savez(folder / "scenes.npz", **arrays)
        # Both splits are normalised by the train split's statistics, from its first chunk so that they do not depend
        # on its length.
        pixels = self._draw("train", 0)[0].double() / 255
        mean, std = pixels.mean(dim=(0, 2, 3, 4)), pixels.std(dim=(0, 2, 3, 4))
        stats = {"mean": [round(x, 3) for x in mean.tolist()], "std": [max(round(x, 3), 0.001) for x in std.tolist()]}
        (folder / "stats.json").write_text(json.dumps(stats))

    def known_labels(self, split: str) -> dict[str, Tensor] | None:
        check_split(split)
        length = self.num_train if split == "train" else self.num_test
        if length > _MANY:
            return None
        with _one_thread():
            scenes = [
                self._scene(split, generator_for(self.gen_seed, "moving_digits", split, chunk))
                for chunk in range(-(-length // _CHUNK))
            ]
        whole = {name: torch.cat([scene[name] for scene in scenes])[:length] for name in scenes[0]}
        return self.labels_of(whole, load_glyphs(split)[1])

    def labels_of(self, scenes: dict[str, Tensor], glyph_class: Tensor) -> dict[str, Tensor]:
        """What there is to tell of clips with these scenes."""
        labels = {"digit": glyph_class[scenes["glyph"][:, 0]]}
        if self.frames > 1:
            labels["motion"] = scenes["motion"]
        if self.num_digits_max > self.num_digits_min:
            labels["count"] = scenes["count"] - self.num_digits_min
        smallest, largest = self.digit_range
        if self.num_digits_max > 1 and largest > smallest:
            share = (scenes["poses"][:, self.frames // 2, 0, 3] - smallest) / (largest - smallest)
            labels["dist"] = (share * _NUM_DEPTHS).long().clamp(0, _NUM_DEPTHS - 1)
        return labels

    def _scene(self, split: str, generator: torch.Generator) -> dict[str, Tensor]:
        """What is in each of 128 clips."""
        classes = load_glyphs(split)[1]
        num_digits, middle = self.num_digits_max, self.frames // 2
        motion = torch.randint(len(MOTIONS), (_CHUNK,), generator=generator)
        count = torch.randint(self.num_digits_min, num_digits + 1, (_CHUNK,), generator=generator)
        digit = torch.randint(10, (_CHUNK, num_digits), generator=generator)
        lot = torch.rand(_CHUNK, num_digits, generator=generator)
        members = [(classes == number).nonzero().squeeze(1) for number in range(10)]
        glyph = torch.stack([group[(lot * len(group)).long()] for group in members])  # [10, B, K]
        glyph = glyph.gather(0, digit[None]).squeeze(0)
        poses = self._poses(draw_phases(motion, self.frames, num_digits, self.speed, generator), generator)
        present = torch.arange(num_digits) < count[:, None]
        # The nearest digit first: it is the largest, and is drawn last.
        order = poses[:, middle, :, 3].where(present, torch.tensor(-1.0)).argsort(dim=1, descending=True)
        glyph = glyph.gather(1, order)
        poses = poses.gather(2, order[:, None, :, None].expand_as(poses))
        return {"motion": motion, "count": count, "glyph": glyph, "poses": poses}

    def _draw(self, split: str, chunk: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Clip number `chunk` * 128 and the 127 after it: uint8 [128, 3, T, H, W], and what is in them."""
        generator = generator_for(self.gen_seed, "moving_digits", split, chunk)
        scene = self._scene(split, generator)
        glyphs, poses = load_glyphs(split)[0], scene["poses"]
        border = math.ceil(self.pan * (self.frames - 1) / 2)
        photo = crop_backgrounds(load_backgrounds(split, self.size), _CHUNK, self.size + 2 * border, generator)
        if self.pan > 0:
            scene["pan"] = self.pan * (2 * torch.rand(_CHUNK, 2, generator=generator) - 1)
            clips = self.background * panned(photo, scene["pan"], self.frames, self.size)
            time = torch.arange(self.frames) - (self.frames - 1) / 2
            poses[..., :2] += (time[None, :, None] * scene["pan"][:, None])[:, :, None]  # in place: `scene` has it too
        else:
            clips = (self.background * photo)[:, :, None].repeat(1, 1, self.frames, 1, 1)
        for number in reversed(range(self.num_digits_max)):
            cover = self.cover(glyphs, scene, number)[:, None]  # [B, 1, T, H, W]
            clips += cover * (1 - clips)  # white ink
        if self.noise > 0:
            clips += self.noise * torch.randn(clips.shape, generator=generator)
        return (clips * 255).round_().clamp_(0, 255).to(torch.uint8), scene

    def _poses(self, phases: Tensor, generator: torch.Generator) -> Tensor:
        """Shares of ranges [B, T, K, 4] -> x, y in px, angle in radians, side in px."""
        smallest, largest = self.digit_range
        cell = self.size / self._cells
        # Far enough for a digit of middling size to touch the cell's edge, and never so little that nothing moves.
        reach = max((cell - (smallest + largest) / 2) / 2, cell / 8)
        which = torch.rand(len(phases), self._cells**2, generator=generator).argsort(dim=1)[:, : phases.shape[2]]
        corner = torch.stack((which % self._cells, which // self._cells), dim=-1) * cell  # [B, K, 2]
        turn = np.deg2rad(self.angle)
        return torch.stack(
            (
                corner[:, None, :, 0] + cell / 2 + reach * (2 * phases[..., 0] - 1),
                corner[:, None, :, 1] + cell / 2 + reach * (2 * phases[..., 1] - 1),
                turn * (2 * phases[..., 2] - 1),
                smallest + (largest - smallest) * phases[..., 3],
            ),
            dim=-1,
        )

    def cover(self, glyphs: Tensor, scene: dict[str, Tensor], number: int) -> Tensor:
        """How much of each pixel the digit `number` of each clip covers, 0 if it has fewer: [B, T, H, W]."""
        poses = scene["poses"][:, :, number].flatten(0, 1)
        shape = glyphs[scene["glyph"][:, number]].repeat_interleave(self.frames, dim=0)
        cover = opacity(shape, poses, self.size).view(-1, self.frames, self.size, self.size)
        return cover * has_digit(scene, number)


def has_digit(scene: dict[str, Tensor], number: int) -> Tensor:
    """Which clips have a digit `number`: [B, 1, 1, 1] bool."""
    return (scene["count"] > number)[:, None, None, None]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run small tensor operations without torch's thread pool.

    A second thread brings nothing here, and where other processes hold the cores each operation waits for it: 8,000
    images took 25 s instead of half a second.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class MovingDigitsDataset(ArrayDataset):
    """A split of `MovingDigits`; beside the clips it knows each pixel's digit and movement."""

    def __init__(self, options: MovingDigits, split: str, folder: Path) -> None:
        self.options = options
        with np.load(folder / "scenes.npz") as scenes:
            self._scenes = {name: torch.from_numpy(scenes[name]) for name in scenes.files}
        self._glyphs, self._glyph_class = load_glyphs(split)
        labels = options.labels_of(self._scenes, self._glyph_class)
        stats = json.loads((folder / "stats.json").read_text())
        spec = replace(options.spec(), mean=tuple(stats["mean"]), std=tuple(stats["std"]))
        super().__init__(spec, np.load(folder / "clips.npy", mmap_mode="r"), labels, folder=folder)

    def masks(self, indices: Tensor) -> Tensor:
        """Which digit each pixel shows: [B, T, H, W] int64, 0 = background, 1 = the nearest digit, 2 = the next ..."""
        scene = self._scene(indices)
        shape = (len(indices), self.spec.frames, self.spec.height, self.spec.width)
        masks = torch.zeros(shape, dtype=torch.int64)
        for number in reversed(range(self.options.num_digits_max)):
            masks[self.options.cover(self._glyphs, scene, number) > 0.5] = number + 1
        return masks

    def segments(self, indices: Tensor) -> Tensor:
        """The class of what each pixel shows: [B, T, H, W] int64, 0 = background, d + 1 = a digit of class d."""
        classes = torch.nn.functional.pad(self.digits(indices) + 1, (1, 0))  # [B, 1 + K]
        masks = self.masks(indices)
        return classes.gather(1, masks.flatten(1)).view_as(masks)

    def num_sequences(self) -> int:
        return len(self)

    def sequence(self, index: int) -> TrackedVideo:
        """A clip with the digit that each pixel shows, 1 = the nearest."""
        indices = torch.tensor([index])
        return TrackedVideo(str(index), self.fetch(indices).clips[0], self.masks(indices)[0])

    def digits(self, indices: Tensor) -> Tensor:
        """The class of each of a clip's digits, nearest first, -1 where there is none: [B, num_digits_max] int64."""
        scene = {name: self._scenes[name][indices] for name in ("glyph", "count")}
        present = torch.arange(self.options.num_digits_max) < scene["count"][:, None]
        return self._glyph_class[scene["glyph"]].where(present, torch.tensor(-1))

    def regions(self, indices: Tensor) -> Regions:
        """The tight box around each of the clips' digits in the middle frame, whole also where one hides another, and
        its class. A box is around the pixels that the digit covers by more than half, inside the frame."""
        middle, size, found = self.spec.frames // 2, self.spec.height, []
        for start in range(0, len(indices), _CHUNK):
            part = indices[start : start + _CHUNK]
            digits = self.digits(part)  # [B, K]
            row, number = (digits >= 0).nonzero(as_tuple=True)
            poses = self._scenes["poses"][part][row, middle, number]
            ink = opacity(self._glyphs[self._scenes["glyph"][part][row, number]], poses, size) > 0.5  # [M, H, W]
            (left, right), (top, bottom) = (_span(ink.any(axis)) for axis in (1, 2))
            boxes = torch.stack([left, top, right, bottom], dim=1).float()
            seen = ink.any(2).any(1)
            found.append(Regions((start + row)[seen], boxes[seen], digits[row, number][seen]))
        return Regions(*(torch.cat(columns) for columns in zip(*found, strict=True)))

    def flow(self, indices: Tensor) -> Tensor:
        """How far each pixel's content moves to the next frame: [B, T - 1, 2, H, W] px, (right, down).

        A pixel belongs to the digit that `masks` names, or to the photograph, which moves by the clip's pan.
        """
        masks = self.masks(indices)[:, :-1]  # [B, T - 1, H, W]
        poses = self._scenes["poses"][indices]
        flow = torch.zeros(*masks.shape[:2], 2, *masks.shape[2:])
        if self.options.pan > 0:
            flow += self._scenes["pan"][indices][:, None, :, None, None]
        for number in range(self.options.num_digits_max):
            now, then = poses[:, :-1, number].flatten(0, 1), poses[:, 1:, number].flatten(0, 1)
            moved = point_flow(now, then, self.spec.height).view_as(flow)
            flow = torch.where((masks == number + 1)[:, :, None], moved, flow)
        return flow

    def flows(self, indices: Tensor) -> FlowTruth:
        """`flow`, known everywhere, with what is occluded: a pixel whose content leaves the frame, or is covered by
        more than half by a nearer digit where it is in the next frame. All digits are nearer than the photograph."""
        scene, flow, size = self._scene(indices), self.flow(indices), self.spec.height
        goes_to = flow.movedim(2, -1) + pixel_centres(size)  # [B, T - 1, H, W, 2]
        occluded = ((goes_to < 0) | (goes_to > size)).any(-1)
        shown = self.masks(indices)[:, :-1]
        shown = shown.where(shown > 0, self.options.num_digits_max + 1)
        for number in range(self.options.num_digits_max):
            glyphs = self._glyphs[scene["glyph"][:, number]].repeat_interleave(goes_to.shape[1], dim=0)
            then = scene["poses"][:, 1:, number].flatten(0, 1)
            cover = opacity_at(glyphs, then, goes_to.flatten(0, 1)).view_as(occluded)
            occluded |= (cover > 0.5) & has_digit(scene, number) & (number + 1 < shown)
        return FlowTruth(flow, torch.ones_like(occluded), occluded)

    def _scene(self, indices: Tensor) -> dict[str, Tensor]:
        return {name: values[indices] for name, values in self._scenes.items()}


def _span(covered: Tensor) -> tuple[Tensor, Tensor]:
    """First True and one past the last True of each row of `covered` [M, n]."""
    covered = covered.int()
    return covered.argmax(1), covered.shape[1] - covered.flip(1).argmax(1)
