"""Every evaluation on a card: its features are the CPU's, and it ends with finite numbers of the same names."""

from __future__ import annotations

import math

import pytest
import torch

from core.configuring.config import load
from core.configuring.fitting import load_split
from core.evals import EVALS
from core.running.building import build_learner
from core.running.judging import frozen_features
from tests.core.running.test_trainer import TINY, run_it
from tests.gpu.cuda import DEVICE, METHODS, needs_a_card

pytestmark = needs_a_card
# Of clips where the evaluation needs time, of an objective that estimates flow, else of pictures.
METHOD_OF = {"flow": "m_jepa", "vos": "mae_st", "seg": "mae_st", "attentive": "vjepa"}
AS_THEY_ARE = ["augment.scale_min=1", "augment.flip=false"]


@pytest.mark.parametrize("name", sorted(EVALS))
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_evaluation_ends_with_finite_numbers(cache, tmp_path, name, precision):
    wanted = [f"method={METHOD_OF.get(name, 'mae')}", f"evals=[{name}]", f"precision={precision}", "optim.steps=2"]
    record = run_it(cache, tmp_path, f"runtime.device={DEVICE}", *wanted)
    assert record.outcome == "done"
    found = {key: value for key, value in record.results.items() if key.startswith(f"{name}/")}
    assert found and all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("method", METHODS)
def test_pooled_features_are_those_of_the_cpu(cache, method):
    run = load([*TINY, f"method={method}", f"runtime.cache={cache}"])
    train_set, test_set = load_split(run, "train"), load_split(run, "test")

    def pooled(device):
        learner = build_learner(run, train_set.spec).to(device)
        device = torch.device(device)
        return frozen_features(run, learner, train_set, test_set, train_set.spec, device, None).pooled("train")

    torch.testing.assert_close(pooled(DEVICE).cpu(), pooled("cpu"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_the_same_pictures_and_facts_as_on_the_cpu(cache, tmp_path, method):
    here, there = (
        run_it(cache, tmp_path / device, f"method={method}", f"runtime.device={device}", "optim.steps=2", "evals=[knn]")
        for device in ("cpu", DEVICE)
    )
    assert there.kept.keys() == here.kept.keys()
    assert there.facts.keys() == here.facts.keys()
    assert there.results.keys() == here.results.keys()
