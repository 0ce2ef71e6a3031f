"""Fine-tuning, on runs of a few steps."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from core.configuring.config import ConfigError, check, load
from core.data.augment import normalise
from core.evals.tuned.finetune import Classifier, FineTune, kept_patches, num_kept, tokens_share, top5
from core.evals.tuned.recipes import recipe_of
from core.models.adapted import adapted
from core.models.positions import Position
from core.models.vit import ViT
from core.running.checkpoint import checkpoints
from core.running.trainer import train
from core.running.tuning import Bench
from core.types import DataSpec, Part, Pooling, Sampling, generator_for
from tests.core.running.test_trainer import Notebook

TINY = [
    "scale=smoke",
    "precision=fp32",
    "runtime.log_every=2",
    "runtime.checkpoint_every=2",
    "runtime.threads=1",
    "evals=[finetune]",
]
PLAIN = [
    "steps=6", "batch_size=8", "lr_end=0.000001", "warmup_share=0.1", "layer_decay=1", "drop_path=0", "smoothing=0",
    "mixup=0", "cutmix=0", "rand_layers=0", "scale_min=0.6", "labels=[digit]",
]  # fmt: skip
EVERYTHING = [
    "steps=6", "batch_size=8", "repeats=2", "drop_path=0.3", "dropout=0.3", "erase=0.5", "mask_ratio=0.5", "color=0.4",
    "flip=true", "intermediate=digit", "share=0.5",
]  # fmt: skip
CLIPS = ["method=mae_st", "optim.steps=2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def options(words):
    return [f"evals.finetune.{word}" for word in words]


def run_it(cache, folder, *overrides, stop_after=None):
    run = load([*TINY, *overrides, f"runtime.dir={folder}", f"runtime.cache={cache}"])
    record = Notebook(folder, stop_after)
    train(run, record)
    return record


def timeless(results):
    return {name: value for name, value in results.items() if "seconds" not in name}


def series(record, name):
    return [point[name] for _, point in sorted(record.points.items()) if name in point]


@pytest.mark.parametrize("regularised", [[], ["drop_path=0.5", "smoothing=0.1"]])
def test_fine_tuning_a_random_encoder_takes_the_steps_of_training_from_scratch(cache, tmp_path, regularised):
    tuned = run_it(cache, tmp_path / "a", "method=mae", "optim.steps=0", *options([*PLAIN, *regularised]))
    shared = ["optim.steps=6", "optim.weight_decay=0.05", "optim.lr_end=0.000001", "optim.warmup_share=0.1"]
    drop = ["encoder.drop_path=0.5", "objective.smoothing=0.1"] if regularised else []
    same = ["encoder.init=mae", "evals=[collapse]"]
    scratch = run_it(cache, tmp_path / "b", "method=supervised", *same, *shared, *drop)
    assert series(tuned, "finetune/digit_loss") == series(scratch, "loss")


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    return run_it(cache, tmp_path_factory.mktemp("whole"), *CLIPS, *options(EVERYTHING))


# Two steps of pretraining, then six on the pretraining data, six for each of the two labels.
@pytest.mark.parametrize("stop_after", [2, 5, pytest.param(9, marks=pytest.mark.slow), 17])
def test_stopped_fine_tuning_goes_on_bit_for_bit(cache, tmp_path, whole, stop_after):
    words = [*CLIPS, *options(EVERYTHING)]
    first = run_it(cache, tmp_path, *words, stop_after=stop_after)
    assert first.outcome == "preempted"
    second = run_it(cache, tmp_path, *words)
    assert second.outcome == whole.outcome == "done"
    assert timeless(second.results) == timeless(whole.results)
    for stage in ("intermediate_digit", "digit", "motion"):
        assert weights(tmp_path, stage) == weights(whole.folder, stage)
        name = f"finetune/{stage}_loss"
        assert series(second, name) == series(whole, name), "a later attempt tells the whole series"


def weights(folder, stage):
    (last,) = checkpoints(folder / "finetune" / stage)
    state = torch.load(last, weights_only=True)
    assert "optimizer" not in state, "of a stage that has ended the weights are left"
    return {name: value.tolist() for name, value in state["tuned"].items()}


def test_every_announced_metric_is_recorded(cache, tmp_path):
    words = [*CLIPS, *options(["steps=2", "batch_size=8"])]
    record = run_it(cache, tmp_path, *words)
    evaluation, spec = FineTune(), DataSpec(3, 4, 32, 32, {"digit": 10, "motion": 10})
    assert set(evaluation.metrics(spec)) == {name for name in record.results if name.startswith("finetune/")}


def test_the_global_generator_is_neither_read_nor_moved(cache, tmp_path):
    before = torch.get_rng_state()
    run_it(cache, tmp_path, *CLIPS, *options(EVERYTHING))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_pretrained_encoder_is_left_as_it_was(cache, tmp_path):
    words = [*CLIPS, "evals=[finetune,ridge]", *options(PLAIN)]
    with_tuning = run_it(cache, tmp_path / "a", *words)
    without = run_it(cache, tmp_path / "b", *CLIPS, "evals=[ridge]")
    assert with_tuning.results["ridge/digit_top1"] == without.results["ridge/digit_top1"]
    states = [torch.load(checkpoints(tmp_path / name)[0], weights_only=True)["learner"] for name in "ab"]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_digits_are_learned(cache, tmp_path):
    words = ["steps=120", "batch_size=32", "lr=0.003", *PLAIN[2:], "labels=[digit]"]
    data = ["data.num_train=512", "data.background=0", "data.size=16", "data.digit_min=14", "data.digit_max=15"]
    shape = ["method=mae", "optim.steps=0", "data.angle=0"]
    record = run_it(cache, tmp_path, *shape, *data, *options([*words, "scale_min=1"]))
    assert record.results["finetune/digit_top1"] > 30, "chance is 10"


# ---- masking -------------------------------------------------------------------------------------------------------


def test_the_hidden_share_falls_along_a_cosine_to_none():
    kept = [num_kept(0.5, progress, 100) for progress in (0, 0.25, 0.5, 0.75, 1)]
    assert kept == [50, 57, 75, 93, 100]


def test_kept_patches_are_in_order_and_differ_by_sample():
    kept = kept_patches(0.75, 0.0, Part(50), 16, lambda purpose: generator_for(0, purpose))
    assert kept.shape == (50, 4)
    assert (kept.diff(dim=1) > 0).all()
    assert len(kept.unique(dim=0)) > 40


def test_nothing_is_hidden_at_the_end_or_without_a_ratio():
    assert kept_patches(0.75, 1.0, Part(3), 16, lambda purpose: generator_for(0, purpose)) is None
    assert kept_patches(0.0, 0.0, Part(3), 16, lambda purpose: generator_for(0, purpose)) is None


def test_masked_fine_tuning_encodes_fewer_tokens(cache, tmp_path, monkeypatch):
    seen = []
    forward = ViT.build.__globals__["VisionTransformer"].forward

    def watched(self, clips, keep=None, *rest, **more):
        out = forward(self, clips, keep, *rest, **more)
        if self.training and torch.is_grad_enabled():
            seen.append(out.shape[1])
        return out

    monkeypatch.setattr(ViT.build.__globals__["VisionTransformer"], "forward", watched)
    words = options([*PLAIN, "mask_ratio=0.75"])
    record = run_it(cache, tmp_path, "method=mae", "optim.steps=0", *words)
    assert seen[0] == 16 and seen[-1] == 64 and seen == sorted(seen)
    assert record.results["finetune/tokens_share"] == pytest.approx(sum(seen) / 6 / 64)
    assert tokens_share(0.0, 6, 64) == 1.0


# ---- labels, stages ------------------------------------------------------------------------------------------------


def test_low_shot_trains_on_a_share_of_each_class():
    class Shop:
        def spec(self, split):
            return DataSpec(3, 1, 8, 8, {"kind": 3})

        def labels(self, split):
            return {"kind": torch.tensor([0] * 100 + [1] * 40 + [2] * 3 + [-1] * 7)}

    given = FineTune(share=0.1)._samples(Shop(), "train", "kind", seed=0)
    assert Shop().labels("train")["kind"][given].bincount().tolist() == [10, 4, 1]
    assert len(FineTune()._samples(Shop(), "train", "kind", seed=0)) == 143


def test_an_intermediate_stage_changes_what_the_label_starts_from(cache, tmp_path):
    plain = run_it(cache, tmp_path / "a", *CLIPS, *options([*PLAIN, "labels=[motion]"]))
    twice = run_it(cache, tmp_path / "b", *CLIPS, *options([*PLAIN, "labels=[motion]", "intermediate=digit"]))
    name = "finetune/motion_loss"
    assert len(series(plain, name)) == len(series(twice, name)) == 6
    assert series(plain, name) != series(twice, name)


def test_a_stage_with_other_settings_is_refused(cache, tmp_path):
    run_it(cache, tmp_path, *CLIPS, *options(PLAIN), stop_after=4)
    bench = the_bench(cache, tmp_path, [*CLIPS, *options(PLAIN)])
    with pytest.raises(ValueError, match=r"finetune\.lr=0\.001, this run has finetune\.lr=0\.1"):
        dataclasses.replace(bench._run.evals["finetune"], lr=0.1).tune(bench, 0)


def test_a_stage_on_other_data_is_refused(cache, tmp_path):
    words = [*CLIPS, *LONG, "eval_data.frames=4", *options(PLAIN)]
    run_it(cache, tmp_path, *words, "eval_data.gen_seed=1", stop_after=4)
    with pytest.raises(
        ValueError, match=r"finetune\.eval_data\.gen_seed=1, this run has finetune\.eval_data\.gen_seed=2"
    ):
        run_it(cache, tmp_path, *words, "eval_data.gen_seed=2")


def the_bench(cache, folder, words):
    run = load([*TINY, *words, f"runtime.dir={folder}", f"runtime.cache={cache}"])
    sets = {split: run.data.load(split, cache) for split in ("train", "test")}
    judged = sets if run.eval_data is None else {split: run.eval_data.load(split, cache) for split in sets}
    spec = sets["train"].spec
    encoder = run.encoder.build(spec, generator_for(0, "encoder"))
    splits = judged | {"pretrain": sets["train"]}
    cpu = torch.device("cpu")
    return Bench(run, encoder, splits, Notebook(folder), built_for=spec, step=2, device=cpu, precision=None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["labels=[colour]"], r"evals\.finetune\.labels: this data set has the labels digit, got \['colour'\]"),
        (["intermediate=motion"], r"evals\.finetune\.intermediate must be a label .* \(digit\), got motion"),
        (["repeats=3", "batch_size=8"], r"evals\.finetune\.repeats must be a divisor of batch_size = 8, got 3"),
        (["mask_ratio=1"], r"evals\.finetune\.mask_ratio must be in \[0, 1\), got 1"),
        (["layer_decay=0"], r"evals\.finetune\.layer_decay must be in \(0, 1\], got 0"),
        (["temporal_views=2"], "temporal_views 2 times clips 1: the data gives 1 clips a video"),
        (["scale_min=0.9", "scale_max=0.5"], r"evals\.finetune\.scale_min must be in \(0, scale_max = 0\.5\]"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_trains(words, message):
    with pytest.raises(ConfigError, match=message):
        load([*TINY, "method=mae", *options(words)])


# ---- clips of another length, several views ------------------------------------------------------------------------

LONG = ["eval_data=moving_digits", "eval_data.num_train=96", "eval_data.num_test=12"]


def test_scores_are_probabilities_averaged_over_all_views(cache, tmp_path):
    words = [*CLIPS, *LONG, "eval_data.frames=8", "eval_data.size=40"]
    bench = the_bench(cache, tmp_path, words)
    evaluation = FineTune(steps=1, batch_size=4, labels=["motion"], temporal_views=2, spatial_views=3)
    tuned, _ = evaluation._fit(bench, "motion", "train", "motion", None, 1, 0)
    truth, scores = evaluation._scores(bench, tuned, "motion")
    test = bench._splits["test"]
    expected = torch.zeros(12, 10)
    whole = dataclasses.replace(bench.spec("test"), height=40, width=40)
    clips = normalise(test.fetch(torch.arange(12)).clips, whole)
    with torch.no_grad():
        for first in (0, 4):
            for corner in (0, 4, 8):
                view = clips[:, :, first : first + 4, corner : corner + 32, corner : corner + 32]
                expected += tuned.logits(view.contiguous()).softmax(1) / 6
    assert torch.allclose(scores, expected, atol=1e-5)
    assert torch.equal(truth, test.labels()["motion"])


def test_training_cuts_a_clip_from_a_random_moment(cache, tmp_path):
    bench = the_bench(cache, tmp_path, [*CLIPS, *LONG, "eval_data.frames=8"])
    assert bench.spec("train").frames == 4 and bench.spec("pretrain").frames == 4
    cost = FineTune(steps=2, batch_size=8, labels=["digit"]).tune(bench, 0)
    assert cost["finetune/views"] == 1


def test_an_encoder_of_images_is_fine_tuned_on_clips(cache, tmp_path):
    words = ["method=mae", "optim.steps=1", *LONG, "eval_data.frames=4"]
    record = run_it(cache, tmp_path, *words, *options(["steps=2", "batch_size=8", "labels=[motion]"]))
    assert 0 <= record.results["finetune/motion_top1"] <= 100


def test_an_encoder_of_clips_is_fine_tuned_on_images(cache, tmp_path):
    words = [*CLIPS, *LONG, "eval_data.frames=1"]
    record = run_it(cache, tmp_path, *words, *options(["steps=2", "batch_size=8", "intermediate=motion"]))
    assert 0 <= record.results["finetune/digit_top1"] <= 100


@pytest.mark.parametrize("position", [kind for kind in Position if kind is not Position.rope])
@pytest.mark.parametrize("class_token", [False, True])
def test_an_inflated_encoder_sees_a_still_clip_as_the_image(position, class_token):
    options = ViT(width=32, depth=2, heads=2, patch=8, position=position, class_token=class_token)
    image = DataSpec(3, 1, 16, 16)
    encoder = options.build(image, generator_for(0))
    copy = adapted(encoder, options, dataclasses.replace(image, frames=4), drop_path=0.0, tubelet=2).eval()
    picture = torch.randn(2, 3, 1, 16, 16, generator=generator_for(1))
    with torch.no_grad():
        one, both = encoder(picture), copy(picture.expand(-1, -1, 4, -1, -1))
    patches = both[:, copy.num_prefix :].view(2, 2, 4, 32)
    # Equal tokens at both moments attend to one another as to themselves; the class token's share of it shrinks.
    assert torch.allclose(patches[:, 0], patches[:, 1], atol=1e-5)
    if not class_token:
        assert torch.allclose(patches[:, 0], one, atol=1e-5)


@pytest.mark.parametrize("position", Position)
def test_a_deflated_encoder_sees_an_image_as_the_first_slice_of_a_still_clip(position):
    options = ViT(width=32, depth=2, heads=2, patch=8, tubelet=2, position=position)
    clip = DataSpec(3, 4, 16, 16)
    encoder = options.build(clip, generator_for(0))
    copy = adapted(encoder, options, dataclasses.replace(clip, frames=1), drop_path=0.0, tubelet=2).eval()
    picture = torch.randn(2, 3, 1, 16, 16, generator=generator_for(1))
    with torch.no_grad():
        expected = encoder(picture.expand(-1, -1, 4, -1, -1), torch.arange(4).expand(2, -1))
        assert torch.allclose(copy(picture), expected, atol=1e-5)


def test_other_lengths_are_refused():
    options = ViT(width=32, depth=1, heads=2, patch=8)
    encoder = options.build(DataSpec(3, 4, 16, 16), generator_for(0))
    with pytest.raises(ValueError, match="clips of 4 frames and the data gives 3"):
        adapted(encoder, options, DataSpec(3, 3, 16, 16), drop_path=0.0, tubelet=1)


def test_top5_counts_a_label_among_the_five_largest():
    scores = torch.arange(7.0).repeat(7, 1)
    assert top5(scores, torch.arange(7)) == pytest.approx(100 * 5 / 7)


def test_the_views_of_all_videos_are_given_once(cache, tmp_path):
    bench = the_bench(cache, tmp_path, [*CLIPS, *LONG, "eval_data.frames=8"])
    rows = [
        (row, view) for part, view, _ in bench.views(Sampling(clips=1, temporal_views=2)) for row in range(12)[part]
    ]
    assert sorted(rows) == [(row, view) for row in range(12) for view in range(2)]


def test_settings_that_a_checkpoint_holds_are_plain_values():
    json.dumps(recipe_of(FineTune(), 3)._asdict())


def test_a_head_reads_the_class_token_where_it_is_told_to():
    spec = DataSpec(1, frames=1, height=8, width=8, classes={"digit": 4})
    encoder = ViT(width=12, depth=2, heads=2, patch=4, class_token=True).build(spec, generator_for(3)).eval()
    clips = torch.randn(2, 1, 1, 8, 8, generator=generator_for(1))
    tokens = encoder(clips)
    for pool, read in ((Pooling.mean, tokens[:, 1:].mean(1)), (Pooling.cls, tokens[:, 0])):
        tuned = Classifier(encoder, "digit", spec, FineTune(pool=pool), generator_for(0))
        assert torch.allclose(tuned.logits(clips), tuned.head(read), atol=1e-6)


def test_a_head_cannot_read_parts_of_a_clip():
    with pytest.raises(ValueError, match=r"evals\.finetune\.pool must be one of mean, cls, got quadrants"):
        FineTune(pool=Pooling.quadrants)


LARGER = ["eval_data=moving_digits", "eval_data.size=48", "eval_data.num_train=96", "eval_data.num_test=8"]


def test_a_copy_is_fine_tuned_and_judged_at_another_size_than_it_was_pretrained_at(cache, tmp_path):
    words = ["method=mae", "optim.steps=1", *LARGER, *options([*PLAIN, "steps=1"])]
    results = [run_it(cache, tmp_path / str(size), *words, f"evals.finetune.size={size}").results for size in (32, 48)]
    mmac, parameters = ([found[f"finetune/{name}"] for found in results] for name in ("forward_mmac", "parameters_m"))
    assert mmac[1] > 2 * mmac[0]  # 144 tokens, not 64
    assert parameters[0] == parameters[1]


@pytest.mark.parametrize("position", [Position.sincos, Position.learned])
def test_a_copy_for_larger_frames_has_the_weights_of_the_encoder_and_its_places_enlarged(position):
    spec = DataSpec(1, frames=2, height=8, width=8)
    own = ViT(width=12, depth=1, heads=2, patch=4, position=position, class_token=True)
    encoder = own.build(spec, generator_for(3))
    copy = adapted(encoder, own, dataclasses.replace(spec, height=16, width=16), drop_path=0.0, tubelet=1)
    old, new = encoder.state_dict(), copy.state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old if name != "positions.space")
    before, after = places_of(encoder.positions), places_of(copy.positions)
    assert after.shape == (16, 12)
    assert torch.allclose(after.mean(0), before.mean(0), atol=1e-5)  # bicubic to twice the size keeps the mean


def places_of(positions):
    return positions.space if positions.kind is Position.learned else positions.table[: positions.area]


def test_an_image_encoder_is_inflated_at_another_size():
    spec, own = DataSpec(1, frames=1, height=8, width=8), ViT(width=12, depth=1, heads=2, patch=4)
    clips = dataclasses.replace(spec, frames=4, height=16, width=16)
    copy = adapted(own.build(spec, generator_for(3)), own, clips, drop_path=0.0, tubelet=2)
    assert copy.grid == (2, 4, 4)
    assert copy(torch.zeros(1, 1, 4, 16, 16)).shape == (1, 32, 12)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (30, r"evals\.finetune\.size=30: encoder\.patch 4 does not divide data size 30x30"),
        (64, r"eval_data's clips are 48x48 px, smaller than the encoder's 64x64"),
        (4, r"evals\.finetune\.size must be in \[8, 2048\] px, or null, got 4"),
    ],
)
def test_a_size_that_cannot_be_is_refused_before_training(size, message):
    with pytest.raises(ConfigError, match=message):
        check(load([*TINY, "method=mae", *LARGER, f"evals.finetune.size={size}"]))
