"""Exported encoders: timm gives the same features, and we read back what we wrote."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import nn

from core.models.positions import Position
from core.types import DataSpec
from core.weights.writing import timm_config, write_encoder
from tests.core.models.test_vit import shake
from tests.core.weights.released import CLIP, IMAGE, filled, ours, pixels

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
WIDE = DataSpec(channels=3, frames=1, height=16, width=24)
IMAGES = [
    {},
    {"class_token": True},
    {"position": Position.learned},
    {"position": Position.learned, "class_token": True, "mlp_ratio": 2.0},
    {"position": Position.sequence},
]


@pytest.mark.parametrize("spec", [IMAGE, WIDE], ids=["square", "wide"])
@pytest.mark.parametrize("options", IMAGES, ids=str)
def test_timm_loads_an_image_encoder_and_has_its_features(tmp_path: Path, options: dict, spec: DataSpec) -> None:
    chosen, encoder = ours(spec, **options)
    shake(encoder)
    write_encoder(tmp_path, encoder, chosen, spec)
    arguments = timm_config(chosen, spec)["model_args"]
    with torch.random.fork_rng(devices=[]):
        theirs = TimmViT(**arguments, num_classes=0).eval()
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with torch.no_grad():
        expected = theirs.forward_features(pixels(spec)[:, :, 0])
        torch.testing.assert_close(encoder(pixels(spec)), expected, **CLOSE)


def test_timm_makes_the_model_from_the_folder_alone(tmp_path: Path) -> None:
    chosen, encoder = ours(class_token=True)
    shake(encoder)
    write_encoder(tmp_path, encoder, chosen, IMAGE)
    with torch.random.fork_rng(devices=[]):
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert list(theirs.pretrained_cfg["mean"]) == list(IMAGE.mean)
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels(IMAGE)), theirs.forward_features(pixels(IMAGE)[:, :, 0]), **CLOSE)


@pytest.mark.parametrize("position", Position)
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize(("spec", "tubelet"), [(IMAGE, 1), (CLIP, 2)], ids=["image", "clip"])
def test_what_was_written_is_read_back(
    tmp_path: Path, position: Position, class_token: bool, spec: DataSpec, tubelet: int
) -> None:
    options = {"position": position, "class_token": class_token, "tubelet": tubelet}
    chosen, encoder = ours(spec, **options)
    shake(encoder)
    write_encoder(tmp_path, encoder, chosen, spec)
    again = filled(tmp_path / "model.safetensors", spec, **options)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels(spec)), encoder(pixels(spec)), **CLOSE)
    assert (tmp_path / "config.json").exists() == (tubelet == 1 and position is not Position.rope)


def test_a_mask_token_stays_behind(tmp_path: Path) -> None:
    chosen, encoder = ours()
    encoder.mask_token = nn.Parameter(torch.ones(24))
    write_encoder(tmp_path, encoder, chosen, IMAGE)
    assert "mask_token" not in load_file(tmp_path / "model.safetensors")
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["num_heads"] == 2
