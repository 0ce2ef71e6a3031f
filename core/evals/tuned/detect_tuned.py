"""Detection from given boxes on fine-tuned features: the encoder is trained together with the head of `detect`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from core.evals.detect import (
    Moment,
    Pool,
    box_features,
    check_boxes,
    check_regions,
    every_layer,
    labelled_as_boxes,
    mean_average_precision,
    refuse_bad_regions,
)
from core.evals.frozen.samples import check_layers, check_train
from core.evals.tuned.mixing import dropout
from core.evals.tuned.recipes import check_recipe, recipe_of, requirement, settings_of
from core.types import (
    SAMPLE,
    Dataset,
    DataSpec,
    Encoder,
    EncoderModule,
    Features,
    Optimizer,
    Regions,
    Sampling,
    Tuned,
    Tuning,
    Workshop,
    generator_for,
    takes,
    truncated_normal_,
)

KEY = "evals.detect_tuned"
COSTS = ("train_seconds", "seconds_per_step")


@dataclass
class DetectTuned(Tuning):
    """Mean average precision after training everything on the classes of the train boxes.

    Of each clip that has boxes, whole and not mirrored: RoI-align on several layers side by side and a linear head with
    a cross-entropy for each class by itself, as in `detect`. Test boxes are the given ones too. What is trained is a
    copy of the encoder that is judged.

    Source: MAE-ST (Feichtenhofer et al., 2022, arXiv:2205.09113), appendix B.2 and Table 6a, whose drop path, layer
    decay and warm-up these are; the head is V-JEPA's (Bardes et al., 2024, arXiv:2404.08471), appendix B.2. Departures:
    AdamW by default, as short runs want; a batch norm before the head, as `detect` standardises over the train boxes;
    given boxes also in testing, where the papers have a detector's.
    """

    num_layers: int = 4
    layer_step: int = 1  # 2 takes every second layer, from the last
    resolution: int = 7  # bins a side
    pool: Pool = Pool.max
    moment: Moment = Moment.clip
    steps: int = 2000
    batch_size: int = 64  # clips
    optimizer: Optimizer = field(default=Optimizer.adamw, metadata=takes(Optimizer.adamw, Optimizer.sgd))
    lr: float = 0.0005  # the peak
    lr_start: float = 0.0
    lr_end: float = 1e-6
    warmup_share: float = 0.1667  # 5 epochs of 30
    weight_decay: float = 0.05
    beta1: float = 0.9  # momentum of sgd
    beta2: float = 0.999
    clip: float = 0.0  # largest gradient norm; 0 leaves gradients alone
    layer_decay: float = 0.75  # learning rate of a block in units of the next one's
    drop_path: float = 0.2
    dropout: float = 0.0  # of the head's input
    head_std: float = 0.02  # of the head's initial weights

    def __post_init__(self) -> None:
        check_recipe(self, KEY)
        require = requirement(self, KEY)
        for name in ("num_layers", "layer_step", "resolution"):
            require(getattr(self, name) >= 1, name, "at least 1")
        require(0 <= self.dropout < 1, "dropout", "in [0, 1)")

    @property
    def span(self) -> int:
        """How many of the last layers are asked for: those taken, and those skipped between them."""
        return (self.num_layers - 1) * self.layer_step + 1

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_layers(f"{KEY}.num_layers (with layer_step)", self.span, encoder)
        check_boxes(KEY, Sampling(clips=1), built_for, spec)

    def check_truth(self, train: Dataset, test: Dataset) -> None:
        check_regions(KEY, train, test)

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["detect_tuned/map", *(f"detect_tuned/{name}" for name in COSTS)]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        raise ValueError(f"{KEY}: frozen features cannot be fine-tuned; it is run by `tune`")

    def tune(self, workshop: Workshop, seed: int) -> dict[str, float]:
        spec = workshop.spec("train")
        regions = {split: refuse_bad_regions(workshop.regions(split), spec, split, KEY) for split in ("train", "test")}
        check_train(regions["train"].classes, "boxes", labelled_as_boxes(spec))
        if not len(regions["test"].classes):
            raise ValueError(f"{KEY}: no test clip has a box, so there is nothing to be judged on")
        encoder = workshop.encoder("train", drop_path=self.drop_path, start=None, tubelet=1)
        tuned = Detector(encoder, regions["train"], spec, self, generator_for(seed, "head"))
        with_boxes = torch.unique(regions["train"].sample)
        # An evaluation may be called under inference mode, where nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            cost = workshop.fit(
                "detect_tuned", tuned, "train", with_boxes, recipe_of(self, self.steps), settings_of(self), seed
            )
        found = 100 * mean_average_precision(self._scores(workshop, tuned, regions["test"]), regions["test"].classes)
        return {"detect_tuned/map": found, **{f"detect_tuned/{name}": float(cost[name]) for name in COSTS}}

    @torch.no_grad()
    def _scores(self, workshop: Workshop, tuned: Detector, regions: Regions) -> Tensor:
        """Scores [M, K] of the test boxes."""
        scores = torch.zeros(len(regions.classes), tuned.head.out_features)
        tuned.eval()
        for rows, _, clips in workshop.views(Sampling(clips=1)):
            here = ((regions.sample >= rows.start) & (regions.sample < rows.stop)).nonzero().flatten()
            if len(here):
                with workshop.autocast():
                    logits = tuned.logits(clips, regions.sample[here] - rows.start, regions.boxes[here])
                scores[here] = logits.float().cpu()
        if not scores.isfinite().all():
            raise FloatingPointError(f"{KEY}: the scores of the test boxes are not finite")
        return scores


class Detector(Tuned):
    """An encoder and a linear head on what its layers have in each box."""

    boxes: Tensor  # [M, 4] of the clips that it is trained on, clip by clip
    classes: Tensor  # [M]
    counts: Tensor  # of each clip's boxes
    first: Tensor  # which box is a clip's first

    def __init__(
        self, encoder: EncoderModule, regions: Regions, spec: DataSpec, options: DetectTuned, generator: Generator
    ) -> None:
        super().__init__()
        self.encoder, self.spec, self.options = encoder, spec, options
        width = encoder.width * options.num_layers
        # The largest values of a feature differ little from box to box, and without this a head of 150 steps sees
        # hardly any of it: mAP 28 instead of 87 on one digit a clip.
        self.norm = nn.BatchNorm1d(width, affine=False)
        self.head = nn.Linear(width, spec.box_classes, device="meta").to_empty(device="cpu")
        truncated_normal_(self.head.weight, options.head_std, generator)
        nn.init.zeros_(self.head.bias)
        # Not persistent: a checkpoint need not hold the data's boxes.
        order = regions.sample.argsort(stable=True)
        counts = regions.sample.bincount()
        for name, values in {
            "boxes": regions.boxes[order],
            "classes": regions.classes[order],
            "counts": counts,
            "first": counts.cumsum(0) - counts,
        }.items():
            self.register_buffer(name, values, persistent=False)

    def logits(self, clips: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        """Of each of `boxes` [M, 4], which are of the clips `rows` [M]: [M, K]."""
        out: Tensor = self.head(self._seen(clips, rows, boxes))
        return out

    def _seen(self, clips: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        options = self.options
        layers = torch.cat(self.encoder.intermediate(clips, options.span), dim=2)
        taken = every_layer(layers, options.span, options.layer_step)
        features = box_features(
            taken, rows.to(clips.device), boxes.to(clips.device), self.spec, self.encoder.grid,
            moment=options.moment, pool=options.pool, resolution=options.resolution,
        )  # fmt: skip
        is_spread = self.training and len(features) > 1  # one box has none
        return F.batch_norm(features, self.norm.running_mean, self.norm.running_var, training=is_spread)

    def loss(
        self, clips: Tensor, labels: Mapping[str, Tensor], draw: Callable[[str], Generator], progress: float
    ) -> dict[str, Tensor]:
        rows, which = self._boxes_of(labels[SAMPLE])
        features = self._seen(clips, rows, self.boxes[which])
        if self.options.dropout > 0:
            features = dropout(features, self.options.dropout, draw("dropout"))
        truth = F.one_hot(self.classes[which], self.spec.box_classes).float()
        return {"loss": F.binary_cross_entropy_with_logits(self.head(features).float(), truth)}

    def _boxes_of(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Of the clips `samples` [B] of the data set: which row of the batch each box is of, and which box it is."""
        counts = self.counts[samples]
        rows = torch.arange(len(samples), device=samples.device).repeat_interleave(counts)
        within = torch.arange(len(rows), device=samples.device) - (counts.cumsum(0) - counts)[rows]
        return rows, self.first[samples][rows] + within
