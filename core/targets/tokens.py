"""Discrete codes of the target patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from core.targets.dalle import STRIDE, load_encoder
from core.targets.pixels import Frames, chosen_frames, cut_patches, predicted_frames
from core.targets.tokenizer import Tokenizer, load, trained
from core.types import (
    DataSpec,
    EncoderModule,
    Grid,
    Target,
    TargetModule,
    View,
    full_precision,
    generator_for,
    moved_together,
)

CLIPS, PATCHES = 512, 16_384  # of the training set, that the tokenizer is trained on
IMAGES = 64  # that go through DALL-E's encoder at once: its first layers hold 256 channels of every pixel


class Kind(Enum):
    code_book = "code_book"
    dall_e = "dall_e"


@dataclass
class TokenTarget(Target):
    """The code that a tokenizer gives each target patch, to be classified (loss=cross_entropy).

    tokenizer=code_book: a vector quantiser, trained as a first stage: a code book of `vocabulary` patches, fitted by
    `steps` rounds of Lloyd's algorithm to patches of the training set without augmentation, from the run's seed, and
    kept in runtime.cache: runs of the same seed, data and options share it. With `path` it is read from a file instead:
    one that another run left in its cache, or the same tensor in safetensors.

    tokenizer=dall_e: DALL-E's convolutional discrete VAE, trained on 250 million images: vocabulary=8192, and `path`
    the released encoder: the weights of facebook/flava-image-codebook as they are, or those of OpenAI's encoder.pkl (a
    pickled program) as `torch.save(model.state_dict(), path)` leaves them. Frames are resized so that each patch is one
    of its squares of 8 x 8 px, as in BEiT; there must be one predicted frame for each patch.

    A relative `path` starts at runtime.data_root.

    Source: the dVAE tokens of MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), Table 2b, after BEiT (Bao et al.,
    2021, arXiv:2106.08254). A code book of patches is the smallest thing that asks the same of the predictor.
    """

    gives_classes: ClassVar[bool] = True

    vocabulary: int = 256
    steps: int = 10
    frames: Frames = Frames.all
    path: str = ""
    tokenizer: Kind = Kind.code_book

    def __post_init__(self) -> None:
        if self.vocabulary < 2:
            raise ValueError(f"target.vocabulary must be at least 2, got {self.vocabulary}")
        if self.steps < 1:
            raise ValueError(f"target.steps must be at least 1, got {self.steps}")
        if self.tokenizer is Kind.dall_e and not self.path:
            raise ValueError(
                "target.path must be a file of DALL-E's encoder for target.tokenizer=dall_e, got '': the weights of "
                "facebook/flava-image-codebook, or OpenAI's state_dict"
            )

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        if self.tokenizer is Kind.dall_e:
            return DalleTokens(self, encoder.grid, spec)
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
        return cut_patches(chosen_frames(clips, self.frames), self.grid, index).float().flatten(2)

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        # In float32: a code must not depend on the arithmetic that the run trains in.
        with full_precision(clips):
            return [self.tokenizer(self._patches(clips, view.target)) for view in views]


class DalleTokens(TargetModule):
    def __init__(self, options: TokenTarget, grid: Grid, spec: DataSpec) -> None:
        super().__init__()
        self.grid, self.spec, self.out_dim = grid, spec, options.vocabulary
        self.frames = predicted_frames(options.frames, grid, spec)
        per_tubelet = (spec.frames if self.frames is None else len(self.frames)) // grid.t
        if per_tubelet != 1 or spec.channels != 3:
            raise ValueError(
                f"target.tokenizer=dall_e gives a patch of one RGB frame a code, and these have {per_tubelet} frames "
                f"of {spec.channels} channels: use target.frames=mae_st with encoder.tubelet=2, or encoder.tubelet=1"
            )
        self.tokenizer = load_encoder(Path(options.path).expanduser(), options.vocabulary)

    @torch.no_grad()
    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        # In float32: a code must not depend on the arithmetic that the run trains in.
        with full_precision(clips):
            codes = torch.cat([self.tokenizer(part) for part in torch.split(self.images(clips.float()), IMAGES)])
        codes = codes.view(len(clips), self.grid.num_patches)
        return [codes.gather(1, view.target) for view in views]

    def images(self, clips: Tensor) -> Tensor:
        """The predicted frames of normalised clips, [B * t, 3, 8 * h, 8 * w] in [0, 1]."""
        scales = (torch.tensor(each).view(-1, 1, 1, 1) for each in (self.spec.mean, self.spec.std))
        mean, std = moved_together(clips.device, *scales)
        images = (chosen_frames(clips, self.frames) * std + mean).transpose(1, 2).flatten(0, 1)
        size = (STRIDE * self.grid.h, STRIDE * self.grid.w)
        return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)
