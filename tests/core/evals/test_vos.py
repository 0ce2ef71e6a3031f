"""Labels carried by likeness, scores by hand, encoders on frames of any size, and what is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
from torch import Tensor

from core.data.augment import normalise
from core.evals import propagation
from core.evals.contours import contour_overlap, region_overlap
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.maps import fitting, resized
from core.evals.propagation import nearest, propagated
from core.evals.vos import Followed, Vos, answered, objects_of, score
from core.models import ConvNeXt, ViT
from core.models.adapted import enlarged
from core.models.positions import Position
from core.models.resized import for_frames
from core.types import DataSpec, Grid, TrackedVideo, generator_for
from tests.core.running.test_trainer import run_it

SPEC = DataSpec(channels=3, frames=5, height=24, width=32, has_objects=True)


def moving(shift: int = 2, name: str = "two squares", frames: int = 5) -> TrackedVideo:
    """Two squares, one over the other's way, and what every pixel shows."""
    objects = torch.zeros(frames, 24, 32, dtype=torch.int64)
    for frame in range(frames):
        objects[frame, 4:12, 2 + shift * frame : 10 + shift * frame] = 1
        objects[frame, 14:20, 20 - shift * frame : 26 - shift * frame] = 2
    return TrackedVideo(name, torch.zeros(3, frames, 24, 32, dtype=torch.uint8), objects)


@dataclass
class Videos:
    """`Features` whose map says what each pixel shows, one place a pixel."""

    videos: list[TrackedVideo]
    noise: float = 0.0
    spec: DataSpec = field(default_factory=lambda: SPEC)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sequences(self, split, max_sequences=None):
        assert split == "test"
        yield from self.videos[:max_sequences]

    def judged_sequences(self, split, judged, max_sequences=None):
        return (judged(self, partial(next, iter([video]))) for video in self.sequences(split, max_sequences))

    def frame_maps(self, frames: Tensor, *, level: int = 1, stride: int | None = None) -> Tensor:
        video = next(video for video in self.videos if video.frames is frames)
        maps = torch.eye(3)[video.objects]
        return maps + self.noise * torch.randn(maps.shape, generator=generator_for(0, "noise"))


# ---- likeness --------------------------------------------------------------------------------------------------------


def by_hand(query, keys, labels, *, topk, radius, temperature) -> Tensor:
    """`nearest`, one place after the other."""
    height, width, _ = query.shape
    out = torch.zeros(height, width, labels.shape[-1])
    for y in range(height):
        for x in range(width):
            near = [
                (float(query[y, x] @ keys[n, v, u]), n, v, u)
                for n in range(len(keys))
                for v in range(max(0, y - radius), min(height, y + radius + 1))
                for u in range(max(0, x - radius), min(width, x + radius + 1))
            ]
            best = sorted(near, reverse=True)[:topk]
            weights = torch.tensor([item[0] / temperature for item in best]).softmax(0)
            out[y, x] = sum(w * labels[n, v, u] for w, (_, n, v, u) in zip(weights, best, strict=True))
    return out


@pytest.mark.parametrize("topk, radius", [(1, 1), (5, 2), (100, 1), (3, 9)])
@pytest.mark.parametrize("at_once, tile", [(1, 8), (2**23, 8), (2**23, 2)])
def test_labels_are_those_of_the_most_alike_places_nearby(monkeypatch, topk, radius, at_once, tile) -> None:
    monkeypatch.setattr(propagation, "AT_ONCE", at_once)
    monkeypatch.setattr(propagation, "TILE", tile)
    generator = generator_for(0, "features")
    keys = torch.nn.functional.normalize(torch.randn(2, 5, 7, 4, generator=generator), dim=-1)
    query = torch.nn.functional.normalize(torch.randn(5, 7, 4, generator=generator), dim=-1)
    labels = torch.rand(2, 5, 7, 3, generator=generator)
    options = {"topk": topk, "radius": radius, "temperature": 0.1}
    assert torch.allclose(nearest(query, keys, labels, **options), by_hand(query, keys, labels, **options), atol=1e-5)


