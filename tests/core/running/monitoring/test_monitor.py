"""What is seen of the features along a run, and a run that ends because of it."""

import logging

import pytest
import torch

from core import train as command
from core.configuring.config import ConfigError, flatten, identity, load
from core.configuring.fitting import load_split
from core.measuring.cost import encoding_flops
from core.optim import make_optimizer
from core.running.building import build_learner
from core.running.monitoring.monitor import Monitor, num_clips
from core.running.ranks.distributed import World
from core.running.stepping import Batches, make_stepper
from tests.core.running.test_trainer import run_it

CURVES = {"monitor/rankme", "monitor/feature_std"}
# I-JEPA whose target encoder is the trained one has nothing that keeps features apart.
COLLAPSING = [
    "method=ijepa", "evals=[]", "optim.steps=400", "optim.lr_peak=0.01", "optim.warmup_share=0",
    "target.decay_start=0.0", "target.decay_end=0.0",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def looked_at(record):
    return [step for step, metrics in sorted(record.points.items()) if metrics.keys() >= CURVES]


def test_the_features_are_looked_at_along_every_run(cache, tmp_path):
    assert looked_at(run_it(cache, tmp_path, "optim.steps=40")) == list(range(2, 41, 2))


def test_how_often_can_be_chosen(cache, tmp_path):
    assert looked_at(run_it(cache, tmp_path, "optim.steps=9", "runtime.monitors=3")) == [3, 6, 9]


@pytest.mark.parametrize("method", ["mae", "ijepa", "supervised encoder.drop_path=0.5", "vicreg"])
def test_no_other_number_depends_on_being_looked_at(cache, tmp_path, method):
    seen, unseen = (
        run_it(cache, tmp_path / str(number), f"runtime.monitors={number}", *f"method={method}".split())
        for number in (3, 0)
    )
    assert looked_at(unseen) == []
    assert seen.results == unseen.results
    for step, metrics in unseen.points.items():
        assert {name: value for name, value in seen.points[step].items() if name not in CURVES} == metrics


def test_a_collapsing_run_is_named_within_the_first_tenth_of_its_steps(cache, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run_it(cache, tmp_path, *COLLAPSING, "stop.metric=collapse/rankme", "stop.below=100", "stop.after=41")
    said = [record.getMessage() for record in caplog.records if "collapsing" in record.getMessage()]
    assert said and int(said[0].split()[1]) <= 40


def test_a_run_that_learns_is_not_named(cache, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        run_it(cache, tmp_path, "method=ijepa", "evals=[]", "optim.steps=40")
    assert "collapsing" not in caplog.text


def test_a_run_stops_as_collapsed_where_its_bound_is_passed(cache, tmp_path):
    record = run_it(
        cache, tmp_path, *COLLAPSING, "stop.metric=collapse/rankme", "stop.below=1.15", "stop.after=10"
    )  # fmt: skip
    assert record.outcome == "collapsed"
    assert record.facts["step"] == max(record.points) < 400
    assert record.points[record.facts["step"]]["monitor/rankme"] < 1.15
    assert record.facts["collapse"]["state"] == "collapsed"
    assert f"stopped at step {record.facts['step']}" in record.facts["collapse"]["said"]
    assert not record.results


def test_a_run_does_not_stop_before_it_may(cache, tmp_path):
    told = ["stop.metric=collapse/feature_std", "stop.below=1000"]
    assert run_it(cache, tmp_path / "late", *told, "stop.after=4").facts["step"] == 4
    assert run_it(cache, tmp_path / "never", *told, "stop.after=6").outcome == "done"


def test_a_run_stops_at_the_same_step_however_often_it_is_looked_at_and_interrupted(cache, tmp_path):
    told = ["optim.steps=40", "stop.metric=collapse/rankme", "stop.below=1000", "stop.after=5"]
    whole = run_it(cache, tmp_path / "whole", *told)
    first = run_it(cache, tmp_path / "parts", *told, "runtime.monitors=0", stop_after=3)
    second = run_it(cache, tmp_path / "parts", *told, "runtime.monitors=0")
    assert (first.outcome, second.outcome) == ("preempted", "collapsed")
    assert second.facts["step"] == whole.facts["step"] == 5
    assert second.points[5] == whole.points[5]


def test_the_command_says_that_the_run_collapsed(cache, tmp_path, capsys):
    words = ["scale=smoke", "stop.metric=collapse/rankme", "stop.below=1000", "stop.after=2"]
    assert command.main([*words, f"runtime.dir={tmp_path / 'run'}", f"runtime.cache={cache}"]) == 1
    told = capsys.readouterr().out
    assert "outcome   collapsed: " in told and "stopped at step 2" in told


def test_a_stop_is_part_of_what_a_run_is_only_where_it_is_asked_for():
    plain = identity(flatten(load(["scale=smoke"])))
    assert not any(key.startswith("stop") for key in plain)
    asked = identity(flatten(load(["scale=smoke", "stop.metric=collapse/rankme", "stop.below=2"])))
    assert asked == plain | {"stop.metric": "collapse/rankme", "stop.below": 2.0, "stop.after": 0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["stop.metric=loss", "stop.below=2"], "stop.metric must be collapse/rankme or collapse/feature_std"),
        (["stop.metric=collapse/rankme"], "stop.below must be a number above 0"),
        (["stop.metric=collapse/rankme", "stop.below=-1"], "stop.below must be a number above 0"),
        (["stop.metric=collapse/rankme", "stop.below=2", "stop.after=-1"], "stop.after must be at least 0 steps"),
        (["stop.below=2"], "stop.metric must be given with stop.below"),
        (["runtime.monitors=-1"], "runtime.monitors must be at least 0"),
    ],
)
def test_a_stop_that_cannot_be_is_refused(words, told):
    with pytest.raises(ConfigError, match=told):
        load(["scale=smoke", *words])


@pytest.mark.parametrize("method", ["mae", "ijepa", "mae_st", "vicreg"])
def test_at_scale_cpu_the_looks_are_less_than_three_hundredths_of_the_operations(cache, method):
    run = load([f"method={method}", "data.num_train=64", "data.num_test=8", f"runtime.cache={cache}"])
    train_set = load_split(run, "train")
    spec, device = train_set.spec, torch.device("cpu")
    learner = build_learner(run, spec)
    where = World(0, 1)
    stepper = make_stepper(run, spec, learner, learner, make_optimizer(learner, run.optim), None, device, where, None)
    step = stepper.flops(1, *Batches(run, train_set, None, 0, where).at(1)).total
    look = num_clips(run, spec, 8000) * encoding_flops(learner.judged_encoder, spec)
    assert (run.runtime.monitors + 1) * look / (run.optim.steps * step) < 0.03


def test_few_clips_of_long_videos_are_held(cache):
    run = load(["scale=smoke", "optim.steps=100000"])
    spec = load_split(run, "train").spec
    spec.frames, spec.height, spec.width = 16, 224, 224
    assert num_clips(run, spec, 1000) == 27
    assert num_clips(run, spec, 5) == 5


@pytest.mark.parametrize("monitors", [0, 1, 20, 500])
def test_as_many_clips_are_looked_at_however_often(cache, monitors):
    run = load(["scale=smoke", "optim.steps=20000", "optim.batch_size=8", f"runtime.monitors={monitors}"])
    assert num_clips(run, load_split(run, "train").spec, 1000) == 80


def test_weights_that_are_not_finite_are_left_to_the_loss(cache):
    run = load(["scale=smoke", f"runtime.cache={cache}"])
    train_set = load_split(run, "train")
    learner = build_learner(run, train_set.spec)
    monitor = Monitor(run, learner, train_set, train_set.spec, torch.device("cpu"), None)
    with torch.no_grad():
        next(learner.encoder.parameters()).fill_(float("nan"))
    assert monitor.look(1) == {}
