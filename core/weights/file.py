"""Weights from a file: a released encoder, or one of our own runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from core.types import DataSpec, Encoder, EncoderModule
from core.weights import mapping
from core.weights.layouts import IMAGENET, KINETICS
from core.weights.reading import Source, WeightsError, open_file, sha256_of

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Pixels(Enum):
    """Mean and std that pixels are normalised with; `auto` is what the file says, or else its layout's own."""

    auto = "auto"
    data = "data"
    imagenet = "imagenet"
    kinetics = "kinetics"
    half = "half"


FIXED = {Pixels.imagenet: IMAGENET, Pixels.kinetics: KINETICS, Pixels.half: HALF}


@dataclass
class WeightsFile:
    """Start the encoder (and its moving average) from a checkpoint: released, of timm or transformers, or our own.

    With `optim.steps=0` the run is an evaluation of these weights. safetensors, or a pickle that holds no more than
    tensors; layouts are told apart by their names (`core.weights.layouts`). The content is part of the run's identity:
    `sha256` is filled in when the run is made, and a file that has another one later is refused.
    """

    path: str = ""  # relative to runtime.data_root
    sha256: str = ""  # of the file; filled in
    part: str | None = None  # of a checkpoint with several state dicts; null: target_encoder before encoder
    resample: bool = False  # interpolate learned positions to this run's grid
    pixels: Pixels = Pixels.auto

    def with_digest(self, root: Path) -> WeightsFile:
        """The same with `sha256` filled in. Raises ValueError when it names other content than the file has."""
        if not self.path:
            raise WeightsError("weights.path must name a file, got nothing")
        content = sha256_of(self._at(root))
        if self.sha256 not in ("", content):
            raise WeightsError(
                f"weights.path={self.path} has the sha256 {content}, this run was made with {self.sha256}: give the "
                "file that it was made with, or leave weights.sha256 out to make another run"
            )
        return dataclasses.replace(self, sha256=content)

    def check(self, encoder: Encoder, spec: DataSpec, root: Path) -> None:
        """Raise ValueError naming what keeps the file's weights out of `encoder`; reads names and shapes only."""
        with _named(self.path):
            mapping.checked(self._open(root), encoder, spec, resample=self.resample)

    def load(self, modules: Iterable[EncoderModule], encoder: Encoder, spec: DataSpec, root: Path) -> None:
        """Fill `modules`, all built from the options `encoder` for clips like `spec`."""
        source = self._open(root)
        with _named(self.path):
            for module in modules:
                mapping.load(module, source, encoder, spec, resample=self.resample)

    def seen(self, spec: DataSpec, root: Path) -> DataSpec:
        """`spec` with the mean and std that these weights are used to."""
        if self.pixels is Pixels.data:
            return spec
        mean: tuple[float, ...]
        std: tuple[float, ...]
        if self.pixels in FIXED:
            mean, std = FIXED[self.pixels]
        else:
            source = self._open(root)
            with _named(self.path):
                found = mapping.identify(source).layout.pixels
            told = source.pixels or found
            if told is None:
                return spec
            mean, std = tuple(told[0]), tuple(told[1])
        if len(mean) != spec.channels:
            raise WeightsError(
                f"weights.pixels={self.pixels.value} is of {len(mean)} channels, the data has {spec.channels}: "
                "choose weights.pixels=data"
            )
        return dataclasses.replace(spec, mean=mean, std=std)

    def _open(self, root: Path) -> Source:
        return open_file(self._at(root), self.part)

    def _at(self, root: Path) -> Path:
        return root.expanduser() / self.path


class _named:
    """Put the file's name before what is wrong with it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, WeightsError):
            raise WeightsError(f"weights.path={self.path}: {error}") from None
