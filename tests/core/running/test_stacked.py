"""Runs trained together are what they are alone, to rounding in float32 (differences of 1e-7 a step were seen)."""

import json

import pytest
import torch

from core.configuring.config import ConfigError, load
from core.running.checkpoint import newest
from core.running.stacked import train_stacked
from core.running.stacking import padded, shape_of, stacked_views
from core.running.trainer import train
from core.types import View
from tests.core.running.test_trainer import Notebook

ROUNDING = 1e-5  # relative, after a few steps
TINY = [
    "scale=smoke", "optim.steps=6", "evals=[ridge]", "precision=fp32", "runtime.log_every=2",
    "runtime.checkpoint_every=2", "runtime.threads=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def runs_of(cache, folder, variants, *words):
    return [
        load([*TINY, *words, *variant.split(), f"runtime.dir={folder / str(i)}", f"runtime.cache={cache}"])
        for i, variant in enumerate(variants)
    ]


def alone(cache, folder, variants, *words, stops=None):
    """Records of the runs trained one after the other."""
    runs = runs_of(cache, folder, variants, *words)
    records = [Notebook(folder / str(i), (stops or {}).get(i)) for i in range(len(runs))]
    for run, record in zip(runs, records, strict=True):
        train(run, record)
    return records


def together(cache, folder, variants, *words, stops=None):
    runs = runs_of(cache, folder, variants, *words)
    records = [Notebook(folder / str(i), (stops or {}).get(i)) for i in range(len(runs))]
    assert train_stacked(runs, records) == [None] * len(runs)
    return records


def assert_same(one, other):
    assert one.outcome == other.outcome
    assert one.points.keys() == other.points.keys()
    for step, values in one.points.items():
        assert other.points[step].keys() == values.keys()
        for name in ("loss", "lr", "weight_decay", "ema_decay"):
            if name in values:
                assert other.points[step][name] == pytest.approx(values[name], rel=ROUNDING), (step, name)


SEEDS = ["seed=0", "seed=1", "seed=2"]


@pytest.mark.parametrize("method", ["mae", "mae_st", "ijepa", "vjepa"])
def test_stacked_seeds_are_what_they_are_alone(cache, tmp_path, method):
    words = [f"method={method}"]
    for one, other in zip(
        alone(cache, tmp_path / "alone", SEEDS, *words), together(cache, tmp_path / "stack", SEEDS, *words), strict=True
    ):
        assert_same(one, other)
        assert one.results.keys() == other.results.keys()


@pytest.mark.parametrize(
    "words",
    [
        "method=mae target=tokens target.vocabulary=16 loss=cross_entropy",
        "method=mae target=hog",
        "method=mae encoder.class_token=true encoder.position=rope",
        "method=mae_st predictor.dense_encoder=true encoder.position=learned predictor.position=learned",
        "method=ijepa target.norm=batch optim.clip=0.1 optim.clip_after_warmup=true",
        "method=ijepa target.mask=input mask.ragged=pad",
        "method=ijepa mask.ragged=truncate loss=cosine",
    ],
)
def test_variants_of_the_masked_objective_stack_as_well(cache, tmp_path, words):
    pairs = [run(cache, tmp_path / run.__name__, SEEDS[:2], *words.split(), "evals=[]") for run in (alone, together)]
    for one, other in zip(*pairs, strict=True):
        assert_same(one, other)


def test_rows_that_differ_in_values_stack_and_keep_their_own(cache, tmp_path):
    rows = [
        "optim.lr_peak=0.001 optim.clip=0.05", "optim.lr_peak=0.01 optim.beta2=0.9 augment.color=0.5",
        "target.decay_start=0.9 optim.steps=4 optim.weight_decay=0.3",
    ]  # fmt: skip
    words = ["method=ijepa", "evals=[]"]
    pairs = [run(cache, tmp_path / run.__name__, rows, *words) for run in (alone, together)]
    for one, other in zip(*pairs, strict=True):
        assert_same(one, other)


def test_bfloat16_stays_as_close_as_its_digits(cache, tmp_path):
    words = ["method=ijepa", "precision=bf16", "evals=[]"]
    pairs = [run(cache, tmp_path / run.__name__, SEEDS, *words) for run in (alone, together)]
    for one, other in zip(*pairs, strict=True):
        for step in range(1, 7):
            assert other.points[step]["loss"] == pytest.approx(one.points[step]["loss"], rel=1e-2)


# ---- leaving, stopping, going on -------------------------------------------------------------------------------------


def test_a_run_that_diverges_leaves_the_others_as_they_were(cache, tmp_path):
    variants = ["seed=0", "seed=1 optim.lr_peak=1e30 optim.warmup_share=0", "seed=2"]
    words = ["method=mae", "evals=[]", "optim.lr_start=0"]
    pairs = [run(cache, tmp_path / run.__name__, variants, *words) for run in (alone, together)]
    assert [record.outcome for record in pairs[1]] == ["done", "diverged", "done"]
    assert pairs[1][1].facts["step"] == pairs[0][1].facts["step"]
    for one, other in zip(*pairs, strict=True):
        if one.outcome == "done":
            assert_same(one, other)


def test_a_run_that_collapses_leaves_the_others_as_they_were(cache, tmp_path):
    variants = ["seed=0 stop.metric=collapse/rankme stop.below=1000 stop.after=3", "seed=1", "seed=2"]
    first, *others = together(cache, tmp_path / "stack", variants, "runtime.monitors=3")
    assert (first.outcome, first.facts["step"]) == ("collapsed", 3)
    for one, other in zip(alone(cache, tmp_path / "alone", variants[1:], "runtime.monitors=3"), others, strict=True):
        assert_same(one, other)


def test_a_stopped_run_of_a_stack_goes_on_alone_and_the_others_do_not_wait(cache, tmp_path):
    words = ["method=ijepa", "evals=[]"]
    whole = alone(cache, tmp_path / "alone", SEEDS, *words)
    first = together(cache, tmp_path / "stack", SEEDS, *words, stops={1: 3})
    assert [record.outcome for record in first] == ["done", "preempted", "done"]
    assert set(first[1].points) == {1, 2, 3}
    run = runs_of(cache, tmp_path / "stack", SEEDS, *words)[1]
    rest = Notebook(tmp_path / "stack" / "1")
    train(run, rest)
    assert set(rest.points) == {4, 5, 6}
    for step, values in rest.points.items():
        assert values["loss"] == pytest.approx(whole[1].points[step]["loss"], rel=ROUNDING)


def test_runs_that_began_alone_go_on_together_from_steps_that_differ(cache, tmp_path):
    words = ["method=ijepa", "evals=[]"]
    whole = alone(cache, tmp_path / "alone", SEEDS, *words)
    alone(cache, tmp_path / "stack", SEEDS, *words, stops={0: 2, 1: 4, 2: 2})
    rest = together(cache, tmp_path / "stack", SEEDS, *words)
    assert [sorted(record.points) for record in rest] == [[3, 4, 5, 6], [5, 6], [3, 4, 5, 6]]
    for one, other in zip(whole, rest, strict=True):
        for step, values in other.points.items():
            assert values["loss"] == pytest.approx(one.points[step]["loss"], rel=ROUNDING)


def test_a_checkpoint_of_a_stack_is_one_of_a_run_alone_and_no_larger(cache, tmp_path):
    words = ["method=ijepa", "evals=[]"]
    files = []
    for run in (alone, together):
        run(cache, tmp_path / run.__name__, SEEDS, *words)
        files.append(newest(tmp_path / run.__name__ / "0"))
    (path, state), (stacked_path, stacked_state) = files
    assert path.name == stacked_path.name and stacked_path.stat().st_size <= 1.02 * path.stat().st_size
    assert json.loads(stacked_state["config"]) == json.loads(state["config"])
    assert stacked_state["learner"].keys() == state["learner"].keys()
    assert stacked_state["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    for name, value in state["learner"].items():
        torch.testing.assert_close(stacked_state["learner"][name], value, rtol=1e-3, atol=1e-5)
    for key, values in state["optimizer"]["state"].items():
        assert stacked_state["optimizer"]["state"][key]["step"] == values["step"]


def test_what_one_run_raises_is_its_own(cache, tmp_path):
    class Broken(Notebook):
        def log(self, step, metrics):
            raise RuntimeError("the journal is gone")

    runs = runs_of(cache, tmp_path, SEEDS[:2], "method=mae", "evals=[]")
    records = [Broken(tmp_path / "0"), Notebook(tmp_path / "1")]
    errors = train_stacked(runs, records)
    assert str(errors[0]) == "the journal is gone" and errors[1] is None
    assert records[1].outcome == "done"


def test_the_seconds_of_a_step_are_shared_out(cache, tmp_path):
    # Without looks at the features, which each run pays for itself, the first of a process for what it loads as well.
    records = together(cache, tmp_path, SEEDS, "method=mae", "evals=[]", "runtime.monitors=0")
    spent = [record.costs["cost/pretrain_cpu_seconds"] for record in records]
    assert max(spent) < 0.7 * sum(spent)


# ---- what cannot be stacked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("method=vicreg", "objective=vicreg cannot be stacked, objective=masked can"),
        ("method=mae optim.name=lars optim.lr_peak=1", "optim.name=lars"),
        ("method=mae encoder.drop_path=0.1", "encoder.drop_path=0.1"),
        ("method=mae mask=multiblock", "mask=multiblock leaves patches"),
        ("method=mae runtime.compile=true", "runtime.compile=true"),
    ],
)
def test_what_cannot_be_stacked_is_refused_by_name_before_it_trains(cache, tmp_path, words, named):
    runs = runs_of(cache, tmp_path, SEEDS[:2], *words.split())
    with pytest.raises(ConfigError, match=named):
        train_stacked(runs, [Notebook(tmp_path / str(i)) for i in range(2)])


