"""Discrete codes of the target patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from core.targets.pixels import Frames, cut_patches, predicted_frames
from core.targets.tokenizer import Tokenizer, load, trained
from core.types import DataSpec, EncoderModule, Grid, Target, TargetModule, View, generator_for

CLIPS, PATCHES = 512, 16_384  # of the training set, that the tokenizer is trained on


@dataclass
class TokenTarget(Target):
    """The code that a vector quantiser gives each target patch, to be classified (loss=cross_entropy).

    The quantiser is a first stage: a code book of `vocabulary` patches, fitted by `steps` rounds of Lloyd's algorithm
    to patches of the training set without augmentation, from the run's seed, and kept in runtime.cache: runs of the
    same seed, data and options share it. With `path` it is read from a file instead: one that another run left in its
    cache, or the same tensor in safetensors.

    Source: the dVAE tokens of MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), Table 2b, after BEiT (Bao et al.,
    2021, arXiv:2106.08254). Their tokenizer is DALL-E's, a convolutional discrete VAE trained on 250 million images; a
    code book of patches is the smallest thing that asks the same of the predictor.
    """

    gives_classes: ClassVar[bool] = True

    vocabulary: int = 256
    steps: int = 10
    frames: Frames = Frames.all
    path: str = ""

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise ValueError(f"target.vocabulary must be at least 2, got {self.vocabulary}")
        if self.steps < 1:
            raise ValueError(f"target.steps must be at least 1, got {self.steps}")

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        return Tokens(self, encoder.grid, spec)


class Tokens(TargetModule):
    def __init__(self, options: TokenTarget, grid: Grid, spec: DataSpec) -> None:
        super().__init__()
        self.options, self.grid, self.out_dim = options, grid, options.vocabulary
        self.frames = predicted_frames(options.frames, grid, spec)
        num_frames = (spec.frames if self.frames is None else len(self.frames)) // grid.t
        pixels = num_frames * (spec.height // grid.h) * (spec.width // grid.w) * spec.channels
        self.tokenizer = Tokenizer(pixels, options.vocabulary)

    def prepare(self, read: Callable[[Tensor], Tensor], length: int, cache: Path, seed: int) -> None:
        tokenizer = Tokenizer(self.tokenizer.codes.shape[1], self.options.vocabulary)
        if self.options.path:
            load(tokenizer, Path(self.options.path).expanduser())
        else:
            patches = self._some_patches(read, length, seed)
            trained(tokenizer, patches, steps=self.options.steps, seed=seed, folder=cache / "tokenizers")
        self.tokenizer.load_state_dict(tokenizer.state_dict())

    def _some_patches(self, read: Callable[[Tensor], Tensor], length: int, seed: int) -> Tensor:
        """Random patches of random clips: [n, pixels]."""
        generator = generator_for(seed, "tokenizer clips")
        chosen = torch.randperm(length, generator=generator)[:CLIPS].sort().values
        each = min(-(-PATCHES // len(chosen)), self.grid.num_patches)
        index = torch.rand(len(chosen), self.grid.num_patches, generator=generator).argsort(1)[:, :each]
        parts = zip(torch.split(chosen, 64), torch.split(index, 64), strict=True)
        return torch.cat([self._patches(read(clips), places).flatten(0, 1) for clips, places in parts])

    def _patches(self, clips: Tensor, index: Tensor) -> Tensor:
        """[B, n, pixels] float32."""
        if self.frames is not None:
            clips = clips[:, :, self.frames]
        return cut_patches(clips, self.grid, index).float().flatten(2)

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        # In float32: a code must not depend on the arithmetic that the run trains in.
        with torch.autocast(clips.device.type, enabled=False):
            return [self.tokenizer(self._patches(clips, view.target)) for view in views]
