"""What an encoder is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Generator, Tensor, nn

from core.types.data import Dataset, DataSpec, FlowTruth, Grid, Regions, TrackedVideo
from core.types.training import Encoder, EncoderModule


class Pooling(Enum):
    """What of a clip's tokens is its feature, mostly averages over its parts; see `core.evals.frozen.pooling`."""

    mean = "mean"  # the whole clip
    quadrants = "quadrants"  # the four quarters of the frame, over all of time
    halves = "halves"  # the first and the second half of time, over the whole frame
    octants = "octants"  # the quadrants of each half
    cls = "cls"  # no average: the class token, of an encoder that has one


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

    def pooled(self, split: str, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        """Average-pooled patch tokens of the last `num_layers` blocks, concatenated: [N, num_layers * D] float32.

        Of a `pool` of several parts [N, num_layers * parts * D], part after part of each block; of `cls` the class
        tokens instead.
        """

    def augmented(self, look: Look, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        """As `pooled` of the train split, of its pictures as `look` has them."""

    def tokens(self, split: str, sampling: Sampling | None = None, num_layers: int = 1) -> Tokens:
        """Patch tokens of the clips of `Sampling`, D = num_layers * width. Kept only once they were asked for."""

    def labels(self, split: str) -> dict[str, Tensor]: ...

    def regions(self, split: str, sampling: Sampling | None = None) -> Regions:
        """The boxes of the clips that `tokens` gives, of data that has boxes."""

    def maps(self, split: str, frames: Sequence[int], *, level: int = 1, max_train: int | None = None) -> Tensor:
        """Feature maps of these frames of each clip, [N, F, h, w, D]: the last layer's tokens, or a pyramid's level.

        Of the train split a random subset of `max_train` clips, if given.
        """

    def segments(self, split: str, frames: Sequence[int], *, max_train: int | None = None) -> Tensor:
        """What each pixel of the frames of `maps` shows, [N, F, H, W] int16, -1 = not labelled."""

    def sequences(self, split: str, max_sequences: int | None = None) -> Iterator[TrackedVideo]:
        """Videos whose objects are known, of data that has such: all, or a random subset that is always the same."""

    def judged_sequences(
        self,
        split: str,
        judged: Callable[[Features, Callable[[], TrackedVideo]], Tensor],
        max_sequences: int | None = None,
    ) -> Iterator[Tensor]:
        """What `judged` gives for these features and what reads the video, of each of `sequences` in their order.

        Of several processes each takes some of the videos, so that `judged` must be a function that can be pickled: of
        a module, or a method of an evaluation.
        """

    def frame_maps(self, frames: Tensor, *, level: int = 1, stride: int | None = None) -> Tensor:
        """Feature maps [T, h, w, D] float32 of a video's frames [C, T, H, W] uint8, of whatever size, one by one.

        With `stride` of the level whose cells are as many pixels wide.
        """

    def flows(
        self, split: str, *, max_samples: int | None, batch_size: int, size: tuple[int, int] | None
    ) -> Iterator[tuple[Tensor, FlowTruth]]:
        """Estimated flow [B, T - 1, 2, H, W] in pixels and the truth, batch by batch, of data that has flow.

        Of the first `max_samples` samples; frames are resized to `size` (height, width) for the estimator, if given.
        """


SAMPLE = "sample index"  # among a batch's labels when a copy of the encoder is trained: which sample of the data set


@dataclass
class Evaluation:
    """A protocol that turns frozen features into numbers."""

    needs: ClassVar[tuple[str, ...]] = ()  # of what objectives give: "flow"
    needs_labels: ClassVar[bool] = False  # of data with classes
    sees_whole_frames: ClassVar[bool] = False  # of whatever size and number: nothing is cut for the encoder

    def pools(self) -> frozenset[Pooling]:
        """What it will ask of `Features.pooled`, if anything: known beforehand, one encoding serves all evaluations."""
        return frozenset()

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        """Raise ValueError when it cannot judge such an encoder, trained on `built_for`, on data like `spec`."""

    def check_labels(self, train: Mapping[str, Tensor], test: Mapping[str, Tensor], spec: DataSpec) -> None:
        """Raise ValueError when it cannot judge on splits with these labels (name -> [N] int64): asked before step 1.

        One that needs no labels asks for none.
        """

    def check_truth(self, train: Dataset, test: Dataset) -> None:
        """Raise ValueError where the boxes, or classes of pixels, that it judges by are absent: asked before step 1."""

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
    size: int | None = None  # px of the clips; None: as the encoder was built for


class Part(NamedTuple):
    """What a process has of each batch, where several share it out.

    A row and its mirror image (the batch read backwards) belong to one process, so that it can mix them by itself.
    """

    num: int  # samples of the whole batch: what is random is drawn for all of them
    rows: Tensor | None = None  # [b] int64 in order: those of this process; None = all
    mean: Callable[[Tensor], Tensor] = torch.clone  # over processes, of a tensor that each of them has

    def own(self, drawn: Tensor) -> Tensor:
        """This process's of what was drawn for the whole batch: [num, ...] -> [b, ...]."""
        return drawn if self.rows is None else drawn[self.rows]


class Tuned(nn.Module):
    """An encoder with a head on it, as one stage of fine-tuning trains it."""

    encoder: EncoderModule
    part: Part | None = None  # of the batches that `loss` is given, if several processes share these out

    def loss(
        self, clips: Tensor, labels: Mapping[str, Tensor], draw: Callable[[str], Generator], progress: float
    ) -> dict[str, Tensor]:
        """{"loss": scalar, ...} of one batch of float, normalised clips [B, C, T, H, W].

        `labels` also has `SAMPLE`. `draw(purpose)` is this step's generator for that purpose; `progress` goes from 0 at
        the first step to 1 at the last. With a `part` the mean over processes is the loss of the whole batch.
        """
        raise NotImplementedError


class Workshop(Protocol):
    """What an evaluation is given that trains a copy of the encoder.

    Splits are "train" and "test" of the data that it is judged on, and "pretrain", what the encoder was trained on.
    """

    device: torch.device

    def spec(self, split: str, size: int | None = None) -> DataSpec:
        """Of the clips that a copy of the encoder gets from `split`, of its own size or of `size` px."""
        ...

    def labels(self, split: str) -> dict[str, Tensor]: ...

    def regions(self, split: str) -> Regions:
        """The boxes of all clips of `split`, of data that has boxes."""
        ...

    def num_samples(self, split: str) -> int: ...

    def segments(self, split: str, samples: Tensor, frames: Sequence[int]) -> Tensor:
        """What each pixel of these frames of some samples shows, [n, F, H, W] int16, of data that knows its classes."""
        ...

    def encoder(
        self, split: str, *, drop_path: float, start: EncoderModule | None, tubelet: int, size: int | None = None
    ) -> EncoderModule:
        """A copy of the judged encoder, or of `start`, for clips `spec(split, size)` (see `core.models.adapted`)."""
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

    def views(self, sampling: Sampling, size: int | None = None) -> Iterator[tuple[slice, int, Tensor]]:
        """Rows of the test videos, the number of the view, and its clips [B, C, T, H, W], float and normalised."""
        ...

    def summed(self, values: Tensor) -> Tensor:
        """The sum, in place, over all processes that share the evaluation out, each of which has some of `views`."""
        ...

    def forward_mmac(self, encoder: EncoderModule, size: int | None = None) -> float:
        """1e6 multiply-adds of one test clip's way through `encoder`, a copy."""
        ...

    def autocast(self) -> AbstractContextManager[Any]: ...


class Stopped(Exception):
    """An evaluation was asked to stop; it has written a checkpoint and will go on from there."""


@dataclass
class Tuning(Evaluation):
    """A protocol that trains a copy of the encoder. It is run once, when pretraining has ended."""

    @property
    def reads_pretraining(self) -> bool:
        """Whether it asks its workshop for the split "pretrain"."""
        return False

    def can_share(self, num: int) -> bool:
        """Whether `num` processes may `tune` together: it gives each its `Tuned.part` of a batch and is `summed`."""
        return False

    def tune(self, workshop: Workshop, seed: int) -> dict[str, float]:
        """Like `run`; may raise Stopped."""
        raise NotImplementedError
