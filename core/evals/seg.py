"""Linear segmentation: what every pixel shows, read from the frozen feature map by a linear head."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evals.frozen.maps import check_level, check_pixels
from core.types import Dataset, DataSpec, Encoder, Evaluation, Features, Part, generator_for


class Frames(Enum):
    """Of a clip: its middle frame, `frames // 2`, or every one."""

    middle = "middle"
    all = "all"

    def of(self, num_frames: int) -> list[int]:
        return [num_frames // 2] if self is Frames.middle else list(range(num_frames))


@dataclass
class Segment(Evaluation):
    """Mean intersection over union, in percent, of a linear head on frozen feature maps.

    The head is a 1 x 1 convolution on the last layer's tokens; its scores are enlarged bilinearly to the frame, and it
    is trained with a cross-entropy over the pixels that have a class. Features are standardised over the train frames;
    the learning rate is the one that does best on held-out train clips, as wide features take a smaller one. The mean
    is over the classes that the test split shows or that were answered; a class's intersection and union are summed
    over all test pixels.

    Source: the linear frozen evaluation of VICRegL (Bardes et al., 2022, arXiv:2210.01571), section 4, and MC-JEPA
    (Bardes et al., 2023, arXiv:2307.12698), Table 1: a linear layer on the frozen features. Departures:
    standardised features, a learning rate that is chosen.
    """

    frames: Frames = Frames.middle
    level: int = 1  # of the pyramid, of encoders that have one; 1 = the last layer's tokens, the lowest resolution
    epochs: int = 10
    batch_size: int = 32  # frames
    lrs: list[float] = field(default_factory=lambda: [0.01, 0.1])  # of AdamW, falling along half a cosine to 0
    weight_decay: float = 0.0001
    heldout: float = 0.1  # fraction of the train clips that the learning rate is chosen by, if there are several
    max_train: int | None = 2000  # clips, a random subset, the same for every run; null = all

    def __post_init__(self) -> None:
        for name in ("level", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"evals.seg.{name} must be at least 1, got {getattr(self, name)}")
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"evals.seg.lrs must be one or more numbers above 0, got {self.lrs}")
        if not 0 < self.heldout < 1:
            raise ValueError(f"evals.seg.heldout must be in (0, 1), got {self.heldout}")
        if self.weight_decay < 0:
            raise ValueError(f"evals.seg.weight_decay must be at least 0, got {self.weight_decay}")
        if self.max_train is not None and self.max_train < 1:
            raise ValueError(f"evals.seg.max_train must be at least 1, or null for all, got {self.max_train}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_segments("evals.seg", built_for, spec)
        check_level("evals.seg.level", self.level, encoder, built_for)

    def check_truth(self, train: Dataset, test: Dataset) -> None:
        check_pixels("evals.seg", train, test, self.frames.of(test.spec.frames), max_train=self.max_train)

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["seg/miou"]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        # An evaluation may be called under inference mode, where nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            head = self.choose(features, seed)
        maps, truth = self._frames(features, "test")
        if not (truth >= 0).any():
            raise ValueError("evals.seg: no test pixel has a class, so there is nothing to be judged on")
        return {"seg/miou": 100 * head.mean_iou(maps.flatten(0, 1), truth.flatten(0, 1))}

    def choose(self, features: Features, seed: int) -> Head:
        """The head that is best on held-out train clips; reads the train split only.

        Raises ValueError when no train pixel has a class, or every head diverged.
        """
        maps, truth = self._frames(features, "train")
        order = torch.randperm(len(maps), generator=generator_for(seed, "seg", "heldout"))
        num_heldout = 0 if len(self.lrs) == 1 else min(max(1, round(self.heldout * len(maps))), len(maps) - 1)
        rest = order[num_heldout:].sort().values
        if not (truth[rest] >= 0).any():
            raise ValueError("evals.seg: no train pixel has a class, so nothing can be learned")
        heads = self.train(maps[rest].flatten(0, 1), truth[rest].flatten(0, 1), features, seed)
        heads = [head for head in heads if head.weight.isfinite().all()]
        if not heads:
            raise ValueError(f"evals.seg.lrs: every head diverged, got {self.lrs}; use smaller ones")
        if len(heads) == 1:
            return heads[0]
        unseen = maps[order[:num_heldout]].flatten(0, 1), truth[order[:num_heldout]].flatten(0, 1)
        return max(heads, key=lambda head: head.mean_iou(*unseen))

    def train(self, maps: Tensor, truth: Tensor, features: Features, seed: int) -> list[Head]:
        """One head a learning rate on `maps` [M, h, w, D] and `truth` [M, H, W]; all see the same batches."""
        heads = [Head.on(maps, features.spec.segment_classes, features.device) for _ in self.lrs]
        optimizer = torch.optim.AdamW(
            [{"params": [head.weight, head.bias], "lr": lr} for head, lr in zip(heads, self.lrs, strict=True)],
            weight_decay=self.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, self.epochs * math.ceil(len(maps) / self.batch_size)
        )
        for epoch in range(self.epochs):
            order = torch.randperm(len(maps), generator=generator_for(seed, "seg", "order", epoch))
            for rows in torch.split(order, self.batch_size):
                batch, classes = maps[rows].to(features.device), truth[rows].to(features.device)
                optimizer.zero_grad()
                for head in heads:  # they share no parameter
                    loss: Any = pixel_loss(head.scores(batch, truth.shape[1:]), classes)
                    loss.backward()
                optimizer.step()
                schedule.step()
        return heads

    def _frames(self, features: Features, split: str) -> tuple[Tensor, Tensor]:
        """Maps [N, F, h, w, D] and classes [N, F, H, W]."""
        frames = self.frames.of(features.spec.frames)
        maps = features.maps(split, frames, level=self.level, max_train=self.max_train)
        return maps, features.segments(split, frames, max_train=self.max_train)


class Head:
    """A linear classifier of every place of a feature map."""

    def __init__(self, mean: Tensor, std: Tensor, num_classes: int) -> None:
        self.mean, self.std = mean, std  # [D], of the train maps
        self.weight = torch.zeros(num_classes, len(mean), device=mean.device, requires_grad=True)
        self.bias = torch.zeros(num_classes, device=mean.device, requires_grad=True)

    @classmethod
    def on(cls, maps: Tensor, num_classes: int, device: torch.device) -> Head:
        total = square = torch.zeros(maps.shape[-1], dtype=torch.float64)
        count = 0
        for part in torch.split(maps, 256):
            values = part.double().flatten(0, 2)
            total, square, count = total + values.sum(0), square + values.square().sum(0), count + len(values)
        mean = total / count
        std = (square / count - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6)
        return cls(mean.float().to(device), std.float().to(device), num_classes)

    def scores(self, maps: Tensor, size: torch.Size) -> Tensor:
        """[M, h, w, D] -> [M, K, H, W]."""
        values = (maps.float() - self.mean) / self.std
        return enlarged((values @ self.weight.T + self.bias).movedim(-1, 1), size)

    @torch.no_grad()
    def mean_iou(self, maps: Tensor, truth: Tensor) -> float:
        """Of maps [M, h, w, D] whose pixels show `truth` [M, H, W], in [0, 1]."""
        num_classes = len(self.bias)
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for rows in torch.split(torch.arange(len(maps)), 256):
            scores = self.scores(maps[rows].to(self.mean.device), truth.shape[1:])
            counts += confusion(scores.argmax(1).cpu(), truth[rows], num_classes)
        return mean_iou(counts)


def enlarged(scores: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(scores, size=tuple(size), mode="bilinear", align_corners=False)


def pixel_loss(scores: Tensor, truth: Tensor, part: Part | None = None) -> Tensor:
    """Cross-entropy of `scores` [M, K, H, W], mean over the pixels whose class in `truth` [M, H, W] is not -1.

    0 of a batch without such a pixel. Of a `part` it is such that the mean over processes is that of the whole batch.
    """
    total = F.cross_entropy(scores, truth.long(), ignore_index=-1, reduction="sum")
    num = (truth >= 0).sum()
    if part is None or part.rows is None:
        return total / num.clamp_min(1)
    return total / part.mean(num).clamp_min(len(part.rows) / part.num)  # of one pixel, on one of the processes


def check_segments(key: str, built_for: DataSpec, spec: DataSpec) -> None:
    """Raise ValueError when pixels of data like `spec` have no classes, or its clips no place for each frame."""
    if not spec.segment_classes:
        raise ValueError(
            f"{key} needs data whose pixels have classes, and this data's have none; choose eval_data=moving_digits"
        )
    if spec.clips_per_video > 1 or (built_for.frames > 1 and spec.frames > 1 and spec.frames % built_for.frames):
        raise ValueError(
            f"{key}: the data gives {spec.clips_per_video} clips a video of {spec.frames} frames, the encoder takes "
            f"{built_for.frames}; frames that are left out have no features: set eval_data.frames to a multiple of "
            "them, or to 1"
        )


def confusion(answer: Tensor, truth: Tensor, num_classes: int) -> Tensor:
    """How many pixels of each true class (rows) were answered as each: [K, K] int64. A truth of -1 is left out."""
    known = truth >= 0
    pairs = truth[known].long() * num_classes + answer[known].long()
    return pairs.bincount(minlength=num_classes**2).view(num_classes, num_classes)


def mean_iou(counts: Tensor) -> float:
    """Mean intersection over union of a confusion matrix, in [0, 1], over the classes that occur in it."""
    hits = counts.diag().double()
    union = counts.sum(0) + counts.sum(1) - counts.diag()
    return float((hits / union)[union > 0].mean())
