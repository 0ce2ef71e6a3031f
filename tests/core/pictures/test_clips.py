import dataclasses
import io
import itertools

import numpy as np
import pytest
import torch

from core.configuring.config import load
from core.data.augment import normalise
from core.evals.vos import objects_of
from core.pictures.clips import pictures
from core.running.building import build_learner
from core.running.judging import frozen_features
from core.targets.pixels import PixelNorm, PixelTarget, cut_patches, join_patches
from core.types import Grid, generator_for

FILES = ("clips.npz", "masks.npz")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def drawn(cache, *overrides):
    """A run at scale smoke, untrained, and its files as arrays."""
    run = load(["scale=smoke", "precision=fp32", *overrides])
    test_set = run.data.load("test", cache)
    files = pictures(run, build_learner(run, test_set.spec), test_set, CPU, None)
    return run, test_set, files, {name: dict(np.load(io.BytesIO(content))) for name, content in files.items()}


def test_the_clips_are_those_of_the_test_split_as_stored(cache):
    _, test_set, _, arrays = drawn(cache, "method=mae_st")
    stored = test_set.fetch(torch.arange(8) * 8).clips.permute(0, 2, 3, 4, 1)
    assert np.array_equal(arrays["clips.npz"]["clips"], stored.numpy())


@pytest.mark.parametrize("method", ["mae", "mae_st", "ijepa", "vjepa"])
def test_the_masks_are_the_run_s_own_and_context_and_target_are_disjoint(cache, method):
    run, test_set, _, arrays = drawn(cache, f"method={method}")
    masks, grid = arrays["masks.npz"], run.encoder.grid(test_set.spec)
    views = run.mask.sample(grid, 1, generator_for(run.seed, "pictures", 5))
    assert masks["grid"].tolist() == list(grid)
    assert masks["context"].shape == masks["target"].shape == (8, len(views), grid.num_patches)
    for place, view in enumerate(views):
        assert masks["context"][5, place].nonzero()[0].tolist() == view.context[0].tolist()
        assert masks["target"][5, place].nonzero()[0].tolist() == view.target[0].tolist()
    assert not (masks["context"] & masks["target"]).any()
    assert masks["kind"].tolist() == [view.kind for view in views]
    shares_all = method == "ijepa"
    assert masks["shares"].tolist() == [0 if shares_all else place for place in range(len(views))]


@pytest.mark.parametrize("norm", ["none", "patch", "cube_channel"])
def test_a_reconstruction_is_the_clip_but_for_its_target_patches(cache, norm):
    _, _, _, arrays = drawn(cache, "method=mae_st", f"target.norm={norm}")
    masks, clips = arrays["masks.npz"], arrays["clips.npz"]["clips"]
    reconstruction = masks["reconstruction"]
    assert reconstruction.shape == (5, 1, *clips.shape[1:])  # of 12,288 bytes each
    hidden = masks["target"][:5, 0].reshape(5, *masks["grid"]).repeat(2, 1).repeat(8, 2).repeat(8, 3)
    assert np.array_equal(reconstruction[:, 0][~hidden], clips[:5][~hidden])
    assert (reconstruction[:, 0][hidden] != clips[:5][hidden]).mean() > 0.5


@pytest.mark.parametrize("norm", list(PixelNorm))
def test_a_perfect_prediction_paints_the_clip_itself(cache, norm):
    run, test_set, _, _ = drawn(cache, "method=mae_st")
    clips = normalise(test_set.fetch(torch.arange(3)).clips, test_set.spec)
    learner = build_learner(run, test_set.spec)
    target = PixelTarget(norm=norm).build(learner.encoder, test_set.spec)
    views = run.mask.sample(learner.encoder.grid, 3, generator_for(0, "test"))
    painted = target.paint(clips, views[0], target(clips, views)[0])
    assert torch.allclose(painted, clips, atol=1e-4)


def test_only_the_predicted_frames_are_shown(cache):
    _, _, _, arrays = drawn(cache, "method=mae_st", "target.frames=mae_st")
    assert arrays["masks.npz"]["frames"].tolist() == [0, 3]


def test_joined_patches_are_the_clips_they_were_cut_from():
    clips, grid = torch.rand(2, 3, 4, 8, 12), Grid(2, 4, 3)
    every = torch.arange(grid.num_patches).expand(2, -1)
    assert torch.equal(join_patches(cut_patches(clips, grid, every), grid), clips)


def test_a_target_that_is_no_pixels_has_masks_and_no_reconstruction(cache):
    _, _, _, arrays = drawn(cache, "method=ijepa")
    assert arrays["masks.npz"]["reconstruction"].shape[:2] == (0, 0)


def test_a_run_that_hides_nothing_has_no_pictures(cache):
    assert drawn(cache, "method=supervised")[2] == {}


def test_runs_on_the_same_data_share_the_bytes_of_their_clips(cache):
    files = [drawn(cache, "method=ijepa", f"seed={seed}")[2] for seed in (0, 1)]
    assert files[0]["clips.npz"] == files[1]["clips.npz"]
    assert files[0]["masks.npz"] != files[1]["masks.npz"]


