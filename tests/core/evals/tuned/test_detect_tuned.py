"""Detection on fine-tuned features, on runs of a few steps."""

from __future__ import annotations

import pytest
import torch

from core.configuring.config import ConfigError, load
from core.data.moving_digits import MovingDigits
from core.evals.tuned.detect_tuned import Detector, DetectTuned
from core.models import ViT
from core.running.checkpoint import checkpoints
from core.running.trainer import train
from core.types import SAMPLE, Regions, generator_for
from tests.core.running.test_trainer import Notebook

TINY = [
    "method=mae", "scale=smoke", "optim.steps=0", "precision=fp32", "runtime.log_every=2",
    "runtime.checkpoint_every=2", "runtime.threads=1", "evals=[detect_tuned]", "data.num_digits_max=2",
]  # fmt: skip
QUICK = ["steps=6", "batch_size=8", "dropout=0.3", "drop_path=0.3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run_it(cache, folder, *words, others=(), stop_after=None):
    options = [f"evals.detect_tuned.{word}" for word in words]
    run = load([*TINY, *options, *others, f"runtime.dir={folder}", f"runtime.cache={cache}"])
    record = Notebook(folder, stop_after)
    train(run, record)
    return record


def losses(record):
    name = "finetune/detect_tuned_loss"
    return [point[name] for _, point in sorted(record.points.items()) if name in point]


@pytest.mark.slow
def test_fine_tuning_finds_what_an_encoder_that_learned_nothing_does_not(cache, tmp_path):
    data = ["data.num_train=512", "data.background=0", "data.angle=0", "data.digit_min=14", "data.digit_max=15"]
    data += ["data.size=16", "data.num_digits_max=1"]
    words = ["steps=150", "batch_size=32", "drop_path=0", "layer_decay=1"]
    learned = run_it(cache, tmp_path / "a", *words, "lr=0.003", others=data)
    nothing = run_it(cache, tmp_path / "b", *words, "lr=1e-12", "lr_end=0", others=data)
    frozen = run_it(cache, tmp_path / "c", others=[*data, "evals=[detect]", "evals.detect.epochs=30"])
    assert nothing.results["detect_tuned/map"] < 25, "a tenth of the boxes are of each class"
    assert learned.results["detect_tuned/map"] > nothing.results["detect_tuned/map"] + 20
    assert learned.results["detect_tuned/map"] > frozen.results["detect/map"] + 10


@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_stopped_fine_tuning_goes_on_bit_for_bit(cache, tmp_path, stop_after):
    whole = run_it(cache, tmp_path / "whole", *QUICK)
    assert run_it(cache, tmp_path / "part", *QUICK, stop_after=stop_after).outcome == "preempted"
    second = run_it(cache, tmp_path / "part", *QUICK)
    assert second.outcome == whole.outcome == "done"
    assert second.results["detect_tuned/map"] == whole.results["detect_tuned/map"]
    assert losses(second) == losses(whole) and len(losses(whole)) == 6
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")


def weights(folder):
    (last,) = checkpoints(folder / "finetune" / "detect_tuned")
    state = torch.load(last, weights_only=True)["tuned"]
    assert "boxes" not in state
    return {name: value.tolist() for name, value in state.items()}


def test_every_announced_metric_is_recorded_and_the_encoder_moved(cache, tmp_path):
    record = run_it(cache, tmp_path, *QUICK)
    spec = MovingDigits(size=32, num_digits_max=2).spec()
    assert set(DetectTuned().metrics(spec)) == {name for name in record.results if name.startswith("detect_tuned/")}
    start = ViT(width=32, depth=2, heads=2, patch=4).build(spec, generator_for(0, "encoder")).state_dict()
    trained = weights(tmp_path)
    assert any(trained[f"encoder.{name}"] != value.tolist() for name, value in start.items() if "blocks.0" in name)


def built(regions, **options):
    spec = MovingDigits(size=32, num_digits_max=2).spec()
    encoder = ViT(width=32, depth=2, heads=2, patch=4).build(spec, generator_for(0, "encoder"))
    return Detector(encoder, regions, spec, DetectTuned(num_layers=2, **options), generator_for(0, "head"))


def test_a_batch_reads_the_boxes_of_its_own_clips():
    """Clips 0 and 3 have two boxes, given in no order, clip 2 has one; the batch is clips 3, 0, 3."""
    boxes = torch.tensor([[8.0 * i, 0, 8.0 * i + 8, 8] for i in (0, 1, 2, 3, 1)])
    classes = torch.tensor([5, 6, 7, 8, 9])
    detector = built(Regions(torch.tensor([3, 0, 2, 3, 0]), boxes, classes))
    rows, which = detector._boxes_of(torch.tensor([3, 0, 3]))
    assert rows.tolist() == [0, 0, 1, 1, 2, 2]
    assert detector.classes[which].tolist() == [5, 8, 6, 9, 5, 8]
    assert detector.boxes[which][:, 0].tolist() == [0, 24, 8, 8, 0, 24]


def test_the_loss_is_that_of_the_boxes_scores():
    boxes = torch.tensor([[0.0, 0, 16, 16], [8.0, 8, 32, 32]])
    detector = built(Regions(torch.tensor([4, 4]), boxes, torch.tensor([1, 2]))).eval()
    clips = torch.randn(1, 3, 1, 32, 32, generator=generator_for(0, "clips"))
    loss = detector.loss(clips, {SAMPLE: torch.tensor([4])}, lambda purpose: generator_for(0, purpose), 0.0)["loss"]
    scores = detector.logits(clips, torch.tensor([0, 0]), boxes)
    truth = torch.zeros(2, 10)
    truth[0, 1] = truth[1, 2] = 1
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, truth)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    assert detector.encoder.blocks[0].attn.qkv.weight.grad.abs().sum() > 0


def test_a_batch_of_one_box_has_no_spread_to_be_divided_by():
    detector = built(Regions(torch.tensor([4]), torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([1]))).train()
    clips = torch.randn(1, 3, 1, 32, 32, generator=generator_for(0, "clips"))
    loss = detector.loss(clips, {SAMPLE: torch.tensor([4])}, lambda purpose: generator_for(0, purpose), 0.0)["loss"]
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evals.detect_tuned.num_layers=3"], r"evals\.detect_tuned\.num_layers"),
        (["evals.detect_tuned.lr=0"], r"evals\.detect_tuned\.lr must be above 0, got 0"),
        (["evals.detect_tuned.drop_path=1"], r"evals\.detect_tuned\.drop_path must be in \[0, 1\), got 1"),
        (["eval_data=moving_digits", "eval_data.size=48"], "boxes of clips that are cut have no place"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_trains(words, message):
    with pytest.raises(ConfigError, match=message):
        load([*TINY, *words])
