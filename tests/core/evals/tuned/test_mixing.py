from __future__ import annotations

import numpy as np
import pytest
import torch
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from torch.nn import functional as F

from core.evals.tuned.mixing import blend, dropout, erase, mix, smoothed, span
from core.types import generator_for

LABELS = torch.tensor([3, 0, 2, 2, 1, 0])


def clips(batch=6):
    return torch.rand(batch, 3, 2, 8, 12, generator=generator_for(0, "clips"))


def test_smoothed_and_blended_classes_equal_timm_s():
    ours = blend(smoothed(LABELS, 4, 0.1), 0.3)
    assert torch.allclose(ours, mixup_target(LABELS, 4, lam=0.3, smoothing=0.1))


def test_smoothed_classes_give_torch_s_smoothed_cross_entropy():
    logits = torch.randn(6, 4, generator=generator_for(1))
    expected = F.cross_entropy(logits, LABELS, label_smoothing=0.2)
    assert torch.allclose(F.cross_entropy(logits, smoothed(LABELS, 4, 0.2)), expected)


def test_mixup_is_one_blend_of_pixels_and_classes():
    truth = smoothed(LABELS, 4, 0.0)
    mixed, soft = mix(clips(), truth, mixup=0.8, cutmix=0.0, generator=generator_for(2))
    kept = ((mixed - clips().flip(0)) / (clips() - clips().flip(0))).median()
    assert 0 < kept < 1
    assert torch.allclose(mixed, clips() * kept + clips().flip(0) * (1 - kept), atol=1e-5)
    assert torch.allclose(soft, truth * kept + truth.flip(0) * (1 - kept), atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_cutmix_counts_the_pixels_that_its_box_really_covers(seed):
    truth = smoothed(LABELS, 4, 0.0)
    mixed, soft = mix(clips(), truth, mixup=0.0, cutmix=1.0, generator=generator_for(seed))
    is_kept = (mixed == clips())[0, 0]  # [T, H, W]
    assert torch.equal(is_kept[0], is_kept[1]), "the same box in all frames"
    kept = is_kept.float().mean().item()
    assert torch.allclose(soft, truth * kept + truth.flip(0) * (1 - kept), atol=1e-6)
    assert torch.equal(torch.where(is_kept, clips(), clips().flip(0)), mixed)


def test_a_cut_box_has_the_size_of_timm_s(monkeypatch):
    centres = iter([5, 11])
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: next(centres))
    (top, bottom, left, right), _ = cutmix_bbox_and_lam((1, 3, 16, 24), 0.6)
    assert span(16, 0.4**0.5, 5) == (top, bottom)
    assert span(24, 0.4**0.5, 11) == (left, right)


def test_both_kinds_of_mixing_take_turns():
    kinds = set()
    for seed in range(12):
        mixed, _ = mix(clips(), smoothed(LABELS, 4, 0.0), mixup=0.8, cutmix=1.0, generator=generator_for(seed))
        kinds.add(bool((mixed == clips()).any()))
    assert kinds == {True, False}


def test_no_mixing_changes_nothing():
    mixed, soft = mix(clips(), smoothed(LABELS, 4, 0.1), mixup=0, cutmix=0, generator=generator_for(0))
    assert torch.equal(mixed, clips()) and torch.equal(soft, smoothed(LABELS, 4, 0.1))


def test_erasing_fills_one_box_of_some_clips_in_all_frames():
    stills = torch.zeros(400, 3, 2, 16, 16)
    erased = erase(stills, 0.25, generator_for(0)) != 0
    touched = erased.flatten(1).any(1)
    assert 0.17 < touched.float().mean() < 0.33
    shares = erased[touched][:, 0, 0].flatten(1).float().mean(1)
    assert shares.min() > 0.01 and shares.max() < 0.4
    for box in erased[touched][:, 0, 0]:
        rows, columns = box.any(1), box.any(0)
        assert box.sum() == rows.sum() * columns.sum(), "a rectangle"
    assert torch.equal(erased[:, 0, 0], erased[:, 2, 1])


def test_dropout_keeps_the_mean_and_zeroes_its_rate():
    dropped = dropout(torch.ones(200, 200), 0.3, generator_for(0))
    assert (dropped == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)


def test_the_global_generators_are_not_moved():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    mix(clips(), smoothed(LABELS, 4, 0.1), mixup=0.8, cutmix=1.0, generator=generator_for(0))
    erase(clips(), 0.9, generator_for(0))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