@pytest.mark.parametrize("n_context, expected", [(2, [[0], [0, 1], [0, 1, 2], [0, 2, 3]]), (0, [[0]] * 4)])
def test_context_is_the_first_frame_and_those_just_before(monkeypatch, n_context, expected) -> None:
    seen = []

    def watched(query, keys, labels, **options) -> Tensor:
        seen.append(keys.argmax(-1).flatten().tolist())
        return nearest(query, keys, labels, **options)

    monkeypatch.setattr(propagation, "nearest", watched)
    maps = torch.eye(5).view(5, 1, 1, 5)  # one place, which says the frame's number
    labels = propagated(maps, torch.ones(1, 1, 1), n_context=n_context, topk=9, radius=0, temperature=1.0)
    assert seen == expected and torch.allclose(labels, torch.ones(5, 1, 1, 1))


def test_what_is_alike_and_too_far_away_is_not_taken() -> None:
    query, keys = torch.zeros(1, 9, 2), torch.zeros(1, 1, 9, 2)
    query[0, 8, 0] = keys[0, 0, 0, 0] = 1
    labels = torch.zeros(1, 1, 9, 1)
    labels[0, 0, 0] = 1
    near, far = (nearest(query, keys, labels, topk=1, radius=radius, temperature=0.1)[0, 8, 0] for radius in (8, 7))
    assert (float(near), float(far)) == (1, 0)


# ---- following -------------------------------------------------------------------------------------------------------


def test_features_that_say_whose_each_pixel_is_follow_it_without_error() -> None:
    found = Vos().run(Videos([moving()]), seed=0)
    assert list(found) == Vos().metrics(SPEC)
    assert (found["vos/jf"], found["vos/j"], found["vos/f"]) == (100, 100, 100)
    assert found["vos/seconds_per_sequence"] > 0


def test_features_of_noise_lose_the_objects() -> None:
    assert Vos().run(Videos([moving(shift=3)], noise=100.0), seed=0)["vos/j"] < 60


def test_only_the_first_mask_is_read() -> None:
    video = moving()
    features = Videos([video], noise=0.3)
    poisoned = video._replace(objects=torch.cat([video.objects[:1], 1 + torch.zeros_like(video.objects[1:])]))
    maps = features.frame_maps(video.frames)
    features.frame_maps = lambda frames, level=1, stride=None: maps
    assert torch.equal(Vos().follow(features, video, [1, 2]), Vos().follow(features, poisoned, [1, 2]))


def test_scores_of_a_tiny_video_by_hand() -> None:
    video = moving(shift=0, frames=4)
    answers = video.objects.clone()
    answers[0] = answers[3] = 0  # the first frame is given and the last does not count
    answers[1] = torch.roll(video.objects[1], 4, dims=1)
    found = score(answers, video, [1, 2])
    first = region_overlap((answers[1] == 1).numpy(), (video.objects[1] == 1).numpy())
    assert first == pytest.approx(4 * 8 / (12 * 8))
    assert found[0].region == pytest.approx((first + 1) / 2)
    assert found[1].region == pytest.approx((2 * 6 / (10 * 6) + 1) / 2)
    contour = contour_overlap((answers[1] == 2).numpy(), (video.objects[1] == 2).numpy())
    assert found[1].contour == pytest.approx((contour + 1) / 2) and 0 < contour < 1


def test_metrics_are_means_over_objects_of_all_videos() -> None:
    one = moving(name="one")
    one = one._replace(objects=one.objects.where(one.objects != 2, 0))
    two = moving(shift=3, name="two")._replace(frames=torch.ones(3, 5, 24, 32, dtype=torch.uint8))
    features = Videos([one, two], noise=0.6)
    followed = [
        each
        for video in features.videos
        for each in score(Vos().follow(features, video, objects_of(video)), video, objects_of(video))
    ]
    assert len(followed) == 3
    found = Vos().run(features, seed=0)
    assert found["vos/j"] == pytest.approx(100 * sum(each.region for each in followed) / 3)
    assert found["vos/jf"] == pytest.approx((found["vos/j"] + found["vos/f"]) / 2)
    assert Vos(max_sequences=1).run(features, seed=0)["vos/j"] == pytest.approx(100 * followed[0].region)


