"""What convolutional encoders share: frames one by one, a pyramid of feature maps, tokens of its last level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from core.models.blocks import LayerNorm, seed_drop_path
from core.types import Calls, DataSpec, Encoder, EncoderModule, Grid


class Maps(NamedTuple):
    """What the stages of an encoder make of frames."""

    levels: list[Tensor]  # [M, D_l, h_l, w_l], highest resolution first
    last_blocks: list[Tensor]  # output of every block of the last stage, [M, D, h, w]


class PyramidEncoder(Encoder):
    """Options of an encoder whose feature maps halve in size `num_halvings` times, from half of the frame's size.

    Where one more level is asked for than there are maps, the frame's own pixels are the highest resolution.
    """

    has_pyramid: ClassVar[bool] = True
    widths: list[int]
    levels: int

    def map_widths(self) -> list[int]:
        """Channels of the feature maps, highest resolution first: of half the frame's size, a quarter ..."""
        raise NotImplementedError

    def check_levels(self) -> None:
        most = len(self.map_widths()) + 1
        if not 1 <= self.levels <= most:
            raise ValueError(
                f"encoder.levels must be in [1, {most}] for encoder.widths of {len(self.widths)} stages "
                f"(the frame itself is the last of them), got {self.levels}"
            )

    def token_width(self) -> int:
        return self.map_widths()[-1]

    def grid(self, spec: DataSpec) -> Grid:
        stride = 2 ** len(self.map_widths())
        check_size(stride, len(self.map_widths()), spec.height, spec.width)
        return Grid(spec.frames, spec.height // stride, spec.width // stride)

    def level_widths(self, spec: DataSpec) -> list[int]:
        self.grid(spec)
        return [*self.map_widths()[::-1], spec.channels][: self.levels]


class StagedEncoder(PyramidEncoder):
    """A pyramid encoder whose stages have several residual blocks each."""

    depths: list[int]
    drop_path: float

    def check_stages(self) -> None:
        check_list("widths", self.widths, least=1)
        check_list("depths", self.depths, least=1)
        if len(self.widths) != len(self.depths):
            raise ValueError(
                f"encoder.depths must have one number a stage like encoder.widths {self.widths}, got {self.depths}"
            )
        self.check_levels()
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"encoder.drop_path must be in [0, 1), got {self.drop_path}")

    def num_blocks(self) -> int:
        return self.depths[-1]


def check_size(stride: int, num_halvings: int, height: int, width: int) -> None:
    if height % stride or width % stride:
        raise ValueError(
            f"encoder.levels: frames of {height}x{width} px cannot be halved {num_halvings} times, as an encoder of so "
            f"many levels of features does; choose a size that {stride} divides, or fewer stages (encoder.widths)"
        )


class PyramidModule(EncoderModule):
    """An encoder of whole frames. Subclasses say in `maps` what their stages make of frames [M, C, H, W]."""

    def __init__(self, options: PyramidEncoder, spec: DataSpec) -> None:
        super().__init__()
        self.grid, self.width = options.grid(spec), options.token_width()
        self.num_prefix, self.num_blocks, self.num_levels = 0, options.num_blocks(), options.levels
        self.num_halvings = len(options.map_widths())

    def maps(self, frames: Tensor) -> Maps:
        raise NotImplementedError

    def finish(self, last: Tensor) -> Tensor:
        """The final norm, of tokens [B, N, D]."""
        return last

    def forward(
        self,
        clips: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        if keep is not None or valid is not None or hidden is not None:
            raise ValueError("a convolutional encoder sees whole frames: it cannot leave out or hide patches")
        return self.intermediate(clips, 1)[0]

    def many(self, clips: Tensor, keeps: Sequence[Tensor]) -> list[Tensor]:
        raise ValueError("a convolutional encoder sees whole frames: it has no contexts of some patches")

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        """Tokens of the last blocks of the last stage, [B, T * h * w, D], one frame after the other."""
        if keep is not None:
            raise ValueError("a convolutional encoder sees whole frames: it cannot encode some of their patches")
        if not 1 <= num_layers <= self.num_blocks:
            raise ValueError(f"the last {num_layers} layers were asked of an encoder that has {self.num_blocks}")
        blocks = self.maps(self._frames(clips)).last_blocks[-num_layers:]
        return [self.finish(as_tokens(block, len(clips))) for block in blocks]

    def pyramid(self, clips: Tensor) -> list[Tensor]:
        frames = self._frames(clips)
        return [*self.maps(frames).levels[::-1], frames][: self.num_levels]

    def seed_drop_path(self, generator: Generator, calls: Calls | None = None) -> None:
        frames = [] if calls is None else [shape[0] * shape[2] for shape in calls.shapes]
        seed_drop_path(self, generator, calls, frames)

    def _frames(self, clips: Tensor) -> Tensor:
        check_size(2**self.num_halvings, self.num_halvings, *clips.shape[-2:])
        frames = clips.transpose(1, 2).flatten(0, 1)
        return frames.contiguous(memory_format=torch.channels_last)


def as_tokens(maps: Tensor, batch_size: int) -> Tensor:
    """[B * T, D, h, w] -> [B, T * h * w, D]."""
    return maps.permute(0, 2, 3, 1).reshape(batch_size, -1, maps.shape[1])


class LayerNorm2d(LayerNorm):
    """LayerNorm over the channels of [M, D, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def check_list(name: str, values: Sequence[int], *, least: int) -> None:
    if not values or min(values) < least:
        raise ValueError(f"encoder.{name} must be a list of numbers of at least {least}, got {list(values)}")


def make_conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int, bias: bool = True) -> nn.Conv2d:
    """A convolution whose parameters are not drawn yet."""
    with torch.device("meta"):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
    return conv.to_empty(device=torch.get_default_device())
