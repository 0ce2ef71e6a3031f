"""Video object segmentation: objects given in the first frame are followed by the likeness of frozen features."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.evals.contours import contour_overlap, region_overlap
from core.evals.frozen.maps import check_level, check_stride
from core.evals.propagation import propagated
from core.types import DataSpec, Encoder, Evaluation, Features, TrackedVideo


class Followed(NamedTuple):
    """How well one object was followed: means over the frames that count, in [0, 1]."""

    region: float
    contour: float


@dataclass
class Vos(Evaluation):
    """J, F and their mean of the objects of the test videos, in percent. Nothing is trained.

    The masks of the first frame are averaged over the cells of its feature map and carried on from frame to frame
    (`core.evals.propagation`), enlarged bilinearly, stretched to [0, 1] for each object, and every pixel goes to the
    largest. An object's J and F are means over the frames, without the first, which is given, and the last; the metrics
    are means over the objects of all videos. A video whose objects are known in some frames only is judged on these,
    the last among them; one of which only the first frame's are known is not scored. Pixels that do not count are in no
    mask. An encoder of clips sees frames one by one, each as a clip that stands still; of frames larger than its own
    its places are enlarged.

    `vos/seconds_per_sequence` is the time for reading, encoding, following and scoring a video, by one process. Of
    several each takes some of the videos.

    Source: DAVIS 2017 (Pont-Tuset et al., 2017, arXiv:1704.00675), section 4; DINO (Caron et al., 2021,
    arXiv:2104.14294), section 4.2.2, whose released settings are the defaults; MC-JEPA (Bardes et al., 2023,
    arXiv:2307.12698), Tables 1 and 10. Departure: the first mask is averaged over cells, not read at their middles,
    which keeps small objects in the coarse maps of small encoders.
    """

    sees_whole_frames: ClassVar[bool] = True

    n_context: int = 7  # frames before, beside the first
    topk: int = 5  # places a label comes from
    radius: int = 12  # rows and columns of the map around a place that it may come from
    temperature: float = 0.1
    level: int = 1  # of the pyramid, of encoders that have one; 1 = the last layer's tokens, the lowest resolution
    stride: int | None = None  # px that a cell of the map is wide: chooses the level; null = `level` does
    max_sequences: int | None = None  # a random subset of the test videos, the same for every run; null = all

    def __post_init__(self) -> None:
        for name, least in (("n_context", 0), ("topk", 1), ("radius", 0), ("level", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"evals.vos.{name} must be at least {least}, got {getattr(self, name)}")
        if self.stride is not None and (self.stride < 1 or self.level != 1):
            raise ValueError(
                "evals.vos.stride chooses the level by its cells' width, at least 1 px, in place of evals.vos.level; "
                f"got evals.vos.stride={self.stride} and evals.vos.level={self.level}"
            )
        if self.temperature <= 0:
            raise ValueError(f"evals.vos.temperature must be above 0, got {self.temperature}")
        if self.max_sequences is not None and self.max_sequences < 1:
            raise ValueError(f"evals.vos.max_sequences must be at least 1, or null for all, got {self.max_sequences}")

    def check(self, encoder: Encoder, built_for: DataSpec, spec: DataSpec) -> None:
        if not spec.has_objects:
            raise ValueError(
                "evals.vos needs videos whose objects are known in frames after the first, and this data has none; "
                "choose eval_data=davis, or eval_data=moving_digits with eval_data.frames of at least 2"
            )
        if spec.channels != built_for.channels:
            raise ValueError(
                f"evals.vos: the data has {spec.channels} channels, the encoder takes {built_for.channels}: choose "
                "other eval_data"
            )
        check_level("evals.vos.level", self.level, encoder, built_for)
        if self.stride is not None:
            check_stride("evals.vos.stride", self.stride, encoder, built_for)

    def metrics(self, spec: DataSpec) -> list[str]:
        return ["vos/jf", "vos/j", "vos/f", "vos/seconds_per_sequence"]

    def run(self, features: Features, seed: int) -> dict[str, float]:
        videos = list(features.judged_sequences("test", self.judged, self.max_sequences))
        found = [Followed(*each) for video in videos for each in video[1:].view(-1, 2).tolist()]
        if not found:
            raise ValueError(
                "evals.vos: no test video has an object in its first frame and a known frame after it, so there is "
                "nothing to follow and to score"
            )
        region = 100 * sum(each.region for each in found) / len(found)
        contour = 100 * sum(each.contour for each in found) / len(found)
        return {
            "vos/jf": (region + contour) / 2,
            "vos/j": region,
            "vos/f": contour,
            "vos/seconds_per_sequence": sum(float(video[0]) for video in videos) / len(videos),
        }

    def judged(self, features: Features, read: Callable[[], TrackedVideo]) -> Tensor:
        """Of a video: the seconds that it took, then region and contour of each object that is scored, float64."""
        start, found, video = time.perf_counter(), list[Followed](), read()
        objects = objects_of(video)
        if objects and counting(video):
            found = score(self.follow(features, video, objects), video, objects)
        return torch.tensor([time.perf_counter() - start, *itertools.chain(*found)], dtype=torch.float64)

    @torch.no_grad()
    def follow(self, features: Features, video: TrackedVideo, objects: list[int]) -> Tensor:
        """The object that each pixel shows by the features, [T, H, W] int64: 0 or one of `objects`.

        The first frame's masks are all that it reads of the truth; its own answer for that frame stands in it too.
        """
        maps = features.frame_maps(video.frames, level=self.level, stride=self.stride)
        kinds = torch.tensor([0, *objects])
        first = (video.objects[0] == kinds[:, None, None]).float()
        cells = F.adaptive_avg_pool2d(first[None], (maps.shape[1], maps.shape[2]))[0].permute(1, 2, 0).to(maps.device)
        labels = propagated(
            maps, cells, n_context=self.n_context, topk=self.topk, radius=self.radius, temperature=self.temperature
        )
        answers = [answered(frame, video.objects.shape[1:]) for frame in labels]
        return kinds[torch.stack(answers).cpu()]


def answered(labels: Tensor, size: torch.Size) -> Tensor:
    """Which of K is largest at each pixel, [H, W] int64, of labels [h, w, K] that are enlarged and stretched."""
    scores = F.interpolate(labels.permute(2, 0, 1)[None], size=tuple(size), mode="bilinear", align_corners=False)[0]
    low, high = scores.amin((1, 2), keepdim=True), scores.amax((1, 2), keepdim=True)
    # What is everywhere alike, or nowhere, stays so.
    stretched = torch.where(high > low, (scores - low) / (high - low).clamp_min(1e-12), scores)
    return stretched.argmax(0)


def objects_of(video: TrackedVideo) -> list[int]:
    """The numbers of the objects in the first frame."""
    return [number for number in torch.unique(video.objects[0]).tolist() if number > 0]


def counting(video: TrackedVideo) -> list[int]:
    """The frames that are scored: known ones after the first, which is given.

    Where every frame is known the last does not count, as DAVIS has it, but of a video of two frames the second does.
    """
    if video.known is None:
        return list(range(1, max(2, len(video.objects) - 1))) if len(video.objects) > 1 else []
    return [frame for frame in video.known if frame > 0]


def score(answers: Tensor, video: TrackedVideo, objects: list[int]) -> list[Followed]:
    """How well each of `objects` is followed by `answers` [T, H, W], in the frames that are `counting`."""
    counts = (video.objects >= 0).numpy()
    ours, theirs = answers.numpy(), video.objects.numpy()
    frames = counting(video)
    found = []
    for number in objects:
        pairs = [((ours[t] == number) & counts[t], theirs[t] == number) for t in frames]
        found.append(
            Followed(
                sum(region_overlap(*pair) for pair in pairs) / len(pairs),
                sum(contour_overlap(*pair) for pair in pairs) / len(pairs),
            )
        )
    return found
