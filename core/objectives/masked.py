"""Masked prediction: encode the context patches, predict the target patches.

MAE is ``target=pixels predictor=decoder loss=mse mask=random``; I-JEPA is ``target=ema predictor=narrow
loss=smooth_l1 mask=multiblock``; V-JEPA gives several masks to each clip. There is nothing else to tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from core.types import (
    DataSpec,
    EncoderModule,
    Learner,
    Loss,
    Objective,
    Parts,
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

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        mask, target, predictor, loss = parts.mask, parts.target, parts.predictor, parts.loss
        assert mask and target and predictor and loss, "core.config refuses a masked objective without its parts"
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
        self, encoder: EncoderModule, predictor: nn.Module, target: TargetModule, loss: Loss, *, dense: bool
    ) -> None:
        super().__init__()
        self.encoder, self.predictor, self.target, self.loss, self.dense = encoder, predictor, target, loss, dense

    @property
    def judged_encoder(self) -> EncoderModule:
        return self.target.encoder if self.target.encoder is not None else self.encoder

    def forward(self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View]) -> dict[str, Tensor]:
        targets = self.target(clips, views)
        totals: dict[str, Tensor] = {}
        for group in same_shape_groups(views):
            tokens = self.encode(clips, [views[i] for i in group])
            stacked = stack_views([views[i] for i in group])
            wanted = torch.cat([targets[i] for i in group]) if len(group) > 1 else targets[group[0]]
            parts = self.loss(self.predictor(tokens, stacked), wanted, stacked.target_valid)
            for name, value in parts.items():
                share = value * (len(group) / len(views))
                totals[name] = totals[name] + share if name in totals else share
        return totals

    def encode(self, clips: Tensor, views: Sequence[View]) -> Tensor:
        """Tokens of each view's context, stacked along the batch; a context shared by all views is encoded once."""
        if self.dense:
            return torch.cat([self.encoder(clips, hidden=view.target) for view in views])
        if all(view.context is views[0].context for view in views):
            tokens: Tensor = self.encoder(clips, keep=views[0].context, valid=views[0].context_valid)
            return tokens.repeat(len(views), 1, 1) if len(views) > 1 else tokens
        return torch.cat([self.encoder(clips, keep=view.context, valid=view.context_valid) for view in views])

    def after_step(self, step: int, num_steps: int) -> dict[str, float]:
        return self.target.update(self.encoder, step, num_steps)

    @torch.no_grad()
    def reconstruct(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        painted = (self.target.paint(clips, v, self.predictor(self.encode(clips, [v]), v).float()) for v in views)
        return [clip for clip in painted if clip is not None]


def same_shape_groups(views: Sequence[View]) -> list[list[int]]:
    """Indices of views that one predictor call can serve: same mask type, same lengths."""
    groups: dict[object, list[int]] = {}
    for i, view in enumerate(views):
        groups.setdefault((view.kind, view.context.shape, view.target.shape), []).append(i)
    return list(groups.values())


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