def test_large_clips_are_fewer(cache):
    _, _, _, arrays = drawn(cache, "method=mae_st", "data.size=128", "data.frames=8", "data.num_test=8")
    assert arrays["clips.npz"]["clips"].shape == (2, 8, 128, 128, 3)
    assert arrays["masks.npz"]["reconstruction"].shape[:2] == (1, 1)


# ---- motion


def stirred(run, spec, seed=0):
    """The run's learner with other weights: an untrained one estimates no motion at all."""
    learner = build_learner(run, spec).eval()
    for place, parameter in enumerate(learner.parameters()):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator_for(seed, "stir", place))
    return learner


def test_an_objective_that_gives_flow_keeps_its_estimate_beside_the_truth(cache):
    run, test_set, _, _ = drawn(cache, "method=m_jepa")
    learner, samples = stirred(run, test_set.spec), torch.arange(4) * 16
    files = pictures(run, learner, test_set, CPU, None)
    pairs, flow = (dict(np.load(io.BytesIO(files[name]))) for name in ("pairs.npz", "flow.npz"))
    stored, known = test_set.fetch(samples).clips, test_set.flows(samples)
    assert np.array_equal(pairs["frames"], stored.permute(0, 2, 3, 4, 1).numpy())
    assert np.abs(pairs["truth"] - known.flow[:, 0].numpy())[known.valid[:, [0, 0]].numpy()].max() <= 1 / 32
    assert np.array_equal(pairs["valid"], known.valid[:, 0]) and np.array_equal(pairs["occluded"], known.occluded[:, 0])
    with torch.inference_mode():
        estimate = learner.flow(normalise(stored, test_set.spec)).numpy()
    assert estimate.std() > 0.1
    assert np.abs(flow["flow"] - estimate).max() <= 1 / 32 + np.abs(estimate).max() / 2**11


def test_the_pair_shown_is_the_middle_one_of_the_set_whose_flow_is_known(cache):
    run, test_set, files, arrays = drawn(cache, "method=m_jepa", "data.frames=4")
    middle = test_set.fetch(torch.tensor([0])).clips[0, :, 1:3].permute(1, 2, 3, 0)
    assert np.array_equal(arrays["pairs.npz"]["frames"][0], middle)
    images = load(["scale=smoke", "data=moving_digits"]).data.load("test", cache)
    again = pictures(run, build_learner(run, test_set.spec), images, CPU, None, [images, test_set])
    assert again == files


def test_clips_whose_flow_nobody_knows_are_shown_without_truth(cache):
    run, test_set, _, _ = drawn(cache, "method=m_jepa")
    test_set.spec = dataclasses.replace(test_set.spec, has_flow=False)
    files = pictures(run, build_learner(run, test_set.spec), test_set, CPU, None)
    pairs = dict(np.load(io.BytesIO(files["pairs.npz"])))
    assert not pairs["valid"].any() and not pairs["truth"].any()


def test_runs_on_the_same_data_share_the_bytes_of_their_pairs(cache):
    run, test_set, _, _ = drawn(cache, "method=m_jepa")
    files = [pictures(run, stirred(run, test_set.spec, seed), test_set, CPU, None) for seed in (0, 1)]
    assert files[0]["pairs.npz"] == files[1]["pairs.npz"] and files[0]["flow.npz"] != files[1]["flow.npz"]
    assert sum(map(len, files[0].values())) < 2**16


def test_large_frames_are_fewer(cache):
    _, _, _, arrays = drawn(cache, "method=m_jepa", "data.size=384", "data.num_test=8", "data.num_train=8")
    assert arrays["pairs.npz"]["frames"].shape == (1, 2, 384, 384, 3)


# ---- followed objects


def test_a_run_judged_by_following_objects_keeps_two_videos_and_its_own_answer(cache):
    run = load(["scale=smoke", "method=mae_st", "data.frames=4", "evals=[vos]", "precision=fp32"])
    splits = [run.data.load(split, cache) for split in ("train", "test")]
    learner = build_learner(run, splits[1].spec)
    features = frozen_features(run, learner, *splits, splits[1].spec, CPU, None, cached=False)
    files = pictures(run, learner, splits[1], CPU, None, features=features)
    shown, ours = (dict(np.load(io.BytesIO(files[name]))) for name in ("tracks.npz", "followed.npz"))
    videos = list(itertools.islice(features.sequences("test"), 2))
    for number, video in enumerate(videos):
        assert np.array_equal(shown[f"frames_{number}"], video.frames.permute(1, 2, 3, 0).numpy())
        assert np.array_equal(shown[f"objects_{number}"], video.objects.numpy())
        answer = run.evals["vos"].follow(features, video, objects_of(video))
        assert np.array_equal(ours[f"followed_{number}"][1:], answer[1:].numpy())
        assert np.array_equal(ours[f"followed_{number}"][0], video.objects[0].numpy())
    assert shown["times_1"].tolist() == [0, 1, 2, 3] and "frames_2" not in shown
