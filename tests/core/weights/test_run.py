"""A run that starts from a file: identity, moving average, pixels, evaluation without training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from core.configuring.config import ConfigError, flatten, from_flat, identity, load, spec_of
from core.running.building import build_learner, seen, start_from_weights
from core.running.checkpoint import checkpoints
from core.running.stored import open_stored
from core.weights.reading import sha256_of
from tests.core.running.test_trainer import run_it
from tests.core.weights.released import timm_vit

TINY = ["scale=smoke", "encoder.width=24", "encoder.position=learned", "weights=file"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A timm model for the 32 px of `scale=smoke`."""
    path = tmp_path / "model.safetensors"
    save_file(timm_vit(img_size=32, class_token=False, global_pool="").state_dict(), path)
    return path


def flat_of(file: Path, *more: str) -> dict:
    return flatten(load([*TINY, f"weights.path={file}", *more]))


def rewrite(file: Path) -> None:
    state = load_file(file)
    save_file(state | {"norm.bias": state["norm.bias"] + 1}, file)


def test_a_run_that_draws_its_encoder_says_so_in_one_key() -> None:
    assert {key: value for key, value in flatten(load([])).items() if key.startswith("weights")} == {"weights": None}


def test_the_content_of_the_file_is_part_of_identity(file: Path) -> None:
    first = identity(flat_of(file))
    assert first["weights.sha256"] == sha256_of(file)
    rewrite(file)
    assert identity(flat_of(file))["weights.sha256"] != first["weights.sha256"]


def test_a_stored_run_refuses_a_file_that_has_changed_since(file: Path) -> None:
    stored = flat_of(file)
    assert flatten(from_flat(stored, seed=0))["weights.sha256"] == stored["weights.sha256"]
    rewrite(file)
    with pytest.raises(ConfigError, match=r"has the sha256 .*, this run was made with"):
        from_flat(stored, seed=0)


def test_a_relative_path_starts_at_the_data_root(file: Path) -> None:
    flat = flatten(load([*TINY, f"weights.path={file.name}", f"runtime.data_root={file.parent}"]))
    assert flat["weights.path"] == file.name and flat["weights.sha256"] == sha256_of(file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights=null", "weights.path=x"], "this run has weights=null; weights=file has that option"),
        (["weights.path=none.safetensors"], "weights.path=none.safetensors: there is no such file"),
        ([], "weights.path must name a file"),
        (["encoder.depth=3", "weights.path=FILE"], "encoder.depth must be 2, got 3"),
        (["data.size=16", "weights.path=FILE"], "positions are of 64 patches, this run's grid 1 x 4 x 4 has 16"),
    ],
)
def test_a_run_that_cannot_have_the_weights_is_refused_before_it_starts(
    file: Path, words: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load([*TINY, *(word.replace("FILE", str(file)) for word in words)])


def test_the_moving_average_starts_from_the_weights_too(file: Path) -> None:
    run = load([*TINY, "method=ijepa", f"weights.path={file}"])
    learner = build_learner(run, spec_of(run))
    start_from_weights(run, learner, spec_of(run))
    wanted = load_file(file)["blocks.1.mlp.fc1.weight"]
    assert learner.judged_encoder is not learner.encoder
    for encoder in (learner.encoder, learner.judged_encoder):
        assert torch.equal(encoder.state_dict()["blocks.1.mlp.fc1.weight"], wanted)


@pytest.mark.parametrize(
    ("pixels", "mean"), [("auto", 0.485), ("imagenet", 0.485), ("kinetics", 0.45), ("half", 0.5), ("data", 0.45)]
)
def test_pixels_are_normalised_as_the_weights_are_used_to(file: Path, pixels: str, mean: float) -> None:
    run = load([*TINY, f"weights.path={file}", f"weights.pixels={pixels}"])
    assert seen(run, spec_of(run)).mean[0] == mean


def test_a_run_of_no_steps_evaluates_the_weights_also_when_it_is_opened_again(file: Path, tmp_path: Path) -> None:
    cache, none = tmp_path / "cache", ["method=supervised", "optim.steps=0"]
    told = [*TINY, f"weights.path={file}", *none]
    record = run_it(cache, tmp_path / "run", *told)
    drawn = run_it(cache, tmp_path / "drawn", "encoder.width=24", *none)
    assert record.outcome == "done"
    assert record.results["ridge/digit_top1"] != drawn.results["ridge/digit_top1"]
    run = load([*told, "precision=fp32", f"runtime.cache={cache}"])
    stored = open_stored(run, tmp_path / "run")
    assert torch.equal(stored.encoder.state_dict()["blocks.0.norm1.weight"], load_file(file)["blocks.0.norm1.weight"])
    assert stored.spec.mean[0] == 0.485


def test_training_goes_on_from_the_weights_and_resumes_bit_for_bit(file: Path, tmp_path: Path) -> None:
    told = [*TINY, f"weights.path={file}", "method=mae"]
    cache = tmp_path / "cache"
    whole = run_it(cache, tmp_path / "whole", *told)
    run_it(cache, tmp_path / "cut", *told, stop_after=3)
    again = run_it(cache, tmp_path / "cut", *told)
    assert again.results == whole.results
    assert {step: again.points[step]["loss"] for step in (5, 6)} == {s: whole.points[s]["loss"] for s in (5, 6)}
    drawn = run_it(cache, tmp_path / "drawn", *TINY[:-1], "method=mae")
    assert drawn.points[1]["loss"] != whole.points[1]["loss"]


def test_a_run_starts_from_the_checkpoint_of_another(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = run_it(cache, tmp_path / "first", "method=ijepa", "optim.steps=2")
    assert first.outcome == "done"
    checkpoint = checkpoints(tmp_path / "first")[0]
    second = run_it(
        cache, tmp_path / "second", "method=ijepa", "optim.steps=0", "weights=file", f"weights.path={checkpoint}"
    )
    assert second.results == first.results
    with pytest.raises(ConfigError, match=r"encoder.heads must be 2, got 4"):
        load(["scale=smoke", "encoder.heads=4", "weights=file", f"weights.path={checkpoint}"])
