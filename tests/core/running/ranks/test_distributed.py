import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from core.running.ranks.distributed import World
from tests.core.running.monitoring.test_held_out import WORSENING
from tests.core.running.test_trainer import final_weights, run_it

ROOT = Path(__file__).parents[4]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mae", "ijepa", "vicreg"])
def test_two_processes_train_as_one_does(tmp_path, method):
    # target.norm=batch would standardise each process's half by itself, as batch norm does.
    train_both(tmp_path, f"method={method}", *(["target.norm=layer"] if method == "ijepa" else []))


# Batch norm takes off again what these add: their gradients are rounding errors, of which Adam makes whole steps.
CANCELLED = {"encoder.norm.bias", "content.expander.0.bias", "content.expander.1.running_mean"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "m_jepa objective.reconstruction_visible=true",
        "m_jepa objective.flow_batch=1",
        "mc_jepa",
        "mc_jepa objective.order=frozen",
    ],
)
def test_two_processes_learn_flow_as_one_does(tmp_path, method):
    train_both(tmp_path, *f"method={method}".split(), "objective.balance=1.0" if "mc" in method else "seed=0")
    one, two = (final_weights(tmp_path / folder) for folder in ("alone", "two/run"))
    assert one.keys() == two.keys()
    gaps = [torch.tensor(two[name]) - torch.tensor(one[name]) for name in one if name not in CANCELLED]
    apart = torch.cat([gap.float().flatten() for gap in gaps]).abs() > 1e-4
    # Here and there a gradient of the first step is a rounding error too.
    assert apart.float().mean() < 1e-3, f"{apart.sum()} of {len(apart)} weights"


def train_both(tmp_path, *overrides):
    """A run by one process in "alone" and by two in "two/run", whose losses must be the same."""
    alone = run_it(tmp_path / "cache", tmp_path / "alone", *overrides)
    together = train_two(tmp_path, *overrides)
    assert together["losses"] == pytest.approx([alone.points[step]["loss"] for step in sorted(alone.points)], rel=1e-4)


