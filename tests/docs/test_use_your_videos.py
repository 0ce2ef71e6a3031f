"""The commands of docs/use_your_videos.md, on tiny videos where it says they are."""

import pytest
import torch

from core.configuring.config import load
from core.running.trainer import train
from tests.core.data.making_videos import ramp, write_video
from tests.core.data.video.test_video_reader import write_frames
from tests.core.running.test_trainer import Notebook
from tests.docs.blocks import commands

pytest.importorskip("decord", reason="decord has no wheel for this machine")
COMMANDS = [words for module, words in commands("use_your_videos.md") if module == "core.train"]
KINDS = ["video_folder", "video_csv", "frame_folder"]


def test_the_document_shows_each_kind_once():
    assert [word for words in COMMANDS for word in words if word.startswith("data=")] == [f"data={k}" for k in KINDS]


@pytest.mark.parametrize("words", COMMANDS, ids=KINDS)
def test_its_commands_train_on_such_files(words, tmp_path):
    for name in ("ant", "bee"):
        for number in range(15):  # 13 for the list to train on: more than the 20 neighbours of the knn, in all
            write_video(tmp_path / "videos" / name / f"{number}.avi", ramp(20, height=32, width=40))
            write_frames(tmp_path / "frames" / f"{name}{number}", 16, height=32, width=40)
    for file, numbers in (("train.csv", range(13)), ("test.csv", range(13, 15))):
        lines = [f"videos/{name}/{n}.avi {label}\n" for label, name in enumerate(("ant", "bee")) for n in numbers]
        (tmp_path / file).write_text("".join(lines))
    here = [f"runtime.data_root={tmp_path}", f"runtime.cache={tmp_path / 'cache'}", "runtime.threads=1"]
    record = Notebook(tmp_path / "run")
    before = torch.get_num_threads()
    try:
        train(load([*words, *here, "optim.steps=2", "optim.batch_size=4"]), record)
    finally:
        torch.set_num_threads(before)
    assert record.outcome == "done" and record.results
