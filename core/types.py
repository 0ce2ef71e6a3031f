"""The few shapes everything in `core` speaks, and the base class of every kind of component.

Shape letters: B batch, N patches, Nc/Nt context/target patches, P prefix (class) tokens, D width, C channels,
T H W frames and pixels of a clip. A patch index counts the patches of a `Grid` in (t, h, w) raster order:
``index = (t * grid.h + h) * grid.w + w``. An image is a clip of one frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn


class Grid(NamedTuple):
    """Patches of one clip along time, height and width; an image has t = 1."""

    t: int
    h: int
    w: int

    @property
    def num_patches(self) -> int:
        return self.t * self.h * self.w


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


class Batch(NamedTuple):
    """uint8 clips as stored (float and normalised once on the device) and their labels."""

    clips: Tensor  # [B, C, T, H, W]
    labels: dict[str, Tensor]  # name -> [B] int64


@dataclass
class DataSpec:
    """What a data set gives: the shape of one clip, how to normalise it, and its label names with class counts."""

    channels: int
    frames: int
    height: int
    width: int
    classes: dict[str, int] = field(default_factory=dict)  # {"digit": 10, "motion": 10}
    mean: tuple[float, ...] = (0.45, 0.45, 0.45)  # of pixels in [0, 1], one a channel
    std: tuple[float, ...] = (0.225, 0.225, 0.225)
    clips_per_video: int = 1  # samples in a row that are clips of one video, in temporal order; labels are the video's
    box_classes: int = 0  # kinds of things that boxes are drawn around; 0: the data has no boxes


class Regions(NamedTuple):
    """Boxes in the middle frame, `frames // 2`, of some clips, and what is in them. A clip may have none."""

    sample: Tensor  # [M] int64: which of the clips that were asked for
    boxes: Tensor  # [M, 4] float32: left, top, right, bottom in pixels
    classes: Tensor  # [M] int64 in 0 .. box_classes - 1


class Dataset(Protocol):
    """A split of a data set, addressed by index: a pure function of it.

    One with boxes (`spec.box_classes`) also has `regions(indices) -> Regions`.

    One that decodes as it is asked (not held in memory) says so by an attribute `is_lazy` = True; the loader then reads
    ahead with worker processes. A method `fingerprint() -> str` stands for every pixel; without one, features of a lazy
    data set are not cached.
    """

    spec: DataSpec

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor) -> Batch:
        """The samples at `indices` ([B] int64), uint8, not augmented."""

    def labels(self) -> dict[str, Tensor]:
        """Every sample's labels, name -> [len] int64, without reading a pixel."""


@dataclass
class Data:
    """A data set and its options. `load` returns the split "train" or "test"."""

    def spec(self) -> DataSpec:
        """The shape and labels of its clips without reading a pixel; ValueError when `data.path` cannot give them."""
        raise NotImplementedError

    def load(self, split: str, cache: Path) -> Dataset:
        raise NotImplementedError


@dataclass
class Mask:
    """How patches are divided into context and target."""

    def check(self, grid: Grid) -> None:
        """Raise ValueError naming the grid and the bound when this mask cannot be drawn on `grid`."""

    def sample(self, grid: Grid, batch_size: int, generator: Generator) -> list[View]:
        """Draw every sample's views; a pure function of the arguments and the generator's state (on CPU)."""
        raise NotImplementedError


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

    def add_mask_token(self, generator: Generator) -> None:
        """Make `forward(hidden=...)` possible; called by a predictor whose encoder also sees mask tokens."""
        raise NotImplementedError

    def seed_drop_path(self, generator: Generator) -> None:
        """Where drop path draws from until the next call; needed before each training step if the encoder has any."""
        raise NotImplementedError


@dataclass
class Encoder:
    """An encoder's options. `build` initialises every parameter from `generator` and nothing else."""

    def token_width(self) -> int:
        """D: how many features each of its tokens has."""
        raise NotImplementedError

    def num_blocks(self) -> int:
        """How many layers `EncoderModule.intermediate` can give."""
        raise NotImplementedError

    def grid(self, spec: DataSpec) -> Grid:
        """The patch grid on clips of this shape; ValueError when the patch size does not divide it."""
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


