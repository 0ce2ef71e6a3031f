"""Detection from given boxes: precision by hand, regions by hand, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from core.data.moving_digits import MovingDigits
from core.evals.detect import Detect, Moment, Pool, average_precision, every_layer, mean_average_precision, rate
from core.models import ViT
from core.types import DataSpec, Grid, Pooling, Regions, Sampling, Tokens, generator_for
from tests.core.running.test_trainer import run_it

SPEC = DataSpec(channels=3, frames=4, height=32, width=48, box_classes=3)
GRID = Grid(2, 8, 12)  # patches of 4 px


@dataclass
class Scenes:
    """`Features` of clips with two boxes each: a token is the one-hot class of the box that it lies in."""

    spec: DataSpec = field(default_factory=lambda: SPEC)
    grid: Grid = field(default_factory=lambda: GRID)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    num: int = 60
    noise: float = 0.0
    shuffled: bool = False

    def _scene(self, split: str) -> tuple[Tensor, Tensor]:
        generator = generator_for(0, "scenes", split)
        return torch.randint(3, (self.num, 2), generator=generator), generator_for(0, split, "noise").initial_seed()

    def regions(self, split: str, sampling: Sampling | None = None) -> Regions:
        classes = self._scene(split)[0].flatten()
        if self.shuffled:
            classes = classes[torch.randperm(len(classes), generator=generator_for(1, split))]
        boxes = torch.tensor([[0.0, 0.0, 16.0, 16.0], [24.0, 8.0, 48.0, 32.0]]).repeat(self.num, 1)
        return Regions(torch.arange(self.num).repeat_interleave(2), boxes, classes)

    def tokens(self, split: str, sampling: Sampling | None = None, num_layers: int = 1) -> Tokens:
        classes, seed = self._scene(split)
        maps = torch.zeros(self.num, *GRID, 3)
        maps[:, :, :4, :4] = torch.eye(3)[classes[:, 0]][:, None, None, None]
        maps[:, :, 2:, 6:] = torch.eye(3)[classes[:, 1]][:, None, None, None]
        maps += self.noise * torch.randn(maps.shape, generator=torch.Generator().manual_seed(int(seed)))
        return Tokens(maps.flatten(1, 3)[:, None], {})

    def pooled(self, split: str, num_layers: int = 1, pool: Pooling = Pooling.mean) -> Tensor:
        raise AssertionError("detection reads tokens")

    def labels(self, split: str) -> dict[str, Tensor]:
        return {}


def quick(**options: object) -> Detect:
    return Detect(**{"num_layers": 1, "epochs": 20, "lrs": [0.01, 0.05], "batch_size": 16} | options)


# ---- average precision -----------------------------------------------------------------------------------------------


def test_average_precision_by_hand() -> None:
    scores, truth = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([False, True, True, False])
    # Thresholds falling: 0 of 1, 1 of 2 (recall 1/2), 2 of 3 (recall 1), 2 of 4.
    assert average_precision(scores, truth, envelope=False) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert average_precision(scores, truth) == pytest.approx(2 / 3)  # at recall 1/2 the best further on is 2/3 too


def test_mean_average_precision_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.1, 5.0], [0.2, 0.8, 4.0], [0.3, 0.9, 3.0]])
    # Class 0 ranks its one box first: 1. Class 1 ranks boxes 2, 1, 0 and is 1 and 2: 1. Class 2 does not occur.
    assert mean_average_precision(scores, torch.tensor([0, 1, 1])) == 1
    # Class 0 is box 1, ranked last of three: 1/3. Class 1 is boxes 0 and 2, ranked third and first: 1/2 + 1/2 * 2/3.
    assert mean_average_precision(scores, torch.tensor([1, 0, 1])) == pytest.approx((1 / 3 + 5 / 6) / 2)


def test_the_order_of_equal_scores_does_not_matter() -> None:
    scores, truth = torch.zeros(4), torch.tensor([True, False, False, False])
    assert average_precision(scores, truth) == average_precision(scores, truth.flip(0)) == 0.25


@pytest.mark.slow
def test_without_the_envelope_it_is_torchmetrics_average_precision() -> None:
    # 4 s to import, which no other test needs.
    from torchmetrics.functional.classification import multiclass_average_precision

    generator = generator_for(0, "scores")
    scores = torch.rand(300, 5, generator=generator).mul(50).round() / 50  # many equal ones
    classes = torch.randint(5, (300,), generator=generator)
    theirs = multiclass_average_precision(scores, classes, 5, average="none")
    ours = [average_precision(scores[:, k], classes == k, envelope=False) for k in range(5)]
    assert ours == pytest.approx(theirs.tolist(), abs=1e-6)


def test_the_envelope_is_scikit_learns_best_precision_further_on() -> None:
    from sklearn.metrics import precision_recall_curve

    generator = generator_for(0, "scores")
    scores, truth = torch.rand(200, generator=generator), torch.rand(200, generator=generator) < 0.3
    precision, recall, _ = precision_recall_curve(truth, scores)  # recall falls from 1 to 0
    best = torch.tensor(precision.copy()).cummax(0).values[:-1]
    expected = float((best * -torch.diff(torch.tensor(recall.copy()))).sum())
    assert average_precision(scores, truth) == pytest.approx(expected, abs=1e-9)


# ---- regions ---------------------------------------------------------------------------------------------------------


def test_a_box_reads_its_own_tokens() -> None:
    boxed = quick().boxed(Scenes(), "train")
    assert torch.equal(boxed.features, torch.eye(3)[boxed.classes])


def test_the_mean_over_a_box_counts_what_lies_beside_it() -> None:
    wide = Scenes()
    boxes = wide.regions("train")._replace(boxes=torch.tensor([[0.0, 0.0, 32.0, 16.0], [24.0, 8.0, 48.0, 32.0]]))
    boxes = Regions(torch.tensor([0, 0]), boxes.boxes, wide.regions("train").classes[:2])
    features = dataclasses.replace(wide, num=1)
    features.regions = lambda split, sampling=None: boxes  # type: ignore[method-assign]
    mean = quick(pool=Pool.mean).boxed(features, "train").features
    best = quick(pool=Pool.max).boxed(features, "train").features
    assert best[0].max() == 1 and 0.3 < mean[0].max() < 1


def test_the_middle_moment_is_the_slice_of_the_boxes_frame() -> None:
    features = Scenes(num=1)
    values = torch.arange(GRID.t).float().repeat_interleave(GRID.h * GRID.w)[None, None, :, None]
    features.tokens = lambda *_: Tokens(values, {})  # type: ignore[method-assign]
    assert quick(moment=Moment.middle).boxed(features, "train").features.unique().tolist() == [1.0]  # frame 2 of 4
    assert quick(moment=Moment.clip).boxed(features, "train").features.unique().tolist() == [0.5]


def test_every_second_layer_is_taken_from_the_last() -> None:
    tokens = torch.arange(7).repeat_interleave(2).float().expand(1, 4, -1)  # layers 0 to 6, 2 wide
    assert Detect(num_layers=4, layer_step=2).span == 7
    assert every_layer(tokens, 7, 2)[0, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]


# ---- known answers ---------------------------------------------------------------------------------------------------


def test_boxes_that_the_features_tell_apart_give_100() -> None:
    assert quick().run(Scenes(noise=0.05), seed=0) == {"detect/map": 100.0}


def test_shuffled_classes_give_the_share_of_each_class() -> None:
    result = quick().run(Scenes(noise=0.05, num=200, shuffled=True), seed=0)["detect/map"]
    assert 28 < result < 45  # a third, and a little more, as the best of a class's ranks counts


def test_the_head_is_chosen_without_the_test_split() -> None:
    features = Scenes(noise=0.05)
    train = features.regions("train")

    def only_train(split: str, sampling: Sampling | None = None) -> Regions:
        assert split == "train", "the head is chosen on train clips"
        return train

    features.regions = only_train  # type: ignore[method-assign]
    assert quick().choose(features, seed=0).weight.shape == (4, 3)


def test_the_rate_rises_and_falls_to_nothing() -> None:
    assert [rate(epoch, 30, 2) for epoch in (1, 2, 16, 30)] == pytest.approx([0.5, 1.0, 0.5, 0.0])


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([-1.0, 0.0, 8.0, 8.0], r"box \[-1, 0, 8, 8\] .* of train clip 3 is not inside the frame of 48x32 px"),
        ([0.0, 0.0, 49.0, 8.0], r"not inside the frame"),
        ([8.0, 0.0, 8.0, 8.0], r"not inside the frame"),
        ([math.nan, 0.0, 8.0, 8.0], r"box \[nan, 0, 8, 8\]"),
    ],
)
def test_a_box_outside_the_frame_is_refused(box: list[float], message: str) -> None:
    features = Scenes()
    regions = features.regions("train")
    regions.boxes[6] = torch.tensor(box)
    features.regions = lambda split, sampling=None: regions  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=message):
        quick().run(features, seed=0)


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_class_outside_the_range_is_refused(wrong: int) -> None:
    features = Scenes()
    regions = features.regions("train")
    regions.classes[6] = wrong
    features.regions = lambda split, sampling=None: regions  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=rf"train clip 3 has the class {wrong}; classes are 0 .. 2"):
        quick().run(features, seed=0)


def test_a_class_without_a_train_box_is_refused() -> None:
    features = dataclasses.replace(Scenes(), spec=dataclasses.replace(SPEC, box_classes=4))
    with pytest.raises(ValueError, match=r"label 'boxes': classes \[3\] of 4 have no train sample"):
        quick().run(features, seed=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (dataclasses.replace(SPEC, box_classes=0), "needs data with boxes, and this data has none"),
        (dataclasses.replace(SPEC, height=40), "clips are 40x48 px and the encoder's 32x48"),
        (dataclasses.replace(SPEC, frames=8), "have 8 frames .* the encoder's 4; a box belongs to one clip"),
        (dataclasses.replace(SPEC, clips_per_video=2), "2 clips a video"),
    ],
)
def test_data_that_has_no_place_for_boxes_is_refused(spec: DataSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick().check(ViT(depth=4), SPEC, spec)


def test_more_layers_than_the_encoder_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"evals.detect.num_layers \(with layer_step\)"):
        Detect(num_layers=3, layer_step=2).check(ViT(depth=4), SPEC, SPEC)


# ---- on moving digits ------------------------------------------------------------------------------------------------


def test_the_box_of_a_single_digit_is_around_its_mask(tmp_path) -> None:
    digits = MovingDigits(size=32, frames=4, num_train=20, num_test=20, digit_min=12, digit_max=20).load(
        "test", tmp_path
    )
    regions = digits.regions(torch.arange(20))
    masks = digits.masks(torch.arange(20))[:, 2] == 1
    assert torch.equal(regions.classes, digits.labels()["digit"]) and torch.equal(regions.sample, torch.arange(20))
    for (left, top, right, bottom), mask in zip(regions.boxes.int().tolist(), masks, strict=True):
        assert mask.sum() == mask[top:bottom, left:right].sum() > 0
        inside = mask[top:bottom, left:right]
        assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()


def test_each_digit_of_a_clip_has_a_box(tmp_path) -> None:
    options = MovingDigits(size=48, num_train=150, num_test=150, num_digits_min=0 + 1, num_digits_max=3)
    digits = options.load("train", tmp_path)
    some = torch.tensor([149, 3, 77])
    regions, present = digits.regions(some), digits.digits(some)
    assert [regions.classes[regions.sample == row].tolist() for row in range(3)] == [
        [kind for kind in kinds if kind >= 0] for kinds in present.tolist()
    ]


def test_a_run_detects_digits(tmp_path) -> None:
    told = ["method=supervised", "optim.steps=0", "data.num_digits_max=2", "data.size=32", "data.num_train=160"]
    record = run_it(tmp_path / "cache", tmp_path / "run", *told, "evals=[detect]")
    assert record.outcome == "done" and 5 < record.results["detect/map"] <= 100
