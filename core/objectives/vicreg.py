"""VICReg: two views of a picture have the same features, which vary over the batch and do not repeat one another.

`ContentTask` is what MC-JEPA shares with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from core.objectives.gathered import gather, num_processes, own_rows
from core.objectives.views import Changes, ViewOptions, draw_changes, two_views
from core.types import (
    DataSpec,
    Encoder,
    EncoderModule,
    Learner,
    Objective,
    Parts,
    View,
    full_precision,
    generator_for,
    moved,
)

EPS = 1e-4  # added to variances


class ContentFrame(Enum):
    """What of a clip the two views show; the same for an image."""

    middle = "middle"
    drawn = "drawn"  # one of its frames
    all = "all"  # a view is a clip


@dataclass
class ContentOptions(ViewOptions):
    """What an objective that learns content from two views can be told.

    Source: VICReg (Bardes et al., 2022, arXiv:2105.04906), section 4.
    """

    least_batch: ClassVar[int] = 2  # the variance and batch norm are over the batch
    over_batch: ClassVar[str] = "variance, covariance and batch norm"

    sim_coeff: float = 25.0  # lambda, of the invariance
    std_coeff: float = 25.0  # mu, of the variance
    cov_coeff: float = 1.0  # nu, of the covariance
    expander: list[int] = field(default_factory=lambda: [8192, 8192, 8192])  # widths of its layers
    content_frame: ContentFrame = ContentFrame.middle

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sim_coeff", "std_coeff", "cov_coeff"):
            if getattr(self, name) < 0:
                raise ValueError(f"objective.{name} must be at least 0, got {getattr(self, name)}")
        if not self.expander or min(self.expander) < 2:
            raise ValueError(f"objective.expander must be widths of at least 2, got {list(self.expander)}")

    def check_content(self, encoder: Encoder, spec: DataSpec) -> None:
        """Raise ValueError where such views cannot be made, or not be seen by the encoder."""
        if spec.channels != 3 and (self.jitter or self.grey):
            raise ValueError(
                f"objective.jitter={self.jitter:g} and objective.grey={self.grey:g} need 3 channels, the data has "
                f"{spec.channels}: set both to 0"
            )
        if spec.frames > 1 and self.content_frame is not ContentFrame.all and not encoder.has_pyramid:
            raise ValueError(
                f"objective.content_frame={self.content_frame.name}: this encoder takes whole clips of {spec.frames} "
                "frames; use objective.content_frame=all, or an encoder of single frames"
            )


class Expander(nn.Sequential):
    """Linear layers with batch norm and ReLU between them; the last one is bare and has no bias."""

    def __init__(self, width: int, widths: Sequence[int], generator: Generator) -> None:
        layers: list[nn.Module] = []
        for outputs in widths[:-1]:
            layers += [_linear(width, outputs, generator), nn.BatchNorm1d(outputs), nn.ReLU()]
            width = outputs
        super().__init__(*layers, _linear(width, widths[-1], generator, bias=False))


def _linear(inputs: int, outputs: int, generator: Generator, *, bias: bool = True) -> nn.Linear:
    """torch's own initialisation, uniform in +-1/sqrt(inputs), from `generator`."""
    layer = nn.Linear(inputs, outputs, bias=bias, device="meta").to_empty(device=torch.get_default_device())
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -(inputs**-0.5), inputs**-0.5, generator=generator)
    return layer


def vicreg_loss(
    one: Tensor, other: Tensor, *, sim_coeff: float, std_coeff: float, cov_coeff: float
) -> dict[str, Tensor]:
    """{"loss", "invariance", "variance", "covariance"} of the features of two views, [N, D] each, in float32.

    The convention of the released code, under which the coefficients 25, 25 and 1 hold: the variance term is the mean
    over the two views, the covariance term their sum; both are over centred features and N - 1.

    Source: VICReg (Bardes et al., 2022, arXiv:2105.04906), Equations 1 to 6 and Algorithm 1.
    """
    one, other = one.float(), other.float()
    invariance = F.mse_loss(one, other)
    variance, covariance = torch.zeros_like(invariance), torch.zeros_like(invariance)
    for features in (one, other):
        centred = features - features.mean(dim=0)
        variance = variance + F.relu(1 - (centred.var(dim=0) + EPS).sqrt()).mean() / 2
        matrix = centred.T @ centred / (len(centred) - 1)
        off_diagonal = matrix.square().sum() - matrix.diagonal().square().sum()
        covariance = covariance + off_diagonal / features.shape[1]
    loss = sim_coeff * invariance + std_coeff * variance + cov_coeff * covariance
    parts = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return {"loss": loss} | {name: value.detach() for name, value in parts.items()}


class ContentDraws(NamedTuple):
    """All that is random in a step."""

    frame: Tensor | None  # [B], which of a clip's frames; None where that is not drawn
    changes: Changes


