"""What is refused, by name; and that a file's text is never a program."""

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.models.positions import Position
from core.types import DataSpec
from core.weights import WeightsFile
from core.weights.__main__ import main
from core.weights.reading import WeightsError, open_file, sha256_of
from tests.core.weights.released import CLIP, IMAGE, filled, ours, timm_vit, video_mae

WITH = {"class_token": True, "position": Position.learned}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A timm vision transformer's state dict."""
    path = tmp_path / "model.safetensors"
    save_file(timm_vit().state_dict(), path)
    return path


def changed(file: Path, *, drop: str = "", **add: torch.Tensor) -> Path:
    state = {name: value for name, value in load_file(file).items() if name != drop}
    save_file(state | {name.replace("__", "."): value for name, value in add.items()}, file)
    return file


class Hostile:
    """Unpickling it makes a file: what a virus would do, harmlessly."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("how", ["torch", "pickle 2", "pickle 5", "state dict"])
def test_a_hostile_pickle_is_refused_and_never_runs(tmp_path: Path, how: str) -> None:
    trace, path = tmp_path / "it ran", tmp_path / "model.pth"
    if how.startswith("pickle"):
        path.write_bytes(pickle.dumps(Hostile(trace), protocol=int(how[-1])))
    else:
        torch.save(Hostile(trace) if how == "torch" else {"model": {"cls_token": Hostile(trace)}}, path)
    with pytest.raises(
        WeightsError, match=r"refused, and nothing in it was run: (it asks for \w+\.mkdir|a pickle that torch did not)"
    ):
        open_file(path)
    assert not trace.exists()


def test_the_hostile_pickle_of_these_tests_would_run(tmp_path: Path) -> None:
    torch.save(Hostile(tmp_path / "it ran"), tmp_path / "model.pth")
    torch.load(tmp_path / "model.pth", weights_only=False)
    assert (tmp_path / "it ran").exists()


def test_a_record_of_the_command_line_beside_the_tensors_is_no_harm(tmp_path: Path) -> None:
    torch.save({"model": timm_vit().state_dict(), "args": argparse.Namespace(lr=1e-3)}, tmp_path / "model.pth")
    assert "blocks.1.norm2.bias" in open_file(tmp_path / "model.pth").shapes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 32, "heads": 2}, "encoder.width must be 24, got 32"),
        ({"depth": 3}, "encoder.depth must be 2, got 3"),
        ({"patch": 8}, "encoder.patch must be 4, got 8"),
        ({"mlp_ratio": 2.0}, "encoder.mlp_ratio must be 4, got 2"),
        ({"class_token": False}, "encoder.class_token must be true, got false"),
        ({"position": Position.rope}, "encoder.position must be sincos or learned, got rope"),
        ({"depth": 3, "patch": 8}, "encoder.depth must be 2, got 3; encoder.patch must be 4, got 8"),
    ],
)
def test_another_shape_of_encoder_is_refused_with_what_would_fit(file: Path, options: dict, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"{file}: {message}"):
        filled(file, **WITH | options)


def test_an_image_encoder_is_refused_for_clips(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"an encoder of images: data.frames must be 1, got 4"):
        filled(file, CLIP, **WITH)


def test_a_video_encoder_is_refused_for_another_tubelet(tmp_path: Path) -> None:
    video_mae().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"encoder.tubelet must be 2, got 1; encoder.position must be sequence"):
        filled(tmp_path / "model.safetensors", CLIP)


def test_a_file_of_another_number_of_channels_is_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match="data must have 3 channels, has 1"):
        filled(file, DataSpec(channels=1, frames=1, height=16, width=16), **WITH)


def test_the_number_of_heads_is_held_against_the_config_beside_the_file(file: Path) -> None:
    file.with_name("config.json").write_text(json.dumps({"num_attention_heads": 4}))
    with pytest.raises(WeightsError, match=r"encoder.heads must be 4, got 2"):
        filled(file, **WITH)


def test_a_missing_tensor_is_named(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"blocks.1.mlp.fc2.bias is missing"):
        filled(changed(file, drop="blocks.1.mlp.fc2.bias"), **WITH)


def test_a_model_without_a_norm_of_its_patches_says_where_that_comes_from(tmp_path: Path) -> None:
    save_file(timm_vit(global_pool="avg").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"norm.bias, norm.weight are missing; models fine-tuned on the mean"):
        filled(tmp_path / "model.safetensors", **WITH)


def test_an_unexpected_tensor_is_named(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"blocks.0.ls1.gamma is unexpected: encoder=vit has no such part"):
        filled(changed(file, blocks__0__ls1__gamma=torch.ones(24)), **WITH)


def test_another_architecture_is_refused_with_what_is_known(tmp_path: Path) -> None:
    save_file({"layer1.0.conv1.weight": torch.zeros(2, 2, 3, 3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(WeightsError, match=r"of another architecture.*layer1.0.conv1.weight.*V-JEPA 2.*VideoMAE"):
        filled(tmp_path / "resnet.safetensors", **WITH)


def test_a_tensor_of_another_shape_inside_is_named(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"blocks.1.attn.proj.weight has the shape \[12, 48\], encoder=vit takes"):
        filled(changed(file, blocks__1__attn__proj__weight=torch.zeros(12, 48)), **WITH)


def test_values_that_are_not_finite_are_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"norm.weight is not finite"):
        filled(changed(file, norm__weight=torch.full((24,), float("nan"))), **WITH)


def test_a_refused_file_leaves_the_encoder_as_it_was(file: Path) -> None:
    chosen, built = ours(**WITH)
    before = {name: value.clone() for name, value in built.state_dict().items()}
    changed(file, norm__weight=torch.full((24,), float("nan")))
    with pytest.raises(WeightsError):
        WeightsFile(path=str(file)).load([built], chosen, IMAGE, Path("/"))
    assert all(torch.equal(value, before[name]) for name, value in built.state_dict().items())


# ---- positions -------------------------------------------------------------------------------------------------------


def test_positions_of_another_grid_are_refused_unless_resampling_is_asked_for(file: Path) -> None:
    wide = DataSpec(channels=3, frames=1, height=24, width=32)
    with pytest.raises(WeightsError, match=r"positions are of 16 patches, this run's grid 1 x 6 x 8 has 48.*resample"):
        filled(file, wide, **WITH)
    filled(file, wide, weights={"resample": True}, **WITH)


def test_a_fixed_table_cannot_hold_resampled_positions(file: Path) -> None:
    wide = DataSpec(channels=3, frames=1, height=24, width=32)
    with pytest.raises(WeightsError, match=r"encoder.position=learned weights.resample=true"):
        filled(file, wide, weights={"resample": True}, class_token=True)


def test_positions_that_are_not_our_sin_cos_are_refused(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"not those of encoder.position=sincos .*: set encoder.position=learned"):
        filled(file, class_token=True)


# ---- files that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.safetensors", None, "there is no such file"),
        ("text.safetensors", b"hello, this is not what you want", "neither safetensors nor a checkpoint of torch"),
        ("empty.pth", b"", "neither safetensors nor a checkpoint of torch"),
        ("torn.pth", b"\x80\x02", "cannot be read"),
    ],
)
def test_what_is_no_file_of_weights_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        open_file(tmp_path / name)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder"):
        open_file(tmp_path)


@pytest.mark.parametrize(
    ("content", "part", "message"),
    [
        ([torch.zeros(1)], None, "holds a list, not a dict of tensors"),
        ({"epoch": 3}, None, "holds no tensors by name at its top, nor under target_encoder"),
        ({"encoder": {"x": torch.zeros(1)}}, "teacher", "weights.part=teacher: .* has no such part; it has: encoder"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, content: Any, part: str, message: str) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=message):
        open_file(tmp_path / "x.pt", part)


def test_the_hash_is_that_of_the_content_now(file: Path) -> None:
    first = sha256_of(file)
    changed(file, norm__weight=torch.ones(24), norm__bias=torch.full((24,), 0.25), head__more=torch.ones(3))
    assert len(first) == 64 and sha256_of(file) != first


# ---- python -m core.weights ------------------------------------------------------------------------------------------


def test_a_file_is_described_by_the_options_that_read_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(file)]) == 0
    shown = capsys.readouterr().out
    assert "encoder.width=24 encoder.depth=2 encoder.mlp_ratio=4 encoder.class_token=true encoder.patch=4" in shown
    assert "give encoder.heads as its authors do" in shown and sha256_of(file) in shown


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.pt")]) == 2
    assert capsys.readouterr().err.startswith("error: weights.path=")
