import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.configuring.config import load
from core.running.checkpoint import checkpoints
from core.running.trainer import train

TINY = [
    "scale=smoke",
    "optim.steps=6",
    "evals=[ridge]",
    "precision=fp32",
    "runtime.log_every=2",
    "runtime.checkpoint_every=2",
    "runtime.threads=1",
]
METHODS = ["mae", "mae_st augment.repeats=4", "ijepa", "supervised", "supervised encoder.drop_path=0.5", "vicreg"]
METHODS += ["vicreg optim.name=lars optim.lr_peak=1.0"]


@dataclass
class Notebook:
    """A recorder that keeps everything in lists, and can ask the run to stop after a step."""

    folder: Path
    stop_after: int | None = None
    points: dict = field(default_factory=dict)
    outcome: str | None = None
    results: dict = field(default_factory=dict)
    costs: dict = field(default_factory=dict)  # the results that take another value each time
    facts: dict = field(default_factory=dict)
    steps_seen: int = 0
    kept: dict = field(default_factory=dict)

    def log(self, step, metrics):
        timeless = {name: value for name, value in metrics.items() if name != "samples_per_second"}
        self.points.setdefault(step, {}).update(timeless)

    def saw(self, data):
        self.data = dict(data)

    def checkpointed(self, step, path):
        assert path.exists()

    def should_stop(self):
        self.steps_seen += 1
        return self.stop_after is not None and self.steps_seen >= self.stop_after

    def keep(self, name, kind, content):
        assert name not in self.kept, "a name is told once"
        self.kept[name] = content

    def finish(self, outcome, results, facts):
        assert self.outcome is None, "finish is called once"
        self.costs = {name: value for name, value in results.items() if name.startswith("cost/")}
        self.outcome, self.facts = outcome, dict(facts)
        self.results = {name: value for name, value in results.items() if name not in self.costs}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def run_it(cache, folder, *overrides, stop_after=None):
    run = load([*TINY, *overrides, f"runtime.dir={folder}", f"runtime.cache={cache}"])
    record = Notebook(folder, stop_after)
    train(run, record)
    return record


@pytest.mark.parametrize("method", METHODS)
def test_a_run_ends_with_its_results(cache, tmp_path, method):
    record = run_it(cache, tmp_path, *f"method={method}".split())
    assert record.outcome == "done"
    assert 0 <= record.results["ridge/digit_top1"] <= 100
    assert sorted(record.points) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(cache, tmp_path, method, stop_after):
    whole = run_it(cache, tmp_path / "whole", *f"method={method}".split())
    first = run_it(cache, tmp_path / "parts", *f"method={method}".split(), stop_after=stop_after)
    assert first.outcome == "preempted"
    second = run_it(cache, tmp_path / "parts", *f"method={method}".split())
    assert first.points | second.points == whole.points
    assert second.results == whole.results
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


def final_weights(folder):
    state = torch.load(checkpoints(folder)[0], weights_only=True)
    assert state["step"] == 6
    return {name: value.tolist() for name, value in state["learner"].items()}


@pytest.mark.slow
def test_loader_workers_change_no_number(cache, tmp_path):
    pictures(tmp_path / "pictures")
    overrides = [
        "data=image_folder",
        f"data.path={tmp_path / 'pictures'}",
        "data.size=32",
        "data.memory_gb=0",  # decoded as it is used
        "optim.steps=6",
    ]
    runs = [
        run_it(cache, tmp_path / f"workers{n}", *overrides, f"runtime.workers={n}", stop_after=stop)
        for n, stop in ((0, None), (2, None), (1, 3))
    ]
    resumed = run_it(cache, tmp_path / "workers1", *overrides, "runtime.workers=2")
    assert runs[0].points == runs[1].points == runs[2].points | resumed.points
    assert runs[0].results == runs[1].results == resumed.results


