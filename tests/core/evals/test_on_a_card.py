"""What evaluations do on a GPU, on fake tensors: nothing of two devices or types meets, and no card is needed.

Nothing is computed there, so what reads values (which head is best, how pictures are mixed and erased) stays out;
`tests/gpu` runs all of it on a card.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from core.configuring.config import load
from core.configuring.fitting import spec_of
from core.data.augment import normalise
from core.evals import EVALS
from core.evals.detect import Moment, Pool, box_features
from core.evals.flow_frames import estimated
from core.evals.frozen import features as features_module
from core.evals.frozen.features import FrozenFeatures
from core.evals.frozen.samples import Samples
from core.evals.grids.attention_grid import Layout, Probes, train
from core.evals.grids.linear_grid import Optimizer, scores_of, train_heads
from core.evals.knn import knn_scores
from core.evals.propagation import propagated
from core.evals.ridge import fit_ridge, standardiser
from core.evals.seg import Head, pixel_loss
from core.evals.tuned.detect_tuned import Detector, DetectTuned
from core.evals.tuned.finetune import Classifier, FineTune
from core.evals.tuned.seg_tuned import Segmenter
from core.models.adapted import adapted
from core.models.attention import explicit_attention
from core.models.resized import for_frames
from core.optim import Optim, make_adamw
from core.running.building import build_learner
from core.running.judging import changed, frozen_features
from core.types import SAMPLE, Batch, FlowTruth, Look, Pooling, Regions, generator_for
from tests.core.fake_card import CARD, Peak, to_card

BF16 = torch.bfloat16
NUM, WIDTH, CLASSES = 40, 24, 3


@pytest.fixture
def card(monkeypatch):
    """All tensors are fake in here."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", explicit_attention)
    monkeypatch.setattr(Tensor, "backward", lambda *_, **__: None)  # torch's engine does not start without a card
    monkeypatch.setattr(nn.Module, "_apply", applied)
    for module in [each for name, each in sys.modules.items() if name.startswith("core.")]:
        if hasattr(module, "truncated_normal_"):  # draws again until all are within
            monkeypatch.setattr(module, "truncated_normal_", lambda values, *_, **__: values)
    monkeypatch.setattr(features_module, "_finite", lambda values, _: values)  # a question of values
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield CARD


def applied(module, change, recurse=True):
    """torch's own swaps tensors in their places, which fake ones do not allow."""
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = change(buffer)
    return module


class Clips:
    """A split of a given shape."""

    def __init__(self, spec, num=NUM):
        self.spec, self.num = spec, num

    def __len__(self):
        return self.num

    def fetch(self, indices):
        spec = self.spec
        shape = (len(indices), spec.channels, spec.frames, spec.height, spec.width)
        return Batch(torch.zeros(shape, dtype=torch.uint8), {})

    def labels(self):
        return {name: torch.zeros(self.num, dtype=torch.int64) for name in self.spec.classes}

    def flows(self, indices):
        spec = self.spec
        shape = (len(indices), spec.frames - 1, spec.height, spec.width)
        return FlowTruth(torch.zeros(*shape[:2], 2, *shape[2:]), torch.ones(shape, dtype=torch.bool), None)


def learner_of(words):
    with unset_fake_temporarily():
        run = load(["scale=smoke", *words.split()])
        spec = spec_of(run)
        learner = build_learner(run, spec)
    to_card(learner)
    return run, spec, learner


METHODS = ["method=mae", "method=mae_st", "method=vjepa encoder.class_token=true", "method=m_jepa", "method=vicreg"]


