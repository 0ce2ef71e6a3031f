"""Encoders around somebody's plain `nn.Module`: a network of whole frames, or a vision transformer in its parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from core.models.pyramid import as_tokens
from core.types import Calls, DataSpec, Encoder, EncoderModule, Grid

# What draws from the global generator in training: a resumed run would not see what an uninterrupted one saw.
DRAWING = {"Dropout": "p", "Dropout1d": "p", "Dropout2d": "p", "DropPath": "drop_prob", "StochasticDepth": "p"}


class WrappedEncoder(Encoder):
    """What both kinds share: `network` makes the module, `token_width` and `stride` say what it gives."""

    def stride(self) -> int:
        """Side in pixels of the patch that one token stands for."""
        raise NotImplementedError

    def network(self, spec: DataSpec) -> nn.Module:
        """The module for clips like `spec`. It may draw its weights as ever: torch's generator is seeded, and put back
        afterwards."""
        raise NotImplementedError

    def num_blocks(self) -> int:
        return 1

    def grid(self, spec: DataSpec) -> Grid:
        if spec.height % self.stride() or spec.width % self.stride():
            raise ValueError(
                f"encoder: frames of {spec.height}x{spec.width} px cannot be cut into patches of {self.stride()} px; "
                f"choose a size that {self.stride()} divides"
            )
        return Grid(spec.frames, spec.height // self.stride(), spec.width // self.stride())


class FrameEncoder(WrappedEncoder):
    """Somebody's convolutional network, or any other of whole frames: [M, C, H, W] -> a map [M, D, h, w].

    It is for objectives that show it whole frames; those of a mask need a `TokenEncoder`.
    """

    has_pyramid: ClassVar[bool] = True

    def level_widths(self, spec: DataSpec) -> list[int]:
        self.grid(spec)
        return [self.token_width()]

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return FrameModule(self, spec, generator)


class FrameModule(EncoderModule):
    def __init__(self, options: FrameEncoder, spec: DataSpec, generator: Generator) -> None:
        super().__init__()
        self.grid, self.width, self.num_prefix = options.grid(spec), options.token_width(), 0
        self.network = made(options, spec, generator)
        with torch.no_grad(), in_eval(self.network):
            given = self.network(torch.zeros(2, spec.channels, spec.height, spec.width))
        wanted = (2, self.width, self.grid.h, self.grid.w)
        if (shape := shape_of(given)) != list(wanted):
            raise ValueError(
                f"encoder: {type(options).__name__}.network gives {shape} for two frames, and token_width and stride "
                f"say a map {list(wanted)}"
            )

    def forward(
        self,
        clips: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        if keep is not None or valid is not None or hidden is not None:
            raise ValueError("an encoder of whole frames cannot leave out or hide patches")
        return as_tokens(self._map(clips), len(clips))

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        if num_layers != 1:
            raise ValueError(f"the last {num_layers} layers were asked of an encoder that gives its last")
        return [self(clips, keep)]

    def pyramid(self, clips: Tensor) -> list[Tensor]:
        return [self._map(clips)]

    def seed_drop_path(self, generator: Generator, calls: Calls | None = None) -> None:
        """It has none: see `made`."""

    def _map(self, clips: Tensor) -> Tensor:
        found: Tensor = self.network(clips.transpose(1, 2).flatten(0, 1))
        return found


class TokenEncoder(WrappedEncoder):
    """Somebody's vision transformer of images, in parts, so that it can be shown some of the patches.

    `embed` gives the tokens of all patches, each with its position, after `num_prefix` class tokens; what is kept of
    them goes through `blocks` and `norm`. These two are as timm's VisionTransformer has them.
    """

    def num_prefix(self) -> int:
        return 0

    def has_class_token(self) -> bool:
        return self.num_prefix() > 0

    def embed(self, network: nn.Module, frames: Tensor) -> Tensor:
        """Frames [B, C, H, W] -> [B, P + N, D], patches in raster order."""
        raise NotImplementedError

    def blocks(self, network: nn.Module) -> Sequence[nn.Module]:
        found: Sequence[nn.Module] = network.blocks  # type: ignore[assignment]
        return found

    def norm(self, network: nn.Module, tokens: Tensor) -> Tensor:
        found: Tensor = network.norm(tokens)  # type: ignore[operator]
        return found

    def grid(self, spec: DataSpec) -> Grid:
        if spec.frames != 1:
            raise ValueError(f"encoder: this one takes images, and the data gives clips of {spec.frames} frames")
        return super().grid(spec)

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        return TokenModule(self, spec, generator)


class TokenModule(EncoderModule):
    def __init__(self, options: TokenEncoder, spec: DataSpec, generator: Generator) -> None:
        super().__init__()
        self.options = options
        self.grid, self.width, self.num_prefix = options.grid(spec), options.token_width(), options.num_prefix()
        self.network = made(options, spec, generator)
        with torch.no_grad(), in_eval(self.network):
            given = options.embed(self.network, torch.zeros(2, spec.channels, spec.height, spec.width))
        wanted = (2, self.num_prefix + self.grid.num_patches, self.width)
        shape = shape_of(given)
        if shape != list(wanted) or len(options.blocks(self.network)) != options.num_blocks():
            raise ValueError(
                f"encoder: {type(options).__name__}.embed gives {shape} for two frames and blocks "
                f"{len(options.blocks(self.network))} of them; stride, token_width, num_prefix and num_blocks say "
                f"{list(wanted)} and {options.num_blocks()}"
            )

    def forward(
        self,
        clips: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        if valid is not None or hidden is not None:
            raise ValueError("a wrapped transformer takes equally many patches of every sample: set mask.ragged=fixed")
        return self.options.norm(self.network, self._layers(clips, keep)[-1])

    def with_prefix(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        if not 1 <= num_layers <= self.options.num_blocks():
            raise ValueError(f"the last {num_layers} layers were asked of one that has {self.options.num_blocks()}")
        return [self.options.norm(self.network, layer) for layer in self._layers(clips, keep)[-num_layers:]]

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        return [layer[:, self.num_prefix :] for layer in self.with_prefix(clips, num_layers, keep)]

    def seed_drop_path(self, generator: Generator, calls: Calls | None = None) -> None:
        """It has none: see `made`."""

    def _layers(self, clips: Tensor, keep: Tensor | None) -> list[Tensor]:
        x = self.options.embed(self.network, clips[:, :, 0])
        if keep is not None:
            prefix, patches = x[:, : self.num_prefix], x[:, self.num_prefix :]
            x = torch.cat([prefix, patches.gather(1, keep[..., None].expand(-1, -1, self.width))], dim=1)
        layers = []
        for block in self.options.blocks(self.network):
            x = block(x)
            layers.append(x)
        return layers


def made(options: WrappedEncoder, spec: DataSpec, generator: Generator) -> nn.Module:
    """The network, its weights a function of `generator` alone. Raises ValueError where it would draw in training."""
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = options.network(spec)
    for name, module in network.named_modules():
        rate = getattr(module, DRAWING.get(type(module).__name__, ""), 0.0)
        if rate:
            raise ValueError(
                f"encoder: {type(options).__name__}.network has {type(module).__name__}({rate}) at {name}, which draws "
                "from the global generator, so that a resumed run would differ; set it to 0"
            )
    return network


def shape_of(given: object) -> list[int] | str:
    """Of what a stranger's module gave, or in words what that is instead of a tensor."""
    return list(given.shape) if isinstance(given, Tensor) else f"no tensor but a {type(given).__name__}"


@contextmanager
def in_eval(module: nn.Module) -> Iterator[None]:
    """Batch norms see nothing of what is only tried."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
