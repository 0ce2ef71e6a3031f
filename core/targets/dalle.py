"""DALL-E's discrete VAE encoder: one of 8,192 codes for each square of 8 x 8 px of an image."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.targets.tokenizer import read_weights

STRIDE = 8  # px of a code's square
_WIDTHS = (1, 2, 4, 8)  # of the four groups of blocks, in units of the first layer's
_BLOCKS = 2  # a group
_GAIN = 1 / (len(_WIDTHS) * _BLOCKS) ** 2  # of what a block adds


class Convolution(nn.Module):
    """A convolution that keeps the size of its input, with weights that are given and stay.

    They are buffers outside the state: they come from a file each time, and 215 MB in every checkpoint help nobody.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int, side: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(outputs, inputs, side, side), persistent=False)
        self.register_buffer("bias", torch.empty(outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class Residual(nn.Module):
    """Four convolutions, each after a ReLU, added to the input (made as wide as they are where it is not)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        inner = outputs // 4
        self.skip = Convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        sizes = [(inputs, inner, 3), (inner, inner, 3), (inner, inner, 3), (inner, outputs, 1)]
        self.layers = nn.ModuleList(Convolution(*size) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        added = x
        for layer in self.layers:
            added = layer(added.relu())
        mixed: Tensor = self.skip(x) + _GAIN * added
        return mixed


class DalleEncoder(nn.Module):
    """Codes of images; halved in size after each group of blocks but the last.

    Source: DALL-E (Ramesh et al., 2021, arXiv:2102.12092), section 2.1 and appendix A.1; the layer sizes are those of
    the released weights.
    """

    def __init__(self, width: int = 256, vocabulary: int = 8192) -> None:
        super().__init__()
        self.first = Convolution(3, width, 7)
        ends = [width * times for times in _WIDTHS]
        starts = [width, *ends[:-1]]
        self.groups = nn.ModuleList(
            nn.Sequential(*(Residual(start if number == 0 else end, end) for number in range(_BLOCKS)))
            for start, end in zip(starts, ends, strict=True)
        )
        self.last = Convolution(ends[-1], vocabulary, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Codes [B, H / 8, W / 8] int64 of images [B, 3, H, W], RGB in [0, 1]."""
        x = self.first(0.8 * images + 0.1)  # the logit-Laplace loss it was trained with leaves a tenth at either end
        for number, group in enumerate(self.groups):
            x = group(F.max_pool2d(x, 2) if number else x)
        codes: Tensor = self.last(x.relu()).argmax(1)
        return codes


def file_name(name: str) -> str:
    """What the released weights call one of ours: "groups.0.1.layers.2.bias" is block 2's third convolution's."""
    parts = name.split(".")
    kind = {"weight": "w", "bias": "b"}[parts.pop()]
    if parts[0] == "groups":
        place = "id_path" if parts[3] == "skip" else f"res_path.conv_{int(parts[4]) + 1}"
        return f"blocks.group_{int(parts[1]) + 1}.block_{int(parts[2]) + 1}.{place}.{kind}"
    return f"blocks.{'input' if parts[0] == 'first' else 'output.conv'}.{kind}"


def openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under OpenAI's names, where they have those of transformers' FlavaImageCodebook."""

    def renamed(name: str) -> str:
        name = re.sub(r"^(image_codebook\.)?blocks\.", "blocks.", name)
        name = name.replace(".group.", ".").replace(".path.", ".")
        return re.sub(r"\.weight$", ".w", re.sub(r"\.bias$", ".b", name))

    return {renamed(name): value for name, value in state.items()}


def load_encoder(path: Path, vocabulary: int) -> DalleEncoder:
    """The encoder whose weights `path` holds, as wide as they are, under OpenAI's names or transformers'.

    Raises ValueError naming target.path and what is wrong with it.
    """
    state = openai_names(
        read_weights(path, "take the weights of facebook/flava-image-codebook, or OpenAI's state_dict")
    )
    first, last = state.get("blocks.input.w"), state.get("blocks.output.conv.w")
    if first is None or last is None:
        raise ValueError(
            f"target.path={path}: not the weights of DALL-E's encoder: blocks.input.w and blocks.output.conv.w are not "
            "both there (as in OpenAI's state_dict; or blocks.input.weight, as in transformers' FlavaImageCodebook)"
        )
    if len(last) != vocabulary:
        raise ValueError(f"target.vocabulary must be {len(last)}, as in target.path={path}, got {vocabulary}")
    encoder = DalleEncoder(len(first), vocabulary)
    for name, buffer in encoder.named_buffers():
        found = state.get(file_name(name))
        if found is None or found.shape != buffer.shape:
            has = "is missing" if found is None else f"has shape {tuple(found.shape)}"
            raise ValueError(f"target.path={path}: {file_name(name)} {has}; it must be {tuple(buffer.shape)}")
        buffer.copy_(found)
    return encoder