class ContentTask(nn.Module):
    """Views, expander and loss. The encoder is given with every call, as it may serve another task too."""

    def __init__(self, options: ContentOptions, width: int, spec: DataSpec, generator: Generator) -> None:
        super().__init__()
        self.options = options
        self.expander = Expander(width, options.expander, generator)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(spec.mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(-1, 1, 1, 1), persistent=False)

    def draw(self, draw: Callable[[str], Generator], clips: Tensor) -> ContentDraws:
        """What the views of `clips` will be made with."""
        generator, num_frames, frame = draw("views"), clips.shape[2], None
        if num_frames > 1 and self.options.content_frame is ContentFrame.drawn:
            from_all = torch.rand(len(clips) * num_processes(), generator=generator)
            frame = moved((own_rows(from_all, len(clips)) * num_frames).long(), clips.device)
        return ContentDraws(frame, draw_changes(self.options, generator, clips))

    def encoded(self, clips: Tensor) -> torch.Size:
        """The shape of what the encoder is given: all views."""
        batch, channels, num_frames, height, width = clips.shape
        kept = num_frames if self.options.content_frame is ContentFrame.all else 1
        return torch.Size((2 * batch, channels, kept, height, width))

    def losses(self, encoder: EncoderModule, clips: Tensor, drawn: ContentDraws) -> dict[str, Tensor]:
        """`vicreg_loss` of clips [B, C, T, H, W], float and normalised, over the batches of all processes together.

        Averaged patch tokens are gathered before the expander: batch norm and covariance see what one process would.
        """
        one, other = (self.expander(gather(view)) for view in self._pooled(encoder, clips, drawn))
        options = self.options
        with full_precision(clips):  # squared covariances are beyond half precision
            return vicreg_loss(
                one, other, sim_coeff=options.sim_coeff, std_coeff=options.std_coeff, cov_coeff=options.cov_coeff
            )

    def embeddings(self, encoder: EncoderModule, clips: Tensor, drawn: ContentDraws) -> Tensor:
        """What the two views of each of this process's clips are after the expander: [2, B, D]."""
        return torch.stack([self.expander(view) for view in self._pooled(encoder, clips, drawn)])

    def _pooled(self, encoder: EncoderModule, clips: Tensor, drawn: ContentDraws) -> Tensor:
        """Averaged patch tokens of both views: [2, B, D] float32."""
        views = self.views(clips, drawn)
        tokens: Tensor = encoder(views.flatten(0, 1))[:, encoder.num_prefix :]
        return tokens.float().mean(1).view(2, len(clips), -1)

    @torch.no_grad()
    def views(self, clips: Tensor, drawn: ContentDraws) -> Tensor:
        """Two views of each clip, or of one of its frames (t = 1): [2, B, C, t, H, W], normalised."""
        with full_precision(clips):
            pictures = self._chosen(clips.float(), drawn.frame)
            pixels = (pictures * self.std + self.mean).clamp_(0, 1)
            return (two_views(pixels, self.options, drawn.changes) - self.mean) / self.std

    def _chosen(self, clips: Tensor, frame: Tensor | None) -> Tensor:
        num_frames = clips.shape[2]
        if num_frames == 1 or self.options.content_frame is ContentFrame.all:
            return clips
        if frame is None:
            return clips[:, :, num_frames // 2 : num_frames // 2 + 1]
        return clips[torch.arange(len(clips), device=clips.device), :, frame][:, :, None]


@dataclass
class Vicreg(ContentOptions, Objective):
    """Features of two views of a picture agree (invariance), spread (variance) and are unlike one another (covariance).

    Source: VICReg (Bardes et al., 2022, arXiv:2105.04906).
    """

    def check(self, encoder: Encoder, spec: DataSpec, pairs: DataSpec | None) -> None:
        self.check_content(encoder, spec)

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        encoder = parts.encoder.build(spec, generator_for(seed, "encoder"))
        return VicregLearner(encoder, ContentTask(self, encoder.width, spec, generator_for(seed, "expander")))


class VicregLearner(Learner):
    """An encoder and its expander."""

    def __init__(self, encoder: EncoderModule, content: ContentTask) -> None:
        super().__init__()
        self.encoder, self.content = encoder, content
        self._drawn: ContentDraws | None = None

    def seed_step(self, draw: Callable[[str], Generator], step: int, num_steps: int, clips: Tensor) -> None:
        self._drawn = self.content.draw(draw, clips)

    def encoded(self, clips: Tensor, views: Sequence[View], pairs: Tensor | None) -> list[torch.Size]:
        return [self.content.encoded(clips)]

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert self._drawn is not None, "seed_step comes before every step"
        return self.content.losses(self.encoder, clips, self._drawn)

    def embeddings(self, clips: Tensor, views: Sequence[View]) -> Tensor:
        assert self._drawn is not None, "seed_step comes first"
        return self.content.embeddings(self.encoder, clips, self._drawn)
