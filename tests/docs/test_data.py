"""docs/data.md: its table names every kind, its commands train, its mixture is Table 7."""

import math
import re

import pytest
import torch
import yaml

from core.configuring.config import PRESETS, check_known_labels, load
from core.configuring.fitting import load_split
from core.data import DATA
from core.data.flow.flow_mixture import FlowMixture
from core.running.trainer import train
from tests.core.data import making_flows as making
from tests.core.data.dense.test_segmentation import voc
from tests.core.data.making_sets import KINDS, made
from tests.core.running.test_trainer import Notebook
from tests.docs.blocks import DOCS, blocks, commands

# MC-JEPA (arXiv:2307.12698), Table 7: rows in order, times repeated.
TABLE_7 = {
    "FlyingThings": 1,
    "FlyingChairs": 1,
    "KITTI raw": 1,
    "KITTI 2012 train": 100,
    "KITTI 2012 multiview train": 5,
    "KITTI 2012 val": 100,
    "KITTI 2012 multiview val": 5,
    "KITTI 2015 train": 100,
    "KITTI 2015 multiview train": 5,
    "KITTI 2015 val": 100,
    "KITTI 2015 multiview val": 5,
    "Sintel raw": 1,
    "Sintel clean": 5,
    "Sintel final": 5,
    "HD1k": 5,
}


def test_its_table_names_every_kind_of_data_once():
    rows = [line.split("|")[1] for line in (DOCS / "data.md").read_text().splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(DATA)


def test_its_mixture_is_table_7():
    [text] = blocks("data.md", "yaml")
    options = yaml.safe_load(text)
    members = FlowMixture(sets=options["flow_data.sets"]).members()
    assert options["flow_data"] == "flow_mixture"
    assert [repeat for _, repeat in members] == list(TABLE_7.values())
    for name, (member, _) in zip(TABLE_7, members, strict=True):
        size = (256, 832) if name.startswith("KITTI") else (384, 512) if name.startswith("Flying") else (384, 832)
        assert (member.height, member.width) == size


SMALL = {
    "method=mae": ["optim.batch_size=4"],
    "method=m_jepa": ["optim.batch_size=2", "objective.flow_batch=2", "eval_data.height=32", "eval_data.width=64"],
}


COMMANDS = [words for _, words in commands("data.md")]


def kind_of(words):
    return words[1].removeprefix("data=")


@pytest.mark.parametrize("words", [words for words in COMMANDS if kind_of(words) not in KINDS], ids=kind_of)
def test_its_commands_train_on_such_files(words, tmp_path):
    voc(tmp_path / "voc", num=24)
    making.sintel(tmp_path / "sintel", height=28, width=60)
    for folder in ("photos/ant", "photos/bee", "other_photos/ant", "other_photos/bee"):
        for number in range(12):
            making.write_picture(tmp_path / folder / f"{number}.png", making.picture(32, 40, seed=number))
    for number in range(4):
        making.write_picture(tmp_path / "kitti" / "raw" / f"{number}.png", making.picture(32, 104, seed=number))
    here = [f"runtime.data_root={tmp_path}", f"runtime.cache={tmp_path / 'cache'}", "runtime.threads=1"]
    record = Notebook(tmp_path / "run")
    before = torch.get_num_threads()
    try:
        train(load([*words, *here, "optim.steps=2", *SMALL[words[0]]]), record)
    finally:
        torch.set_num_threads(before)
    assert record.outcome == "done" and record.results


@pytest.mark.parametrize("words", [words for words in COMMANDS if kind_of(words) in KINDS], ids=kind_of)
def test_its_commands_find_public_sets_and_shards(words, tmp_path):
    path = next(word for word in words if word.startswith("data.path=")).removeprefix("data.path=")
    made(kind_of(words), tmp_path / path)
    run = load([*words, f"runtime.data_root={tmp_path}", f"runtime.cache={tmp_path / 'cache'}"])
    for group in ("data", "eval_data"):
        if getattr(run, group) is not None:
            assert len(load_split(run, "train", group)) and len(load_split(run, "test", group))
    check_known_labels(run, {})


def test_it_has_a_command_for_each_public_set_and_kind_of_shard():
    assert {kind_of(words) for words in COMMANDS} >= set(KINDS)


def test_m_jepa_s_steps_at_scale_paper_are_a_hundred_epochs_of_table_7():
    sizes = [40302, 22232, 42382, *2 * [200, 3800, 198, 3762], 27858, 1041, 1041, 1047]
    pairs = sum(size * repeat for size, repeat in zip(sizes, TABLE_7.values(), strict=True))
    paper = yaml.safe_load((PRESETS / "m_jepa.yaml").read_text())["scales"]["paper"]
    assert paper["optim.steps"] == math.ceil(100 * pairs / paper["optim.batch_size"])
