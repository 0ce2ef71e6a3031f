"""Fine-tuned segmentation: encoders of every kind, what it learns, resuming, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from core.evals.tuned.seg_tuned import Segmenter, SegmentTuned
from core.models import ConvNeXt, ViT
from core.types import SAMPLE, DataSpec, generator_for
from tests.core.running.test_trainer import run_it

SPEC = DataSpec(channels=3, frames=4, height=16, width=16, segment_classes=3)
SHORT = ["evals=[seg_tuned]", "evals.seg_tuned.steps=3", "evals.seg_tuned.batch_size=4"]


def segmenter(options: ViT | ConvNeXt, frames: list[int]) -> Segmenter:
    return Segmenter(
        options.build(SPEC, generator_for(0, "init")),
        SPEC,
        frames,
        lambda samples: (samples % 3).view(-1, 1, 1, 1).expand(-1, len(frames), 16, 16).to(torch.int16),
        head_std=0.02,
        generator=generator_for(0, "head"),
    )


@pytest.mark.parametrize(
    "options",
    [
        ViT(width=24, depth=1, heads=2, patch=4, tubelet=2, class_token=True),
        ConvNeXt(widths=[8, 12], depths=[1, 1], levels=2),
    ],
)
def test_scores_are_of_every_pixel_of_the_frames(options) -> None:
    clips = torch.randn(2, 3, 4, 16, 16, generator=generator_for(0, "clips"))
    tuned = segmenter(options, [1, 3])
    assert tuned.scores(clips).shape == (4, 3, 16, 16)
    loss = tuned.loss(clips, {SAMPLE: torch.tensor([5, 7])}, lambda _: generator_for(0), 0.0)["loss"]
    loss.backward()
    assert loss.isfinite() and any(parameter.grad.abs().sum() > 0 for parameter in tuned.encoder.parameters())


def test_the_loss_is_of_the_batch_s_own_samples() -> None:
    tuned = segmenter(ViT(width=24, depth=1, heads=2, patch=4, tubelet=2), [2])
    with torch.no_grad():
        tuned.head.weight.zero_()
        tuned.head.bias.copy_(torch.tensor([0.0, 50.0, 0.0]))  # says class 1 everywhere
    clips = torch.zeros(2, 3, 4, 16, 16)
    right, wrong = (
        float(tuned.loss(clips, {SAMPLE: torch.tensor(which)}, lambda _: generator_for(0), 0.0)["loss"].detach())
        for which in ([1, 4], [2, 3])
    )
    assert right == pytest.approx(0, abs=1e-6) and wrong == pytest.approx(50, rel=1e-3)


@pytest.mark.parametrize("data", ["data.frames=1", "data.frames=4"])
def test_a_run_is_judged_by_fine_tuned_segmentation(tmp_path, data) -> None:
    record = run_it(tmp_path / "cache", tmp_path / "run", "method=mae", data, *SHORT)
    assert 0 < record.results["seg_tuned/miou"] < 100


def test_more_steps_segment_better(tmp_path) -> None:
    found = [
        run_it(
            tmp_path / "cache", tmp_path / str(steps), "method=mae", "data.frames=1", "optim.steps=0", SHORT[0],
            f"evals.seg_tuned.steps={steps}", "evals.seg_tuned.lr=0.003",
        ).results["seg_tuned/miou"]
        for steps in (1, 60)
    ]  # fmt: skip
    assert found[1] > found[0] + 2


def test_a_run_that_was_stopped_while_tuning_ends_with_the_same_number(tmp_path) -> None:
    words = ["method=mae", "data.frames=1", *SHORT, "runtime.checkpoint_every=1"]
    whole = run_it(tmp_path / "cache", tmp_path / "whole", *words)
    first = run_it(tmp_path / "cache", tmp_path / "parts", *words, stop_after=8)
    assert first.outcome == "preempted"
    second = run_it(tmp_path / "cache", tmp_path / "parts", *words)
    assert second.results["seg_tuned/miou"] == whole.results["seg_tuned/miou"]


def test_clips_that_would_be_cut_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"evals\.seg_tuned: the data's clips are 4 x 24x16 px and the encoder's 4 x 16"
    ):
        SegmentTuned().check(ViT(), SPEC, dataclasses.replace(SPEC, height=24))
    with pytest.raises(ValueError, match=r"evals\.seg_tuned\.tubelet must divide the 4 frames of a clip, got 3"):
        SegmentTuned(tubelet=3).check(ViT(), dataclasses.replace(SPEC, frames=1), SPEC)
    with pytest.raises(ValueError, match=r"evals\.seg_tuned needs data whose pixels have classes"):
        SegmentTuned().check(ViT(), SPEC, dataclasses.replace(SPEC, segment_classes=0))


@pytest.mark.parametrize("name, value", [("steps", 0), ("lr", 0.0), ("drop_path", 1.0), ("layer_decay", 0.0)])
def test_values_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(ValueError, match=rf"evals\.seg_tuned\.{name} must be"):
        SegmentTuned(**{name: value})
