"""What an evaluation needs of the labels is known before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.configuring.config import ConfigError, load
from core.evals import EVALS
from core.running.trainer import check_labels, train
from core.types import DataSpec, Regions
from tests.core.data.dense.test_segmentation import ade20k, write_mask


class Silent:
    """A recorder that must never hear of a step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def saw(self, data) -> None: ...

    def log(self, step, metrics) -> None:
        raise AssertionError("a step was taken")

    def should_stop(self) -> bool:
        return False


def archive(path: Path, train: list[int], test: list[int]) -> Path:
    shape = (16, 16)
    np.savez(
        path,
        x_train=np.zeros((len(train), *shape), np.uint8), y_train=np.array(train),
        x_test=np.zeros((len(test), *shape), np.uint8), y_test=np.array(test),
    )  # fmt: skip
    return path


def go(folder: Path, train_labels: list[int], test_labels: list[int], *words: str) -> None:
    file = archive(folder / "a.npz", train_labels, test_labels)
    run = load(
        [
            *("method=mae", "scale=smoke", "data=npz", f"data.path={file}", "encoder.patch=4", "optim.batch_size=4"),
            *(f"runtime.dir={folder / 'run'}", f"runtime.cache={folder / 'cache'}", *words),
        ]
    )
    train(run, Silent(folder))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ridge", "knn", "linear", "low_shot", "vissl", "attentive", "finetune"])
def test_a_class_without_train_samples_is_refused_before_step_1(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"evals={name}: .*class.* \[1\] .*train sample"):
        go(tmp_path, [0, 0, 2, 2, 0, 2], [0, 1, 2], f"evals=[{name}]", *(["evals.knn.k=2"] if name == "knn" else []))


