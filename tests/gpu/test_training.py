"""Training on a card: the CPU's losses, resuming, compiling, and what is said when its memory is full."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.train import main
from sweeps.engine.working import describe
from tests.core.running.test_trainer import run_it
from tests.gpu.cuda import DEVICE, METHODS, losses, needs_a_card

pytestmark = needs_a_card
GOLDEN = json.loads((Path(__file__).parents[1] / "core/golden.json").read_text())


def on_card(cache, folder, *overrides, **options):
    return run_it(cache, folder, f"runtime.device={DEVICE}", "evals=[]", *overrides, **options)


@pytest.mark.parametrize("method", METHODS)
def test_losses_in_float32_are_those_of_the_cpu(cache, tmp_path, method):
    here = run_it(cache, tmp_path / "cpu", f"method={method}", "runtime.device=cpu", "evals=[]")
    there = on_card(cache, tmp_path / "card", f"method={method}")
    assert there.outcome == "done"
    assert losses(there) == pytest.approx(losses(here), rel=2e-3)


@pytest.mark.parametrize("method", sorted(GOLDEN))
def test_losses_match_the_golden_ones(cache, tmp_path, method):
    assert losses(on_card(cache, tmp_path, f"method={method}")) == pytest.approx(GOLDEN[method], rel=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_in_bfloat16_is_near_the_cpus(cache, tmp_path, method):
    """The first alone: later ones depend on what optimisers make of the rounding of small gradients."""
    here = run_it(cache, tmp_path / "cpu", f"method={method}", "runtime.device=cpu", "evals=[]")
    there = on_card(cache, tmp_path / "card", f"method={method}", "precision=bf16")
    assert there.facts["precision"] == "bf16"
    assert losses(there)[0] == pytest.approx(losses(here)[0], rel=3e-2)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_goes_on_as_an_uninterrupted_one(cache, tmp_path, method):
    whole = on_card(cache, tmp_path / "whole", f"method={method}")
    first = on_card(cache, tmp_path / "parts", f"method={method}", stop_after=3)
    second = on_card(cache, tmp_path / "parts", f"method={method}")
    assert first.outcome == "preempted" and second.outcome == "done"
    assert losses(first) + losses(second) == pytest.approx(losses(whole), rel=1e-3)


def test_a_run_that_began_on_the_cpu_goes_on_on_a_card(cache, tmp_path):
    whole = on_card(cache, tmp_path / "whole")
    run_it(cache, tmp_path / "parts", "runtime.device=cpu", "evals=[]", stop_after=3)
    second = on_card(cache, tmp_path / "parts")
    assert losses(second) == pytest.approx(losses(whole)[3:], rel=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_step_gives_the_losses_of_one_that_is_not(cache, tmp_path, method):
    plain = on_card(cache, tmp_path / "plain", f"method={method}", "optim.steps=3")
    compiled = on_card(cache, tmp_path / "compiled", f"method={method}", "optim.steps=3", "runtime.compile=true")
    assert losses(compiled) == pytest.approx(losses(plain), rel=2e-3)


def test_a_run_says_which_card_and_how_much_of_its_memory_it_used(cache, tmp_path):
    facts = on_card(cache, tmp_path).facts
    assert facts["device"] == torch.cuda.get_device_name()
    assert 0 < facts["peak_memory_bytes"] < torch.cuda.get_device_properties(0).total_memory


@pytest.fixture
def little_memory():
    """This process may take an eighth of a GiB of the card."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2**27 / torch.cuda.get_device_properties(0).total_memory)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_full_memory_is_named_with_what_to_set(cache, tmp_path, little_memory, capsys):
    words = ["scale=smoke", "encoder.width=512", "encoder.depth=6", "optim.batch_size=2048", "precision=fp32"]
    status = main([*words, f"runtime.device={DEVICE}", f"runtime.dir={tmp_path}/run", f"runtime.cache={cache}"])
    told = capsys.readouterr().err
    assert status == 2
    assert "error: out of memory on the GPU" in told and "optim.batch_size than 2048" in told
    assert "Traceback" not in told


def test_runs_of_a_study_that_ran_out_of_memory_share_one_reason(little_memory):
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(2**30, device=DEVICE)
    assert describe(caught.value) == "out_of_memory: GPU"
