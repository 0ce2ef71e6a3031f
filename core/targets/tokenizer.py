"""A vector quantiser of patches: which of a vocabulary of codes a patch is best described by."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Generator, Tensor, nn

from core.types import generator_for

log = logging.getLogger(__name__)


class Tokenizer(nn.Module):
    """A code book: a patch's code is its nearest row."""

    codes: Tensor  # [vocabulary, pixels]

    def __init__(self, pixels: int, vocabulary: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(vocabulary, pixels))

    def forward(self, patches: Tensor) -> Tensor:
        """Codes of patches: [..., pixels] -> [...] int64."""
        # |x - c|^2 without |x|^2, which all codes share.
        return (self.codes.square().sum(1) - 2 * (patches @ self.codes.t())).argmin(-1)


def fit(tokenizer: Tokenizer, patches: Tensor, *, steps: int, generator: Generator) -> dict[str, float]:
    """Lloyd's algorithm on `patches` [n, pixels]: each code becomes the mean of the patches that are nearest to it.

    A code that no patch is nearest to is moved to one of those that are described worst. Returns `quality`.

    Raises ValueError when there are fewer patches than codes.
    """
    vocabulary = len(tokenizer.codes)
    if len(patches) < vocabulary:
        raise ValueError(
            f"target.vocabulary must be at most the {len(patches)} patches that the tokenizer is trained on, "
            f"got {vocabulary}"
        )
    tokenizer.codes.copy_(patches[torch.randperm(len(patches), generator=generator)[:vocabulary]])
    for _ in range(steps):
        codes = nearest(tokenizer, patches)
        counts = codes.bincount(minlength=vocabulary)
        sums = torch.zeros_like(tokenizer.codes).index_add_(0, codes, patches)
        idle = counts == 0
        worst = (patches - tokenizer.codes[codes]).square().sum(1).topk(int(idle.sum())).indices
        tokenizer.codes.copy_(sums / counts.clamp_min(1)[:, None])
        tokenizer.codes[idle] = patches[worst]
    return quality(tokenizer, patches)


def nearest(tokenizer: Tokenizer, patches: Tensor) -> Tensor:
    return torch.cat([tokenizer(part) for part in torch.split(patches, 4096)])


def quality(tokenizer: Tokenizer, patches: Tensor) -> dict[str, float]:
    """Share of the patches' variance that their codes leave unexplained, and the perplexity of the codes."""
    codes = nearest(tokenizer, patches)
    share = codes.bincount(minlength=len(tokenizer.codes)) / len(codes)
    variance = patches.var(0, correction=0).mean().clamp_min(1e-12)
    return {
        "unexplained": float((tokenizer.codes[codes] - patches).square().mean() / variance),
        "perplexity": float((-torch.special.xlogy(share, share).sum()).exp()),
    }


def trained(tokenizer: Tokenizer, patches: Tensor, *, steps: int, seed: int, folder: Path) -> None:
    """Fill `tokenizer` with what `fit` makes of `patches`: from `folder` where that was done before, else now.

    The file is named after everything that decides its content, and replaced whole: processes that come at the same
    time each train the same weights, and the last one's file stays.
    """
    facts = json.dumps([list(tokenizer.codes.shape), steps, seed, list(patches.shape)]).encode()
    content = patches.contiguous().numpy().tobytes()
    path = folder / f"tokenizer-{hashlib.blake2b(facts + content, digest_size=10).hexdigest()}.pt"
    if path.exists():
        load(tokenizer, path)
        return
    figures = fit(tokenizer, patches, steps=steps, generator=generator_for(seed, "tokenizer"))
    log.info("trained a tokenizer: " + ", ".join(f"{name} {value:.3g}" for name, value in figures.items()))
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{path.name}.{os.getpid()}.tmp"
    try:
        torch.save(tokenizer.state_dict(), draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_weights(path: Path, otherwise: str) -> Mapping[str, Tensor]:
    """Named tensors of a safetensors file or one that torch saved; `otherwise` is what to do without it.

    Raises ValueError naming target.path and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"target.path={path}: there is no such file; {otherwise}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise ValueError(
            f"target.path={path}: not a file of weights, in safetensors or saved by torch: {str(error).splitlines()[0]}"
        ) from error
    is_state = isinstance(state, Mapping) and all(isinstance(value, Tensor) for value in state.values())
    return state if is_state else {}


def load(tokenizer: Tokenizer, path: Path) -> None:
    """Weights from a safetensors file or one that torch saved.

    Raises ValueError naming target.path and what is wrong with it.
    """
    state = read_weights(path, "leave it empty to train a tokenizer on the data")
    wanted = {name: tuple(value.shape) for name, value in tokenizer.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in state.items()}
    differing = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"target.path={path}: {name} has shape {found.get(name, 'none')}, and this run needs "
            f"{wanted.get(name, 'none')}; a tokenizer belongs to one patch size and target.vocabulary"
        )
    tokenizer.load_state_dict(state)