def test_more_neighbours_than_train_samples_are_refused_before_step_1(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals=knn: evals.knn.k must be at most .* 4, got 20"):
        go(tmp_path, [0, 1, 0, 1], [0, 1], "evals=[knn]")


def test_two_samples_of_many_classes_leave_one_to_choose_by(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals.ridge.heldout: nothing can be held out .* no class has two"):
        go(tmp_path, [0, 1, 2, 3], [0, 1], "evals=[ridge]")


def test_every_evaluation_that_cannot_judge_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evals=knn: .*; evals=ridge: "):
        go(tmp_path, [0, 0, 2, 2], [0, 2], "evals=[knn,ridge]")


@pytest.mark.parametrize("name", ["collapse", "flow", "seg", "vos", "detect"])
def test_an_evaluation_without_classes_asks_for_no_labels(name: str) -> None:
    EVALS[name]().check_labels({}, {}, DataSpec(3, 1, 8, 8))


def test_a_class_that_a_subset_of_the_train_split_lacks_is_refused_before_step_1(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no train sample.*\(with evals.attentive.max_train=2\)"):
        go(tmp_path, [0, 0, 1, 1, 2, 2], [0, 1, 2], "evals=[attentive]", "evals.attentive.max_train=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evals.vissl.shots=[3]"], r"evals.vissl.shots must be at most .*, got 3; label .* fewer in classes \[1\]"),
        (["evals.vissl.shots=[1]"], r"evals.vissl.heldout: nothing can be held out"),
        (["evals.vissl.shares=[0.01]"], r"evals.vissl.heldout: nothing can be held out"),
    ],
)
def test_more_labels_given_than_there_are_or_too_few_to_choose_by(
    tmp_path: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        go(tmp_path, [0, 0, 0, 1, 1], [0, 1], "evals=[vissl]", *words)


def test_clips_of_one_video_are_one_sample_to_a_probe() -> None:
    class Split:
        spec = DataSpec(3, 1, 8, 8, {"class": 2}, clips_per_video=2)

        def __init__(self, labels: list[int]) -> None:
            self.values = torch.tensor(labels).repeat_interleave(2)

        def labels(self) -> dict[str, torch.Tensor]:
            return {"class": self.values}

    run = load(["method=mae", "scale=smoke", "evals=[knn]", "evals.knn.k=3"])
    with pytest.raises(ConfigError, match=r"evals.knn.k must be at most .* 2, got 3"):
        check_labels(run, Split([0, 1]), Split([0, 1]))  # type: ignore[arg-type]


def test_fine_tuning_asks_for_the_labels_that_it_tunes_on() -> None:
    spec = DataSpec(3, 1, 8, 8, {"good": 2, "bad": 2})
    labels = {"good": torch.tensor([0, 1]), "bad": torch.tensor([-1, -1])}
    EVALS["finetune"](labels=["good"]).check_labels(labels, labels, spec)
    with pytest.raises(ValueError, match="label 'bad'"):
        EVALS["finetune"]().check_labels(labels, labels, spec)


class Digits:
    """A split whose pixels and boxes are what a test says."""

    spec = DataSpec(3, 1, 8, 8, segment_classes=3, box_classes=2)

    def __init__(self, pixels: list[int], boxes: list[int]) -> None:
        self.pixels, self.boxes = pixels, boxes

    def __len__(self) -> int:
        return len(self.pixels)

    def segments(self, indices: torch.Tensor) -> torch.Tensor:
        return torch.tensor(self.pixels)[indices][:, None, None, None].expand(-1, 1, 8, 8)

    def regions(self, indices: torch.Tensor) -> Regions:
        classes = torch.tensor(self.boxes, dtype=torch.int64)[indices[indices < len(self.boxes)]]
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(len(classes), 1)
        return Regions(torch.arange(len(classes)), boxes, classes)


@pytest.mark.parametrize("name", ["seg", "seg_tuned"])
@pytest.mark.parametrize(
    ("train", "test", "message"),
    [([-1, -1], [0, 1], "no train pixel has a class"), ([0, 1], [-1, -1], "no test pixel has a class")],
)
def test_pixels_without_a_class_are_refused_before_step_1(
    name: str, train: list[int], test: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=f"evals.{name}: {message}"):
        EVALS[name]().check_truth(Digits(train, []), Digits(test, []))
    EVALS[name]().check_truth(Digits([-1] * 40 + [2], []), Digits([-1, 0], []))


@pytest.mark.parametrize("name", ["detect", "detect_tuned"])
def test_absent_boxes_are_refused_before_step_1(name: str) -> None:
    pixels = [0] * 4
    with pytest.raises(ValueError, match=rf"evals.{name}: no test clip has a box"):
        EVALS[name]().check_truth(Digits(pixels, [0, 1]), Digits(pixels, []))
    with pytest.raises(ValueError, match=rf"evals.{name}: label 'boxes': classes \[0, 1\] of 2 have no train sample"):
        EVALS[name]().check_truth(Digits(pixels, []), Digits(pixels, [0]))
    EVALS[name]().check_truth(Digits(pixels, [0, 1]), Digits(pixels, [0]))


def test_a_void_segmentation_set_is_refused_before_anything_trains(tmp_path: Path) -> None:
    root = ade20k(tmp_path / "data")
    for mask in (root / "annotations" / "validation").iterdir():
        write_mask(mask, np.zeros((12, 16)))
    words = ["eval_data=ade20k", f"eval_data.path={root}", "eval_data.height=32", "eval_data.width=32"]
    run = load(
        ["method=mae", "scale=smoke", "evals=[seg]", *words, f"runtime.dir={tmp_path / 'run'}",
         f"runtime.cache={tmp_path / 'cache'}"]
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"evals=seg: evals.seg: no test pixel has a class"):
        train(run, Silent(tmp_path / "run"))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(EVALS))
def test_an_evaluation_of_labels_says_so(name: str) -> None:
    unlabelled = DataSpec(3, 1, 8, 8)
    names = [] if name == "finetune" else EVALS[name]().metrics(unlabelled)
    assert EVALS[name].needs_labels == (not names)