def train_two(tmp_path, *overrides):
    """Losses and results of a run by two processes in "two/run"."""
    out = tmp_path / "losses.json"
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "tests.core.losses_of"]
    subprocess.run(
        [sys.executable, *command, str(tmp_path / "two"), str(out), *overrides],
        check=True,
        cwd=ROOT,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    together = json.loads(out.read_text())
    assert together["outcome"] == "done"
    return together


def test_a_batch_is_shared_out_in_order_and_without_overlap():
    rows = [World(rank, 3).rows(12) for rank in range(3)]
    assert [list(range(12))[part] for part in rows] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(ValueError, match=r"optim\.batch_size must be a multiple of the 2 processes, got 7"):
        World(0, 2).rows(7)


@pytest.mark.slow
def test_processes_that_find_different_checkpoints_do_not_go_on(tmp_path):
    """As where each has a folder of its own: the first process trained there alone before."""
    run_it(tmp_path / "cache", tmp_path / "0", stop_after=2)
    (tmp_path / "each.py").write_text(
        "import os, sys\nfrom tests.core.running.test_trainer import run_it\n"
        "from core.running.checkpoint import CheckpointError\n"
        "try:\n    run_it(sys.argv[1] + '/cache', __import__('pathlib').Path(sys.argv[1]) / os.environ['RANK'])\n"
        "except CheckpointError as error:\n    print(error)\n"
    )
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "each.py")]
    said = subprocess.run(
        [sys.executable, *command, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert said.stdout.count("the processes found different checkpoints there") == 2, said.stderr[-2000:]
    assert "this one step 2" in said.stdout and "this one step 0" in said.stdout


@pytest.mark.slow
def test_two_processes_that_take_their_shares_in_parts_train_as_one_does(tmp_path):
    train_both(tmp_path, "method=mae", "encoder.drop_path=0.0", "runtime.accumulate=2")


@pytest.mark.slow
def test_two_processes_that_evaluate_on_the_way_train_as_one_does(tmp_path):
    train_both(tmp_path, "method=mae", "runtime.eval_every=2")


@pytest.mark.slow
def test_two_processes_are_judged_at_the_best_step_both_of_them(tmp_path):
    """Whose weights the main one alone has kept, while half of the features are made by the other."""
    words = [*WORSENING, "judge=best", "data.num_train=300"]  # of which 128 are encoded at once
    together = train_two(tmp_path, *words)
    judged_again = run_it(tmp_path / "two" / "cache", tmp_path / "two" / "run", *words)
    assert judged_again.facts["judged_step"] < 20
    assert together["results"] == pytest.approx(judged_again.results, rel=1e-4)


@pytest.mark.slow
def test_processes_wait_for_the_main_one_for_days(tmp_path):
    (tmp_path / "each.py").write_text(
        "from core.running.ranks.distributed import PATIENCE, wait, world\n"
        "with world('cpu') as where:\n    wait(where)\n"
        "    print(where.patient._get_backend(__import__('torch').device('cpu')).options._timeout == PATIENCE)\n"
    )
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "each.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT, timeout=280, env=env)
    # Both write to one pipe, a line's end apart from its word.
    assert "".join(said.stdout.split()) == "TrueTrue", said.stderr[-2000:]


ENCODED = """
import sys
from pathlib import Path
import torch
from core.configuring.config import load
from core.configuring.fitting import load_split
from core.evals.frozen.features import FrozenFeatures
from core.evals.vos import Vos
from core.models.resized import for_frames
from core.data.augment import normalise
from core.running.building import build_learner
from core.running.judging import changed
from core.running.ranks.distributed import wait, world
from core.types import Look, Pooling, Sampling
from tests.core.running.test_trainer import TINY

def features(share):
    return FrozenFeatures(
        learner.judged_encoder, train, test, prepare=normalise, device="cpu", batch_size=3, built_for=train.spec,
        pools={Pooling.mean, Pooling.quadrants}, share=share, change=changed, estimator=learner if has_flow else None,
        resize=lambda encoder, frames: for_frames(encoder, run.encoder, frames),
    )

def flows(each, num=None):
    found = each.flows("test", max_samples=7, batch_size=2, size=None)
    return [flow for flow, _ in found] if num is None else [next(found)[0] for _ in range(num)]

with world("cpu") as where:
    run = load([*TINY, *sys.argv[2:], f"runtime.cache={sys.argv[1]}/{where.rank}"])
    train, test = load_split(run, "train"), load_split(run, "test")
    learner, has_flow = build_learner(run, train.spec), "flow" in run.objective.gives
    most = min(2, run.encoder.num_blocks())
    if not where.is_main:
        features(where.share).help()
    else:
        together, alone = features(where.share), features(None)
        for split in ("train", "test"):
            asked = lambda each: (
                each.pooled(split, most), each.tokens(split).values, each.pooled(split, pool=Pooling.quadrants),
                each.tokens(split, Sampling(max_train=5), most).values,
            )
            for mine, whole in zip(asked(together), asked(alone), strict=True):
                torch.testing.assert_close(mine, whole)
        looks = [each.augmented(Look(number, 0.3, True), most) for number in range(2) for each in (together, alone)]
        torch.testing.assert_close(looks[0::2], looks[1::2])
        assert not torch.equal(looks[0], looks[2])
        assert together.used.clips == alone.used.clips > 0
        if has_flow:
            torch.testing.assert_close(*(each.maps("test", [0, 1], level=2) for each in (together, alone)))
            torch.testing.assert_close(flows(together), flows(alone))
            torch.testing.assert_close(flows(together, 2), flows(alone, 2))  # and gives up
        if test.spec.has_objects:
            for most_videos in (5, 1):
                both = [Vos(max_sequences=most_videos).run(each, 0) for each in (together, alone)]
                assert [one.pop("vos/seconds_per_sequence") > 0 for one in both] == [True, True] and both[0] == both[1]
            assert together.used.clips == alone.used.clips
        together.dismiss()
        left = lambda each: each.tokens("test", num_layers=most).values
        torch.testing.assert_close(left(together), left(alone))
        print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("words", ["mae", "vjepa encoder.class_token=true", "m_jepa"])
def test_two_processes_give_the_features_maps_flow_and_followed_objects_that_one_does(tmp_path, words):
    method, *rest = words.split()
    (tmp_path / "each.py").write_text(ENCODED)
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(tmp_path / "each.py")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    told = [sys.executable, *command, str(tmp_path), f"method={method}", *rest]
    said = subprocess.run(told, capture_output=True, text=True, cwd=ROOT, timeout=280, env=env)
    assert said.stdout.split() == ["equal"], said.stderr[-3000:]