@pytest.mark.parametrize("words", METHODS)
@pytest.mark.parametrize("precision", [BF16, None])
def test_features_are_those_of_the_card_and_are_kept_on_the_host(card, words, precision):
    run, spec, learner = learner_of(words)
    features = FrozenFeatures(
        learner.judged_encoder, Clips(spec), Clips(spec), prepare=normalise, device=card, batch_size=16,
        autocast_dtype=precision, built_for=spec, change=changed, pools={Pooling.mean, Pooling.quadrants},
        estimator=learner if "flow" in run.objective.gives else None,
        resize=lambda encoder, frames: for_frames(encoder, run.encoder, frames),
    )  # fmt: skip
    found = [features.pooled("train"), features.augmented(Look(0, 0.3, True)), features.tokens("test").values]
    assert [each.device.type for each in found] == ["cpu"] * 3
    assert found[2].dtype is (precision or torch.float16) and len(found[0]) == NUM
    if run.encoder.has_pyramid:
        assert features.maps("train", [0], level=2).device.type == "cpu"
    assert features.frame_maps(torch.zeros(3, 4, 32, 64, dtype=torch.uint8)).device.type == "cuda"
    if "flow" in run.objective.gives:
        flows = features.flows("test", max_samples=8, batch_size=4, size=None)
        assert all(flow.device.type == "cpu" for flow, _ in flows)


VIT_H = ["encoder.width=1280", "encoder.depth=32", "encoder.heads=16", "encoder.patch=16", "encoder.tubelet=2"]


def test_features_of_a_vit_h_of_clips_of_224_px_fit_into_40_gib(card, monkeypatch):
    """At the batch that a GPU takes; with every block's output kept it would be 94."""
    # On a card attention keeps no product of all tokens with all.
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", lambda q, k, v, **_: torch.empty_like(q))
    with unset_fake_temporarily():
        run = load(["method=vjepa", "scale=gpu", "data.size=224", "data.frames=16", *VIT_H])
        spec = spec_of(run)
        with torch.device("meta"):
            encoder = run.encoder.build(spec, generator_for(0, "encoder"))
    to_card(encoder)
    clips = Clips(spec, num=512)
    features = frozen_features(run, Judged(encoder), clips, clips, spec, card, BF16)
    with Peak() as peak:
        features.pooled("train")
    weights = sum(tensor.untyped_storage().nbytes() for tensor in encoder.state_dict().values())
    assert 20 * 2**30 < peak.most + weights < 40 * 2**30, f"{(peak.most + weights) / 2**30:.1f} GiB"


class Judged(NamedTuple):
    """A learner whose encoder is judged."""

    judged_encoder: nn.Module


def samples(card):
    return Samples(torch.zeros(NUM, WIDTH, device=card), torch.zeros(NUM, dtype=torch.int64, device=card))


def ridge(card):
    given = samples(card)
    heads = fit_ridge(standardiser(given.features), given, CLASSES, [1.0, 10.0])
    return heads[0](given.features)


def knn(card):
    return knn_scores(samples(card), torch.zeros(9, WIDTH, device=card), CLASSES, k=5, temperature=0.1)


def linear(card):
    given = samples(card)
    found = [
        next(scores_of(heads, given.features))
        for optimizer in (Optimizer.sgd, Optimizer.lars)
        for norm in (True, False)
        for heads in [
            train_heads(
                given, CLASSES, settings=[(0.1, 0.0), (0.01, 1e-4)], epochs=2, batch_size=16, batch_norm=norm, seed=0,
                purpose="x", optimizer=optimizer,
            )
        ]
    ]  # fmt: skip
    return found[0]


def attentive(card):
    tokens, labels = torch.zeros(8, 12, WIDTH, device=card, dtype=BF16), torch.zeros(8, dtype=torch.int64, device=card)
    for layout, depth in ((Layout.vjepa, 1), (Layout.vjepa, 2), (Layout.plain, 1)):
        probes = Probes(layout, WIDTH, 2, CLASSES, 2, generator_for(0, "x"), depth=depth).to(card)
        train(probes, [(tokens, labels)], settings=[(1e-3, 0.01)] * 2, num_steps=1, clip=1.0)
    return probes(tokens)


def seg(card):
    maps, truth = torch.zeros(4, 3, 3, WIDTH, dtype=BF16), torch.zeros(4, 12, 12, dtype=torch.int16)
    head = Head.on(maps, CLASSES, card)
    scores = head.scores(maps.to(card), truth.shape[1:])
    pixel_loss(scores, truth.to(card))
    return scores