def test_pixels_that_do_not_count_are_in_no_mask() -> None:
    video = moving(shift=0, frames=3)
    unsure = video._replace(objects=video.objects.where(torch.arange(32) != 9, -1))  # the last column of the first
    answers = video.objects.where(torch.arange(32) != 9, 1)
    assert score(answers, unsure, [1]) == [Followed(1.0, 1.0)]


def test_of_a_video_of_two_frames_the_second_counts() -> None:
    video = moving(frames=2)
    assert score(video.objects, video, [1, 2]) == [Followed(1.0, 1.0)] * 2
    assert score(torch.zeros_like(video.objects), video, [1]) == [Followed(0.0, 0.0)]


def test_known_frames_after_the_first_count_the_last_among_them() -> None:
    video = moving(shift=0, frames=6)._replace(known=(0, 2, 5))
    answers = torch.zeros_like(video.objects)
    answers[5] = video.objects[5]
    assert score(answers, video, [1]) == [Followed(0.5, 0.5)]


def test_a_video_of_which_the_first_frame_alone_is_known_is_not_scored() -> None:
    whole, first = moving(name="whole"), moving(shift=3, name="first")._replace(known=(0,))
    found = Vos().run(Videos([whole, first], noise=0.6), seed=0)
    assert found["vos/j"] == pytest.approx(Vos().run(Videos([whole], noise=0.6), seed=0)["vos/j"])
    with pytest.raises(ValueError, match="nothing to follow and to score"):
        Vos().run(Videos([first]), seed=0)


def test_an_object_that_is_everywhere_or_nowhere_is_answered_so() -> None:
    labels = torch.zeros(3, 4, 3)
    labels[..., 1] = 1
    assert (answered(labels, torch.Size((12, 16))) == 1).all()


def test_videos_without_an_object_in_the_first_frame_are_passed_over() -> None:
    empty = moving()._replace(objects=torch.zeros(5, 24, 32, dtype=torch.int64))
    assert Vos().run(Videos([empty, moving()]), seed=0)["vos/j"] == 100
    with pytest.raises(ValueError, match=r"evals\.vos: no test video has an object in its first frame"):
        Vos().run(Videos([empty]), seed=0)


# ---- frames of any size ----------------------------------------------------------------------------------------------


def test_frames_are_resized_to_the_nearest_multiple_of_the_stride() -> None:
    small = DataSpec(3, 1, 32, 32)
    assert fitting((240, 427), small, Grid(1, 4, 4)) == (240, 424)
    assert fitting((5, 13), small, Grid(1, 4, 4)) == (8, 16)
    frames = torch.rand(2, 3, 17, 20)
    assert resized(frames, (17, 20)) is frames and resized(frames, (16, 24)).shape == (2, 3, 16, 24)


def test_a_table_of_places_is_enlarged_in_rows_and_columns() -> None:
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij"), dim=-1).flatten(0, 1)
    large = enlarged(grid, (4, 5), (8, 10)).view(8, 10, 2)
    assert torch.allclose(large[2:6, 2:8, 0], (torch.arange(2, 6)[:, None].float() - 0.5) / 2 * torch.ones(6), atol=0.1)
    assert torch.allclose(large[2:6, 2:8, 1], (torch.arange(2, 8).float() - 0.5) / 2 * torch.ones(4, 1), atol=0.1)
    assert enlarged(grid, (4, 5), (4, 5)) is grid


def frozen(options: ViT, frames: int = 1) -> FrozenFeatures:
    spec = DataSpec(3, frames, 16, 16)
    encoder = options.build(spec, generator_for(0, "init"))
    return FrozenFeatures(
        encoder,
        Tiny(spec),
        Tiny(spec),
        prepare=normalise,
        device="cpu",
        batch_size=4,
        resize=lambda module, large: for_frames(module, options, large),
    )


