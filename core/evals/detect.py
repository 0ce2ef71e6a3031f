"""Detection from given boxes: what is in each box, read from the patch tokens that lie in it.

The boxes are the data set's own, so this measures what the features know of a place, not a detector's boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.evals.frozen.clips import plan
from core.evals.frozen.samples import check_layers, check_train, subset
from core.types import Dataset, DataSpec, Encoder, Evaluation, Features, Grid, Regions, Sampling, generator_for

CHUNK = 256  # clips whose tokens are in float32 at once


class Moment(Enum):
    clip = "clip"
    middle = "middle"


class Pool(Enum):
    max = "max"
    mean = "mean"


class Boxed(NamedTuple):
    """The boxes of a split: one row of features, the class and the clip of each."""

    features: Tensor  # [M, D] float32
    classes: Tensor  # [M] int64
    sample: Tensor  # [M] int64


@dataclass
class Detect(Evaluation):
    """Mean average precision of a linear head on the features of given boxes.

    A clip's tokens of several layers are averaged over time (`moment=middle`: those of the frame that the boxes are
    drawn in) and cut out by RoI-align, `resolution` squared, of which the largest value is kept. The head is trained
    with a cross-entropy for each class by itself, as boxes may be of several in AVA, and ranks the boxes of each class.

    Source: V-JEPA (Bardes et al., 2024, arXiv:2404.08471), appendix B.2 and table 7: AdamW, lr .0001, weight decay .05,
    30 epochs with 2 of warm-up, batch 64, four layers (`layer_step=2` for its layers 18, 20, 22 and 24); time average,
    RoI-align and maximum as in SlowFast (Feichtenhofer et al., 2019, arXiv:1812.03982), section 4. Departures: the
    given boxes also in testing, where the paper has a detector's; features standardised over the train boxes, and a
    learning rate chosen on held-out train clips, for data sets of thousands.
    """

    num_layers: int = 4
    layer_step: int = 1  # 2 takes every second layer, from the last
    resolution: int = 7  # bins a side
    pool: Pool = Pool.max
    moment: Moment = Moment.clip
    lrs: list[float] = field(default_factory=lambda: [0.0001, 0.001, 0.01])
    weight_decay: float = 0.05
    epochs: int = 30
    warmup_epochs: int = 2
    batch_size: int = 64  # boxes
    heldout: float = 0.1  # fraction of the train clips that the learning rate is chosen by
    max_train: int | None = None  # clips, a random subset; null = all

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"evals.detect.lrs must be one or more numbers above 0, got {self.lrs}")
        if self.weight_decay < 0:
            raise ValueError(f"evals.detect.weight_decay must be at least 0, got {self.weight_decay}")
        if not 0 < self.heldout < 1:
            raise ValueError(f"evals.detect.heldout must be in (0, 1), got {self.heldout}")
        for name in ("num_layers", "layer_step", "resolution", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"evals.detect.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise ValueError(f"evals.detect.warmup_epochs must be in [0, {self.epochs}], got {self.warmup_epochs}")
        if self.max_train is not None and self.max_train < 2:
            raise ValueError(f"evals.detect.max_train must be at least 2, or null for all, got {self.max_train}")

    @property
    def span(self) -> int:
        """How many of the last layers are asked for: those taken, and those skipped between them."""
        return (self.num_layers - 1) * self.layer_step + 1

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_train=self.max_train)

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers("evals.detect.num_layers (with layer_step)", self.span, encoder)
        check_boxes("evals.detect", self.sampling, built_for, spec)

    def check_truth(self, train: Dataset, test: Dataset) -> None:
        check_regions("evals.detect", train, test, max_train=self.max_train)

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["detect/map"]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        head = self.choose(features, seed)
        test = self.boxed(features, "test")
        if not len(test.classes):
            raise ValueError("evals.detect: no test clip has a box, so there is nothing to be judged on")
        return {"detect/map": 100 * mean_average_precision(head(test.features), test.classes)}

    def choose(self, features: Features, seed: int) -> Head:
        """The head with the best mean average precision on held-out train clips; reads the train split only.

        Raises ValueError when a class has no train box, or every head diverged.
        """
        train = self.boxed(features, "train")
        check_train(train.classes, "boxes", labelled_as_boxes(features.spec))
        clips = torch.unique(train.sample)
        if len(clips) < 2:
            raise ValueError("evals.detect.heldout: nothing can be held out to choose by, one train clip has boxes")
        order = torch.randperm(len(clips), generator=generator_for(seed, "detect", "heldout"))
        num_heldout = min(max(1, round(self.heldout * len(clips))), len(clips) - 1)
        unseen = torch.isin(train.sample, clips[order[:num_heldout]])  # by clip: its boxes share its background
        mean, std = train.features[~unseen].mean(0), train.features[~unseen].std(0, correction=0).clamp_min(1e-6)
        x = (train.features - mean) / std
        weights = self.train_heads(x[~unseen], train.classes[~unseen], features.spec.box_classes, seed)
        heads = [Head(mean, std, weight) for weight in weights if weight.isfinite().all()]
        if not heads:
            raise ValueError(f"evals.detect.lrs: every head diverged, got {self.lrs}; use smaller ones")
        held, truth = train.features[unseen], train.classes[unseen]
        return max(heads, key=lambda head: mean_average_precision(head(held), truth))

    def train_heads(self, x: Tensor, classes: Tensor, num_classes: int, seed: int) -> list[Tensor]:
        """One head a learning rate, [D + 1, K] each, the bias last; all see the same batches."""
        x = torch.nn.functional.pad(x, (0, 1), value=1.0)
        truth = torch.nn.functional.one_hot(classes, num_classes).float()
        weights = [torch.zeros(x.shape[1], num_classes) for _ in self.lrs]
        optimizer = torch.optim.AdamW(
            [{"params": [weight], "lr": lr, "peak": lr} for weight, lr in zip(weights, self.lrs, strict=True)],
            weight_decay=self.weight_decay,
        )
        num_batches = max(1, len(x) // self.batch_size)
        for epoch in range(self.epochs):
            order = torch.randperm(len(x), generator=generator_for(seed, "detect", "order", epoch))
            for batch, index in enumerate(order.tensor_split(num_batches)):
                share = rate(epoch + batch / num_batches, self.epochs, self.warmup_epochs)
                for group, weight in zip(optimizer.param_groups, weights, strict=True):
                    group["lr"] = share * group["peak"]
                    # The gradient of a binary cross-entropy is known: (sigmoid - truth), averaged.
                    error = ((x[index] @ weight).sigmoid() - truth[index]) / truth[index].numel()
                    weight.grad = x[index].T @ error
                optimizer.step()
        return weights

    def boxed(self, features: Features, split: str) -> Boxed:
        """Every box of `split` with its features. Raises ValueError for a box outside its clip, or without a class."""
        spec, grid = features.spec, features.grid
        regions = refuse_bad_regions(features.regions(split, self.sampling), spec, split)
        tokens = features.tokens(split, self.sampling, self.span).values[:, 0]  # [N, n, span * width]
        found = []
        for start in range(0, len(tokens), CHUNK):
            here = ((regions.sample >= start) & (regions.sample < start + CHUNK)).nonzero().flatten()
            taken = every_layer(tokens[start : start + CHUNK], self.span, self.layer_step).to(features.device)
            rows, boxes = (regions.sample[here] - start).to(features.device), regions.boxes[here].to(features.device)
            pooled = box_features(
                taken, rows, boxes, spec, grid, moment=self.moment, pool=self.pool, resolution=self.resolution
            )
            found.append((here, pooled.cpu()))
        order = torch.cat([here for here, _ in found])
        values = torch.cat([value for _, value in found])
        return Boxed(values[order.argsort()], regions.classes, regions.sample)


def every_layer(tokens: Tensor, span: int, step: int) -> Tensor:
    """Of `span` layers side by side [..., span * D], every one of `step`, beginning with the first."""
    return tokens if step == 1 else tokens.view(*tokens.shape[:-1], span, -1)[..., ::step, :].flatten(-2)


def box_features(
    tokens: Tensor,
    rows: Tensor,
    boxes: Tensor,
    spec: DataSpec,
    grid: Grid,
    *,
    moment: Moment,
    pool: Pool,
    resolution: int,
) -> Tensor:
    """What lies in each of `boxes` [M, 4], of the clips `rows` [M] of `tokens` [B, n, D]: [M, D] float32."""
    # It loads torchvision, 3 s, which runs without this evaluation need not wait for.
    from torchvision.ops import roi_align

    num_slices = tokens.shape[1] // (grid.h * grid.w)
    maps = tokens.float().view(len(tokens), num_slices, grid.h, grid.w, -1)
    middle = (spec.frames // 2) * num_slices // spec.frames
    maps = maps[:, middle] if moment is Moment.middle else maps.mean(1)
    bins: Tensor = roi_align(
        maps.permute(0, 3, 1, 2),
        torch.cat([rows.float()[:, None], boxes], dim=1),
        output_size=resolution,
        spatial_scale=grid.w / spec.width,
        aligned=True,
    )
    return bins.amax((2, 3)) if pool is Pool.max else bins.mean((2, 3))


def check_boxes(key: str, sampling: Sampling, built_for: DataSpec, spec: DataSpec) -> None:
    """Raise ValueError where the data like `spec` has no boxes, or they have no place in what the encoder sees."""
    if not spec.box_classes:
        raise ValueError(f"{key} needs data with boxes, and this data has none; choose eval_data=moving_digits")
    if (spec.height, spec.width) != (built_for.height, built_for.width):
        raise ValueError(
            f"{key}: the data's clips are {spec.height}x{spec.width} px and the encoder's "
            f"{built_for.height}x{built_for.width}; boxes of clips that are cut have no place: make them equal"
        )
    if len(plan(spec, built_for, sampling).views[0]) != 1:
        raise ValueError(
            f"{key}: the data's clips have {spec.frames} frames ({spec.clips_per_video} clips a video), the "
            f"encoder's {built_for.frames}; a box belongs to one clip: make them equal"
        )


def check_regions(key: str, train: Any, test: Any, *, max_train: int | None = None) -> None:
    """Raise ValueError where a class has no box among the train clips, or no test clip has one."""
    num_clips = train.spec.clips_per_video
    given = train.regions(subset(len(train) // num_clips, max_train) * num_clips)
    try:
        check_train(refuse_bad_regions(given, train.spec, "train", key).classes, "boxes", labelled_as_boxes(test.spec))
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from error
    if not len(test.regions(torch.arange(0, len(test), num_clips)).classes):
        raise ValueError(f"{key}: no test clip has a box, so there is nothing to be judged on")


class Head(NamedTuple):
    """A linear classifier of boxes."""

    mean: Tensor  # [D], of the train boxes
    std: Tensor
    weight: Tensor  # [D + 1, K], the bias last

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std @ self.weight[:-1] + self.weight[-1]


def rate(epoch: float, epochs: int, warmup: int) -> float:
    """Share of the peak learning rate: linear over the warm-up, then half a cosine to 0."""
    if epoch < warmup:
        return max(epoch, 0.01) / warmup
    return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(epochs - warmup, 1)))


def refuse_bad_regions(regions: Regions, spec: DataSpec, split: str, key: str = "evals.detect") -> Regions:
    """Raise ValueError naming the first box that is not a box inside its clip, or whose class is none."""
    left, top, right, bottom = regions.boxes.unbind(1)
    inside = (left >= 0) & (top >= 0) & (right <= spec.width) & (bottom <= spec.height)
    bad = ~(inside & (left < right) & (top < bottom))  # also where one is NaN
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"{key}: box {_shown(regions.boxes[first].tolist())} (left, top, right, bottom) of {split} clip "
            f"{int(regions.sample[first])} is not inside the frame of {spec.width}x{spec.height} px"
        )
    outside = (regions.classes < 0) | (regions.classes >= spec.box_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise ValueError(
            f"{key}: the box of {split} clip {int(regions.sample[first])} has the class "
            f"{int(regions.classes[first])}; classes are 0 .. {spec.box_classes - 1}"
        )
    return regions


def _shown(box: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def labelled_as_boxes(spec: DataSpec) -> DataSpec:
    return DataSpec(spec.channels, spec.frames, spec.height, spec.width, {"boxes": spec.box_classes})


def mean_average_precision(scores: Tensor, classes: Tensor) -> float:
    """Mean over the classes that occur in `classes` [M] of the average precision of `scores` [M, K], in [0, 1]."""
    present = torch.unique(classes).tolist()
    return sum(average_precision(scores[:, k], classes == k) for k in present) / len(present)


def average_precision(scores: Tensor, truth: Tensor, *, envelope: bool = True) -> float:
    """Area under precision against recall as a threshold on `scores` [M] falls; `truth` [M] bool has a positive.

    With `envelope` the precision at a recall is the best at that recall or a higher one, as PASCAL VOC (since 2010) and
    AVA count it. Boxes of equal score are taken together, so that their order does not matter.
    """
    order = scores.argsort(descending=True)
    scores, hits = scores[order], truth[order].double()
    is_last = torch.cat([scores[1:] != scores[:-1], torch.ones(1, dtype=torch.bool)])  # of its score
    found, seen = hits.cumsum(0)[is_last], torch.arange(1, len(hits) + 1)[is_last]
    precision, recall = found / seen, found / hits.sum()
    if envelope:
        precision = precision.flip(0).cummax(0).values.flip(0)
    return float((precision * torch.diff(recall, prepend=recall.new_zeros(1))).sum())
