"""A probe along a run on held-out training clips, and a run that is judged at the step which that liked best."""

import logging

import pytest
import torch

from core.configuring.config import ConfigError, flatten, identity, load
from core.configuring.fitting import load_split
from core.running import checkpoint
from core.running.building import build_learner
from core.running.monitoring.best import Best
from core.running.monitoring.held_out import HeldOut
from core.running.stored import open_stored
from core.types import Batch
from tests.core.running.test_trainer import run_it

CURVE = "monitor/probe_digit_top1"
# Weights that get worse with every step, after the first look.
WORSENING = ["method=mae", "evals=[ridge,collapse]", "optim.steps=20", "optim.lr_peak=3", "optim.warmup_share=0"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def curve(record):
    return {step: values[CURVE] for step, values in sorted(record.points.items()) if CURVE in values}


class Labelled:
    """Clips of one colour a class."""

    def __init__(self, spec, labels):
        self.spec, self._labels = spec, torch.tensor(labels)

    def __len__(self):
        return len(self._labels)

    def fetch(self, indices):
        clips = torch.zeros(len(indices), 3, 1, 32, 32, dtype=torch.uint8)
        return Batch(clips + (20 * self._labels[indices].clamp(min=0)).view(-1, 1, 1, 1, 1).to(torch.uint8), {})

    def labels(self):
        return {"digit": self._labels}


def held_out(cache, labels):
    run = load(["scale=smoke", f"runtime.cache={cache}"])
    spec = load_split(run, "train").spec
    return HeldOut(Labelled(spec, labels), spec, torch.device("cpu"), None), build_learner(run, spec)


def test_it_is_right_where_colours_tell_classes_apart_and_reads_no_unlabelled_clip(cache):
    probe, learner = held_out(cache, [0, 9] * 20 + [-1] * 5)
    assert probe.top1(learner.judged_encoder) == {CURVE: 100.0}


@pytest.mark.parametrize("labels", [[3] * 9, [-1] * 9, [*range(10)]])
def test_labels_of_which_nothing_can_be_held_out_are_not_probed(cache, labels):
    assert held_out(cache, labels)[0].names == []


def test_it_is_logged_at_a_quarter_of_the_looks_and_changes_no_other_number(cache, tmp_path):
    words = ["method=ijepa", "optim.steps=8"]
    seen = run_it(cache, tmp_path / "seen", *words, "runtime.also_monitor=[probe,lidar]")
    unseen = run_it(cache, tmp_path / "unseen", *words)
    assert list(curve(seen)) == [4, 8]
    assert seen.results == unseen.results
    for step, values in unseen.points.items():
        assert {name: seen.points[step][name] for name in values} == values


def test_data_without_labels_is_not_probed_and_that_is_said(cache, tmp_path, caplog, image_folder):
    with caplog.at_level(logging.WARNING):
        run_it(cache, tmp_path / "run", *image_folder, "evals=[]", "runtime.also_monitor=[probe]")
    assert "no probe, the data has no labels" in caplog.text


@pytest.fixture
def image_folder(tmp_path):
    """Pictures without classes, as options."""
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for number in range(24):
        Image.new("RGB", (32, 32), (number * 10, 0, 0)).save(tmp_path / "pictures" / f"{number}.png")
    return [
        "method=mae", "data=image_folder", f"data.path={tmp_path / 'pictures'}", "data.size=32", "data.test_share=0.25"
    ]  # fmt: skip


# ---- the best step ---------------------------------------------------------------------------------------------------


def test_a_run_is_judged_at_the_step_that_the_probe_liked_best(cache, tmp_path):
    record = run_it(cache, tmp_path, *WORSENING, "judge=best", "runtime.monitors=0")
    told = curve(record)
    assert list(told) == list(range(2, 21, 2))
    assert record.facts["judged_step"] == max(told, key=told.get) < 20
    last = run_it(cache, tmp_path / "last", *WORSENING)
    assert record.results["collapse/feature_std"] != last.results["collapse/feature_std"]
    assert {step: values["loss"] for step, values in record.points.items() if "loss" in values} == {
        step: values["loss"] for step, values in last.points.items() if "loss" in values
    }


def test_whoever_opens_it_later_finds_the_weights_that_were_judged(cache, tmp_path):
    words = [*WORSENING, "judge=best"]
    record = run_it(cache, tmp_path, *words)
    early = run_it(
        cache, tmp_path / "early", *words, f"runtime.checkpoint_every={record.facts['judged_step']}",
        stop_after=record.facts["judged_step"],
    )  # fmt: skip
    assert early.outcome == "preempted"
    run = load([*words, "scale=smoke", f"runtime.dir={tmp_path}", f"runtime.cache={cache}"])
    found, at_best = open_stored(run, tmp_path), checkpoint.newest(tmp_path / "early")
    assert at_best is not None and at_best[1]["step"] == record.facts["judged_step"]
    for name, value in found.learner.state_dict().items():
        assert torch.equal(value, at_best[1]["learner"][name]), name


def test_one_that_has_not_ended_is_opened_at_its_best_step_till_then(cache, tmp_path):
    words = [*WORSENING, "judge=best"]
    assert run_it(cache, tmp_path, *words, stop_after=13).outcome == "preempted"
    run = load([*words, "scale=smoke", f"runtime.dir={tmp_path}", f"runtime.cache={cache}"])
    stored = checkpoint.newest(tmp_path)
    assert stored is not None
    best, last = stored[1]["best"], stored[1]["learner"]
    assert best["step"] < 13
    opened = open_stored(run, tmp_path).learner.state_dict()
    assert all(torch.equal(value, best["learner"][name]) for name, value in opened.items())
    assert not all(torch.equal(value, last[name]) for name, value in opened.items())


def test_a_resumed_run_chooses_among_the_same_steps(cache, tmp_path):
    words = [*WORSENING, "judge=best"]
    whole = run_it(cache, tmp_path / "whole", *words)
    assert run_it(cache, tmp_path / "parts", *words, stop_after=13).outcome == "preempted"
    rest = run_it(cache, tmp_path / "parts", *words)
    again = run_it(cache, tmp_path / "parts", *words)
    assert rest.results == whole.results == again.results
    assert rest.facts["judged_step"] == whole.facts["judged_step"] == again.facts["judged_step"]


def test_of_steps_that_are_as_good_the_first_is_taken():
    learner = torch.nn.Linear(1, 1)
    best = Best()
    for step, value in ((2, 50.0), (4, 50.0), (6, 40.0)):
        torch.nn.init.constant_(learner.weight, step)
        best.consider(step, {CURVE: value, "monitor/rankme": 9.0}, learner)
    best.restore(learner)
    assert best.step == 2 and learner.weight.item() == 2


def test_judge_is_part_of_what_a_run_is_only_where_it_is_best():
    plain = identity(flatten(load(["scale=smoke"])))
    assert "judge" not in plain and plain == identity(flatten(load(["scale=smoke", "judge=last"])))
    assert identity(flatten(load(["scale=smoke", "judge=best"]))) == plain | {"judge": "best"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["optim.steps=0"], "judge=best: optim.steps=0 trains nothing"),
        (["method=supervised"], "judge=best: objective=supervised learns the labels of all of data=moving_digits"),
        (["judge=first"], "judge=first: .*expected one of"),
    ],
)
def test_what_cannot_be_chosen_by_is_refused_by_name(words, told):
    with pytest.raises(ConfigError, match=told):
        load(["scale=smoke", "judge=best", *words] if "judge=first" not in words else ["scale=smoke", *words])


def test_data_without_labels_cannot_choose_the_step(image_folder):
    told = r"judge=best: data=image_folder has no labels here.*set judge=last \(the test split is never chosen by\)"
    with pytest.raises(ConfigError, match=told):
        load(["scale=smoke", *image_folder, "evals=[]", "judge=best"])
