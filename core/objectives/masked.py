"""Masked prediction: encode the context patches, predict the target patches.

MAE is ``target=pixels predictor=decoder loss=mse mask=random``; I-JEPA is ``target=ema predictor=narrow
loss=smooth_l1 mask=multiblock``; V-JEPA gives several masks to each clip. There is nothing else to tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from core.types import (
    DataSpec,
    Encoder,
    EncoderModule,
    Learner,
    Loss,
    Objective,
    Parts,
    PredictorModule,
    TargetModule,
    View,
    generator_for,
)


@dataclass
class MaskedPrediction(Objective):
    """Predict what is hidden from what is not, in the space that `target` chooses.

    Source: MAE (arXiv:2111.06377) section 3, I-JEPA (arXiv:2301.08243) section 3, V-JEPA (arXiv:2404.08471) section 3.
    """

    uses: ClassVar[tuple[str, ...]] = ("mask", "target", "predictor", "loss")

    def check(self, encoder: Encoder, spec: DataSpec, pairs: DataSpec | None) -> None:
        if encoder.has_pyramid:
            raise ValueError(
                "encoder: objective=masked shows the encoder only the patches of a mask, and this one sees whole "
                "frames: choose encoder=vit"
            )

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        mask, target, predictor, loss = parts.mask, parts.target, parts.predictor, parts.loss
        assert mask and target and predictor and loss, (
            "core.configuring.config refuses a masked objective without its parts"
        )
        encoder = parts.encoder.build(spec, generator_for(seed, "encoder"))
        target_module = target.build(encoder, spec)
        # One throw-away draw tells how many mask types (V-JEPA) the predictor needs a token for.
        views = mask.sample(encoder.grid, 2, generator_for(seed, "num_kinds"))
        num_kinds = 1 + max(view.kind for view in views)
        predictor_module = predictor.build(encoder, target_module.out_dim, num_kinds, generator_for(seed, "predictor"))
        dense = bool(getattr(predictor, "dense_encoder", False))
        return MaskedLearner(encoder, predictor_module, target_module, loss, dense=dense)


class MaskedLearner(Learner):
    """Encoder, predictor and target of masked prediction."""

    def __init__(
        self, encoder: EncoderModule, predictor: PredictorModule, target: TargetModule, loss: Loss, *, dense: bool
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.target, self.loss, self.dense = encoder, predictor, target, loss, dense

    @property
    def judged_encoder(self) -> EncoderModule:
        return self.target.encoder if self.target.encoder is not None else self.encoder

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        targets = self.target(clips, views)
        totals: dict[str, Tensor] = {}
        groups = same_shape_groups(views)
        stacked = [stack_views([views[i] for i in group]) for group in groups]
        predictions = self.predictor.many(self.encode(clips, views, groups), stacked)
        for group, prediction, view in zip(groups, predictions, stacked, strict=True):
            wanted = torch.cat([targets[i] for i in group]) if len(group) > 1 else targets[group[0]]
            parts = self.loss(prediction, wanted, view.target_valid)
            for name, value in parts.items():
                share = value * (len(group) / len(views))
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def embeddings(self, clips: Tensor, views: Sequence[View]) -> Tensor | None:
        """Predictions, averaged over all hidden patches of a sample: one view, of whatever masks; [1, B, D]."""
        if self.target.encoder is None:
            return None  # pixels or classes are no embedding
        groups = same_shape_groups(views)
        stacked = [stack_views([views[i] for i in group]) for group in groups]
        predictions = self.predictor.many(self.encode(clips, views, groups), stacked)
        total = count = torch.zeros(len(clips), 1, device=clips.device)
        for prediction, view in zip(predictions, stacked, strict=True):
            counts = torch.ones_like(view.target) if view.target_valid is None else view.target_valid
            counts = counts.float().unsqueeze(-1)  # [G * B, Nt, 1]
            total = total + (prediction.float() * counts).sum(1).view(-1, len(clips), prediction.shape[-1]).sum(0)
            count = count + counts.sum(1).view(-1, len(clips), 1).sum(0)
        return (total / count).unsqueeze(0)

    def encoded(self, clips: Tensor, views: Sequence[View], pairs: Tensor | None) -> list[torch.Size]:
        return [clips.shape] * (len(views) if self.dense else len({id(view.context) for view in views}))

    def encode(self, clips: Tensor, views: Sequence[View], groups: Sequence[Sequence[int]]) -> list[Tensor]:
        """Tokens of each view's context, those of a group stacked along the batch.

        A context that views share is encoded once; different ones go through the encoder together.
        """
        if self.dense:
            return [torch.cat([self.encoder(clips, hidden=views[i].target) for i in group]) for group in groups]
        # Told apart with `is`: torch.compile takes an id() for a constant, and compiles every step anew.
        distinct: list[View] = []
        places = []
        for view in views:
            same = [place for place, other in enumerate(distinct) if other.context is view.context]
            places.append(same[0] if same else len(distinct))
            if not same:
                distinct.append(view)
        if any(view.context_valid is not None for view in views):
            encoded = [self.encoder(clips, view.context, view.context_valid) for view in distinct]
        else:
            encoded = self.encoder.many(clips, [view.context for view in distinct])
        tokens = [encoded[place] for place in places]
        return [torch.cat([tokens[i] for i in group]) if len(group) > 1 else tokens[group[0]] for group in groups]

    def prepare(self, read: Callable[[Tensor], Tensor], length: int, cache: Path, seed: int) -> None:
        self.target.prepare(read, length, cache, seed)

    def after_step(self, step: int, num_steps: int) -> dict[str, float]:
        return self.target.update(self.encoder, step, num_steps)

    @torch.no_grad()
    def reconstruct(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        tokens = (self.encode(clips, [view], [[0]])[0] for view in views)
        painted = (
            self.target.paint(clips, v, self.predictor(t, v).float()) for t, v in zip(tokens, views, strict=True)
        )
        return [clip for clip in painted if clip is not None]


def same_shape_groups(views: Sequence[View]) -> list[list[int]]:
    """Indices of views that one predictor call can serve: same mask type, same lengths."""
    groups: list[list[int]] = []
    for i, view in enumerate(views):
        # Compared, not keys of a dict: torch.compile would hold a length for the only one that there is.
        same = [group for group in groups if has_same_shape(views[group[0]], view)]
        if same:
            same[0].append(i)
        else:
            groups.append([i])
    return groups


def has_same_shape(one: View, other: View) -> bool:
    lengths = one.context.shape[1] == other.context.shape[1] and one.target.shape[1] == other.target.shape[1]
    return one.kind == other.kind and lengths


def stack_views(views: Sequence[View]) -> View:
    """Several views as one of num_views * B sequences, so that each (sample, view) pair is a sequence of its own.

    I-JEPA's four targets of an image do not see each other: they are separate sequences that share a context.
    """
    if len(views) == 1:
        return views[0]

    def cat(parts: list[Tensor | None]) -> Tensor | None:
        kept = [part for part in parts if part is not None]
        return torch.cat(kept) if kept else None

    return View(
        context=torch.cat([view.context for view in views]),
        target=torch.cat([view.target for view in views]),
        context_valid=cat([view.context_valid for view in views]),
        target_valid=cat([view.target_valid for view in views]),
        kind=views[0].kind,
    )
