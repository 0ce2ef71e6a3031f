"""DALL-E's tokenizer against transformers' copy of it (FlavaImageCodebook) with the same random weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from core.configuring.config import ConfigError, load
from core.models import ViT
from core.targets.dalle import load_encoder
from core.targets.pixels import Frames
from core.targets.tokens import DalleTokens, Kind, TokenTarget
from core.types import DataSpec, TargetModule, View, generator_for
from tests.core.running.test_trainer import final_weights, run_it

CLIP = DataSpec(channels=3, frames=4, height=16, width=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
VOCABULARY = 16


@pytest.fixture(scope="module")
def theirs() -> FlavaImageCodebook:
    with torch.random.fork_rng(devices=[]):  # transformers draws its weights from the global generator
        model = FlavaImageCodebook(FlavaImageCodebookConfig(hidden_size=8, vocab_size=VOCABULARY)).eval()
    generator = generator_for(0, "dall-e")
    for name, parameter in model.named_parameters():
        spread = 0.1 if name.endswith("bias") else 12 / parameter[0].numel() ** 0.5
        parameter.data.normal_(std=spread, generator=generator)
    return model


@pytest.fixture
def path(theirs, tmp_path) -> Path:
    save_file(theirs.state_dict(), tmp_path / "flava.safetensors")
    return tmp_path / "flava.safetensors"


def openai_s(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's names of the same weights, told from theirs one by one."""
    names = {"blocks.input.w": "blocks.input.weight", "blocks.output.conv.b": "blocks.output.conv.bias"}
    names |= {"blocks.input.b": "blocks.input.bias", "blocks.output.conv.w": "blocks.output.conv.weight"}
    for group in (1, 2, 3, 4):
        for block in (1, 2):
            parts = [("res_path.", "res_path.path.", f"conv_{number}") for number in (1, 2, 3, 4)]
            parts += [("", "", "id_path")] if block == 1 and group > 1 else []
            for ours, them, part in parts:
                for short, long in (("w", "weight"), ("b", "bias")):
                    there = f"blocks.group_{group}.group.block_{block}.{them}{part}.{long}"
                    names[f"blocks.group_{group}.block_{block}.{ours}{part}.{short}"] = there
    assert sorted(names.values()) == sorted(state)
    return {name: state[there] for name, there in names.items()}


def images(num: int) -> Tensor:
    """Squares of random colours: codes of noise would all be the same."""
    return F.interpolate(torch.rand(num, 3, 4, 6, generator=generator_for(0, "images")), scale_factor=8.0)


def test_codes_equal_those_of_transformers_copy(theirs, path):
    with torch.no_grad():
        expected = theirs.get_codebook_indices(0.8 * images(4) + 0.1)
    codes = load_encoder(path, VOCABULARY)(images(4))
    assert torch.equal(codes, expected) and codes.shape == (4, 4, 6) and codes.dtype is torch.int64
    assert len(codes.unique()) > 4


def test_openai_s_names_and_flava_s_prefix_are_the_same_weights(theirs, path, tmp_path):
    expected = load_encoder(path, VOCABULARY)(images(2))
    torch.save(openai_s(theirs.state_dict()), tmp_path / "openai.pt")
    torch.save({f"image_codebook.{name}": value for name, value in theirs.state_dict().items()}, tmp_path / "full.pt")
    for name in ("openai.pt", "full.pt"):
        assert torch.equal(load_encoder(tmp_path / name, VOCABULARY)(images(2)), expected)


def build(path: Path, **options) -> TargetModule:
    target = replace(TokenTarget(VOCABULARY, frames=Frames.mae_st, path=str(path), tokenizer=Kind.dall_e), **options)
    return target.build(ViT(width=24, depth=1, heads=2, patch=4, tubelet=2).build(CLIP, generator_for(0)), CLIP)


def clips() -> Tensor:
    return torch.randn(2, 3, 4, 16, 24, generator=generator_for(0, "clips"))


def test_a_patch_has_the_code_of_its_place_in_its_frame(theirs, path):
    """Frames 0 and 3 of 4, 16 x 24 px in patches of 4: 32 x 48 px of which each patch is 8 x 8."""
    target, index = build(path), torch.tensor([[0, 23, 24, 47, 30], [5, 4, 3, 2, 40]])
    pixels = clips() * torch.tensor(CLIP.std).view(-1, 1, 1, 1) + torch.tensor(CLIP.mean).view(-1, 1, 1, 1)
    frames = pixels[:, :, [0, 3]].transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, (32, 48), mode="bilinear", antialias=True).clamp(0, 1)
    with torch.no_grad():
        expected = theirs.get_codebook_indices(0.8 * large + 0.1).view(2, 48)
    (codes,) = target(clips(), [View(index[:, :0], index)])
    assert torch.equal(codes, expected.gather(1, index)) and target.out_dim == VOCABULARY


def test_its_weights_are_neither_trained_nor_kept_in_checkpoints(path):
    target = build(path)
    assert isinstance(target, DalleTokens)
    assert list(target.parameters()) == [] and target.state_dict() == {}


def test_codes_are_those_of_float32_under_autocast(path):
    target, index = build(path), torch.arange(48).expand(2, -1)
    (expected,) = target(clips(), [View(index[:, :0], index)])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(target(clips(), [View(index[:, :0], index)])[0], expected)


def test_a_file_that_does_not_fit_is_refused_by_name(theirs, path, tmp_path):
    state = theirs.state_dict()
    changes = {
        "other.pt": ({"weight": torch.zeros(2)}, "not the weights of DALL-E's encoder: blocks.input.w and"),
        "short.pt": (
            {
                name: value
                for name, value in state.items()
                if "group_3.group.block_2.res_path.path.conv_2.bias" not in name
            },
            r"short.pt: blocks.group_3.block_2.res_path.conv_2.b is missing; it must be \(8,\)",
        ),
        "narrow.pt": (
            state | {"blocks.group_2.group.block_1.id_path.weight": torch.zeros(16, 4, 1, 1)},
            r"blocks.group_2.block_1.id_path.w has shape \(16, 4, 1, 1\); it must be \(16, 8, 1, 1\)",
        ),
    }
    for name, (content, message) in changes.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=message):
            build(tmp_path / name)
    with pytest.raises(ValueError, match=r"none.pt: there is no such file; take the weights of"):
        build(tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"target.vocabulary must be 16, as in target.path=.*, got 8192"):
        build(path, vocabulary=8192)
    with pytest.raises(ValueError, match=r"target.tokenizer=dall_e gives a patch of one RGB frame a code.*2 frames"):
        build(path, frames=Frames.all)


def test_it_needs_a_path():
    words = ["method=mae_st", "scale=smoke", "target=tokens", "loss=cross_entropy", "target.tokenizer=dall_e"]
    with pytest.raises(ConfigError, match=r"target.path must be a file of DALL-E's encoder .* got ''"):
        load(words)


def test_a_run_on_its_tokens_finds_it_under_the_data_root_and_resumes(path, tmp_path):
    words = ["method=mae_st", "target=tokens", "loss=cross_entropy", f"target.vocabulary={VOCABULARY}"]
    words += ["target.tokenizer=dall_e", f"target.path={path.name}", f"runtime.data_root={path.parent}"]
    words += ["target.frames=mae_st"]
    whole = run_it(tmp_path / "cache", tmp_path / "whole", *words)
    assert whole.outcome == "done" and 1 < whole.points[1]["loss"] < 10  # log 16 and the spread of first guesses
    run_it(tmp_path / "cache", tmp_path / "parts", *words, stop_after=3)
    run_it(tmp_path / "cache", tmp_path / "parts", *words)
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")
