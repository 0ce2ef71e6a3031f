"""What one training step is made of: mask, encoder, predictor, target, loss and objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Generator, Size, Tensor, device, nn

from core.types.data import DataSpec, Grid


class View(NamedTuple):
    """What the encoder sees and what the predictor must fill in, for one mask of each sample.

    The two index sets of a sample are disjoint. With `ragged=pad` a sample's unused places repeat a valid index and
    are False in the matching `*_valid`; otherwise these are None and every place counts. Views of one sample that
    share their context hold the *same tensor object*, so that it is encoded once (I-JEPA's four targets).
    """

    context: Tensor  # [B, Nc] int64
    target: Tensor  # [B, Nt] int64
    context_valid: Tensor | None = None  # [B, Nc] bool
    target_valid: Tensor | None = None  # [B, Nt] bool
    kind: int = 0  # which mask token the predictor uses: V-JEPA has one per mask type


@dataclass
class Mask:
    """How patches are divided into context and target."""

    def check(self, grid: Grid) -> None:
        """Raise ValueError naming the grid and the bound when this mask cannot be drawn on `grid`."""

    def varying(self, grid: Grid) -> tuple[str, ...]:
        """Which of a view's tensors have another length [B, n] in another batch: those that `ragged` leaves so."""
        ragged = getattr(self, "ragged", None)
        is_fixed = ragged is None or ragged.value == "fixed"
        return () if is_fixed else ("context", "target", "context_valid", "target_valid")

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        """Draw every sample's views; a pure function of the arguments and the generator's state (on CPU)."""
        raise NotImplementedError


class Calls(NamedTuple):
    """How an encoder will be called in a step, or in one of the parts that its batch is taken in."""

    shapes: Sequence[Size]  # of the clips [B, C, T, H, W] of the whole batch, call by call
    device: device
    part: int = 0
    num_parts: int = 1
    own: Tensor | None = None  # [b] int64: these samples, in place of a part

    def rows(self, num: int) -> slice | Tensor:
        """This part's of `num` rows, as many for each sample."""
        if self.own is not None:
            each = num // self.shapes[0][0]
            return (self.own[:, None] * each + torch.arange(each)).flatten()
        return slice(num * self.part // self.num_parts, num * (self.part + 1) // self.num_parts)


class EncoderModule(nn.Module):
    """A built encoder.

    `forward` embeds only the patches in `keep`, returns [B, P + Nc, D] after the final norm: P = `num_prefix` class
    tokens first, then the kept patches in the order of `keep`. With `hidden`, all patches are encoded and those at
    `hidden` are replaced by a learned mask token first (the dense encoder of MAE-ST Table 1).
    """

    grid: Grid
    width: int
    num_prefix: int

    def forward(
        self,
        clips: Tensor,
        keep: Tensor | None = None,
        valid: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        raise NotImplementedError

    def many(self, clips: Tensor, keeps: Sequence[Tensor]) -> list[Tensor]:
        """`forward` for each of `keeps`, several contexts of the same clips; an encoder may know a faster way."""
        return [self(clips, keep) for keep in keeps]

    def intermediate(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        """Patch tokens of the last `num_layers` blocks, shallow to deep, each after the final norm: [B, N, D].

        With `keep` [B, n] only those patches are embedded and encoded: [B, n, D].
        """
        raise NotImplementedError

    def with_prefix(self, clips: Tensor, num_layers: int, keep: Tensor | None = None) -> list[Tensor]:
        """As `intermediate` with the class tokens first: [B, P + N, D]. Only of encoders that have one."""
        raise NotImplementedError

    def pyramid(self, clips: Tensor) -> list[Tensor]:
        """Feature maps of every frame, lowest resolution first, each of twice the one before's: [B * T, D_l, h_l, w_l].

        Only of encoders whose options say `has_pyramid`.
        """
        raise NotImplementedError

    def add_mask_token(self, generator: Generator) -> None:
        """Make `forward(hidden=...)` possible; called by a predictor whose encoder also sees mask tokens."""
        raise NotImplementedError

    def seed_drop_path(self, generator: Generator, calls: Calls | None = None) -> None:
        """Where drop path draws from until the next call; needed before each training step if the encoder has any.

        With `calls` the same numbers are drawn at once, and wait on the device.
        """
        raise NotImplementedError


@dataclass
class Encoder:
    """An encoder's options. `build` initialises every parameter from `generator` and nothing else."""

    over_batch: ClassVar[str] = ""  # what it makes of all samples together; "" where each is encoded by itself
    has_pyramid: ClassVar[bool] = False  # EncoderModule.pyramid; such encoders see whole frames, not kept patches

    def token_width(self) -> int:
        """D: how many features each of its tokens has."""
        raise NotImplementedError

    def num_blocks(self) -> int:
        """How many layers `EncoderModule.intermediate` can give."""
        raise NotImplementedError

    def has_class_token(self) -> bool:
        return False

    def grid(self, spec: DataSpec) -> Grid:
        """The patch grid on clips of this shape; ValueError when the patch size does not divide it."""
        raise NotImplementedError

    def level_widths(self, spec: DataSpec) -> list[int]:
        """D_l of every level of `EncoderModule.pyramid`; ValueError when the levels do not fit clips of this size.

        Only of encoders that say `has_pyramid`.
        """
        raise NotImplementedError

    def build(self, spec: DataSpec, generator: Generator) -> EncoderModule:
        raise NotImplementedError


class PredictorModule(nn.Module):
    """A built predictor: forward(tokens [B, P + Nc, D], view) -> predictions at `view.target` [B, Nt, out_dim]."""

    def forward(self, tokens: Tensor, view: View) -> Tensor:
        raise NotImplementedError

    def many(self, tokens: Sequence[Tensor], views: Sequence[View]) -> list[Tensor]:
        """`forward` for each view; a predictor may know a faster way."""
        return [self(encoded, view) for encoded, view in zip(tokens, views, strict=True)]


@dataclass
class Predictor:
    """A predictor's options. `dense_encoder` says whether the encoder is also given mask tokens."""

    def build(self, encoder: EncoderModule, out_dim: int, num_kinds: int, generator: Generator) -> PredictorModule:
        raise NotImplementedError


class TargetModule(nn.Module):
    """What the predictor must predict, for a batch of clips.

    `encoder` is the encoder that the run is judged by: the moving average for `ema`, None where the target has no
    encoder of its own (then the trained one is).
    """

    out_dim: int
    encoder: EncoderModule | None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = None  # not a class attribute: that would hide the submodule of the same name

    def forward(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        """One [B, Nt, out_dim] tensor a view, without gradient; classes as [B, Nt]. `clips` is float and normalised."""
        raise NotImplementedError

    def prepare(self, read: Callable[[Tensor], Tensor], length: int, cache: Path, seed: int) -> None:
        """A first stage before any step: fit what needs the training set. See `Learner.prepare`."""

    def update(self, encoder: EncoderModule, step: int, num_steps: int) -> dict[str, float]:
        """Called after optimiser step `step` (from 1) of `num_steps`; returns what to log."""
        return {}

    def paint(self, clips: Tensor, view: View, prediction: Tensor) -> Tensor | None:
        """`clips` with the target patches as `prediction` [B, Nt, out_dim] has them; None if it says nothing of pixels.

        Normalised like `clips`, [B, C, T, H, W], NaN in frames that are never predicted. For pictures: no number is
        made from it.
        """
        return None


@dataclass
class Target:
    """A kind of target and its options."""

    gives_classes: ClassVar[bool] = False  # int64 in [0, out_dim), for a loss that takes them

    @property
    def over_batch(self) -> str:
        """What it makes of all samples together; "" where each one's target is its own."""
        return ""

    def build(self, encoder: EncoderModule, spec: DataSpec) -> TargetModule:
        raise NotImplementedError


@dataclass
class Loss:
    """A distance between prediction and target."""

    takes_classes: ClassVar[bool] = False

    def __call__(self, prediction: Tensor, target: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """{"loss": scalar, ...parts}, in float32, mean over the `valid` [B, Nt] places (all when None)."""
        raise NotImplementedError


class Parts(NamedTuple):
    """The components an objective is built from; those it does not use are None."""

    encoder: Encoder
    mask: Mask | None
    target: Target | None
    predictor: Predictor | None
    loss: Loss | None


class Pace(NamedTuple):
    """How a part of a learner moves, where it is not as `optim` says."""

    lr_scale: float = 1.0  # of the scheduled learning rate
    weight_decay: float | None = None  # constant; None is the scheduled one


class Learner(nn.Module):
    """A built objective: the modules that one step trains, and what the step minimises."""

    encoder: EncoderModule  # the trained one
    # A loss above this, or a gradient that is not finite, ends the run as diverged. Without a limit the norm of the
    # gradient is not computed, and only a loss that is not finite does.
    loss_limit: float = math.inf
    labels_read: tuple[str, ...] = ()  # of the data's, that `forward` is given
    has_idle_parts: bool = False  # whether some steps give some trained parameters no gradient

    @property
    def judged_encoder(self) -> EncoderModule:
        """The encoder that evaluations see: the moving average where there is one."""
        return self.encoder

    def forward(
        self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View], pairs: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"loss": scalar, ...parts} of one batch; `clips` [B, C, T, H, W] is float and normalised.

        `labels` are those of `labels_read`.
        `pairs` [P, C, 2, h, w], alike, are two frames in a row each of the run's `flow_data` (of its `data` where that
        is null), `Objective.num_pairs` of them; None for objectives that want none.
        """
        raise NotImplementedError

    def seed_step(self, draw: Callable[[str], Generator], step: int, num_steps: int, clips: Tensor) -> None:
        """Called before training step `step` (from 1), on `clips`: `draw(purpose)` is its generator for that purpose.

        It is the same on every process: what differs between samples is drawn for the whole batch. All that `forward`
        needs of it is drawn here and put where the clips are, as torch.compile takes no generator into its graph.
        """

    def encoded(self, clips: Tensor, views: Sequence[View], pairs: Tensor | None) -> list[Size]:
        """The shapes of what `forward` gives the trained encoder in training mode in this step, call by call."""
        return [clips.shape]

    def paces(self) -> Mapping[str, Pace]:
        """Parts that are not trained as `optim` says, by the name of the submodule: {"estimator": Pace(0.3)}."""
        return {}

    def embeddings(self, clips: Tensor, views: Sequence[View]) -> Tensor | None:
        """What the views of each sample come to where they are compared: [V, B, D] of `clips` [B, C, T, H, W].

        After `seed_step`, and in this process alone. None where the objective compares no views.
        """
        return None

    def flow(self, pairs: Tensor) -> Tensor:
        """Where each pixel of the first frame is in the second: [B, C, 2, H, W], float and normalised, -> [B, 2, H, W]
        in pixels (right, down). Only of objectives that give "flow"."""
        raise NotImplementedError

    def prepare(self, read: Callable[[Tensor], Tensor], length: int, cache: Path, seed: int) -> None:
        """What must be learned of the training set before the first step, called on every attempt.

        `read` gives clips by index ([B] int64 below `length`), float and normalised, on the CPU and not augmented. What
        takes long is kept in `cache`; of several processes the main one comes first.
        """

    def after_step(self, step: int, num_steps: int) -> dict[str, float]:
        """Called after optimiser step `step` (from 1); returns what to log."""
        return {}

    def reconstruct(self, clips: Tensor, views: Sequence[View]) -> list[Tensor]:
        """`clips` as each view's prediction completes them, [B, C, T, H, W] each; empty where it predicts no pixels."""
        return []


@dataclass
class Objective:
    """What one step minimises, and which component kinds it uses."""

    uses: ClassVar[tuple[str, ...]] = ()  # of "mask", "target", "predictor", "loss"; the others must be null
    gives: ClassVar[tuple[str, ...]] = ()  # beside an encoder: "flow", an estimate of motion (`Learner.flow`)
    least_batch: ClassVar[int] = 1  # samples that a step must have
    learns: ClassVar[bool] = True  # whether it can take a step at all
    reads_labels: ClassVar[bool] = False  # whether it learns the data's labels
    over_batch: ClassVar[str] = ""  # what its loss has of all samples together; "" where it is the mean of theirs

    def num_pairs(self) -> int:
        """How many pairs of frames a step takes, over all processes: the option `flow_batch`, where it has one."""
        return int(getattr(self, "flow_batch", 0))

    def check(self, encoder: Encoder, spec: DataSpec, pairs: DataSpec | None) -> None:
        """Raise ValueError when it cannot train such an encoder on clips like `spec` and frames of clips like `pairs`.

        `pairs` is None for objectives that want none.
        """

    def scheduled(self, step: int, num_steps: int) -> tuple[int, int]:
        """Which step, of how many, the schedules of step `step` (from 1) are at: its own, unless they begin again."""
        return step, num_steps

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        raise NotImplementedError


class Recorder(Protocol):
    """Where a run's numbers go. `core.train` gives a console and a folder, `sweeps` the database."""

    folder: Path  # checkpoints, TensorBoard events, pictures

    def saw(self, data: Mapping[str, str]) -> None:
        """The fingerprint of each data set that is read, by group ("data", "eval_data"), told before any step."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def checkpointed(self, step: int, path: Path) -> None: ...

    def should_stop(self) -> bool:
        """True once the run was asked to stop (or lost its lease): checkpoint and return."""
        ...

    def keep(self, name: str, kind: str, content: bytes) -> None:
        """A small file of the run (kind "picture": arrays to draw from), told before `finish`. A name is told once."""
        ...

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Called once, last. Outcome: done, diverged, collapsed, pruned or preempted.

        `facts` are costs and realised ratios, and `why` a run diverged.
        """
        ...
