"""Segmentation on fine-tuned features: a copy of the encoder is trained together with the head of `seg`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from core.evals.frozen.maps import by_frame, check_pixels
from core.evals.seg import Frames, check_segments, confusion, enlarged, mean_iou, pixel_loss
from core.evals.tuned.recipes import check_recipe, recipe_of, requirement, settings_of
from core.types import (
    SAMPLE,
    Dataset,
    DataSpec,
    Encoder,
    EncoderModule,
    Features,
    Sampling,
    Tuned,
    Tuning,
    Workshop,
    generator_for,
    truncated_normal_,
)

KEY = "evals.seg_tuned"
Truth = Callable[[Tensor], Tensor]  # samples [B] -> what their pixels show, [B, F, H, W]


@dataclass
class SegmentTuned(Tuning):
    """Mean intersection over union, in percent, after training everything on the classes of the train pixels.

    The head, its loss and the mean are those of `seg`. Clips are whole and not mirrored, and cut at no moment. What is
    trained is a copy of the encoder that is judged; an encoder of images is inflated for clips.

    Source: the fine-tuned linear evaluation of MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), Table 1. The paper does
    not print its recipe; AdamW and the defaults are those of `finetune`, shorter and without its augmentations.
    """

    frames: Frames = Frames.middle
    steps: int = 1000
    batch_size: int = 32  # clips
    lr: float = 0.0005  # the peak
    lr_start: float = 0.0
    lr_end: float = 1e-6
    warmup_share: float = 0.1
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 0.0  # largest gradient norm; 0 leaves gradients alone
    layer_decay: float = 1.0  # learning rate of a block in units of the next one's
    drop_path: float = 0.1
    head_std: float = 0.02  # of the head's initial weights
    tubelet: int = 2  # frames; of an encoder of images that is inflated for clips

    def __post_init__(self) -> None:
        check_recipe(self, KEY)
        require = requirement(self, KEY)
        require(self.tubelet >= 1, "tubelet", "at least 1")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        check_segments(KEY, built_for, spec)
        same_frames = spec.frames == built_for.frames or 1 in (spec.frames, built_for.frames)
        if (spec.height, spec.width) != (built_for.height, built_for.width) or not same_frames:
            raise ValueError(
                f"{KEY}: the data's clips are {spec.frames} x {spec.height}x{spec.width} px and the encoder's "
                f"{built_for.frames} x {built_for.height}x{built_for.width}; pixels of clips that are cut have no "
                "place: make them equal, or one of them images"
            )
        if built_for.frames == 1 < spec.frames and not encoder.has_pyramid and spec.frames % self.tubelet:
            raise ValueError(f"{KEY}.tubelet must divide the {spec.frames} frames of a clip, got {self.tubelet}")

    def check_truth(self, train: Dataset, test: Dataset) -> None:
        check_pixels(KEY, train, test, self.frames.of(test.spec.frames))

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["seg_tuned/miou"]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        raise ValueError(f"{KEY}: frozen features cannot be fine-tuned; it is run by `tune`")

    def can_share(self, num: int) -> bool:
        return self.batch_size % (2 * num) == 0

    def tune(self, workshop: Workshop, seed: int) -> dict[str, float]:
        spec = workshop.spec("train")
        frames = self.frames.of(spec.frames)
        encoder = workshop.encoder("train", drop_path=self.drop_path, start=None, tubelet=self.tubelet)
        tuned = Segmenter(
            encoder,
            spec,
            frames,
            lambda samples: workshop.segments("train", samples, frames),
            head_std=self.head_std,
            generator=generator_for(seed, "head"),
        )
        # An evaluation may be called under inference mode, where nothing can be trained.
        with torch.inference_mode(False), torch.enable_grad():
            every = torch.arange(workshop.num_samples("train"))
            workshop.fit("seg_tuned", tuned, "train", every, recipe_of(self, self.steps), settings_of(self), seed)
        return {"seg_tuned/miou": 100 * self._mean_iou(workshop, tuned, frames)}

    @torch.no_grad()
    def _mean_iou(self, workshop: Workshop, tuned: Segmenter, frames: list[int]) -> float:
        num_classes = tuned.head.out_features
        counts, num_broken = torch.zeros(num_classes, num_classes, dtype=torch.int64), torch.tensor(0)
        tuned.eval()
        for rows, _, clips in workshop.views(Sampling(clips=1)):
            with workshop.autocast():
                scores = tuned.scores(clips).float()
            num_broken += int(not scores.isfinite().all())
            truth = workshop.segments("test", torch.arange(rows.start, rows.start + len(clips)), frames)
            counts += confusion(scores.argmax(1).cpu(), truth.flatten(0, 1), num_classes)
        if workshop.summed(num_broken):
            raise FloatingPointError(f"{KEY}: the scores of the test pixels are not finite")
        workshop.summed(counts)
        if not counts.any():
            raise ValueError(f"{KEY}: no test pixel has a class, so there is nothing to be judged on")
        return mean_iou(counts)


class Segmenter(Tuned):
    """An encoder and a linear head on the tokens of some of a clip's frames, enlarged to the frames."""

    def __init__(
        self,
        encoder: EncoderModule,
        spec: DataSpec,
        frames: list[int],
        truth: Truth,
        *,
        head_std: float,
        generator: Generator,
    ) -> None:
        super().__init__()
        self.encoder, self._spec, self._frames, self._truth = encoder, spec, frames, truth
        self.head = nn.Linear(encoder.width, spec.segment_classes, device="meta").to_empty(device="cpu")
        truncated_normal_(self.head.weight, head_std, generator)
        nn.init.zeros_(self.head.bias)

    def scores(self, clips: Tensor) -> Tensor:
        """[B, C, T, H, W] -> [B * F, K, H, W]."""
        tokens = self.encoder(clips)[:, self.encoder.num_prefix :]
        maps = by_frame(tokens, self.encoder.grid, self._spec.frames, self._frames).flatten(0, 1)
        return enlarged(self.head(maps).movedim(-1, 1), clips.shape[-2:])

    def loss(
        self, clips: Tensor, labels: Mapping[str, Tensor], draw: Callable[[str], Generator], progress: float
    ) -> dict[str, Tensor]:
        truth = self._truth(labels[SAMPLE].cpu()).flatten(0, 1).to(clips.device)
        return {"loss": pixel_loss(self.scores(clips).float(), truth, self.part)}