class Learner(nn.Module):
    """A built objective: the modules that one step trains, and what the step minimises."""

    encoder: EncoderModule  # the trained one

    @property
    def judged_encoder(self) -> EncoderModule:
        """The encoder that evaluations see: the moving average where there is one."""
        return self.encoder

    def forward(self, clips: Tensor, labels: Mapping[str, Tensor], views: Sequence[View]) -> dict[str, Tensor]:
        """{"loss": scalar, ...parts} of one batch; `clips` [B, C, T, H, W] is float and normalised."""
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

    def build(self, parts: Parts, spec: DataSpec, seed: int) -> Learner:
        raise NotImplementedError


class Sampling(NamedTuple):
    """Which clips of a video an evaluation on tokens sees, and what it makes of images."""

    clips: int | None = None  # of one view, their tokens one after the other; None takes all that the data gives
    temporal_views: int = 1  # sets of clips, of other moments
    spatial_views: int = 1  # crops, where the data's clips are larger than the encoder's
    average_frames: bool = False  # an image encoder on clips: average its tokens over the frames, not concatenate them
    deflate: bool = False  # a video encoder on images: one time slice of tokens, not the image repeated over all frames
    max_train: int | None = None  # a random subset of the train split, the same for every run


class Look(NamedTuple):
    """How the train split's pictures are changed before they are encoded; the test split's never are."""

    number: int  # looks of other numbers draw other crops
    crop_min: float = 1.0  # smallest share of the area of a random crop, resized to the whole; 1 = the whole picture
    flip: bool = False  # mirror left and right with probability 0.5


class Tokens(NamedTuple):
    """Patch tokens of a split's videos; V views, each of the tokens of one or several clips."""

    values: Tensor  # [N, V, n, D], bfloat16 where the encoder ran in it, else float16
    labels: dict[str, Tensor]  # name -> [N] int64, -1 = not labelled


class Features(Protocol):
    """Frozen features of a data set, extracted once per (split, kind) and shared by every evaluation of a run."""

    spec: DataSpec
    grid: Grid  # of a clip's patches as the encoder is built; an encoder of images gives h * w tokens a frame
    device: torch.device  # where what is trained on them had best be

    def pooled(self, split: str, num_layers: int = 1) -> Tensor:
        """Average-pooled patch tokens of the last `num_layers` blocks, concatenated: [N, num_layers * D] float32."""

    def augmented(self, look: Look, num_layers: int = 1) -> Tensor:
        """As `pooled` of the train split, of its pictures as `look` has them."""

    def tokens(self, split: str, sampling: Sampling | None = None, num_layers: int = 1) -> Tokens:
        """Patch tokens of the clips of `Sampling`, D = num_layers * width. Kept only once they were asked for."""

    def labels(self, split: str) -> dict[str, Tensor]: ...

    def regions(self, split: str, sampling: Sampling | None = None) -> Regions:
        """The boxes of the clips that `tokens` gives, of data that has boxes."""


@dataclass
class Evaluation:
    """A protocol that turns frozen features into numbers."""

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        """Raise ValueError when it cannot judge such an encoder, trained on `built_for`, on data like `spec`."""

    def metrics(self, spec: DataSpec) -> list[str]:
        """The names `run` will return, known before training: ["ridge/digit_top1", ...]."""
        raise NotImplementedError

    def run(self, features: Features, seed: int) -> dict[str, float]:
        """Percent where the name ends in top1 or top5."""
        raise NotImplementedError