def pictures(folder, num_images=24):
    for number in range(num_images):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_an_eager_one(cache, tmp_path, monkeypatch):
    # torch's own cache of compiled code, below /tmp, does not tell kernels of one CPU from those of another.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    shallow = ["encoder.depth=1", "predictor.depth=1"]
    eager = run_it(cache, tmp_path / "eager", *shallow)
    compiled = run_it(cache, tmp_path / "compiled", *shallow, "runtime.compile=true")
    for step in eager.points:
        assert compiled.points[step]["loss"] == pytest.approx(eager.points[step]["loss"], rel=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(cache, tmp_path):
    losses = [run_it(cache, tmp_path / str(i), f"seed={seed}").points[6]["loss"] for i, seed in enumerate((0, 0, 1))]
    assert losses[0] == losses[1] != losses[2]


def test_the_global_generators_are_neither_read_nor_moved(cache, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run_it(cache, tmp_path / "a", "method=ijepa")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert run_it(cache, tmp_path / "b", "method=ijepa").points == first.points


def test_a_run_whose_features_become_one_says_that_it_collapsed(cache, tmp_path):
    """I-JEPA whose target encoder is the trained one has nothing that keeps features apart."""
    words = "method=ijepa optim.steps=40 optim.lr_peak=0.01 target.decay_start=0.0 target.decay_end=0.0 evals=[]"
    told = run_it(cache, tmp_path, *words.split()).facts["collapse"]
    assert told["state"] == "collapsed" and told["said"].startswith("collapsed: ")
    assert told["rankme"] < told["rankme_untrained"] and told["std"] < told["std_untrained"]


def test_a_run_that_learns_says_nothing_of_collapse(cache, tmp_path):
    told = run_it(cache, tmp_path, "method=vicreg", "optim.steps=40", "evals=[]").facts["collapse"]
    assert (told["state"], told["said"]) == ("", "")


def test_a_run_that_training_did_not_change_says_that_it_is_as_untrained(cache, tmp_path):
    told = run_it(cache, tmp_path, "optim.lr_peak=1e-9", "evals=[]").facts["collapse"]
    assert told["state"] == "untrained" and told["said"].startswith("no different from untrained")


def test_a_run_of_no_steps_is_never_called_collapsed(cache, tmp_path):
    assert "collapse" not in run_it(cache, tmp_path, "optim.steps=0").facts


def test_what_is_said_of_collapse_is_no_metric(cache, tmp_path):
    record = run_it(cache, tmp_path)
    assert "collapse" in record.facts
    assert not any("collapse" in name for name in (*record.results, *record.costs))


def test_no_steps_evaluates_the_randomly_initialised_encoder(cache, tmp_path):
    record = run_it(cache, tmp_path, "optim.steps=0")
    assert record.outcome == "done"
    assert "ridge/digit_top1" in record.results


@pytest.mark.parametrize("method", ["mae", "supervised"])
def test_a_loss_that_is_not_finite_ends_the_run_as_diverged_with_its_step(cache, tmp_path, method):
    record = run_it(cache, tmp_path, f"method={method}", "optim.lr_peak=1e38", "optim.warmup_share=0.0")
    assert record.outcome == "diverged"
    assert 1 < record.facts["step"] <= 6
    assert f"out of bounds at step {record.facts['step']} (loss " in record.facts["why"]
    assert not record.results


def test_two_checkpoints_are_kept(cache, tmp_path):
    run_it(cache, tmp_path)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000006.pt", "step-000000004.pt"]


def test_a_torn_newest_checkpoint_costs_steps_and_not_numbers(cache, tmp_path, caplog):
    whole = run_it(cache, tmp_path / "whole")
    run_it(cache, tmp_path / "parts", stop_after=5)
    newest = checkpoints(tmp_path / "parts")[0]
    newest.write_bytes(newest.read_bytes()[:500])
    assert run_it(cache, tmp_path / "parts").results == whole.results
    assert "trying the one before it" in caplog.text


@pytest.mark.parametrize("method", ["mae", "ijepa", "mae_st"])
def test_cpu_losses_match_golden(cache, tmp_path, method):
    """Regenerate on purpose only: `python -m tests.core.golden` rewrites golden.json, and the diff shows it."""
    golden = json.loads((Path(__file__).parents[1] / "golden.json").read_text())
    record = run_it(cache, tmp_path, f"method={method}")
    assert [record.points[step]["loss"] for step in range(1, 7)] == pytest.approx(golden[method], rel=2e-4)


def test_a_run_that_was_interrupted_leaves_the_pictures_of_one_that_was_not(cache, tmp_path):
    whole = run_it(cache, tmp_path / "whole", "method=mae_st")
    first = run_it(cache, tmp_path / "parts", "method=mae_st", stop_after=3)
    second = run_it(cache, tmp_path / "parts", "method=mae_st")
    assert first.kept == {}
    assert second.kept == whole.kept and sorted(whole.kept) == ["clips.npz", "masks.npz"]
