"""MC-JEPA: motion from pairs of frames and content from two views of a picture, in one encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import torch
from torch import Generator, Tensor

from core.objectives.flow import FlowOptions, FlowTask, Pyramid
from core.objectives.flow_losses import weighted_sum
from core.objectives.vicreg import ContentDraws, ContentOptions, ContentTask
from core.types import DataSpec, Encoder, EncoderModule, Learner, Objective, Pace, Parts, View, generator_for


class Order(Enum):
    """When which of the two losses is minimised, once flow has begun."""

    combined = "combined"  # both in every step
    batches = "batches"  # by turns
    epochs = "epochs"  # by turns of `epoch_share` of the steps
    frozen = "frozen"  # flow alone, on features that no longer change
    finetune = "finetune"  # flow alone, on features that do


class Lesson(Enum):
    """What one step minimises."""

    regularity = "regularity"  # variance and covariance of the pyramid
    content = "content"
    motion = "motion"
    motion_on_frozen = "motion_on_frozen"
    both = "both"


WITH_CONTENT = (Lesson.content, Lesson.both)


@dataclass
class MotionContent(FlowOptions, ContentOptions, Objective):
    """The sum of M-JEPA's loss on pairs of `flow_data` and VICReg's on views of `data`.

    A step sees `optim.batch_size` clips or images of `data` and `flow_batch` pairs of frames. `balance` weighs
    Equations 2 to 5; the variance and covariance of the pyramid have coefficients of their own.

    The orders `frozen` and `finetune` are two trainings, of which the paper has the first one finished. With `restart`
    either has schedules of its own: rates warm up and fall twice, and the content model is that of `flow_start` x
    `optim.steps` steps. Adam's averages are kept, where two runs would begin with none.

    Source: MC-JEPA (Bardes et al., 2023, arXiv:2307.12698), section 3.2, Equation 7, Tables 5 and 6, Figure 5.
    """

    gives: ClassVar[tuple[str, ...]] = ("flow",)

    balance: float = 0.1  # of the flow losses, beside the content loss: flow_alpha
    order: Order = Order.combined
    flow_start: float = 0.1  # share of the steps, from the first, without flow
    epoch_share: float = 0.01  # share of the steps that is an epoch of order=epochs: one of 100
    restart: bool = False  # of the schedules where flow starts: content is learned to its end, as if it were a run

    def __post_init__(self) -> None:
        FlowOptions.__post_init__(self)
        ContentOptions.__post_init__(self)
        if self.balance < 0:
            raise ValueError(f"objective.balance must be at least 0, got {self.balance}")
        if not 0 <= self.flow_start < 1:
            raise ValueError(f"objective.flow_start must be in [0, 1), got {self.flow_start}")
        if not 0 < self.epoch_share <= 0.5:
            raise ValueError(f"objective.epoch_share must be in (0, 0.5], got {self.epoch_share}")
        if self.flow_start == 0 and self.order in (Order.frozen, Order.finetune):
            raise ValueError(
                f"objective.order={self.order.name} learns content until flow starts: objective.flow_start must be "
                "above 0"
            )
        if self.restart and self.order not in (Order.frozen, Order.finetune):
            raise ValueError(
                "objective.restart=true is for objective.order=frozen or finetune, where flow is learned after "
                f"content, got {self.order.name}"
            )

    def check(self, encoder: Encoder, spec: DataSpec, pairs: DataSpec | None) -> None:
        FlowOptions.check(self, encoder, spec, pairs)
        self.check_content(encoder, spec)

    def lesson(self, step: int, num_steps: int) -> Lesson:
        """What step `step` (from 1) of `num_steps` minimises."""
        done = (step - 1) / num_steps
        if done < self.var_cov_warmup:
            return Lesson.regularity
        if done < self.flow_start:
            return Lesson.content
        if self.order is Order.combined:
            return Lesson.both
        if self.order is Order.batches:
            return Lesson.motion if step % 2 == 0 else Lesson.content
        if self.order is Order.epochs:
            # Counted from where flow starts, with its own epoch first: an epoch of content lies behind it.
            is_motion = int((done - self.flow_start) / self.epoch_share + 1e-9) % 2 == 0
            return Lesson.motion if is_motion else Lesson.content
        return Lesson.motion_on_frozen if self.order is Order.frozen else Lesson.motion

    def scheduled(self, step: int, num_steps: int) -> tuple[int, int]:
        if not self.restart:
            return step, num_steps
        first = max(0, int(self.flow_start * num_steps) - 1)
        num_content = next(done for done in range(first, num_steps + 1) if done / num_steps >= self.flow_start)
        return (step, num_content) if step <= num_content else (step - num_content, num_steps - num_content)

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        encoder = parts.encoder.build(spec, generator_for(seed, "encoder"))
        flow = FlowTask(self, parts.encoder.level_widths(spec), spec, generator_for(seed, "estimator"))
        content = ContentTask(self, encoder.width, spec, generator_for(seed, "expander"))
        return MotionContentLearner(self, encoder, flow, content)


class MotionContentLearner(Learner):
    """An encoder, the estimator on its pyramid and the expander on its last features."""

    loss_limit = 1e6  # estimators without norms explode: the crashed run of Table 3
    has_idle_parts = True  # the estimator until flow starts, the expander in steps of flow alone

    def __init__(self, options: MotionContent, encoder: EncoderModule, flow: FlowTask, content: ContentTask) -> None:
        super().__init__()
        self.options, self.encoder, self.task, self.content = options, encoder, flow, content
        self._drawn: ContentDraws | None = None
        self._lesson, self._is_warming_up = Lesson.both, False
        self._still = Still(encoder)

    def paces(self) -> Mapping[str, Pace]:
        return {"task": self.task.pace()}

    def seed_step(self, draw: Callable[[str], Generator], step: int, num_steps: int, clips: Tensor) -> None:
        self._lesson = lesson = self.options.lesson(step, num_steps)
        self._is_warming_up = self.task.is_warming_up(step, num_steps)
        self._drawn = self.content.draw(draw, clips) if lesson in WITH_CONTENT else None
        self.encoder.train(self.training and lesson is not Lesson.motion_on_frozen)

    def encoded(self, clips: Tensor, views: Sequence[View], pairs: Tensor | None) -> list[torch.Size]:
        shapes = []
        if self._lesson in WITH_CONTENT:
            shapes.append(self.content.encoded(clips))
        if pairs is not None and self._lesson not in (Lesson.content, Lesson.motion_on_frozen):
            shapes.append(pairs.shape)
        return shapes

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        assert pairs is not None, "the trainer gives pairs to objectives that ask for them"
        lesson = self._lesson
        terms: list[tuple[float, Tensor]] = []
        parts: dict[str, Tensor] = {}
        if lesson in WITH_CONTENT:
            assert self._drawn is not None, "seed_step comes before every step"
            losses = self.content.losses(self.encoder, clips, self._drawn)
            terms.append((1.0, losses["loss"]))
            parts |= {f"content_{name}": value for name, value in losses.items()}
        if lesson is not Lesson.content:
            encoder: Pyramid = self._still if lesson is Lesson.motion_on_frozen else self.encoder
            losses = self.task.losses(encoder, pairs, with_flow=not self._is_warming_up)
            terms += self.task.terms(losses, self.options.balance)
            parts |= losses
        total = weighted_sum(terms, clips.device)
        return {"loss": total} | {name: value.detach() for name, value in parts.items()}

    def embeddings(self, clips: Tensor, views: Sequence[View]) -> Tensor | None:
        return None if self._drawn is None else self.content.embeddings(self.encoder, clips, self._drawn)

    def after_step(self, step: int, num_steps: int) -> dict[str, float]:
        self.encoder.train(self.training)
        return {}

    def flow(self, pairs: Tensor) -> Tensor:
        return self.task.flow(self.encoder, pairs)


class Still:
    """An encoder whose features are only looked at: no gradient goes into it.

    In such steps it is not in training mode either, as in evaluations: no path is dropped and no batch norm learns what
    frames are like.
    """

    def __init__(self, encoder: EncoderModule) -> None:
        self._encoder = encoder

    @torch.no_grad()
    def pyramid(self, clips: Tensor) -> list[Tensor]:
        return self._encoder.pyramid(clips)