class Recipe(NamedTuple):
    """How one stage of fine-tuning moves the parameters, and the crops that it sees; see `core.optim` and `augment`."""

    steps: int
    batch_size: int  # counts every repeat
    lr_peak: float
    repeats: int = 1
    lr_start: float = 0.0
    lr_end: float = 0.0
    warmup_share: float = 0.0
    weight_decay: float = 0.05
    beta1: float = 0.9  # of AdamW; the momentum of SGD
    beta2: float = 0.999
    clip: float = 0.0
    sgd: bool = False
    layer_decay: float = 1.0  # a block's learning rate in units of the next one's
    scale_min: float = 1.0
    scale_max: float = 1.0
    flip: bool = False
    color: float = 0.0


class Tuned(nn.Module):
    """An encoder with a head on it, as one stage of fine-tuning trains it."""

    encoder: EncoderModule

    def loss(
        self, clips: Tensor, labels: Mapping[str, Tensor], draw: Callable[[str], Generator], progress: float
    ) -> dict[str, Tensor]:
        """{"loss": scalar, ...} of one batch of float, normalised clips [B, C, T, H, W].

        `draw(purpose)` is this step's generator for that purpose; `progress` goes from 0 at the first step to 1 at the
        last.
        """
        raise NotImplementedError


class Workshop(Protocol):
    """What an evaluation is given that trains a copy of the encoder.

    Splits are "train" and "test" of the data that it is judged on, and "pretrain", what the encoder was trained on.
    """

    device: torch.device

    def spec(self, split: str) -> DataSpec:
        """Of the clips that a copy of the encoder gets from `split`."""
        ...

    def labels(self, split: str) -> dict[str, Tensor]: ...

    def encoder(self, split: str, *, drop_path: float, start: EncoderModule | None, tubelet: int) -> EncoderModule:
        """A copy of the judged encoder, or of `start`, for the clips of `split` (see `core.models.adapted`)."""
        ...

    def fit(
        self,
        stage: str,
        tuned: Tuned,
        split: str,
        samples: Tensor,
        recipe: Recipe,
        settings: Mapping[str, Any],
        seed: int,
    ) -> dict[str, float]:
        """Train `tuned` in place on the samples at these indices; returns what it cost.

        `settings` is all else that decides the numbers: a checkpoint made with others is refused. Goes on from the
        stage's last checkpoint. Raises Stopped, with a checkpoint, when the run was asked to stop, and
        FloatingPointError for a loss that is not finite.
        """
        ...

    def views(self, sampling: Sampling) -> Iterator[tuple[slice, int, Tensor]]:
        """Rows of the test videos, the number of the view, and its clips [B, C, T, H, W], float and normalised."""
        ...

    def forward_mmac(self, encoder: EncoderModule) -> float:
        """1e6 multiply-adds of one test clip's way through `encoder`, a copy."""
        ...

    def autocast(self) -> AbstractContextManager[Any]: ...


class Stopped(Exception):
    """An evaluation was asked to stop; it has written a checkpoint and will go on from there."""


@dataclass
class Tuning(Evaluation):
    """A protocol that trains a copy of the encoder. It is run once, when pretraining has ended."""

    def tune(self, workshop: Workshop, seed: int) -> dict[str, float]:
        """Like `run`; may raise Stopped."""
        raise NotImplementedError


class Recorder(Protocol):
    """Where a run's numbers go. `core.train` gives a console and a folder, `sweeps` the database."""

    folder: Path  # checkpoints, TensorBoard events, pictures

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def checkpointed(self, step: int, path: Path) -> None: ...

    def should_stop(self) -> bool:
        """True once the run was asked to stop (or lost its lease): checkpoint and return."""
        ...

    def keep(self, name: str, kind: str, content: bytes) -> None:
        """A small file of the run (kind "picture": arrays to draw from), told before `finish`. A name is told once."""
        ...

    def finish(self, outcome: str, results: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Called once, last. Outcome: done, diverged, pruned or preempted; `facts` are costs and realised ratios."""
        ...


def generator_for(seed: int, *purpose: str | int) -> Generator:
    """A CPU generator that is a pure function of the seed and the purpose: ``generator_for(0, "mask", step)``.

    Nothing random in `core` reads or moves the global generators, so a resumed run sees what an uninterrupted one saw.
    """
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") & (2**63 - 1))
