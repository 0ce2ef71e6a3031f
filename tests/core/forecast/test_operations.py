"""Operations counted without computing any, beside those of a step that is computed."""

import contextlib
import dataclasses

import pytest
import torch
from PIL import Image

from core.configuring.config import flatten, load, spec_of
from core.configuring.fitting import spec_of_pairs
from core.forecast import operations as counting
from core.forecast.operations import operations, operations_of
from core.measuring.cost import count_flops
from core.running.building import build_learner
from core.running.stepping import draw_views
from core.types import generator_for

CPU = torch.device("cpu")
METHODS = ("mae", "ijepa", "vjepa", "mae_st", "vicreg", "m_jepa", "mc_jepa", "supervised")


def computed(run):
    """1e9 operations of the last step, which is computed."""
    spec, rows, steps = spec_of(run), run.optim.batch_size, run.optim.steps
    learner = build_learner(run, spec)
    clips = torch.randn(rows, spec.channels, spec.frames, spec.height, spec.width, generator=generator_for(0))
    pairs = None
    if num := run.objective.num_pairs():
        of_pairs = spec_of_pairs(run)
        pairs = torch.rand(num, of_pairs.channels, 2, of_pairs.height, of_pairs.width, generator=generator_for(1))
    learner.seed_step(lambda purpose: generator_for(0, purpose, steps), steps, steps, clips)
    learner.encoder.seed_drop_path(generator_for(0, "drop_path", steps, 0))
    labels = {name: torch.zeros(rows, dtype=torch.int64) for name in spec.classes}
    views = draw_views(run, learner.encoder.grid, steps, slice(0, rows), CPU)
    return count_flops(learner, clips, labels, views, contextlib.nullcontext(), pairs).total / 1e9


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_is_only_counted_has_the_operations_of_one_that_is_computed(method):
    late = ["objective.flow_start=0.0"] if method == "mc_jepa" else []
    run = load([f"method={method}", "scale=smoke", *late])
    assert operations(run).training == pytest.approx(run.optim.steps * computed(run), rel=1e-6)


def test_steps_before_flow_starts_have_none_of_its_operations():
    early, late = (load(["method=mc_jepa", "scale=smoke", f"objective.flow_start={start}"]) for start in (0.0, 0.5))
    assert operations(late).training < 0.8 * operations(early).training


def test_a_vit_h_is_counted_without_taking_memory_for_its_parameters():
    vit_h = ["encoder.width=1280", "encoder.depth=32", "encoder.heads=16"]
    run = load(["method=ijepa", "scale=paper", "data=moving_digits", "data.size=224", *vit_h])
    found = operations(dataclasses.replace(run, optim=dataclasses.replace(run.optim, batch_size=2)))
    assert 2e2 < found.clip < 4e2  # 1e9, of 632 million parameters and 196 patches


def test_a_larger_batch_has_as_many_operations_a_clip():
    small, large = (load(["method=mae", "scale=smoke", f"optim.batch_size={size}"]) for size in (256, 1024))
    assert operations(large).training == pytest.approx(4 * operations(small).training)


def test_judging_counts_the_clips_of_both_splits_and_the_passes_of_fine_tuning():
    run = load(["scale=smoke", "evals=[knn,finetune]"])
    found = operations(run)
    assert found.clips == 96 + 64
    assert found.tuning == {"finetune": pytest.approx(3 * 4 * 8 * found.clip)}


def test_a_config_whose_data_is_elsewhere_has_no_operations():
    flat = flatten(load(["scale=smoke"])) | {"data": "nowhere"}
    assert operations_of(flat) is None


def test_a_config_of_own_pictures_is_counted_where_they_lie(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (32, 32)).save(tmp_path / "photos" / name / f"{i}.png")
    words = ["method=mae", "scale=smoke", "data=image_folder", "data.path=photos", "data.size=32"]
    flat = flatten(load([*words, f"runtime.data_root={tmp_path}"]))
    assert operations_of(flat) is None
    found = operations_of(flat, str(tmp_path))
    assert found is not None and found.training > 0 and found.clips is None  # as many as the files are


def test_runs_of_one_shape_are_counted_once(monkeypatch):
    monkeypatch.setattr(counting, "_COUNTED", {})
    first = operations(load(["method=mae", "scale=smoke"]))
    known = set(counting._COUNTED)
    other = operations(load(["method=mae", "scale=smoke", "optim.lr_peak=0.01", "evals=[knn]", "optim.steps=7"]))
    assert set(counting._COUNTED) == known and other.clip == first.clip
    assert other.training / 7 == first.training / load(["method=mae", "scale=smoke"]).optim.steps


def test_what_a_mask_leaves_is_a_shape_of_its_own(monkeypatch):
    monkeypatch.setattr(counting, "_COUNTED", {})
    half, most = (operations(load(["method=mae", "scale=smoke", f"mask.ratio={ratio}"])) for ratio in (0.5, 0.9))
    assert most.training < half.training