def test_runs_of_different_shapes_are_refused_by_key(cache, tmp_path):
    runs = runs_of(cache, tmp_path, ["optim.batch_size=8", "optim.batch_size=4"], "method=mae")
    with pytest.raises(ConfigError, match=r"optim.batch_size=8 and optim.batch_size=4"):
        train_stacked(runs, [Notebook(tmp_path / str(i)) for i in range(2)])


def test_the_shape_forgets_values_and_judging_only():
    config = {"optim.lr_peak": 1, "evals": [], "evals.knn.k": 2, "augment.flip": True, "seed": 3}
    assert shape_of(config | {"encoder.width": 8, "augment.repeats": 2}) == {"encoder.width": 8, "augment.repeats": 2}


# ---- views -----------------------------------------------------------------------------------------------------------


def test_shorter_indices_repeat_their_first_and_do_not_count():
    index, valid = padded([torch.tensor([[5, 6]]), torch.tensor([[7, 8, 9]])], [None, None])
    assert index.tolist() == [[[5, 6, 5]], [[7, 8, 9]]]
    assert valid.tolist() == [[[True, True, False]], [[True, True, True]]]


def test_views_that_share_a_context_share_it_when_stacked():
    runs = []
    for _ in range(2):
        context = torch.tensor([[0, 1]])
        runs.append([View(context, torch.tensor([[2]])), View(context, torch.tensor([[3]]))])
    one, other = stacked_views(runs)
    assert one.context is other.context and one.target.tolist() == [[[2]], [[2]]]
