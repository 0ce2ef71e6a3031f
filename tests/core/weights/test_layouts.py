"""Our encoder, started from files in every known layout, against the model that wrote the file."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from core.models.positions import Position, sincos
from core.models.vit import VisionTransformer
from core.types import generator_for
from core.weights.layouts import LAYOUTS
from tests.core.models.test_vit import shake
from tests.core.weights.released import CLIP, IMAGE, filled, ijepa, ours, pixels, timm_vit, video_mae, vit_mae, vjepa2

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def test_transformers_vit_mae(tmp_path: Path) -> None:
    theirs = vit_mae()
    theirs.save_pretrained(tmp_path)
    encoder = filled(tmp_path / "model.safetensors", class_token=True)
    in_order = torch.arange(16).expand(2, -1).float()  # their forward shuffles by this noise
    with torch.no_grad():
        expected = theirs.vit(pixels(IMAGE)[:, :, 0], noise=in_order).last_hidden_state
        torch.testing.assert_close(encoder(pixels(IMAGE)), expected, **CLOSE)


def test_transformers_ijepa_with_positions_of_its_own(tmp_path: Path) -> None:
    theirs = ijepa()
    theirs.save_pretrained(tmp_path)
    encoder = filled(tmp_path / "model.safetensors", position=Position.learned)
    with torch.no_grad():
        expected = theirs(pixels(IMAGE)[:, :, 0]).last_hidden_state
        torch.testing.assert_close(encoder(pixels(IMAGE)), expected, **CLOSE)


def test_transformers_video_mae(tmp_path: Path) -> None:
    theirs = video_mae()
    theirs.save_pretrained(tmp_path)
    encoder = filled(tmp_path / "model.safetensors", CLIP, tubelet=2, position=Position.sequence)
    with torch.no_grad():
        expected = theirs.videomae(pixels(CLIP).transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(encoder(pixels(CLIP)), expected, **CLOSE)


@pytest.mark.parametrize("keep", [False, True])
def test_transformers_v_jepa_2(tmp_path: Path, keep: bool) -> None:
    theirs = vjepa2()
    theirs.save_pretrained(tmp_path)
    encoder = filled(tmp_path / "model.safetensors", CLIP, tubelet=2, position=Position.rope)
    some = torch.rand(2, 32, generator=generator_for(0, "keep")).argsort(1)[:, :9] if keep else None
    with torch.no_grad():
        clips = pixels(CLIP)
        if some is None:
            expected = theirs(clips.transpose(1, 2), skip_predictor=True).last_hidden_state
        else:  # their encoder sees all patches: its layers are given some, with their places
            x = theirs.encoder.embeddings(clips.transpose(1, 2)).gather(1, some[..., None].expand(-1, -1, 24))
            for layer in theirs.encoder.layer:
                x = layer(x, position_mask=some)[0]
            expected = theirs.encoder.layernorm(x)
        torch.testing.assert_close(encoder(clips, some), expected, **CLOSE)
        torch.testing.assert_close(encoder.intermediate(clips, 2, some)[-1], expected, **CLOSE)
        if some is not None:
            torch.testing.assert_close(encoder.many(clips, [some, some])[1], expected, **CLOSE)


@pytest.mark.parametrize(
    "options",
    [{}, {"class_token": False, "global_pool": ""}, {"no_embed_class": True}, {"mlp_ratio": 2.0}],
    ids=["class token", "no class token", "class token without a position", "narrow mlp"],
)
def test_timm_vision_transformer(tmp_path: Path, options: dict) -> None:
    theirs = timm_vit(**options)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    wanted = {"class_token": options.get("class_token", True), "mlp_ratio": options.get("mlp_ratio", 4.0)}
    encoder = filled(tmp_path / "model.safetensors", position=Position.learned, **wanted)
    with torch.no_grad():
        expected = theirs.forward_features(pixels(IMAGE)[:, :, 0])
        torch.testing.assert_close(encoder(pixels(IMAGE)), expected, **CLOSE)


# ---- as the authors released them: the encoder that the file was made of is ours, renamed by hand --------------------


def parts(encoder: VisionTransformer) -> dict[str, Tensor]:
    """The parameters under the names that I-JEPA, MAE and V-JEPA share with timm."""
    own = {name: value.clone() for name, value in encoder.state_dict().items()}
    tubelet = (encoder.tubelet,) if encoder.tubelet > 1 else ()
    own["patch_embed.proj.weight"] = own.pop("embed.weight").view(24, 3, *tubelet, 4, 4)
    own["patch_embed.proj.bias"] = own.pop("embed.bias")
    if "class_token" in own:
        own["cls_token"] = own.pop("class_token")[None]
    return own


def assert_same(first: VisionTransformer, second: VisionTransformer, clips: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(first(clips), second(clips), **CLOSE)


def test_i_jepa_as_released(tmp_path: Path) -> None:
    _, source = ours()
    shake(source)
    named = parts(source) | {"pos_embed": sincos(source.grid, 24)[None]}
    online = {f"module.{name}": torch.zeros_like(value) for name, value in named.items()}
    target = {f"module.{name}": value for name, value in named.items()}
    torch.save({"encoder": online, "predictor": {}, "target_encoder": target, "epoch": 3}, tmp_path / "last.pth.tar")
    assert_same(filled(tmp_path / "last.pth.tar"), source, pixels(IMAGE))


def test_the_online_encoder_is_had_by_its_part(tmp_path: Path) -> None:
    _, source = ours()
    named = parts(source) | {"pos_embed": sincos(source.grid, 24)[None]}
    torch.save({"encoder": named, "target_encoder": {"broken": torch.zeros(1)}}, tmp_path / "last.pt")
    assert_same(filled(tmp_path / "last.pt", weights={"part": "encoder"}), source, pixels(IMAGE))


def test_mae_as_released(tmp_path: Path) -> None:
    _, source = ours(class_token=True)
    shake(source)
    table = torch.cat([torch.zeros(1, 24), sincos(source.grid, 24)])[None]
    rest = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}
    torch.save({"model": parts(source) | {"pos_embed": table} | rest}, tmp_path / "mae.pth")
    assert_same(filled(tmp_path / "mae.pth", class_token=True), source, pixels(IMAGE))


def test_v_jepa_as_released(tmp_path: Path) -> None:
    _, source = ours(CLIP, tubelet=2)
    shake(source)
    named = parts(source) | {"pos_embed": sincos(source.grid, 24)[None]}
    state = {f"module.backbone.{name}": value for name, value in named.items()}
    torch.save({"target_encoder": state, "encoder": state}, tmp_path / "vitl16.pth.tar")
    assert_same(filled(tmp_path / "vitl16.pth.tar", CLIP, tubelet=2), source, pixels(CLIP))


def test_v_jepa_2_as_released(tmp_path: Path) -> None:
    _, source = ours(CLIP, tubelet=2, position=Position.rope)
    shake(source)
    state = {f"module.backbone.{name}": value for name, value in parts(source).items()}
    torch.save({"encoder": state, "predictor": {"x": torch.zeros(1)}}, tmp_path / "vitl.pt")
    assert_same(filled(tmp_path / "vitl.pt", CLIP, tubelet=2, position=Position.rope), source, pixels(CLIP))


def test_mae_st_as_released(tmp_path: Path) -> None:
    options = {"tubelet": 2, "position": Position.learned, "class_token": True}
    _, source = ours(CLIP, **options)
    shake(source)
    named = parts(source)
    for i in range(2):
        for kind in ("weight", "bias"):
            packed = named.pop(f"blocks.{i}.attn.qkv.{kind}").chunk(3)
            named |= {f"blocks.{i}.attn.{n}.{kind}": value for n, value in zip("qkv", packed, strict=True)}
    for theirs, own in (("spatial", "space"), ("temporal", "time"), ("class", "prefix")):
        named[f"pos_embed_{theirs}"] = named.pop(f"positions.{own}")[None]
    rest = {"decoder_pos_embed_class": torch.zeros(1, 1, 8), "mask_token": torch.zeros(1, 1, 8)}
    torch.save({"model_state": named | rest, "epoch": 1}, tmp_path / "video.pyth")
    assert_same(filled(tmp_path / "video.pyth", CLIP, **options), source, pixels(CLIP))


def test_videomae_as_released(tmp_path: Path) -> None:
    options = {"tubelet": 2, "position": Position.sequence}
    _, source = ours(CLIP, **options)
    shake(source)
    with torch.no_grad():  # it has no bias of keys
        for block in source.blocks:
            block.attn.qkv.bias[24:48] = 0
    named = parts(source)
    for i in range(2):
        query, _, value = named.pop(f"blocks.{i}.attn.qkv.bias").chunk(3)
        named |= {f"blocks.{i}.attn.q_bias": query, f"blocks.{i}.attn.v_bias": value}
    state = {f"encoder.{name}": value for name, value in named.items()}
    rest = {"decoder.head.weight": torch.zeros(1), "encoder_to_decoder.weight": torch.zeros(1)}
    torch.save({"model": state | rest}, tmp_path / "checkpoint.pth")
    assert_same(filled(tmp_path / "checkpoint.pth", CLIP, **options), source, pixels(CLIP))


# ---- positions -------------------------------------------------------------------------------------------------------


def test_the_positions_of_video_mae_turn_sines_and_cosines_by_index(tmp_path: Path) -> None:
    _, encoder = ours(CLIP, tubelet=2, position=Position.sequence)
    table = encoder.positions(None, torch.float32)
    assert table[7, 4].item() == pytest.approx(math.sin(7 / 10000 ** (4 / 24)), abs=1e-6)
    assert table[7, 5].item() == pytest.approx(math.cos(7 / 10000 ** (4 / 24)), abs=1e-6)


def test_positions_of_another_grid_are_timms_resampled_ones_when_asked(tmp_path: Path) -> None:
    theirs = timm_vit()
    save_file(theirs.state_dict(), tmp_path / "small.safetensors")
    wide = IMAGE.__class__(channels=3, frames=1, height=24, width=32)
    encoder = filled(
        tmp_path / "small.safetensors", wide, weights={"resample": True}, class_token=True, position=Position.learned
    )
    theirs.set_input_size((24, 32))
    with torch.no_grad():
        torch.testing.assert_close(encoder(pixels(wide)), theirs.forward_features(pixels(wide)[:, :, 0]), **CLOSE)


def test_every_layout_has_its_own_name() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
