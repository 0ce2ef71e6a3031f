"""The moving-average target: its schedule, its update and what it sees."""

import pytest
import torch
import torch.nn.functional as F

from core.models import ViT
from core.targets import TARGETS, EmaTarget
from core.targets.ema import FeatureNorm, MaskedAt, Shape, ema_decay
from core.types import DataSpec, View, generator_for
from tests.core.models.test_vit import shake

IMAGE = DataSpec(channels=3, frames=1, height=16, width=16)


def encoder_of(**options):
    encoder = ViT(width=24, depth=2, heads=2, patch=4, **options).build(IMAGE, generator_for(0))
    shake(encoder)
    return encoder


def clips():
    return torch.randn(2, 3, 1, 16, 16, generator=generator_for(0, "clips"))


def view_of(count=6, seed=0):
    order = torch.rand(2, 16, generator=generator_for(seed, "mask")).argsort(1)
    return View(order[:, count:], order[:, :count])


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_gives_one_vector_a_target_patch(name):
    encoder = encoder_of()
    target = TARGETS[name]().build(encoder, IMAGE)
    views = [view_of(6), view_of(9, seed=1)]
    rest = () if TARGETS[name].gives_classes else (target.out_dim,)
    assert [t.shape for t in target(clips(), views)] == [(2, 6, *rest), (2, 9, *rest)]


@pytest.mark.parametrize("class_token", [False, True])
def test_targets_are_the_encoders_output_normalised_over_features(class_token):
    encoder, view = encoder_of(class_token=class_token), view_of()
    full = encoder(clips())[:, encoder.num_prefix :]
    full = (full - full.mean(-1, keepdim=True)) / (full.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    expected = full.gather(1, view.target[..., None].expand(-1, -1, 24))
    ours = EmaTarget().build(encoder, IMAGE)(clips(), [view])[0]
    torch.testing.assert_close(ours, expected.detach(), atol=1e-5, rtol=1e-5)


def test_without_norm_targets_are_the_encoders_output():
    encoder, view = encoder_of(), view_of()
    expected = encoder(clips()).gather(1, view.target[..., None].expand(-1, -1, 24))
    ours = EmaTarget(norm=FeatureNorm.none).build(encoder, IMAGE)(clips(), [view])[0]
    torch.testing.assert_close(ours, expected.detach(), atol=1e-5, rtol=1e-5)


def test_batch_norm_standardises_each_feature_over_batch_and_tokens():
    encoder, order = encoder_of(), torch.arange(16).expand(2, -1)
    target = EmaTarget(norm=FeatureNorm.batch).build(encoder, IMAGE)
    features = target(clips(), [View(order[:, :0], order)])[0].flatten(0, 1)
    torch.testing.assert_close(features.mean(0), torch.zeros(24), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.var(0, unbiased=False), torch.ones(24), atol=1e-2, rtol=0)


def test_masking_the_input_hides_everything_but_the_target():
    encoder, view = encoder_of(), view_of()
    target = EmaTarget(mask=MaskedAt.input).build(encoder, IMAGE)
    expected = F.layer_norm(encoder(clips(), view.target), (24,))
    torch.testing.assert_close(target(clips(), [view])[0], expected.detach(), atol=1e-5, rtol=1e-5)


def test_padding_of_a_masked_input_changes_nothing():
    encoder, view = encoder_of(), view_of()
    padded = View(
        view.context,
        torch.cat([view.target, view.target[:, :1]], dim=1),
        target_valid=torch.arange(7).expand(2, -1) < 6,
    )
    for norm in FeatureNorm:
        target = EmaTarget(mask=MaskedAt.input, norm=norm).build(encoder, IMAGE)
        (expected,), (out,) = target(clips(), [view]), target(clips(), [padded])
        torch.testing.assert_close(out[:, :6], expected, atol=1e-4, rtol=1e-4)


def test_the_update_is_the_weighted_mean_of_every_parameter():
    encoder = encoder_of(class_token=True)
    target = EmaTarget(decay_start=0.9, decay_end=0.9).build(encoder, IMAGE)
    before = {name: p.clone() for name, p in target.encoder.named_parameters()}
    shake(encoder)
    assert target.update(encoder, 1, 10) == {"ema_decay": 0.9}
    for name, p in encoder.named_parameters():
        expected = 0.9 * before[name] + 0.1 * p
        torch.testing.assert_close(dict(target.encoder.named_parameters())[name], expected.detach(), atol=1e-6, rtol=0)


def test_targets_follow_updates_and_loaded_weights_under_autocast():
    encoder, view = encoder_of(), view_of()
    target = EmaTarget(decay_start=0.0, decay_end=0.0).build(encoder, IMAGE)
    saved = {name: value.clone() for name, value in target.state_dict().items()}

    def features():
        with torch.autocast("cpu", torch.bfloat16):
            return target(clips(), [view])[0]

    first = features()
    shake(encoder)
    target.update(encoder, 1, 10)  # decay 0: the average becomes the encoder
    second = features()
    fresh = EmaTarget().build(encoder, IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(second, fresh(clips(), [view])[0])
    target.load_state_dict(saved)
    assert torch.equal(features(), first)
    assert not torch.equal(first, second)


def test_bfloat16_targets_agree_with_float32_to_its_precision():
    encoder, view = encoder_of(), view_of()
    target = EmaTarget().build(encoder, IMAGE)
    exact = target(clips(), [view])[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = target(clips(), [view])[0]
    assert rough.dtype is torch.float32
    assert (rough - exact).norm() / exact.norm() < 0.03


def test_the_average_is_float32_frozen_never_training_and_judged():
    encoder = encoder_of(drop_path=0.5)
    target = EmaTarget().build(encoder, IMAGE)
    target.train()
    assert target.encoder is not None and target.encoder is not encoder
    assert not target.encoder.training
    assert all(p.dtype is torch.float32 and not p.requires_grad for p in target.encoder.parameters())
    assert all(p.requires_grad for p in encoder.parameters())


def test_the_state_holds_each_weight_once():
    encoder = encoder_of()
    target = EmaTarget().build(encoder, IMAGE)
    with torch.autocast("cpu", torch.bfloat16):
        target(clips(), [view_of()])
    assert len(target.state_dict()) == len(encoder.state_dict())


@pytest.mark.parametrize(
    ("options", "step", "expected"),
    [
        ({}, 1, 0.996),
        ({}, 51, 0.998),
        ({}, 101, 1.0),
        ({"horizon": 1.25}, 101, 0.996 + 0.004 * 0.8),
        ({"shape": Shape.cosine}, 1, 0.996),
        ({"shape": Shape.cosine}, 51, 0.998),
        ({"shape": Shape.cosine}, 26, 0.996 + 0.004 * (1 - 0.5**0.5) / 2),
        ({"shape": Shape.constant}, 80, 0.996),
    ],
)
def test_the_decay_is_a_function_of_the_step(options, step, expected):
    assert ema_decay(EmaTarget(**options), step, 100) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay_start": 1.2}, r"target.decay_start must be in \[0, 1\], got 1.2"),
        ({"decay_end": -0.1}, r"target.decay_end must be in \[0, 1\], got -0.1"),
        ({"horizon": 0.5}, "target.horizon must be at least 1, got 0.5"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        EmaTarget(**options)