def detect(card):
    _, spec, learner = learner_of("method=mae_st")
    grid = learner.encoder.grid
    tokens = torch.zeros(4, grid.num_patches, WIDTH, device=card, dtype=BF16)
    rows, boxes = torch.zeros(6, dtype=torch.int64, device=card), torch.zeros(6, 4, device=card)
    return box_features(tokens, rows, boxes, spec, grid, moment=Moment.clip, pool=Pool.max, resolution=3)


def vos(card):
    maps, first = torch.zeros(4, 8, 8, WIDTH, device=card), torch.zeros(8, 8, 3, device=card)
    return propagated(maps, first, n_context=2, topk=5, radius=3, temperature=0.1)


def flow(card):
    _, spec, learner = learner_of("method=m_jepa")
    grid, clips = learner.encoder.grid, torch.zeros(2, 3, spec.frames, spec.height, spec.width, device=card)
    with torch.inference_mode():
        return estimated(learner.flow, clips, (spec.height // grid.h, spec.width // grid.w), None)


def tuned(card, words, make):
    """What a copy of the encoder and its head give for a step's clips, with what `make` says."""
    with unset_fake_temporarily():
        run = load(["scale=smoke", *words.split()])
        spec = spec_of(run)
        copy = adapted(build_learner(run, spec).judged_encoder, run.encoder, spec, drop_path=0.1, tubelet=1)
        model = make(copy, spec, generator_for(0, "head"))
    to_card(model)
    model.train()
    model.encoder.seed_drop_path(generator_for(0, "drops"))
    make_adamw(model, Optim(), 0.75)
    labels = {name: torch.zeros(6, dtype=torch.int64, device=card) for name in [*spec.classes, SAMPLE]}
    clips = torch.zeros(6, 3, spec.frames, spec.height, spec.width, device=card)
    with torch.autocast("cuda", BF16):
        if isinstance(model, Detector):  # how many boxes there are is a question of values
            rows, boxes = torch.zeros(6, dtype=torch.int64, device=card), torch.zeros(6, 4, device=card)
            return model.logits(clips, rows, boxes)
        return model.loss(clips, labels, lambda purpose: generator_for(0, purpose, 1), 0.3)["loss"]


def finetune(card):
    def make(options):
        def made(copy, spec, generator):
            return Classifier(copy, next(iter(spec.classes)), spec, options, generator)

        return made

    plain = FineTune(mixup=0, cutmix=0, rand_layers=0, dropout=0.3)
    tuned(card, "method=mae", make(FineTune(rand_layers=0, mixup=0, cutmix=0, mask_ratio=0.5)))
    return tuned(card, "method=mae_st", make(plain))


def seg_tuned(card):
    def make(copy, spec, generator):
        judged = dataclasses.replace(spec, segment_classes=CLASSES)

        def truth(indices):
            return torch.zeros(len(indices), 1, spec.height, spec.width, dtype=torch.int64)

        return Segmenter(copy, judged, [0], truth, head_std=0.02, generator=generator)

    return tuned(card, "method=mae_st", make)


def detect_tuned(card):
    def make(copy, spec, generator):
        regions = Regions(torch.arange(6), torch.zeros(6, 4), torch.zeros(6, dtype=torch.int64))
        return Detector(
            copy, regions, dataclasses.replace(spec, box_classes=CLASSES), DetectTuned(num_layers=1), generator
        )

    return tuned(card, "method=mae_st", make)


DEVICE_CODE = {
    each.__name__: each
    for each in (ridge, knn, linear, attentive, seg, detect, vos, flow, finetune, seg_tuned, detect_tuned)
}


@pytest.mark.parametrize("name", DEVICE_CODE)
def test_the_device_code_of_an_evaluation_stays_on_the_card(card, name):
    assert DEVICE_CODE[name](card).device == CARD


def test_every_evaluation_has_its_device_code_looked_at():
    """Those that have none of their own: heads of `ridge` and `linear`, and features."""
    assert EVALS.keys() - DEVICE_CODE.keys() == {"collapse", "low_shot", "quadrants", "vissl"}
