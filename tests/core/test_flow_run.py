"""Runs that learn flow from files: a mixture to train on, a set with known flow to be judged on."""

import pytest

from core.configuring.config import load
from core.running.trainer import train
from tests.core.data import making_flows as making
from tests.core.data.making_videos import ramp, write_video
from tests.core.running.test_trainer import TINY, Notebook, final_weights

SETS = ["sintel:path=films:height=32:width=48:repeat=3", "frame_pairs:path=drives:height=16:width=64"]
SETS += ["moving_digits:size=32:frames=4:num_train=8:num_test=2"]
MIXED = ["flow_data=flow_mixture", f"flow_data.sets={SETS}"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("flow")
    making.sintel(root / "films", height=28, width=44)
    for number in range(4):
        making.write_picture(root / "drives" / "one" / f"{number}.png", making.picture(16, 64, seed=number))
        making.write_picture(root / "drives" / "two" / f"{number}.png", making.picture(16, 64, seed=9 + number))
    for number in range(2):
        write_video(root / "videos" / f"{number}.avi", ramp(8, 32, 40))
    return root


def learn(root, folder, *overrides, stop_after=None, flow_data=MIXED):
    judged = [
        "eval_data=sintel",
        "eval_data.path=films",
        "eval_data.fit=pad",
        "eval_data.height=32",
        "eval_data.width=48",
    ]
    small = ["method=m_jepa", "optim.batch_size=2", "objective.flow_batch=2", "data.num_train=8", "data.num_test=2"]
    here = [f"runtime.data_root={root}", f"runtime.cache={root / 'cache'}", f"runtime.dir={folder}"]
    record = Notebook(folder, stop_after)
    train(load([*TINY, *small, *flow_data, *judged, *here, "evals=[flow]", *overrides]), record)
    return record


def test_a_run_learns_from_a_mixture_and_is_judged_on_sintel(root, tmp_path):
    record = learn(root, tmp_path)
    truth = [making.some_flow(28, 44, seed=seed) for seed in (101, 102, 201, 202)]
    zero = sum(float(((flow**2).sum(0) ** 0.5).mean()) for flow in truth) / 4
    assert record.outcome == "done"
    assert record.results["flow/epe_zero"] == pytest.approx(zero, rel=1e-5)  # padding is not counted
    assert {"flow/epe", "flow/epe_noc", "flow/epe_occ", "flow/f1"} <= record.results.keys()


def test_a_resumed_run_on_a_mixture_equals_an_uninterrupted_one_bit_for_bit(root, tmp_path):
    whole = learn(root, tmp_path / "whole")
    first = learn(root, tmp_path / "parts", stop_after=3)
    second = learn(root, tmp_path / "parts", "runtime.workers=1")
    assert first.outcome == "preempted" and first.points | second.points == whole.points
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "kind, path", [("video_folder", "videos"), ("frame_folder", "drives"), ("frame_pairs", "drives")]
)
def test_unlabelled_videos_are_pairs_to_learn_from(root, tmp_path, kind, path):
    if kind == "video_folder":
        pytest.importorskip("decord", reason="decord has no wheel for this machine")
    size = ["height=16", "width=32"] if kind == "frame_pairs" else ["size=32", "frames=2", "stride=1"]
    chosen = [f"flow_data={kind}", f"flow_data.path={path}", *(f"flow_data.{option}" for option in size)]
    record = learn(root, tmp_path, "optim.steps=1", flow_data=chosen)
    assert record.outcome == "done" and record.points[1]["loss"] > 0
