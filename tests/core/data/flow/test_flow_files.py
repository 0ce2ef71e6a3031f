"""Optical flow sets in their official layouts: the numbers that were written come back."""

import os
import pickle

import numpy as np
import pytest
import torch

from core.data.dense.placing import Fit
from core.data.flow.flow_files import FlyingChairs, FlyingThings, Hd1k, KittiFlow, Pass, Sintel
from core.data.loader import StepLoader
from core.types import DataError
from tests.core.data import making_flows as making
from tests.core.data.making_flows import picture, some_flow, write_flo, write_picture

SINTEL = {"height": 12, "width": 20}
SETS = {
    "sintel": (Sintel, making.sintel, SINTEL),
    "kitti_flow": (KittiFlow, making.kitti, {"height": 10, "width": 24}),
    "flying_chairs": (FlyingChairs, making.flying_chairs, {"height": 12, "width": 16}),
    "flying_things": (FlyingThings, making.flying_things, {"height": 12, "width": 16}),
    "hd1k": (Hd1k, making.hd1k, {"height": 12, "width": 20}),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A folder of each set that no test changes."""
    return {name: write(tmp_path_factory.mktemp(name)) for name, (_, write, _) in SETS.items()}


def opened(name, root, tmp_path, split="train", **options):
    create, _, size = SETS[name]
    return create(path=str(root), **size | options).load(split, tmp_path / "cache")


def as_clip(*frames):
    return torch.from_numpy(np.stack(frames).transpose(3, 0, 1, 2))


# ---- every set -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETS)
def test_a_set_gives_pairs_as_clips_of_two_frames_with_flow(name, roots, tmp_path):
    dataset = opened(name, roots[name], tmp_path)
    height, width = dataset.spec.height, dataset.spec.width
    indices = torch.arange(len(dataset))
    clips, truth = dataset.fetch(indices).clips, dataset.flows(indices)
    assert dataset.spec.has_flow and dataset.spec.frames == 2 and dataset.is_lazy and dataset.labels() == {}
    assert clips.shape == (len(dataset), 3, 2, height, width) and clips.dtype == torch.uint8
    assert truth.flow.shape == (len(dataset), 1, 2, height, width) and truth.flow.dtype == torch.float32
    assert truth.valid.shape == (len(dataset), 1, height, width) and truth.valid.dtype == torch.bool
    assert truth.flow.isfinite().all()
    assert dataset.spec.has_occlusion == (truth.occluded is not None) == (name in ("sintel", "kitti_flow"))


@pytest.mark.parametrize("name", SETS)
def test_a_sample_is_a_pure_function_of_its_index(name, roots, tmp_path):
    dataset = opened(name, roots[name], tmp_path)
    again = pickle.loads(pickle.dumps(opened(name, roots[name], tmp_path)))  # as a loader's worker gets it
    backwards = torch.arange(len(dataset)).flip(0)
    whole = dataset.fetch(torch.arange(len(dataset))).clips
    assert (again.fetch(backwards).clips == whole.flip(0)).all() and again.fingerprint() == dataset.fingerprint()
    assert (again.flows(backwards).flow == dataset.flows(torch.arange(len(dataset))).flow.flip(0)).all()


@pytest.mark.parametrize("name", SETS)
def test_a_missing_folder_is_named_with_what_it_must_hold(name, tmp_path):
    create = SETS[name][0]
    for path in ("", str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ValueError, match=r"data\.path") as caught:
            create(path=path).spec()
        assert path in str(caught.value) and ("must" in str(caught.value))


@pytest.mark.parametrize("name, height, width", [("sintel", 384, 832), ("kitti_flow", 256, 832), ("hd1k", 384, 832)])
def test_the_resolution_is_the_papers(name, height, width):
    options = SETS[name][0]()
    assert (options.height, options.width) == (height, width)
    assert (FlyingChairs().height, FlyingChairs().width) == (FlyingThings().height, FlyingThings().width) == (384, 512)


# ---- each set's numbers ----------------------------------------------------------------------------------------------


def test_sintel_gives_frames_flow_and_occlusion_as_written(roots, tmp_path):
    dataset = opened("sintel", roots["sintel"], tmp_path)
    seeds = [101, 102, 201, 202]  # scene by scene, frame by frame, whatever the order of the folders on disk
    batch, truth = dataset.fetch(torch.arange(4)), dataset.flows(torch.arange(4))
    for row, seed in enumerate(seeds):
        assert (batch.clips[row] == as_clip(picture(12, 20, seed=seed), picture(12, 20, seed=seed + 1))).all()
        assert (truth.flow[row, 0].numpy() == some_flow(12, 20, seed=seed)).all()
        assert (truth.occluded[row, 0].numpy() == (picture(12, 20, seed=seed)[..., 0] > 200)).all()
    assert truth.valid.all() and len(dataset) == 4


def test_sintel_has_two_passes(roots, tmp_path):
    final = opened("sintel", roots["sintel"], tmp_path, pass_name=Pass.final)
    assert (final.fetch(torch.tensor([0])).clips[0] == as_clip(*(picture(12, 20, seed=s) for s in (151, 152)))).all()
    both = opened("sintel", roots["sintel"], tmp_path, pass_name=Pass.both)
    assert len(both) == 8 and (both.flows(torch.tensor([0])).flow == both.flows(torch.tensor([4])).flow).all()


def test_sintel_without_occlusion_maps_does_not_know_what_is_occluded(tmp_path):
    root = making.sintel(tmp_path / "data", scenes=1)
    for file in (root / "Sintel" / "training" / "occlusions").rglob("*.png"):
        file.unlink()
    dataset = opened("sintel", root, tmp_path)
    assert dataset.flows(torch.tensor([0])).occluded is None and not dataset.spec.has_occlusion


def test_flow_marked_unknown_in_a_flo_file_is_not_valid(tmp_path):
    root, flow = making.sintel(tmp_path / "data", scenes=1, frames=2), some_flow(12, 20)
    flow[:, 3, 4] = 1.7e9
    write_flo(root / "Sintel" / "training" / "flow" / "alley_1" / "frame_0001.flo", flow)
    truth = opened("sintel", root, tmp_path).flows(torch.tensor([0]))
    assert (~truth.valid[0, 0]).nonzero().tolist() == [[3, 4]] and (truth.flow[0, 0, :, 3, 4] == 0).all()


def test_kitti_flow_is_valid_where_the_file_says_and_occluded_where_noc_lacks_it(roots, tmp_path):
    truth = opened("kitti_flow", roots["kitti_flow"], tmp_path).flows(torch.arange(3))
    for number in range(3):
        valid, shown = making.kitti_validity(10, 24, number)
        assert (truth.valid[number, 0].numpy() == valid).all() and 0 < valid.mean() < 1
        assert (truth.occluded[number, 0].numpy() == (valid & ~shown)).all()
        assert (truth.flow[number, 0].numpy() == np.where(valid, some_flow(10, 24, seed=number), 0)).all()


def test_flying_chairs_takes_its_splits_from_the_list(roots, tmp_path):
    for split, numbers in (("train", (1, 3)), ("test", (2, 4))):
        dataset = opened("flying_chairs", roots["flying_chairs"], tmp_path, split)
        truth, clips = dataset.flows(torch.arange(2)), dataset.fetch(torch.arange(2)).clips
        for row, number in enumerate(numbers):
            assert (truth.flow[row, 0].numpy() == some_flow(12, 16, seed=number)).all()
            assert (clips[row] == as_clip(*(picture(12, 16, seed=10 * number + k) for k in (1, 2)))).all()
        assert len(dataset) == 2 and truth.occluded is None


def test_flying_things_has_pairs_in_both_directions_of_time(roots, tmp_path):
    dataset = opened("flying_things", roots["flying_things"], tmp_path)
    found = {}
    for index in range(len(dataset)):
        clip, flow = dataset.fetch(torch.tensor([index])).clips[0], dataset.flows(torch.tensor([index])).flow[0, 0]
        numbers = [n for t in (0, 1) for n in (6, 7, 8) if (clip[:, [t]] == as_clip(picture(12, 16, seed=n))).all()]
        found[tuple(numbers)] = flow.numpy()
    assert sorted(found) == [(6, 7), (7, 6), (7, 8), (8, 7)]
    for (first, second), flow in found.items():
        assert (flow == some_flow(12, 16, seed=first + (100 if second < first else 0))).all()


def test_hd1k_pairs_stay_within_their_sequence(roots, tmp_path):
    dataset = opened("hd1k", roots["hd1k"], tmp_path)
    clips, truth = dataset.fetch(torch.arange(4)).clips, dataset.flows(torch.arange(4))
    for row, seed in enumerate((0, 1, 10, 11)):
        assert (clips[row] == as_clip(picture(12, 20, seed=seed), picture(12, 20, seed=seed + 1))).all()
        assert (truth.valid[row, 0].numpy() == making.kitti_validity(12, 20, seed)[0]).all()
    assert len(dataset) == 4


# ---- splits ----------------------------------------------------------------------------------------------------------


def test_without_a_share_both_splits_are_all_labelled_pairs(roots, tmp_path):
    train, test = (opened("sintel", roots["sintel"], tmp_path, split) for split in ("train", "test"))
    assert (train.fetch(torch.arange(4)).clips == test.fetch(torch.arange(4)).clips).all()


def test_a_share_holds_out_whole_scenes(roots, tmp_path):
    train, test = (opened("sintel", roots["sintel"], tmp_path, s, test_share=0.5) for s in ("train", "test"))
    first = [{int(c[0, 0, 0, 0]) for c in part.fetch(torch.arange(2)).clips} for part in (train, test)]
    assert len(train) == len(test) == 2 and not first[0] & first[1]


def test_one_scene_cannot_be_shared(tmp_path):
    with pytest.raises(ValueError, match=r"data\.test_share=0\.5: .* has one scene, alley_1"):
        opened("sintel", making.sintel(tmp_path, scenes=1), tmp_path, test_share=0.5)


# ---- other sizes -----------------------------------------------------------------------------------------------------


def test_resized_flow_is_in_pixels_of_the_resized_frames(tmp_path):
    root = making.flying_chairs(tmp_path / "data", height=12, width=16, num=2)
    flow = np.broadcast_to(np.array([8.0, -3.0], np.float32)[:, None, None], (2, 12, 16))
    write_flo(root / "FlyingChairs" / "data" / "00001_flow.flo", flow)
    truth = opened("flying_chairs", root, tmp_path, height=24, width=8).flows(torch.tensor([0]))
    assert (truth.flow[0, 0, 0] == 4).all() and (truth.flow[0, 0, 1] == -6).all() and truth.valid.all()


def test_sparse_flow_is_not_mixed_with_what_is_unknown(tmp_path):
    dataset = opened("kitti_flow", making.kitti(tmp_path / "data"), tmp_path, height=20, width=48)
    truth = dataset.flows(torch.tensor([0]))
    valid, _ = making.kitti_validity(10, 24, 0)
    assert (truth.valid[0, 0].numpy() == valid.repeat(2, 0).repeat(2, 1)).all()
    twice = 2 * np.where(valid, some_flow(10, 24, seed=0), 0).repeat(2, 1).repeat(2, 2)
    assert (truth.flow[0, 0].numpy() == twice).all()


def test_padded_frames_keep_their_pixels_and_their_flow_and_nothing_is_valid_around_them(roots, tmp_path):
    dataset = opened("sintel", roots["sintel"], tmp_path, height=16, width=24, fit=Fit.pad)
    clip, truth = dataset.fetch(torch.tensor([0])).clips[0], dataset.flows(torch.tensor([0]))
    inside = (slice(2, 14), slice(2, 22))
    assert (clip[(slice(None), 0, *inside)] == as_clip(picture(12, 20, seed=101))[:, 0]).all()
    assert (truth.flow[0, 0][(slice(None), *inside)].numpy() == some_flow(12, 20, seed=101)).all()
    assert truth.valid[0, 0][inside].all() and truth.valid.sum() == 12 * 20
    assert (clip[:, :, :2] == clip[:, :, 2:3]).all()  # the edge, repeated


def test_cropped_frames_are_the_middle_pixel_for_pixel(roots, tmp_path):
    dataset = opened("sintel", roots["sintel"], tmp_path, height=8, width=16, fit=Fit.crop)
    assert (
        dataset.fetch(torch.tensor([0])).clips[0, :, 0] == as_clip(picture(12, 20, seed=101))[:, 0, 2:10, 2:18]
    ).all()
    assert (dataset.flows(torch.tensor([0])).flow[0, 0].numpy() == some_flow(12, 20, seed=101)[:, 2:10, 2:18]).all()


def test_covering_keeps_proportions(roots, tmp_path):
    dataset = opened("sintel", roots["sintel"], tmp_path, height=24, width=24, fit=Fit.cover)
    flow = dataset.flows(torch.tensor([0])).flow[0, 0].numpy()
    assert (flow == 2 * some_flow(12, 20, seed=101).repeat(2, 1).repeat(2, 2)[:, :, 8:32]).all()


@pytest.mark.parametrize("fit, height, wrong", [(Fit.crop, 16, "less than"), (Fit.pad, 8, "more than")])
def test_a_frame_that_does_not_fit_is_named(roots, tmp_path, fit, height, wrong):
    dataset = opened("sintel", roots["sintel"], tmp_path, height=height, fit=fit)
    with pytest.raises(
        DataError, match=rf"data\.fit={fit.name}: .*frame_0001\.png has 12 x 20 px, {wrong} .* {height} x 20"
    ):
        dataset.fetch(torch.tensor([0]))


# ---- bad files -------------------------------------------------------------------------------------------------------


def bad_sintel(tmp_path):
    root = making.sintel(tmp_path / "data", scenes=1)
    top = root / "Sintel" / "training"
    return root, top / "clean" / "alley_1" / "frame_0002.png", top / "flow" / "alley_1" / "frame_0001.flo"


def test_frames_of_different_size_are_refused_before_training(tmp_path):
    root, frame, _ = bad_sintel(tmp_path)
    write_picture(frame, picture(14, 20))
    with pytest.raises(
        DataError, match=r"frame_0001\.png is of 12 x 20 px and frame_0002\.png of 14 x 20 px; .*\(and 1"
    ):
        opened("sintel", root, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_flow_that_is_no_number_is_refused_with_its_place(tmp_path, value):
    root, _, file = bad_sintel(tmp_path)
    flow = some_flow(12, 20)
    flow[1, 5, 7] = value
    write_flo(file, flow)
    with pytest.raises(DataError, match=rf"frame_0001\.flo holds {value} at row 5, column 7; flow must be finite"):
        opened("sintel", root, tmp_path).flows(torch.tensor([0]))


def test_a_wrong_magic_number_is_named(tmp_path):
    root, _, file = bad_sintel(tmp_path)
    write_flo(file, some_flow(12, 20), magic=b"HEIP")
    with pytest.raises(
        DataError, match=r"frame_0001\.flo has the magic number b'HEIP'; a \.flo file begins with b'PIEH'"
    ):
        opened("sintel", root, tmp_path)


@pytest.mark.parametrize("length, message", [(40, r"is cut off: 40 bytes, its head says 1,932"), (6, "is cut off: 6")])
def test_a_truncated_flow_file_is_named(tmp_path, length, message):
    root, _, file = bad_sintel(tmp_path)
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=rf"frame_0001\.flo {message}"):
        opened("sintel", root, tmp_path)


def test_flow_of_another_size_than_its_frame_is_named(tmp_path):
    root, _, file = bad_sintel(tmp_path)
    write_flo(file, some_flow(12, 18))
    with pytest.raises(DataError, match=r"frame_0001\.flo is of 12 x 18 px, its frame frame_0001\.png of 12 x 20 px"):
        opened("sintel", root, tmp_path)


def test_a_frame_without_its_flow_is_named(tmp_path):
    root, _, file = bad_sintel(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=r"clean/alley_1/frame_0001\.png has no flow file"):
        opened("sintel", root, tmp_path)


def test_a_missing_frame_is_not_jumped_over(tmp_path):
    root = making.sintel(tmp_path / "data", scenes=1, frames=4)
    (root / "Sintel" / "training" / "clean" / "alley_1" / "frame_0002.png").unlink()
    with pytest.raises(DataError, match=r"frame_0001\.png and .*frame_0003\.png are no pair"):
        opened("sintel", root, tmp_path)


def test_a_truncated_frame_is_named(tmp_path):
    root, frame, _ = bad_sintel(tmp_path)
    frame.write_bytes(frame.read_bytes()[:200])
    with pytest.raises(DataError, match=r"frame_0002\.png cannot be read as an image"):
        opened("sintel", root, tmp_path).fetch(torch.tensor([0]))


def test_a_set_without_pairs_is_refused(tmp_path):
    root = making.sintel(tmp_path / "data", scenes=1, frames=1)
    (root / "Sintel" / "training" / "flow").mkdir()
    with pytest.raises(ValueError, match=r"data\.path=.* it has no pair of frames"):
        opened("sintel", root, tmp_path)


def test_kitti_flow_of_eight_bits_is_refused(tmp_path):
    root = making.kitti(tmp_path / "data", num=1)
    write_picture(root / "KittiFlow" / "training" / "flow_occ" / "000000_10.png", picture(10, 24))
    with pytest.raises(DataError, match=r"flow_occ/000000_10\.png has 8 bits a channel .* KITTI's flow has 16 bits"):
        opened("kitti_flow", root, tmp_path)


def test_a_truncated_kitti_flow_file_is_named(tmp_path):
    root = making.kitti(tmp_path / "data", num=1)
    file = root / "KittiFlow" / "training" / "flow_occ" / "000000_10.png"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"flow_occ/000000_10\.png cannot be decoded"):
        opened("kitti_flow", root, tmp_path).flows(torch.tensor([0]))


def test_kitti_frames_that_are_no_pair_are_named(tmp_path):
    root = making.kitti(tmp_path / "data", num=2)
    (root / "KittiFlow" / "training" / "image_2" / "000000_11.png").unlink()
    with pytest.raises(DataError, match=r"000000_10\.png and .*000001_11\.png are no pair"):
        opened("kitti_flow", root, tmp_path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda whole: b"XX" + whole[2:], r"has the magic number b'XX.*begins with b'PF'"),
        (lambda whole: whole[:-8], "is cut off"),
        (lambda whole: whole.replace(b"16 12", b"16;12"), "has a damaged head"),
    ],
)
def test_a_damaged_pfm_file_is_named(tmp_path, damage, message):
    root = making.flying_things(tmp_path / "data")
    file = next((root / "FlyingThings3D" / "optical_flow" / "TRAIN").rglob("*IntoFuture_0006_L.pfm"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=rf"OpticalFlowIntoFuture_0006_L\.pfm {message}"):
        opened("flying_things", root, tmp_path)


def test_files_that_changed_are_looked_at_again(tmp_path):
    root, frame, _ = bad_sintel(tmp_path)
    before = opened("sintel", root, tmp_path).fingerprint()
    write_picture(frame, picture(12, 20, seed=9))
    os.utime(frame, ns=(1, 1))
    assert opened("sintel", root, tmp_path).fingerprint() != before


def test_a_loader_with_a_worker_gives_the_same_batches(roots, tmp_path):
    dataset = opened("sintel", roots["sintel"], tmp_path)
    here, there = (
        [batch.clips for _, batch in StepLoader(dataset, batch_size=2, seed=1, num_steps=3, num_workers=n)]
        for n in (0, 1)
    )
    assert all((a == b).all() for a, b in zip(here, there, strict=True))
