"""Sets of pairs mixed by repetition, a batch of one of them at a time."""

from collections import Counter

import pytest
import torch

from core.configuring.config import ConfigError, load
from core.data.dense.placing import Fit
from core.data.flow.flow_files import Sintel
from core.data.flow.flow_mixture import FlowMixture
from core.data.groups import Group, turn
from core.data.loader import StepLoader
from core.types import DataError
from tests.core.data import making_flows as making
from tests.core.data.making_flows import picture, write_picture

LINES = [
    "sintel:path=films:height=12:width=20:repeat=5",
    "frame_pairs:path=drives:height=8:width=24",
    "moving_digits:size=16:frames=2:num_train=6:num_test=2",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixture")
    making.sintel(root / "films")
    for number in range(4):
        write_picture(root / "drives" / "one" / f"{number}.png", picture(8, 24, seed=number))
    return root


def mixture(root, lines=LINES):
    return FlowMixture(sets=list(lines), path=str(root))


# ---- which member a step takes ---------------------------------------------------------------------------------------


def test_in_a_thousand_steps_a_member_has_its_share():
    groups = [Group(0, 1041, 1041 * 5.0), Group(1041, 22232, 22232.0), Group(23273, 200, 200 * 100.0)]
    total = sum(group.weight for group in groups)
    taken = Counter(turn(3, step, groups)[0] for step in range(2001, 3001))
    assert all(abs(taken[n] - 1000 * group.weight / total) <= 2 for n, group in enumerate(groups))


def test_even_a_very_small_member_has_a_turn():
    groups = [Group(0, 10**6, 1e6), Group(10**6, 1, 1.0)]
    assert Counter(turn(0, step, groups)[0] for step in range(1, 1001)) == {0: 999, 1: 1}


def test_the_steps_of_a_member_are_counted_without_a_gap():
    groups = [Group(0, 5, 2.0), Group(5, 5, 1.0)]
    of_member = {0: [], 1: []}
    for step in range(1, 2501):  # over the border of two blocks
        number, its_step = turn(7, step, groups)
        of_member[number].append(its_step)
    assert all(steps == list(range(1, len(steps) + 1)) for steps in of_member.values())


def test_the_order_of_members_is_the_seeds():
    groups = [Group(0, 5, 1.0), Group(5, 5, 1.0)]
    orders = [[turn(seed, step, groups)[0] for step in range(1, 101)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


# ---- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_of_one_member_at_its_own_size_and_each_sample_comes_once_an_epoch(root, tmp_path):
    dataset = mixture(root).load("train", tmp_path)
    sizes = {0: (12, 20), 1: (8, 24), 2: (16, 16)}
    seen = Counter()
    for step, batch in StepLoader(dataset, batch_size=2, seed=0, num_steps=40):
        indices = dataset.step_indices(0, step, 2)
        member = turn(0, step, dataset.groups)[0]
        group = dataset.groups[member]
        assert ((indices >= group.start) & (indices < group.start + group.length)).all()
        assert batch.clips.shape == (2, 3, 2, *sizes[member]) and batch.labels == {}
        seen.update(indices.tolist() if member == 0 else [])
    assert len(dataset) == 4 + 3 + 6 and set(seen) == {0, 1, 2, 3} and max(seen.values()) - min(seen.values()) <= 1


def test_repetition_times_size_is_a_members_weight(root, tmp_path):
    assert [group.weight for group in mixture(root).load("train", tmp_path).groups] == [20.0, 3.0, 6.0]


def test_a_resumed_loader_and_one_with_a_worker_give_the_same_batches(root, tmp_path):
    dataset = mixture(root).load("train", tmp_path)
    whole = [batch.clips for _, batch in StepLoader(dataset, batch_size=2, seed=1, num_steps=8)]
    later = StepLoader(dataset, batch_size=2, seed=1, start_step=3, num_steps=8, num_workers=1)
    assert all((whole[step - 1] == batch.clips).all() for step, batch in later)


def test_two_processes_share_one_members_batch(root, tmp_path):
    dataset = mixture(root).load("train", tmp_path)
    alone, *shares = (
        StepLoader(dataset, batch_size=4, seed=2, num_steps=3, rank=rank, world_size=size)
        for rank, size in ((0, 1), (0, 2), (1, 2))
    )
    for step in (1, 2, 3):
        assert (alone.batch(step).clips == torch.cat([part.batch(step).clips for part in shares])).all()


def test_a_set_in_a_mixture_gives_what_it_gives_alone(root, tmp_path):
    alone = Sintel(path=str(root / "films"), height=12, width=20).load("train", tmp_path)
    mixed = mixture(root).load("train", tmp_path)
    assert (mixed.fetch(torch.tensor([2, 0])).clips == alone.fetch(torch.tensor([2, 0])).clips).all()


def test_the_specs_are_the_members_and_the_spec_the_firsts(root):
    options = mixture(root)
    assert [(s.height, s.width) for s in options.specs()] == [(12, 20), (8, 24), (16, 16)]
    assert options.spec() == options.specs()[0] and not options.spec().has_flow


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_a_line_sets_options_of_every_type(root):
    line = "sintel:path=a:b/c d:height=32:fit=pad:pass_name=final:test_share=0.25:repeat=3"
    ((member, repeat),) = mixture(root, [line]).members()
    assert (member.path, member.height, member.fit, member.test_share) == (str(root / "a:b/c d"), 32, Fit.pad, 0.25)
    assert repeat == 3
    [(digits, _)] = mixture(root, ["moving_digits:frames=2:noise=.5:digit_min=null"]).members()
    assert (digits.frames, digits.noise, digits.digit_min) == (2, 0.5, None)
    [(raw, _)] = mixture(root, ["frame_pairs:path=raw:folders=*/*/image_02/data"]).members()
    assert raw.folders == "*/*/image_02/data"


def test_an_absolute_path_stays(root):
    ((member, _),) = mixture(root, ["kitti_flow:path=/somewhere/kitti"]).members()
    assert member.path == "/somewhere/kitti"


@pytest.mark.parametrize(
    "line, message",
    [
        ("sintl:path=a", r"data\.sets: 'sintl:path=a' begins with no kind of set; kinds: sintel, kitti_flow"),
        ("sintel:pth=a", r"sintel has no option pth; it has repeat, path, height"),
        ("sintel:path=a:repeat=0", r"repeat must be a whole number from 1, got '0'"),
        ("sintel:path=a:repeat=x", r"repeat must be a whole number from 1, got 'x'"),
        ("sintel:path=a:height=tall", r"data\.sets: 'sintel:path=a:height=tall': height=tall: must be a whole number"),
        ("sintel:path=a:height=2", r"data\.height must be in \[8, 4096\] px, got 2"),
        ("moving_digits:size=32", r"data\.sets: 'moving_digits:size=32': frames must be at least 2 for pairs, got 1"),
        ("sintel:path=a:fit=bend", r"data\.sets: 'sintel:path=a:fit=bend': fit=bend: Invalid value 'bend'"),
    ],
)
def test_a_bad_line_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        FlowMixture(sets=[line]).spec()


def test_no_line_at_all_is_refused_when_it_is_used():
    with pytest.raises(ValueError, match=r"data\.sets must name at least one set"):
        FlowMixture().spec()


def test_a_member_that_is_not_there_is_named(root):
    with pytest.raises(ValueError, match=r"data\.sets: 'sintel:path=none': data\.path must be the folder"):
        mixture(root, [LINES[0], "sintel:path=none"]).spec()


def test_a_members_bad_file_is_named(tmp_path):
    making.sintel(tmp_path / "films")
    write_picture(tmp_path / "films" / "Sintel" / "training" / "clean" / "alley_1" / "frame_0002.png", picture(9, 20))
    with pytest.raises(DataError, match=r"data\.sets: 'sintel:.*frame_0002\.png of 9 x 20 px"):
        mixture(tmp_path, LINES[:1]).load("train", tmp_path / "cache")


def test_a_member_whose_frames_the_encoder_cannot_halve_is_refused_before_training(root):
    fitting, odd = (f"moving_digits:size={size}:frames=2" for size in (32, 36))
    words = ["method=m_jepa", "scale=smoke", "flow_data=flow_mixture"]
    load([*words, f"flow_data.sets=['{fitting}']"])
    with pytest.raises(ConfigError, match=rf"flow_data\.sets: '{odd}': encoder\.levels: frames of 36x36 px"):
        load([*words, f"flow_data.sets=['{fitting}','{odd}']"])


@pytest.mark.parametrize("group", ["data", "eval_data"])
def test_a_mixture_is_no_data_to_train_or_judge_on(root, group):
    with pytest.raises(ConfigError, match=rf"{group}=flow_mixture: .* it is for flow_data"):
        load([f"{group}=flow_mixture", f"{group}.sets=['{LINES[1]}']", f"{group}.path={root}"])