@dataclass
class Tiny:
    spec: DataSpec

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("position", list(Position))
@pytest.mark.parametrize("frames, tubelet", [(1, 1), (4, 2)])
@pytest.mark.parametrize("class_token", [False, True])
def test_every_transformer_has_maps_of_larger_frames(position, frames, tubelet, class_token) -> None:
    options = ViT(width=24, depth=2, heads=2, patch=4, tubelet=tubelet, position=position, class_token=class_token)
    features = frozen(options, frames)
    video = torch.randint(0, 256, (3, 3, 30, 41), generator=generator_for(0, "video")).to(torch.uint8)
    maps = features.frame_maps(video)
    assert maps.shape == (3, 8, 10, 24) and maps.isfinite().all()
    assert torch.allclose(features.frame_maps(video[:, 1:2])[0], maps[1], atol=1e-5)  # frame by frame


@pytest.mark.parametrize("position", list(Position))
def test_frames_of_the_encoder_s_own_size_have_its_own_maps(position) -> None:
    features = frozen(ViT(width=24, depth=2, heads=2, patch=4, position=position))
    video = torch.randint(0, 256, (3, 2, 16, 16), generator=generator_for(0, "video")).to(torch.uint8)
    clips = normalise(video.transpose(0, 1)[:, :, None], features.spec)
    with torch.inference_mode():
        expected = features._encoder.intermediate(clips, 1)[0].view(2, 4, 4, 24)
    assert torch.allclose(features.frame_maps(video), expected, atol=1e-5)


def test_a_stride_is_one_size_of_maps_whatever_the_stages_of_an_encoder() -> None:
    video = torch.randint(0, 256, (3, 2, 16, 24), generator=generator_for(0, "video")).to(torch.uint8)
    two, one = ConvNeXt(widths=[8, 16], depths=[1, 1], levels=3), ConvNeXt(widths=[8], depths=[1], levels=2)
    for stride in (2, 4):
        shapes = {frozen(options).frame_maps(video, stride=stride).shape[1:3] for options in (two, one)}
        assert shapes == {(16 // stride, 24 // stride)}
    assert frozen(two).frame_maps(video, stride=8).shape[1:3] == (2, 3)


def test_a_stride_that_an_encoder_has_no_map_of_is_refused() -> None:
    options, spec = ConvNeXt(widths=[8], depths=[1], levels=2), dataclasses.replace(SPEC, frames=1)
    Vos(stride=4).check(options, spec, SPEC)
    with pytest.raises(ValueError, match=r"evals\.vos\.stride must be the width of a cell .*: 4, 2; got 8"):
        Vos(stride=8).check(options, spec, SPEC)
    with pytest.raises(ValueError, match=r"evals\.vos\.stride=4 and evals\.vos\.level=2"):
        Vos(stride=4, level=2)


def test_a_run_is_judged_on_its_own_clips(tmp_path) -> None:
    record = run_it(tmp_path, tmp_path / "run", "method=mae", "data.frames=4", "evals=[vos]")
    assert 0 < record.results["vos/jf"] < 100


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_data_without_objects_is_refused() -> None:
    plain = dataclasses.replace(SPEC, has_objects=False)
    with pytest.raises(ValueError, match=r"evals\.vos needs videos whose objects are known.*eval_data=davis"):
        Vos().check(ViT(), plain, plain)


def test_data_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"evals\.vos: the data has 3 channels, the encoder takes 1"):
        Vos().check(ViT(), dataclasses.replace(SPEC, channels=1, mean=(), std=()), SPEC)


@pytest.mark.parametrize(
    "name, value",
    [("n_context", -1), ("topk", 0), ("radius", -1), ("temperature", 0.0), ("level", 0), ("max_sequences", 0)],
)
def test_values_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=rf"evals\.vos\.{name} must be"):
        Vos(**{name: value})
