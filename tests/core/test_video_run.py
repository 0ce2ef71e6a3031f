"""Runs on real video files: which files are missing from them, and resuming to the last bit."""

import dataclasses

import pytest
import torch

from core.configuring.config import load
from core.data.left_out import data_facts
from core.running.checkpoint import checkpoints
from core.running.ending import whole
from core.running.trainer import train
from core.train import main
from tests.core.data.making_videos import ramp, write_video
from tests.core.running.test_trainer import TINY, Notebook, final_weights

pytest.importorskip("decord", reason="decord has no wheel for this machine")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of six videos, one of them a cut file."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("ant", "bee"):
        for number in range(6):
            write_video(root / name / f"{number}.avi", ramp(20, height=32, width=40))
    cut = root / "bee" / "5.avi"
    cut.write_bytes(cut.read_bytes()[:-300])
    return root


def train_on(videos, folder, *overrides, stop_after=None):
    options = ["method=mae_st", "data=video_folder", f"data.path={videos}", "data.size=32", "data.frames=4"]
    options += ["optim.batch_size=8", f"runtime.dir={folder}", f"runtime.cache={videos.parent / 'cache'}"]
    record = Notebook(folder, stop_after)
    train(load([*TINY, *options, *overrides]), record)
    return record


def test_a_run_on_videos_records_the_files_that_it_left_out(videos, tmp_path):
    record = train_on(videos, tmp_path)
    assert record.outcome == "done" and "ridge/class_top1" in record.results
    named = [name for name in record.facts if name.startswith("excluded_")]
    assert len(named) == 1 and record.facts[f"num_{named[0]}"] == 1
    assert record.facts[named[0]][0].startswith("bee/5.avi: truncated")
    assert str(videos) not in repr(record.facts)


def test_a_split_without_a_usable_video_ends_the_command_with_one_line(tmp_path, capsys):
    for split in ("train", "test"):
        write_video(tmp_path / "videos" / split / "a.avi", ramp(20 if split == "train" else 2, height=32, width=40))
    words = [
        *(word for word in TINY if not word.startswith("evals=")),
        "method=mae_st",
        "evals=[]",
        f"runtime.cache={tmp_path / 'cache'}",
        f"runtime.dir={tmp_path / 'run'}",
    ]
    data = [f"data.path={tmp_path / 'videos'}", "data.size=32", "data.frames=4"]
    assert main([*words, "data=video_folder", *data]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "error: data.path=" in said and "no video of the test split can be used" in said
    assert "Traceback" not in said and not (tmp_path / "run" / "result.json").exists()


def test_a_preempted_run_records_them_too(videos, tmp_path):
    record = train_on(videos, tmp_path, stop_after=1)
    assert record.outcome == "preempted"
    assert [name for name in record.facts if name.startswith("excluded_")]


def test_a_resumed_run_on_videos_equals_an_uninterrupted_one_bit_for_bit(videos, tmp_path):
    whole = train_on(videos, tmp_path / "whole")
    first = train_on(videos, tmp_path / "parts", stop_after=3)
    second = train_on(videos, tmp_path / "parts")
    assert first.outcome == "preempted" and first.points | second.points == whole.points
    assert final_weights(tmp_path / "parts") == final_weights(tmp_path / "whole")


def test_decoding_as_it_is_used_by_workers_changes_no_number(videos, tmp_path):
    cached = train_on(videos, tmp_path / "cached")
    decoded = train_on(videos, tmp_path / "decoded", "data.cache_gb=0", "runtime.workers=1")
    assert decoded.points == cached.points and decoded.results == cached.results
    states = [torch.load(checkpoints(tmp_path / n)[0], weights_only=True) for n in ("cached", "decoded")]
    assert all((states[0]["learner"][k] == states[1]["learner"][k]).all() for k in states[0]["learner"])


def test_a_relative_test_path_starts_at_the_data_root(videos):
    run = load(["data=video_folder", "data.path=bee", "data.test_path=ant", f"runtime.data_root={videos}", "evals=[]"])
    assert run.data.test_path == "ant"  # as it was given: identity keeps it


@dataclasses.dataclass
class Short:
    """What a data set tells of its files."""

    excluded: tuple[str, ...] = ()
    broke: dict[str, int] = dataclasses.field(default_factory=dict)

    def replaced(self):
        return self.broke


def test_facts_count_all_files_and_name_a_hundred():
    excluded = tuple(f"{number}.mp4: empty" for number in range(250))
    facts = data_facts({"train": Short(excluded), "test": Short(broke={"a.mp4": 3, "b.mp4": 1})})
    assert facts["num_excluded_train"] == 250 and facts["excluded_train"] == list(excluded[:100])
    assert facts["num_replaced_test"] == 4 and facts["replaced_test"] == ["a.mp4: 3 clips", "b.mp4: 1 clips"]
    assert not {"excluded_test", "replaced_train"} & facts.keys()


def test_a_set_that_lacks_nothing_adds_no_fact():
    assert data_facts({"train": Short(), "test": Short()}) == {}


def test_left_out_files_are_listed_one_a_line():
    facts = {"excluded_train": ["a.mp4: empty", "b.mp4: truncated"], "step": 3}
    lines = "\n".join(whole({"outcome": "done", "results": {}, "facts": facts})).splitlines()
    assert lines[1].split() == ["excluded_train", "a.mp4:", "empty"] and lines[2].strip() == "b.mp4: truncated"
