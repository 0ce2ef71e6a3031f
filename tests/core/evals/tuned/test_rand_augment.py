from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import auto_augment

from core.evals.tuned.rand_augment import changes, rand_augment
from core.types import generator_for

TIMM = {
    "auto_contrast": "AutoContrast",
    "equalize": "Equalize",
    "invert": "Invert",
    "rotate": "Rotate",
    "posterize": "PosterizeIncreasing",
    "solarize": "SolarizeIncreasing",
    "solarize_add": "SolarizeAdd",
    "color": "ColorIncreasing",
    "contrast": "ContrastIncreasing",
    "brightness": "BrightnessIncreasing",
    "sharpness": "SharpnessIncreasing",
    "shear_x": "ShearX",
    "shear_y": "ShearY",
    "translate_x": "TranslateXRel",
    "translate_y": "TranslateYRel",
}


def picture(height=24, width=30):
    """Smooth, so that a shift by a fraction of a pixel matters little."""
    noise = torch.rand(1, 3, 6, 6, generator=generator_for(0, "picture")) * 255
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 255)
    return smooth[0].to(torch.uint8)  # [C, H, W]


def by_timm(name, clip, strength):
    operation = auto_augment.NAME_TO_OP[TIMM[name]]
    level = auto_augment.LEVEL_TO_ARG[TIMM[name]]
    hparams = {"translate_pct": 0.45}
    arguments = () if level is None else level(10 * abs(strength), hparams)
    image = Image.fromarray(clip.permute(1, 2, 0).numpy())
    options = {"fillcolor": (128, 128, 128), "resample": Image.BILINEAR}
    changed = operation(image, *arguments, **options)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def test_the_changes_are_timm_s_increasing_ones():
    assert sorted(TIMM[name] for name in changes()) == sorted(auto_augment._RAND_INCREASING_TRANSFORMS)


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("strength", [0.3, 0.9])
def test_a_change_is_nearly_timm_s(name, strength, monkeypatch):
    # timm negates where a random number is above 0.5; ours gets a sign.
    monkeypatch.setattr(auto_augment.random, "random", lambda: 0.0)
    ours = changes()[name].apply(picture()[None, None], strength)[0, 0]
    theirs = by_timm(name, picture(), strength)
    inside = (slice(None), slice(2, -2), slice(2, -2))  # at the rim PIL blends with the fill, torchvision does not
    differing = (ours.int() - theirs.int())[inside].abs().float()
    assert differing.mean() < 5  # ours shifts by whole pixels; the wrong direction differs by 50


@pytest.mark.parametrize("name", [name for name, change in changes().items() if change.is_signed])
def test_the_other_sign_is_another_change(name):
    positive, negative = (changes()[name].apply(picture()[None, None], sign * 0.9) for sign in (1, -1))
    assert not torch.equal(positive, negative)


def batch():
    return torch.randint(256, (32, 3, 4, 16, 16), generator=generator_for(0, "batch"), dtype=torch.uint8)


def test_all_frames_of_a_clip_are_changed_alike():
    still = batch()[:, :, :1].expand(-1, -1, 4, -1, -1)
    changed = rand_augment(still, layers=2, magnitude=9, std=0.5, generator=generator_for(3))
    assert torch.equal(changed, changed[:, :, :1].expand_as(changed))
    assert not torch.equal(changed, still)


def test_a_clip_is_changed_with_one_half_a_layer():
    changed = rand_augment(batch().repeat(8, 1, 1, 1, 1), layers=1, magnitude=9, std=0.5, generator=generator_for(3))
    share = (changed != batch().repeat(8, 1, 1, 1, 1)).flatten(1).any(1).float().mean()
    assert 0.35 < share < 0.6


def test_it_draws_from_its_generator_alone():
    before = torch.get_rng_state()
    first, second = (
        rand_augment(batch(), layers=2, magnitude=9, std=0.5, generator=generator_for(5)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
