"""Fine-tuning: a copy of the encoder is trained on labels together with a linear head, and judged on the test split."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from core.evals.frozen.clips import plan
from core.evals.frozen.pooling import check_pool
from core.evals.frozen.samples import check_classes, check_test, check_train, draw_per_class, labelled, top1
from core.evals.tuned.mixing import dropout, erase, mix, smoothed
from core.evals.tuned.rand_augment import rand_augment
from core.evals.tuned.recipes import check_recipe, recipe_of, requirement, settings_of
from core.types import (
    DataSpec,
    Encoder,
    EncoderModule,
    Features,
    Optimizer,
    Part,
    Pooling,
    Sampling,
    Tuned,
    Tuning,
    Workshop,
    generator_for,
    takes,
    truncated_normal_,
)

COSTS = ("train_seconds", "seconds_per_step", "tokens_share", "forward_mmac", "views", "parameters_m")


@dataclass
class FineTune(Tuning):
    """Top-1 and top-5 after training everything on the labels, for each label by itself.

    The head is linear on the average of the patch tokens, or on the class token (`pool`). `mask_ratio` hides that share
    of the patches at the first step and less along a cosine, none at the last. With `intermediate` the encoder is first
    trained on that label of the data that it was pretrained on. What is trained is the encoder that is judged, that of
    a moving average where there is one. Test scores are class probabilities averaged over `temporal_views` x
    `spatial_views` clips of a video, cut as `core.evals.frozen.clips.plan` says. Training cuts a clip from a random
    moment. Either is at `size`, for which embeddings of places are enlarged (`core.models.adapted`).

    Beside the accuracies it gives what this costs: seconds of training, all labels together, and per step; the share
    of tokens that training encoded, the multiply-adds of one view (in millions), how many views, the encoder's
    parameters (in millions).

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), Tables 5b, 6, 10 and 11; V-JEPA (Bardes et al., 2024,
    arXiv:2404.08471), Table 8; I-JEPA (Assran et al., 2023, arXiv:2301.08243), A.2 (1 % of the labels) and D. The
    defaults are MAE-ST's for ViT-L but for the length and the batch, and with I-JEPA's dropout, none.
    """

    needs_labels: ClassVar[bool] = True

    labels: list[str] | None = None  # of the data it is judged on; null = each of them
    share: float = 1.0  # fraction of each class's train samples whose label is given, at least one
    intermediate: str | None = None  # label of the pretraining data that the encoder is trained on before
    intermediate_steps: int | None = None  # null: `steps`
    steps: int = 2000
    batch_size: int = 256  # counts every repeat
    repeats: int = 1  # samples made of each clip that is fetched
    optimizer: Optimizer = field(default=Optimizer.adamw, metadata=takes(Optimizer.adamw, Optimizer.sgd))
    lr: float = 0.001  # the peak
    lr_start: float = 0.0
    lr_end: float = 1e-6
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    beta1: float = 0.9  # momentum of sgd
    beta2: float = 0.999
    clip: float = 0.0  # largest gradient norm; 0 leaves gradients alone
    layer_decay: float = 0.75  # learning rate of a block in units of the next one's
    drop_path: float = 0.1
    dropout: float = 0.0  # of the head's input
    head_std: float = 0.02  # of the head's initial weights
    smoothing: float = 0.1
    mixup: float = 0.8  # alpha; 0 = off
    cutmix: float = 1.0  # alpha; 0 = off
    rand_layers: int = 2  # changes of RandAugment; 0 = off
    rand_magnitude: float = 9.0  # in tenths
    rand_std: float = 0.5
    erase: float = 0.0  # probability of random erasing
    scale_min: float = 0.5  # of random crops, as in `augment`
    scale_max: float = 1.0
    flip: bool = False
    color: float = 0.0
    mask_ratio: float = 0.0  # at the first step
    temporal_views: int = 1
    spatial_views: int = 1
    size: int | None = None  # px that the copy is trained and judged at; null = what the encoder was pretrained at
    tubelet: int = 2  # frames; of an encoder of images that is inflated for clips
    # What the head reads: the average of the patches, or the class token.
    pool: Pooling = field(default=Pooling.mean, metadata=takes(Pooling.mean, Pooling.cls))

    def __post_init__(self) -> None:
        check_recipe(self, "evals.finetune")
        require = requirement(self, "evals.finetune")
        require(self.labels is None or len(self.labels) > 0, "labels", "one or more labels, or null for all")
        require(0 < self.share <= 1, "share", "in (0, 1]")
        require(self.intermediate_steps is None or self.intermediate_steps >= 1, "intermediate_steps", "at least 1")
        for name in ("repeats", "temporal_views", "spatial_views", "tubelet"):
            require(getattr(self, name) >= 1, name, "at least 1")
        require(self.batch_size % self.repeats == 0, "repeats", f"a divisor of batch_size = {self.batch_size}")
        for name in ("mixup", "cutmix", "rand_layers", "rand_std"):
            require(getattr(self, name) >= 0, name, "at least 0")
        for name in ("dropout", "smoothing", "mask_ratio"):
            require(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        require(0 <= self.rand_magnitude <= 10, "rand_magnitude", "in [0, 10]")
        require(0 <= self.erase <= 1, "erase", "in [0, 1]")
        require(0 < self.scale_max <= 1, "scale_max", "in (0, 1]")
        require(0 < self.scale_min <= self.scale_max, "scale_min", f"in (0, scale_max = {self.scale_max:g}]")
        require(0 <= self.color <= 2, "color", "in [0, 2]")
        require(self.size is None or 8 <= self.size <= 2048, "size", "in [8, 2048] px, or null")

    @property
    def reads_pretraining(self) -> bool:
        return self.intermediate is not None

    @property
    def sampling(self) -> Sampling:
        return Sampling(clips=1, temporal_views=self.temporal_views, spatial_views=self.spatial_views)

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        self._labels(spec)
        if self.intermediate is not None and self.intermediate not in built_for.classes:
            raise ValueError(
                f"evals.finetune.intermediate must be a label of the data the encoder is trained on "
                f"({', '.join(built_for.classes) or 'none'}), got {self.intermediate}"
            )
        if built_for.frames == 1 < spec.frames and spec.frames % self.tubelet:
            raise ValueError(
                f"evals.finetune.tubelet must divide the {spec.frames} frames of a clip, got {self.tubelet}"
            )
        if self.size is not None:
            built_for = dataclasses.replace(built_for, height=self.size, width=self.size)
            try:
                encoder.grid(built_for)
            except ValueError as error:
                raise ValueError(f"evals.finetune.size={self.size}: {error}") from error
        plan(spec, built_for, self.sampling, "evals.finetune.")
        check_pool("evals.finetune.pool", self.pool, encoder, built_for, spec)

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        check_classes(train, test, spec, names=self._labels(spec))

    def metrics(self, spec: DataSpec) -> list[str]:
        accuracies = [f"finetune/{label}_{top}" for label in self._labels(spec) for top in ("top1", "top5")]
        return [*accuracies, *(f"finetune/{name}" for name in COSTS)]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        raise ValueError("evals.finetune: frozen features cannot be fine-tuned; it is run by `tune`")

    def can_share(self, num: int) -> bool:
        return self.batch_size % (2 * num) == 0

    def tune(self, workshop: Workshop, seed: int) -> dict[str, float]:
        test, start = workshop.spec("test", self.size), None
        if self.intermediate is not None:
            steps = self.intermediate_steps or self.steps
            stage = f"intermediate_{self.intermediate}"
            tuned, _ = self._fit(workshop, stage, "pretrain", self.intermediate, None, steps, seed)
            start = tuned.encoder
        results: dict[str, float] = {}
        costs: list[Mapping[str, float]] = []
        for label in self._labels(test):
            tuned, cost = self._fit(workshop, label, "train", label, start, self.steps, seed)
            truth, scores = self._scores(workshop, tuned, label)
            results |= {f"finetune/{label}_top1": top1(scores, truth), f"finetune/{label}_top5": top5(scores, truth)}
            costs.append(cost)
        costs_of_all = {
            "train_seconds": sum(cost["train_seconds"] for cost in costs),
            "seconds_per_step": sum(cost["seconds_per_step"] for cost in costs) / len(costs),
            "tokens_share": tokens_share(self.mask_ratio, self.steps, tuned.encoder.grid.num_patches),
            "forward_mmac": workshop.forward_mmac(tuned.eval().encoder, self.size),
            "views": self.temporal_views * self.spatial_views,
            "parameters_m": sum(p.numel() for p in tuned.encoder.parameters()) / 1e6,
        }
        return results | {f"finetune/{name}": float(value) for name, value in costs_of_all.items()}

    def _labels(self, spec: DataSpec) -> list[str]:
        labels = list(spec.classes) if self.labels is None else self.labels
        absent = [label for label in labels if label not in spec.classes]
        if absent or not labels:
            raise ValueError(
                f"evals.finetune.labels: this data set has the labels {', '.join(spec.classes) or 'none'}, "
                f"got {self.labels}"
            )
        return labels

    # ---- training ----------------------------------------------------------------------------------------------------

    def _fit(
        self,
        workshop: Workshop,
        stage: str,
        split: str,
        label: str,
        start: EncoderModule | None,
        steps: int,
        seed: int,
    ) -> tuple[Classifier, dict[str, float]]:
        spec = workshop.spec(split, self.size)
        encoder = workshop.encoder(split, drop_path=self.drop_path, start=start, tubelet=self.tubelet, size=self.size)
        tuned = Classifier(encoder, label, spec, self, generator_for(seed, "head"))
        samples = self._samples(workshop, split, label, seed)
        # An evaluation may be called under inference mode, where nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            cost = workshop.fit(stage, tuned, split, samples, recipe_of(self, steps), settings_of(self), seed)
        return tuned, cost

    def _samples(self, workshop: Workshop, split: str, label: str, seed: int) -> Tensor:
        """Indices of the train samples whose label is given."""
        spec, labels = workshop.spec(split), workshop.labels(split)
        known = labelled(labels, split, label, spec).nonzero().flatten()
        check_train(labels[label][known], label, spec)
        if self.share == 1 or split != "train":
            return known
        classes = labels[label][known]
        counts = classes.bincount(minlength=spec.classes[label])
        wanted = (counts * self.share).round().long().clamp(min=1).minimum(counts)
        given, _ = draw_per_class(classes, wanted, generator_for(seed, "low_shot", label, 0))
        return known[given.sort().values]

    # ---- testing -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _scores(self, workshop: Workshop, tuned: Classifier, label: str) -> tuple[Tensor, Tensor]:
        """Classes [N] of the labelled test videos and the class probabilities [N, K], averaged over the views."""
        spec, labels = workshop.spec("test"), workshop.labels("test")
        known = labelled(labels, "test", label, spec)
        check_test(labels[label][known], label, workshop.labels("train")[label])
        scores = torch.zeros(len(known), spec.classes[label])
        tuned.eval()
        for rows, _, clips in workshop.views(self.sampling, self.size):
            with workshop.autocast():
                scores[rows] += tuned.logits(clips).float().softmax(dim=1).cpu()
        workshop.summed(scores)
        if not scores.isfinite().all():
            raise FloatingPointError(f"fine-tuning on {label}: the test scores are not finite")
        return labels[label][known], scores[known] / (self.temporal_views * self.spatial_views)


class Classifier(Tuned):
    """An encoder and a linear head on the average of its patch tokens, or on its class token."""

    def __init__(
        self, encoder: EncoderModule, label: str, spec: DataSpec, options: FineTune, generator: Generator
    ) -> None:
        super().__init__()
        self.encoder, self.label, self.spec, self.options = encoder, label, spec, options
        self.head = nn.Linear(encoder.width, spec.classes[label], device="meta").to_empty(device="cpu")
        truncated_normal_(self.head.weight, options.head_std, generator)
        nn.init.zeros_(self.head.bias)

    def logits(self, clips: Tensor, keep: Tensor | None = None) -> Tensor:
        out: Tensor = self.head(self._pooled(clips, keep))
        return out

    def _pooled(self, clips: Tensor, keep: Tensor | None) -> Tensor:
        tokens: Tensor = self.encoder(clips, keep)
        return tokens[:, 0] if self.options.pool is Pooling.cls else tokens[:, self.encoder.num_prefix :].mean(1)

    def loss(
        self, clips: Tensor, labels: Mapping[str, Tensor], draw: Callable[[str], Generator], progress: float
    ) -> dict[str, Tensor]:
        options, truth = self.options, labels[self.label]
        clips = self._changed(clips, draw)
        part = self.part or Part(len(clips))
        keep = kept_patches(options.mask_ratio, progress, part, self.encoder.grid.num_patches, draw)
        is_mixed = options.mixup > 0 or options.cutmix > 0
        if is_mixed:
            soft = smoothed(truth, self.head.out_features, options.smoothing)
            clips, soft = mix(clips, soft, mixup=options.mixup, cutmix=options.cutmix, generator=draw("mix"))
        pooled = self._pooled(clips, None if keep is None else keep.to(clips.device))
        if options.dropout > 0:
            pooled = dropout(pooled, options.dropout, draw("dropout"), self.part)
        logits = self.head(pooled).float()
        if is_mixed:
            return {"loss": F.cross_entropy(logits, soft)}
        return {"loss": F.cross_entropy(logits, truth, label_smoothing=options.smoothing)}

    def _changed(self, clips: Tensor, draw: Callable[[str], Generator]) -> Tensor:
        """RandAugment, on bytes as it is defined, and random erasing."""
        options = self.options
        if options.rand_layers > 0:
            mean = torch.tensor(self.spec.mean, device=clips.device).view(-1, 1, 1, 1)
            std = torch.tensor(self.spec.std, device=clips.device).view(-1, 1, 1, 1)
            stored = ((clips * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
            changed = rand_augment(
                stored,
                layers=options.rand_layers,
                magnitude=options.rand_magnitude,
                std=options.rand_std,
                generator=draw("rand_augment"),
                part=self.part,
            )
            clips = (changed.float() / 255 - mean) / std
        return erase(clips, options.erase, draw("erase"), self.part) if options.erase > 0 else clips


def kept_patches(
    ratio: float, progress: float, part: Part, num_patches: int, draw: Callable[[str], Generator]
) -> Tensor | None:
    """Indices [B, n] of the patches that are encoded, in order; None for all of them."""
    kept = num_kept(ratio, progress, num_patches)
    if kept == num_patches:
        return None
    noise = part.own(torch.rand(part.num, num_patches, generator=draw("finetune_mask")))
    return noise.argsort(dim=1)[:, :kept].sort(dim=1).values


def num_kept(ratio: float, progress: float, num_patches: int) -> int:
    """How many patches are encoded when the share `ratio` of them is hidden at progress 0, none at progress 1.

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), appendix B.3: cosine annealing.
    """
    hidden = ratio * 0.5 * (1 + math.cos(math.pi * progress))
    return max(1, round((1 - hidden) * num_patches))


def tokens_share(ratio: float, steps: int, num_patches: int) -> float:
    """Mean share of the patches that training encodes."""
    return sum(num_kept(ratio, step / max(steps - 1, 1), num_patches) for step in range(steps)) / steps / num_patches


def top5(scores: Tensor, labels: Tensor) -> float:
    """Percent of rows of `scores` [N, K] that have the label [N] among their five largest: all where K is at most 5."""
    return 100 * (scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]).any(1).double().mean().item()
