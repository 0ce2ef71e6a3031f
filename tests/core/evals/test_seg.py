"""Intersection over union by hand, heads on maps whose answer is known, and what is refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from core.configuring.config import ConfigError, load
from core.data.augment import normalise
from core.data.moving_digits import MovingDigits
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.maps import by_frame, centre, level_of
from core.evals.seg import Frames, Segment, confusion, mean_iou, pixel_loss
from core.models import ViT
from core.types import DataSpec, Grid, Sampling, generator_for
from tests.core.evals.known import clusters
from tests.core.running.test_trainer import run_it

SPEC = DataSpec(channels=3, frames=3, height=16, width=24, segment_classes=3)


@dataclass
class Scenes:
    """`Features` of scenes whose every cell of 4 px shows one class, which its token is the one-hot vector of."""

    spec: DataSpec = field(default_factory=lambda: SPEC)
    grid: Grid = field(default_factory=lambda: Grid(3, 4, 6))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    noise: float = 0.0
    num_test: int = 40

    def _cells(self, split: str, frames: int) -> Tensor:
        return torch.randint(3, (60 if split == "train" else 40, frames, 4, 6), generator=generator_for(0, split))

    def maps(self, split, frames, *, level=1, max_train=None) -> Tensor:
        maps = 5 * torch.eye(3)[self._cells(split, len(frames))]
        return maps + self.noise * torch.randn(maps.shape, generator=generator_for(1, split))

    def segments(self, split, frames, *, max_train=None) -> Tensor:
        cells = self._cells(split, len(frames)).to(torch.int16)
        return cells.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)


# ---- the metric ------------------------------------------------------------------------------------------------------


def test_mean_iou_by_hand() -> None:
    truth = torch.tensor([0, 0, 0, 1, 1, 2, -1])
    answer = torch.tensor([0, 0, 1, 1, 2, 2, 0])
    counts = confusion(answer, truth, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    # 2 of 3 are right and none is wrongly answered; 1 of (2 + 1); 1 of (1 + 1); class 3 does not occur.
    assert mean_iou(counts) == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)


def test_a_class_that_is_answered_and_never_true_counts_as_0() -> None:
    assert mean_iou(confusion(torch.tensor([0, 3]), torch.tensor([0, 0]), 4)) == pytest.approx((1 / 2 + 0) / 2)


@pytest.mark.slow
def test_mean_iou_is_torchmetrics_jaccard_index() -> None:
    # 4 s to import, which no other test needs.
    from torchmetrics.classification import MulticlassJaccardIndex

    generator = generator_for(0, "pixels")
    truth = torch.randint(-1, 6, (50, 8, 8), generator=generator)
    answer = torch.where(torch.rand(truth.shape, generator=generator) < 0.5, truth.clamp_min(0), 6)
    theirs = MulticlassJaccardIndex(num_classes=8, ignore_index=-1, average="macro")(answer, truth)
    assert mean_iou(confusion(answer, truth, 8)) == pytest.approx(float(theirs), abs=1e-6)


def test_the_loss_is_the_mean_over_pixels_that_have_a_class() -> None:
    scores = torch.randn(2, 3, 4, 5, generator=generator_for(0, "scores"))
    truth = torch.randint(-1, 3, (2, 4, 5), generator=generator_for(0, "truth")).to(torch.int16)
    by_pixel = scores.movedim(1, -1)[truth >= 0].log_softmax(1)
    expected = -by_pixel.gather(1, truth[truth >= 0].long()[:, None]).mean()
    assert float(pixel_loss(scores, truth)) == pytest.approx(float(expected), rel=1e-5)
    assert float(pixel_loss(scores, torch.full_like(truth, -1))) == 0


# ---- heads -----------------------------------------------------------------------------------------------------------


def test_maps_that_say_the_class_give_nearly_every_pixel() -> None:
    # Not all: enlarging is smooth where classes meet.
    assert 60 < Segment(epochs=20, lrs=[0.1]).run(Scenes(), seed=0)["seg/miou"] < 100


def test_maps_of_one_place_that_say_the_class_give_100_percent() -> None:
    assert Segment(lrs=[0.1]).run(clusters(spread=0.02), seed=0) == {"seg/miou": 100.0}


def test_noise_costs() -> None:
    clear, blurred = (Segment(lrs=[0.1]).run(Scenes(noise=noise), seed=0)["seg/miou"] for noise in (0.0, 10.0))
    assert blurred < clear - 10


def test_the_scale_of_features_does_not_matter() -> None:
    @dataclass
    class Scaled(Scenes):
        def maps(self, split, frames, *, level=1, max_train=None) -> Tensor:
            return 1000 * super().maps(split, frames) + 300

    assert Segment().run(Scaled(noise=2), 0)["seg/miou"] == pytest.approx(
        Segment().run(Scenes(noise=2), 0)["seg/miou"], abs=0.5
    )


def test_poisoned_test_classes_do_not_change_the_head() -> None:
    @dataclass
    class Poisoned(Scenes):
        def segments(self, split, frames, *, max_train=None) -> Tensor:
            given = super().segments(split, frames)
            return given if split == "train" else (given + 1) % 3

        def maps(self, split, frames, *, level=1, max_train=None) -> Tensor:
            given = super().maps(split, frames)
            return given if split == "train" else given * torch.nan

    clean, poisoned = (Segment().choose(scenes, seed=0) for scenes in (Scenes(), Poisoned()))
    assert torch.equal(clean.weight, poisoned.weight) and torch.equal(clean.mean, poisoned.mean)


def test_train_pixels_without_a_class_teach_nothing() -> None:
    @dataclass
    class Partly(Scenes):
        turned: bool = False

        def segments(self, split, frames, *, max_train=None) -> Tensor:
            given = super().segments(split, frames).clone()
            if split == "train":
                given[..., :8] = -1
            return given

        def maps(self, split, frames, *, level=1, max_train=None) -> Tensor:
            given = super().maps(split, frames).clone()
            if self.turned:  # as many of each as before, so that the features' mean and std stay
                given[..., 0, :] = given[..., 0, :].flip(0)
            return given

    a, b = (Segment().choose(Partly(turned=turned), seed=0) for turned in (False, True))
    assert torch.allclose(a.weight, b.weight, atol=1e-3)
    with pytest.raises(ValueError, match=r"evals\.seg: no train pixel has a class"):
        nothing = clusters(spread=0.1)
        Segment().run(dataclasses.replace(nothing, train_labels={"kind": torch.full((200,), -1)}), seed=0)
    with pytest.raises(ValueError, match=r"evals\.seg: no test pixel has a class"):
        Segment().run(dataclasses.replace(nothing, test_labels={"kind": torch.full((120,), -1)}), seed=0)


def test_the_learning_rate_with_the_best_held_out_clips_is_taken() -> None:
    idle, usual = (Segment(lrs=lrs).choose(Scenes(), seed=0) for lrs in ([1e-9, 0.1], [0.1, 1e-9]))
    assert torch.equal(idle.weight, usual.weight) and idle.weight.abs().max() > 0.1


def test_heads_that_diverge_are_refused() -> None:
    scenes = Scenes()
    scenes.maps = lambda *_, **options: Scenes.maps(scenes, *_, **options) * torch.inf
    with pytest.raises(ValueError, match=r"evals\.seg\.lrs: every head diverged"):
        Segment().run(scenes, seed=0)


# ---- maps ------------------------------------------------------------------------------------------------------------


def test_a_tubelet_s_tokens_stand_for_each_of_its_frames() -> None:
    tokens = torch.arange(2 * 3 * 4 * 5).float().view(1, 24, 5)  # 2 moments, 3 x 4 places
    maps = by_frame(tokens, Grid(2, 3, 4), 6, [0, 2, 3, 5])
    assert maps.shape == (1, 4, 3, 4, 5)
    assert torch.equal(maps[:, 0], maps[:, 1]) and torch.equal(maps[:, 2], maps[:, 3])
    assert torch.equal(maps[0, 3, 2, 1], tokens[0, 12 + 2 * 4 + 1])


def test_an_image_shown_as_a_clip_has_the_average_map() -> None:
    tokens = torch.arange(4.0).view(1, 4, 1)  # 4 moments of one place
    assert by_frame(tokens, Grid(4, 1, 1), 1, [0]).item() == 1.5


def test_larger_frames_are_cut_in_the_middle_like_their_clips() -> None:
    frames = torch.arange(10).view(1, 10, 1) * 10 + torch.arange(9)
    cut = centre(frames, DataSpec(channels=3, frames=1, height=6, width=4))
    assert cut.shape == (1, 6, 4) and cut[0, 0, 0] == 22


def test_levels_are_counted_from_the_lowest_resolution() -> None:
    levels = [torch.zeros(1, 2, 3, 3), torch.zeros(1, 4, 6, 6)]
    assert [level_of(levels, level).shape for level in (1, 2)] == [(1, 3, 3, 2), (1, 6, 6, 4)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FrozenFeatures:
    data = MovingDigits(frames=4, num_train=50, num_test=20)
    train, test = (data.load(split, tmp_path_factory.mktemp("cache")) for split in ("train", "test"))
    encoder = ViT(width=24, depth=2, patch=8, tubelet=2).build(data.spec(), generator_for(0, "init"))
    return FrozenFeatures(encoder, train, test, prepare=normalise, device="cpu", batch_size=16)


def test_maps_and_segments_are_of_the_same_clips_and_frames(digits) -> None:
    maps, truth = (made("train", [1, 3], max_train=30) for made in (digits.maps, digits.segments))
    assert maps.shape == (30, 2, 4, 4, 24) and truth.shape == (30, 2, 32, 32)
    chosen = digits._videos_of("train", Sampling(max_train=30))
    assert torch.equal(truth.long(), digits._datasets["train"].segments(chosen)[:, [1, 3]])
    clips = normalise(digits._datasets["train"].fetch(chosen[:5]).clips, digits.spec)
    with torch.inference_mode():
        tokens = digits._encoder.eval()(clips).view(5, 2, 4, 4, 24)
    assert torch.allclose(maps[:5].float(), tokens, atol=2e-2)


def test_a_class_that_the_data_does_not_have_is_named_with_its_clip(digits, monkeypatch) -> None:
    dataset = digits._datasets["test"]
    monkeypatch.setattr(dataset, "segments", lambda indices: torch.where(indices == 17, 12, 3).view(-1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"test clip 17 has a pixel of the class 12; classes are 0 \.\. 10, or -1"):
        digits.segments("test", [0])


def test_a_run_is_judged_by_segmentation(tmp_path) -> None:
    record = run_it(tmp_path, tmp_path / "run", "method=mae", "data.frames=2", "evals=[seg]", "evals.seg.frames=all")
    assert 0 < record.results["seg/miou"] < 100


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_frames_are_the_middle_one_or_all() -> None:
    assert (Frames.middle.of(5), Frames.middle.of(1), Frames.all.of(3)) == ([2], [0], [0, 1, 2])


def test_data_without_classes_of_pixels_is_refused() -> None:
    plain = dataclasses.replace(SPEC, segment_classes=0)
    with pytest.raises(ValueError, match=r"evals\.seg needs data whose pixels have classes.*eval_data=moving_digits"):
        Segment().check(ViT(), plain, plain)


def test_frames_that_no_clip_of_the_encoder_covers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evals\.seg: .*3 frames, the encoder takes 2.*a multiple"):
        Segment().check(ViT(), dataclasses.replace(SPEC, frames=2), SPEC)


def test_a_level_is_refused_of_an_encoder_without_a_pyramid() -> None:
    with pytest.raises(ValueError, match=r"evals\.seg\.level must be 1, .*got 2"):
        Segment(level=2).check(ViT(), SPEC, SPEC)


@pytest.mark.parametrize("name", ["seg", "vos"])
def test_a_level_that_the_pyramid_lacks_is_refused_before_training(name) -> None:
    words = ["method=m_jepa", "scale=smoke", f"evals=[{name}]", "encoder.levels=2"]
    assert load([*words, f"evals.{name}.level=2"]).evals[name].level == 2
    with pytest.raises(ConfigError, match=rf"evals\.{name}\.level must be in \[1, 2\], .*encoder\.levels.*, got 3"):
        load([*words, f"evals.{name}.level=3"])


@pytest.mark.parametrize(
    "name, value",
    [
        ("level", 0),
        ("epochs", 0),
        ("batch_size", 0),
        ("lrs", []),
        ("lrs", [0.1, 0.0]),
        ("heldout", 0.0),
        ("heldout", 1.0),
        ("weight_decay", -1.0),
        ("max_train", 0),
    ],
)
def test_values_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=rf"evals\.seg\.{name} must be"):
        Segment(**{name: value})
