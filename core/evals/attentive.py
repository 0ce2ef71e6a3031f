"""The attentive probe: a learned query reads a video's frozen patch tokens, then a linear layer names the class.

All settings of the grid are trained at once on the same batches (`attention_grid`); the one that is right most often on
held-out train videos answers the test split.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from core.evals.frozen.clips import plan
from core.evals.frozen.samples import (
    check_classes,
    check_layers,
    check_test,
    check_train,
    hold_out,
    labelled,
    subset,
    top1,
    top1_names,
)
from core.evals.grids.attention_grid import Layout, Probes, train
from core.types import DataSpec, Encoder, Evaluation, Features, Sampling, Tokens, generator_for


class FrameTokens(Enum):
    concat = "concat"
    mean = "mean"


class Still(Enum):
    repeat = "repeat"
    deflate = "deflate"


@dataclass
class Attentive(Evaluation):
    """Top-1 of the best of a grid of attentive probes, best on train videos held out for that.

    `clips` of a video are read together: their tokens are concatenated before the probe. `temporal_views` and
    `spatial_views` are read one by one: in training each is a sample, in testing their class probabilities are
    averaged. The clips are cut as `core.evals.frozen.clips.plan` says, each from the middle of its share of the video.

    Ties between settings go to the lower cross-entropy on the held-out videos; one that diverged is never chosen.
    Arithmetic is bfloat16 where the tokens are, that is where the encoder ran in it.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), appendix B.1: 12 heads, AdamW, a cosine to 0 without
    warm-up, 20 epochs; lr .001 and weight decay .01 are one setting of the grid, and the only one of the paper.
    Gradient norm at most 1 as in its released evaluation. Departures: no augmentation beyond the views, since the
    features are extracted once; a clip from the middle of each segment and not at random in it.
    """

    needs_labels: ClassVar[bool] = True

    layout: Layout = Layout.vjepa
    depth: int = 1  # blocks of the probe, of which the second and later ones start from what the one before them found
    heads: int = 12  # of the attention
    lrs: list[float] = field(default_factory=lambda: [0.001, 0.003])
    weight_decays: list[float] = field(default_factory=lambda: [0.01, 0.1])
    epochs: int = 20
    batch_size: int = 128
    clip: float | None = 1.0  # largest gradient norm of each probe; null = any
    heldout: float = 0.1  # fraction of train the setting is chosen by
    num_layers: int = 1  # tokens of the last n blocks, concatenated along their width
    max_train: int | None = None  # videos, a random subset; null = all
    clips: int | None = None  # of each video, read together; null = all that the data gives
    temporal_views: int = 1
    spatial_views: int = 1
    frame_tokens: FrameTokens = FrameTokens.concat  # of an image encoder, which sees a clip's frames one by one
    still: Still = Still.repeat  # an image shown to a video encoder: over all of its frames, or one tubelet only

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"evals.attentive.lrs must be one or more numbers above 0, got {self.lrs}")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise ValueError(
                f"evals.attentive.weight_decays must be one or more numbers, none below 0, got {self.weight_decays}"
            )
        if not 0 < self.heldout < 1:
            raise ValueError(f"evals.attentive.heldout must be in (0, 1), got {self.heldout}")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"evals.attentive.clip must be above 0, or null for no limit, got {self.clip}")
        if self.layout is Layout.plain and self.depth != 1:
            raise ValueError(f"evals.attentive.depth must be 1 with evals.attentive.layout=plain, got {self.depth}")
        for name in ("depth", "heads", "epochs", "batch_size", "num_layers", "temporal_views", "spatial_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"evals.attentive.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("max_train", "clips"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"evals.attentive.{name} must be at least 1, or null for all, got {value}")

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            clips=self.clips,
            temporal_views=self.temporal_views,
            spatial_views=self.spatial_views,
            average_frames=self.frame_tokens is FrameTokens.mean,
            deflate=self.still is Still.deflate,
            max_train=self.max_train,
        )

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.attentive.num_layers", self.num_layers, encoder)
        self._check_heads(self.num_layers * encoder.token_width())
        plan(spec, built_for, self.sampling, "evals.attentive.")

    def _check_heads(self, width: int) -> None:
        if width % self.heads:
            allowed = [count for count in range(1, min(width, 32) + 1) if width % count == 0]
            raise ValueError(
                f"evals.attentive.heads must divide the tokens' width, {width}, got {self.heads}; "
                f"up to 32 these do: {', '.join(map(str, allowed))}"
            )

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        given = {label: values[subset(len(values), self.max_train)] for label, values in train.items()}
        try:
            check_classes(given, test, spec, heldout="evals.attentive.heldout")
        except ValueError as error:
            told = "" if self.max_train is None else f" (with evals.attentive.max_train={self.max_train})"
            raise ValueError(f"{error}{told}") from error

    def metrics(self, spec: DataSpec) -> list[str]:
        return top1_names("attentive", spec)

    def run(self, features: Features, seed: int) -> dict[str, float]:
        results = {}
        for label in features.spec.classes:
            probe = self.choose(features, label, seed)
            test = features.tokens("test", self.sampling, self.num_layers)
            videos = labelled(test.labels, "test", label, features.spec).nonzero().flatten()
            truth = test.labels[label][videos]
            train_labels = features.tokens("train", self.sampling, self.num_layers).labels[label]
            check_test(truth, label, train_labels)
            results[f"attentive/{label}_top1"] = top1(
                self._probabilities(probe, test, videos, features.device)[0], truth
            )
        return results

    def choose(self, features: Features, label: str, seed: int) -> Probes:
        """The one probe for `label` that is best on held-out train videos; reads the train split only.

        Raises ValueError when every setting diverged.
        """
        tokens = features.tokens("train", self.sampling, self.num_layers)
        videos = labelled(tokens.labels, "train", label, features.spec).nonzero().flatten()
        check_train(tokens.labels[label][videos], label, features.spec)
        generator = generator_for(seed, "attentive", label, "heldout")
        fit, heldout = hold_out(tokens.labels[label][videos], self.heldout, generator, key="evals.attentive.heldout")
        probes = self.train(tokens, videos[fit], label, features.spec.classes[label], features.device, seed)
        truth = tokens.labels[label][videos[heldout]]
        unseen = self._probabilities(probes, tokens, videos[heldout], features.device)  # [G, N, K]
        finite = [index for index, scores in enumerate(unseen) if scores.isfinite().all()]
        if not finite:
            raise ValueError(
                f"evals.attentive.lrs: every probe diverged for label {label!r}, got {self.lrs}; use smaller ones"
            )

        def quality(index: int) -> tuple[float, float]:
            log_probabilities = unseen[index].clamp(min=torch.finfo(torch.float32).tiny).log()
            return top1(unseen[index], truth), -F.nll_loss(log_probabilities, truth).item()

        return probes.only(max(finite, key=quality))

    def train(
        self, tokens: Tokens, videos: Tensor, label: str, num_classes: int, device: torch.device, seed: int
    ) -> Probes:
        """A probe for every learning rate and weight decay, in the order of `itertools.product`."""
        width = tokens.values.shape[-1]
        self._check_heads(width)
        settings = list(itertools.product(self.lrs, self.weight_decays))
        generator = generator_for(seed, "attentive", label, "init")
        num_views = tokens.values.shape[1]
        num_batches = max(1, len(videos) * num_views // self.batch_size)

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for epoch in range(self.epochs):
                order = torch.randperm(
                    len(videos) * num_views, generator=generator_for(seed, "attentive", label, epoch)
                )
                for index in order.tensor_split(num_batches):
                    chosen = videos[index // num_views]
                    yield (
                        _moved(tokens.values[chosen, index % num_views], device),
                        tokens.labels[label][chosen].to(device),
                    )

        # An evaluation may be called under inference mode, where nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            probes = Probes(self.layout, width, self.heads, num_classes, len(settings), generator, depth=self.depth).to(
                device
            )
            train(probes, batches(), settings=settings, num_steps=self.epochs * num_batches, clip=self.clip)
        return probes

    @torch.no_grad()
    def _probabilities(self, probes: Probes, tokens: Tokens, videos: Tensor, device: torch.device) -> Tensor:
        """Class probabilities of each probe, averaged over the views: [G, N, K] on the CPU."""
        num_views = tokens.values.shape[1]
        parts = []
        for part in torch.split(videos, max(1, self.batch_size // num_views)):
            values = _moved(tokens.values[part].flatten(0, 1), device)
            probabilities = probes(values).softmax(dim=-1)  # [G, B * V, K]
            parts.append(probabilities.view(len(probabilities), len(part), num_views, -1).mean(dim=2).cpu())
        return torch.cat(parts, dim=1)


def _moved(values: Tensor, device: torch.device) -> Tensor:
    """Tokens as the probe computes with them: bfloat16 stays, float16 (no range for gradients) becomes float32."""
    values = values.to(device, non_blocking=True)
    return values if values.dtype is torch.bfloat16 else values.float()
